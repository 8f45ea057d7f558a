"""Settings for all tests, the notebooks' included: a work folder of their own, no open ports."""

from __future__ import annotations

import itertools
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
    # The path must be absolute: nbval and its kernels work in different folders.
    import nbval.kernel
    from jupyter_client.manager import KernelManager

    class SocketFileKernelManager(KernelManager):
        """A kernel manager without ports."""

        numbers = itertools.count()

        def __init__(self, **options):
            address = f"{_SCRATCH.name}/kernel{next(self.numbers)}"
            super().__init__(**({"transport": "ipc", "ip": address} | options))

    nbval.kernel.KernelManager = SocketFileKernelManager


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests made."""
    _SCRATCH.cleanup()
