"""Worker processes: how many, and that none outlives the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

AGENT = "JETFM_AGENT"  # variable: whose children the processes of `jetfm.training.launch` are


def n_cores() -> int:
    """Cores that this process may use; a batch system's limit counts where the OS tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def watch_parent(parent: int) -> None:
    """End this process soon after its parent does, however that ended.

    A worker whose parent was killed must not go on writing beside its successor.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def watch_parent_of_server() -> None:
    """The same for a worker that `multiprocessing`'s server forked: its parent is not the OS's."""
    threading.Thread(
        target=_end_after, args=(multiprocessing.parent_process(),), daemon=True
    ).start()


def _end_after(parent: multiprocessing.process.BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
