"""Whether processes of this machine can talk to each other; tests of those that must need it."""

from __future__ import annotations

import socket

import pytest


def has_loopback() -> bool:
    """Whether two processes of this machine can talk; not where the network is cut off whole."""
    with socket.socket() as server, socket.socket() as client:
        try:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.settimeout(5)
            client.connect(server.getsockname())
        except OSError:
            return False
    return True


talking = pytest.mark.skipif(
    not has_loopback(), reason="no loopback interface for processes to meet on"
)
