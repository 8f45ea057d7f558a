"""Notebook kernels of this interpreter, whatever kernels and settings a user has, without ports.

Jupyter looks for 'python3' in ``JUPYTER_PATH``, the user's folders and the system's, where it may
belong to another environment, or to one that is gone. Its sockets in the file system lie in the
current folder, where two runs take each other's.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from functools import cache
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager

_LONGEST = 90  # characters of a socket's path, which may have a hundred, before its number
_numbers = itertools.count()


class OwnKernelSpecs(KernelSpecManager):
    """Knows one kernel, 'python3': ipykernel's for this interpreter."""

    def _kernel_dirs_default(self) -> list[str]:
        return []  # then jupyter_client falls back on the interpreter that runs

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """Without IPython's settings and startup files of the user, which may do anything."""
        spec = super().get_kernel_spec(kernel_name)
        spec.env = spec.env | {"IPYTHONDIR": f"{_folder().name}/ipython"}
        return spec


class _Own:
    def __init__(self, **options: Any) -> None:
        super().__init__(**(_talk() | options | {"kernel_spec_manager": OwnKernelSpecs()}))


class OwnKernelManager(_Own, KernelManager):
    """Starts kernels of this interpreter; sockets in a folder that no other process has."""


class AsyncOwnKernelManager(_Own, AsyncKernelManager):
    """The same for nbclient, and so for papermill."""


def _talk() -> dict[str, str]:
    """How a kernel is spoken to: through sockets in the file system where there are any."""
    if os.name != "posix":
        return {}
    address = f"{_folder().name}/{next(_numbers)}"
    return {"transport": "ipc", "ip": address} if len(address) <= _LONGEST else {}


@cache
def _folder() -> tempfile.TemporaryDirectory:
    """This process's, and gone with it."""
    return tempfile.TemporaryDirectory(prefix="jetfm-kernels-")
