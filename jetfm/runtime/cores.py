"""Worker processes: how many, and that none outlives the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

AGENT = "JETFM_AGENT"  # variable: whose children the processes of `jetfm.training.launch` are


def n_cores() -> int:
    """Cores that this process may use; a batch system's limit counts where the OS tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def changed_environment(values: dict[str, str]) -> Iterator[None]:
    """Environment that processes started inside the block inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def watch_parent(parent: int) -> None:
    """End this process soon after its parent does, however that ended.

    A worker whose parent was killed must not go on writing beside its successor.
    """
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def end_with_parent() -> None:
    """The same for processes that `multiprocessing` started, whoever their parent is to the OS."""
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
