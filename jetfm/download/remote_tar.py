"""Where the files of a tar on a server lie, found without downloading it.

A tar without compression is a chain: a header of 512 bytes with name and size, the file's bytes,
the next header. Python's tarfile walks it over a file object that fetches a few kilobytes at each
header; so an archive of 100 files costs 100 small requests, and a file of it can then be fetched
alone. fsspec's HTTP file makes as many, but ends at the first cut, stall or refusal.
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path, PurePosixPath

from jetfm.download.http import Remote
from jetfm.errors import JetfmError
from jetfm.storage.files import read_json, write_json

_AHEAD = 4096  # bytes; more than a header and what tarfile reads around it
_BLOCK = 512


class RemoteFile(io.RawIOBase):
    """A file on a server as Python's libraries read files: seekable, a request for each read."""

    def __init__(self, remote: Remote, size: int):
        self.remote, self.length, self.position = remote, size, 0

    def readable(self) -> bool:
        return True

    seekable = readable

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.length}[whence]
        self.position = origin + offset
        return self.position

    def readinto(self, buffer) -> int:
        stop = min(self.position + len(buffer), self.length)
        data = self.remote.read(self.position, stop)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def find_members(
    remote: Remote, record: Path, pattern: str, n_files: int
) -> dict[str, tuple[int, int]]:
    """The first `n_files` regular files whose names, without folders, match a pattern.

    Parameters
    ----------
    record : JSON file of what is known of this archive; the walk begins where an earlier one ended
    pattern : regular expression of the whole name

    Returns
    -------
    name -> (offset of the first byte, size), in the order of the archive

    Raises
    ------
    JetfmError
        No tar without compression, fewer such files, or a server without ranges of bytes.
    """
    size = remote.size()
    if size is None:
        raise JetfmError(remote.url, "a server that does not say the file's length", "its length")
    known = {"size": size, "next": 0, "members": {}}
    if record.exists() and (earlier := read_json(record)).get("size") == size:
        known = earlier

    def found() -> list[str]:
        return [name for name in known["members"] if re.fullmatch(pattern, name)][:n_files]

    try:
        if len(found()) < n_files:
            for _ in _walk(remote, known):
                if len(found()) == n_files:
                    break
    except tarfile.TarError as error:
        cause = " ".join(str(error).split())[:80]
        expected = "a tar without compression, whose files can be fetched singly"
        raise JetfmError(remote.url, f"unreadable headers ({cause})", expected) from None
    finally:
        if known["members"]:
            write_json(record, known)
    names = found()
    if len(names) < n_files:
        raise JetfmError(remote.url, f"{len(names)} files {pattern}", f"{n_files}")
    return {name: tuple(known["members"][name]) for name in names}


def _walk(remote: Remote, known: dict):
    """Add to ``known['members']`` what follows byte ``known['next']``, one file at a time."""
    if known["next"] >= known["size"]:
        return
    file = io.BufferedReader(RemoteFile(remote, known["size"]), _AHEAD)
    file.seek(known["next"])
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.isreg():
                name = PurePosixPath(member.name).name
                known["members"][name] = [member.offset_data, member.size]
            known["next"] = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            yield
    # tarfile takes a damaged header for the end, which is a block of zeros, or none at all
    file.seek(known["next"])
    if any(file.read(_BLOCK)):
        raise tarfile.ReadError(f"no header at byte {known['next']}")
    known["next"] = known["size"]
