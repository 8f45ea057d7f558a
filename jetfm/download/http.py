"""Files from a server, by ranges of bytes: patient with refusals, resumed after any interruption.

Libraries were tried on the server of ``tests/download/faulty_server.py``: pooch 1.9, parfive 2.3
and fsspec's `get_file` begin a cut download anew, which archives of 15 GB forbid; pypdl 1.5 goes
on, but asks a busy server 18 times in a second, checks nothing, and without an ETag takes a cut
file for a whole one. urllib3's `Retry` repeats no cut body and sleeps on when interrupted: only its
reading of Retry-After is used.

A download grows under ``NAME.part`` and gets its name only when it passed its check. A killed
process leaves the part, from whose end the next call continues. A part that fails its check is
deleted, so that nothing wrong is ever used or continued.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3
from urllib3.util import Retry

from jetfm.errors import JetfmError
from jetfm.runtime.progress import ByteProgress
from jetfm.storage.files import make_folder, naming
from jetfm.storage.locks import exclusive
from jetfm.version import __version__

USER_AGENT = f"jetfm/{__version__}"  # Zenodo slows down libraries' default names

_BLOCK = 2**20  # bytes at most between looks at `stop`
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # status codes that pass


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server, in seconds.

    Attributes
    ----------
    connect : for a connection
    stall : without a byte, before the connection is given up and made anew
    attempts : in a row that bring no byte; then it is an error
    first_wait, longest_wait : between attempts; doubles each time; longer if the server asks for it
    longest_retry_after : the most that the server may say
    """

    connect: float = 20.0
    stall: float = 60.0
    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 900.0


class Stopped(Exception):
    """Another download failed or was interrupted, so this one ends too."""


class Remote:
    """A file on a server, read in order from any byte. Not for several threads at once.

    Parameters
    ----------
    url : of the file
    stop : when set, reading ends with `Stopped`, also while it waits
    say : told when there is something to wait for
    """

    def __init__(
        self,
        url: str,
        patience: Patience | None = None,
        stop: threading.Event | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.url, self.patience, self.say = url, patience or Patience(), say
        self.stop = stop or threading.Event()
        self._response: requests.Response | None = None
        self._failures = 0  # in a row, that brought no byte
        self.session = requests.Session()
        # identity: positions count the file's own bytes, not those of a compressed transfer
        self.session.headers.update({"User-Agent": USER_AGENT, "Accept-Encoding": "identity"})

    def size(self) -> int | None:
        """Length of the file in bytes; None where the server does not say."""
        self._failures = 0
        with self._get(0, 1) as response:
            return _bounds(response)[2]

    def interrupt(self) -> None:
        """End reading from another thread, at once even where it waits for bytes."""
        self.stop.set()
        if (response := self._response) is not None:
            try:
                response.raw.shutdown()
            except (ValueError, RuntimeError, OSError):  # over already
                pass

    def read(self, start: int, stop: int) -> bytes:
        """Bytes `start` to `stop`, fewer at the end of the file.

        Raises
        ------
        JetfmError
            As `blocks`, or a server that only sends whole files.
        """
        return b"".join(block for _, block in self.blocks(start, stop))

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Yield (position, bytes) from `start` to `stop` or the end, over any interruption.

        A server that ignores ranges makes the positions begin at 0 again.

        Raises
        ------
        JetfmError
            The server refuses for good, or too many attempts in a row brought nothing new; also a
            server without ranges where a `stop` was asked for.
        """
        position = furthest = start
        self._failures = 0
        while stop is None or position < stop:
            trouble = "a connection cut"
            with self._get(position, stop) as response:
                first, end, total = _bounds(response)
                if response.status_code == 416:
                    if total == position:
                        return
                    if position == 0 or stop is not None:
                        found = f"a file of {total} bytes"
                        raise JetfmError(self.url, found, f"more than {position}")
                    position = furthest = 0  # more than the server has: begin anew
                    trouble = "another length than before"
                elif response.status_code == 200 and stop is not None:
                    found = "a server that sends whole files only"
                    raise JetfmError(self.url, found, "ranges of bytes")
                elif response.status_code == 206 and first != position:
                    raise JetfmError(self.url, f"bytes from {first} on", f"from {position} on")
                else:
                    position = first
                    try:
                        # read1 gives what has come; iter_content would lose up to a block in a cut
                        while block := response.raw.read1(_BLOCK, decode_content=False):
                            if self.stop.is_set():
                                raise Stopped
                            yield position, block
                            position += len(block)
                            if position > furthest:
                                furthest, self._failures = position, 0
                        if end is None or position >= end:
                            return
                    except urllib3.exceptions.HTTPError as error:
                        trouble = _cause(error)
            self._wait(trouble)

    def _get(self, start: int, stop: int | None) -> requests.Response:
        """The answer once it is 200, 206 or 416, however often asked for; its body is to come."""
        headers = {"Range": f"bytes={start}-{'' if stop is None else stop - 1}"}
        limits = self.patience.connect, self.patience.stall
        while True:
            try:
                answer = self.session.get(self.url, headers=headers, timeout=limits, stream=True)
            except requests.RequestException as error:
                self._wait(_cause(error))
                continue
            if answer.status_code in (200, 206, 416):
                self._response = answer
                return answer
            answer.close()
            status = f"'{f'{answer.status_code} {answer.reason}'.strip()}'"
            if answer.status_code not in _BUSY:
                raise JetfmError(self.url, status, "a file to download")
            asked = None
            with suppress(urllib3.exceptions.InvalidHeader):  # neither seconds nor a date
                asked = Retry().get_retry_after(answer.raw)
            self._wait(status, asked)

    def _wait(self, trouble: str, asked: float | None = None) -> None:
        """Before the next attempt, longer each time, or as long as the server asks."""
        patience, self._failures = self.patience, self._failures + 1
        later = "; the same command continues later"
        if self._failures >= patience.attempts:
            raise JetfmError(
                self.url, trouble, f"an answer within {self._failures} attempts{later}"
            )
        if asked is not None and asked > patience.longest_retry_after:
            found = f"{trouble}, asking to wait {asked:.0f} s"
            raise JetfmError(self.url, found, f"an answer{later}")
        wait = min(patience.first_wait * 2 ** (self._failures - 1), patience.longest_wait)
        wait = max(wait, asked or 0.0)
        self.say(f"{trouble}, waiting {wait:.0f} s")
        if self.stop.wait(wait):
            raise Stopped


def fetch(
    remote: Remote,
    path: str | Path,
    check: Callable[[Path], None],
    start: int = 0,
    size: int | None = None,
    bar: ByteProgress | None = None,
) -> Path:
    """Download a file, or `size` bytes from `start` on, and check it before it gets its name.

    Parameters
    ----------
    check : raises a JetfmError about a file that is not as it should be
    size : expected bytes; None where unknown
    bar : counts the bytes

    Raises
    ------
    JetfmError
        As `Remote.blocks`, no room or permission, another process at the same file, or a failed
        check; the part is then deleted.
    """
    path, bar = Path(path), bar or ByteProgress(show=False)
    part = part_of(path)
    make_folder(path.parent)
    with exclusive(path.parent, None, f"{path.name}."):  # two would append to the same part
        if path.exists():  # another process was faster
            return path
        have = part.stat().st_size if part.exists() else 0
        if size is not None and have > size:
            part.unlink()
            have = 0
        bar.keep(have)
        # a whole file may begin anew, where the server ignores ranges; a piece of one may not
        stop = start + size if start and size is not None else None
        with naming(part), part.open("ab") as file:
            blocks = remote.blocks(start + have, stop) if have != size else ()
            for position, block in blocks:
                if position - start != have:
                    bar.advance(position - start - have)
                    have = position - start
                    file.truncate(have)  # appending goes on at the new end
                file.write(block)
                have += len(block)
                bar.advance(len(block))
        bar.note(f"checking {path.name}")
        try:
            if size is not None and have != size:
                raise JetfmError(path, f"{have} bytes", f"{size}")
            check(part)
        except JetfmError as error:
            part.unlink()
            found = f"{error.found} in what {remote.url} sent (deleted)"
            raise JetfmError(path, found, f"{error.expected}; download it again") from None
        with naming(path):
            os.replace(part, path)
    return path


def part_of(path: Path) -> Path:
    """Where a download grows before it gets its name."""
    return path.with_name(f"{path.name}.part")


def check_md5(path: Path, expected: str) -> None:
    """Refuse a file with another MD5, the checksum that Zenodo publishes."""
    with naming(path), path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise JetfmError(path, f"md5 {found}", f"md5 {expected}")


def _bounds(response: requests.Response) -> tuple[int | None, int | None, int | None]:
    """First byte of the body, the byte after its last, and the length of the file, if said."""
    header = response.headers.get("Content-Range", "")
    if response.status_code == 416:
        match = re.fullmatch(r"bytes \*/(\d+)", header)
        return None, None, int(match[1]) if match else None
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", header)
        if not match:
            raise JetfmError(response.url, f"Content-Range {header!r}", "'bytes first-last/length'")
        return int(match[1]), int(match[2]) + 1, None if match[3] == "*" else int(match[3])
    length = response.headers.get("Content-Length", "")
    total = int(length) if length.isdigit() else None
    return 0, total, total


def _cause(error: Exception) -> str:
    if isinstance(error, requests.Timeout) or "timed out" in str(error).lower():
        return "no bytes for too long"
    if isinstance(error, (urllib3.exceptions.ProtocolError, requests.exceptions.SSLError)):
        return "a connection cut"
    return f"no connection ({type(error).__name__})"
