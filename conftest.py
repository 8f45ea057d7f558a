"""Settings for all tests, the notebooks' included: a work folder of their own, no open ports."""

from __future__ import annotations

import os
import tempfile

import pytest

# Before any kernel starts: notebooks run under nbval must neither find old work nor leave any.
_SCRATCH = tempfile.TemporaryDirectory(prefix="jetfm-tests-")
os.environ["JETFM_WORK"] = f"{_SCRATCH.name}/work"
os.environ["JETFM_FIGURES"] = f"{_SCRATCH.name}/figures"
os.environ.setdefault("MPLBACKEND", "agg")

if os.name == "posix":
    # Kernels talk through sockets in the file system, so that the tests need no network at all.
    from jupyter_client.connect import ConnectionFileMixin

    ConnectionFileMixin.transport.default_value = "ipc"


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests made."""
    _SCRATCH.cleanup()
