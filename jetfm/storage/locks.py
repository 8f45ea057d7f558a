"""One process at a time works on a folder; others wait or are refused, and are told for whom."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from jetfm.errors import JetfmError
from jetfm.storage.files import naming, write_text

# Network file systems that lock nothing answer so. There a file is the lock, which a process that
# is killed leaves behind.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)
_PATIENCE = 30.0  # seconds before the first reminder, which says what to do; twice that to the next


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
        self.lock: BaseFileLock = FileLock(folder / f".{task}lock")
        self.owner, self.say = folder / f".{task}owner", say

    def __enter__(self):
        with naming(self.owner.parent):
            try:
                self._acquire()
            except Timeout:
                self._wait()
        try:
            write_text(self.owner, f"process {os.getpid()} on {platform.node()}")
        except BaseException:
            self.lock.release()
            raise

    def _acquire(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            self.lock = SoftFileLock(f"{self.lock.lock_file}.soft")
            self.lock.acquire(timeout=0)

    def _wait(self) -> None:
        folder, patience = self.owner.parent, _PATIENCE
        advice = f"if it is gone, delete {self.lock.lock_file}"
        if self.say is None:
            found = f"{self._holder()} at work"
            raise JetfmError(folder, found, f"one process at a time; {advice}") from None
        self.say(f"waiting for {self._holder()} to finish {folder.name}")
        while True:
            try:
                self.lock.acquire(timeout=patience)
                return
            except Timeout:
                self.say(f"still waiting for {self._holder()}; {advice}")
                patience *= 2

    def _holder(self) -> str:
        """Who holds the lock, and for how long."""
        with suppress(OSError):  # it may be gone by now
            age = max(time.time() - self.owner.stat().st_mtime, 0)
            holder = self.owner.read_text(encoding="utf-8")
            return f"{holder}, there for {_duration(age)}," if age > 60 else holder
        return "another process"

    def __exit__(self, *_):
        self.owner.unlink(missing_ok=True)
        self.lock.release()


def _duration(seconds: float) -> str:
    """Minutes, hours or days, whatever is a small number."""
    for unit, length in (("days", 86_400), ("hours", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 60:.0f} minutes"
