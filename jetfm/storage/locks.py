"""One process at a time works on a folder; others wait or are refused, and are told for whom."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from jetfm.errors import JetfmError
from jetfm.storage.files import naming, write_text


class exclusive:
    """Hold a folder's lock in a ``with``. The lock is the operating system's: it ends with its
    process, however that ends.

    Parameters
    ----------
    say : told whom one waits for; None does not wait
    task : locks of different tasks in one folder do not concern each other

    Raises
    ------
    JetfmError
        On entry, without waiting, naming the process that holds the lock.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] | None, task: str = ""):
        self.lock = FileLock(folder / f".{task}lock")
        self.owner, self.say = folder / f".{task}owner", say

    def __enter__(self):
        with naming(self.owner.parent):
            try:
                self.lock.acquire(timeout=0)
            except Timeout:
                self._wait()
        try:
            write_text(self.owner, f"process {os.getpid()} on {platform.node()}")
        except BaseException:
            self.lock.release()
            raise

    def _wait(self) -> None:
        holder = "another process"
        with suppress(FileNotFoundError):  # it may be gone by now
            holder = self.owner.read_text(encoding="utf-8")
        folder = self.owner.parent
        if self.say is None:
            raise JetfmError(folder, f"{holder} at work", "one process at a time") from None
        self.say(f"waiting for {holder} to finish {folder.name}")
        self.lock.acquire()

    def __exit__(self, *_):
        self.owner.unlink(missing_ok=True)
        self.lock.release()
