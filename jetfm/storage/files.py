"""Files that appear only when complete, and errors that name the file.

Everything that jetfm writes goes through here: first into a hidden file beside the target, then
``os.replace``, which is atomic within a folder. A killed process leaves at most a hidden
``.NAME.*.part`` behind, never a half-written file under the final name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from jetfm.errors import JetfmError

_EXPECTED = {
    errno.ENOSPC: "room for it on the disk",
    errno.EDQUOT: "room for it in the quota",
    errno.EFBIG: "room for a file of this size",
    errno.EACCES: "permission to use it",
    errno.EPERM: "permission to use it",
    errno.EROFS: "a file system that can be written",
    errno.ENOENT: "an existing file",
    errno.ENOTDIR: "a folder in its path",
    errno.EISDIR: "a file, not a folder",
    errno.EEXIST: "a folder, not a file",
}


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Turn the operating system's refusals inside the block into a JetfmError about `path`.

    Raises
    ------
    JetfmError
        On any OSError that says no room, no permission, read-only, or no such file; other
        errors pass through unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _EXPECTED:
            raise
        reason = os.strerror(error.errno).lower()
        raise JetfmError(path, f"'{reason}'", _EXPECTED[error.errno]) from error


def make_folder(folder: str | Path) -> Path:
    """Create `folder` and its parents if missing, and check that files can be made in it."""
    folder = Path(folder)
    with naming(folder if folder.name else folder.absolute()):
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    return folder


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a hidden path beside `path`; a clean exit moves it onto `path`, an error removes it.

    The folder of `path` is created if missing. Readers see the old file or the new one, whole.

    Raises
    ------
    JetfmError
        Full disk, missing permission and the like, naming `path`.
    """
    path = Path(path)
    make_folder(path.parent)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with naming(path):
            yield aside
            os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


@contextmanager
def made_aside(folder: Path, is_made: Callable[[], bool]) -> Iterator[Path]:
    """Yield a hidden folder beside `folder`; a clean exit moves it there, an error removes it.

    Several processes may make the same: where `folder` cannot be replaced, or a file is in the way,
    because another process was first (``is_made()``), what this one made is dropped.
    """
    aside = make_folder(folder.parent) / f".{folder.name}.{secrets.token_hex(4)}.part"
    try:
        yield aside
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except OSError:
        if not is_made():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def remove_leftovers(folder: str | Path) -> int:
    """Delete the hidden files and folders that killed writers left in `folder`; return how many.

    Only for a folder with no other writer at work.
    """
    leftovers = list(Path(folder).glob(".*.part"))
    for path in leftovers:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return len(leftovers)


def link_files(source: str | Path, target: str | Path, pattern: str) -> None:
    """Let the files of a folder appear in another too, those of a name there excepted.

    Hard links where the file system has them: files that jetfm wrote are replaced, never changed.
    JSON comes last, as where it tells that the files beside it are complete.
    """
    paths = sorted(Path(source).glob(pattern), key=lambda path: (path.suffix == ".json", path))
    for path in paths:
        there = Path(target) / path.name
        if there.exists():
            continue
        with replacing(there) as aside:
            try:
                os.link(path, aside)
            except OSError:
                shutil.copyfile(path, aside)


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file as a whole or not at all."""
    with replacing(target) as aside:
        shutil.copyfile(source, aside)


def write_text(path: str | Path, text: str) -> Path:
    """Write `text` (UTF-8) as a whole or not at all."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")
    return Path(path)


def write_json(path: str | Path, value: Any) -> Path:
    """Write `value` as indented JSON. NaN and infinities are refused: JSON has none."""
    return write_text(path, json.dumps(value, indent=2, allow_nan=False, default=_plain) + "\n")


def read_json(path: str | Path) -> Any:
    """Read JSON; a missing or damaged file is a JetfmError that names it."""
    with naming(path):
        data = Path(path).read_bytes()
    try:
        return json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise JetfmError(path, f"unreadable JSON ({error})", "a complete JSON file") from None


def write_npy(path: str | Path, array: np.ndarray) -> Path:
    """Write one array as ``.npy``, as a whole or not at all."""
    array = np.asarray(array, order="C")
    if array.dtype.hasobject:
        raise JetfmError(path, f"an array of {array.dtype}", "numbers or text")
    with replacing(path) as aside, aside.open("wb") as file:
        header = np.lib.format.header_data_from_array_1_0(array)
        np.lib.format.write_array_header_1_0(file, header)
        # numpy's own writer loses the reason when the disk is full
        file.write(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return Path(path)


def map_npy(path: str | Path) -> np.ndarray:
    """A ``.npy`` file as a read-only array on its own pages, read when touched.

    Unlike ``np.load(..., mmap_mode="r")`` it keeps no file open, of which a process has only so
    many: a store may have thousands.

    Raises
    ------
    JetfmError
        Missing, truncated, or no ``.npy`` file of numbers.
    """
    import pyarrow

    with naming(path):
        shape, dtype, start, size = _npy_header(path)
        n_bytes = math.prod(shape) * dtype.itemsize
        if size < start + n_bytes:
            found = f"damaged ({size} bytes for {shape} of {dtype})"
            raise JetfmError(path, found, "a complete .npy file")
        if not n_bytes:
            return np.empty(shape, dtype)
        with pyarrow.memory_map(str(path)) as file:
            pages = file.read_buffer()  # keeps the map, not the file
    return np.frombuffer(pages, dtype, math.prod(shape), start).reshape(shape)


def _npy_header(path: str | Path) -> tuple[tuple[int, ...], np.dtype, int, int]:
    """Shape, type, where the data start, and the size of the file."""
    with Path(path).open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
            shape, fortran, dtype = read(file)
        except OSError:
            raise
        except Exception as error:  # numpy parses the header as Python, and lets much through
            raise JetfmError(path, f"damaged ({error})", "a complete .npy file") from None
        if min(shape, default=0) < 0:
            raise JetfmError(path, f"an array of shape {shape}", "a complete .npy file")
        if dtype.hasobject or fortran:
            raise JetfmError(path, f"an array of {dtype}", "numbers, row after row")
        return shape, dtype, file.tell(), file.seek(0, 2)


@lru_cache(2**16)  # of files that are read again and again
def _known_header(path: str, changed: int, size: int, inode: int):
    return _npy_header(path)


class NpyReader:
    """Ranges of rows of a ``.npy`` file, read, not mapped. Close it, or use it in ``with``."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        with naming(path):
            now = os.stat(path)
            known = _known_header(str(path), now.st_mtime_ns, now.st_size, now.st_ino)
            self.shape, self.dtype, self._start, _ = known
            self._file = self.path.open("rb", buffering=0)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop`; a file that ends before them is a JetfmError."""
        rows = np.empty((stop - start, *self.shape[1:]), self.dtype)
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        into = memoryview(rows.reshape(-1).view(np.uint8)) if rows.size else b""
        with naming(self.path):
            self._file.seek(self._start + start * row_bytes)
            done = 0
            while done < len(into):  # the system may read less than asked for
                n_read = self._file.readinto(into[done:])
                if not n_read:
                    found = f"damaged (it ends before row {stop})"
                    raise JetfmError(self.path, found, "a complete .npy file")
                done += n_read
        return rows

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> NpyReader:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, as ``sha256sum`` prints it."""
    with naming(path), Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NpyWriter:
    """A ``.npy`` file that grows along its first axis, so that memory stays flat.

    Parameters
    ----------
    path : target; it appears on a clean `close` only
    dtype : of the elements
    row_shape : shape of one row, ``()`` for a flat array

    Notes
    -----
    numpy pads the header so that a longer first axis fits in place; `close` rewrites it with the
    final length. The bytes equal those of ``np.save`` of the whole array.
    """

    def __init__(self, path: str | Path, dtype: np.dtype | str, row_shape: tuple[int, ...] = ()):
        self.path, self.dtype, self.row_shape = Path(path), np.dtype(dtype), tuple(row_shape)
        self.n_rows = 0
        make_folder(self.path.parent)
        self._aside = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        with naming(self.path):
            self._file = self._aside.open("wb")
            self._header()
        self._start = self._file.tell()

    def _header(self) -> None:
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (self.n_rows, *self.row_shape),
            },
        )

    def append(self, rows: np.ndarray) -> None:
        """Add rows of shape (n, *row_shape); the dtype must be the file's or safely castable."""
        rows = np.asarray(rows)
        if rows.shape[1:] != self.row_shape:
            expected = f"rows of shape {self.row_shape}"
            raise JetfmError(self.path, f"rows of shape {rows.shape[1:]}", expected)
        rows = np.ascontiguousarray(rows.astype(self.dtype, casting="same_kind", copy=False))
        with naming(self.path):
            self._file.write(rows.reshape(-1).view(np.uint8).data if rows.size else b"")
        self.n_rows += len(rows)

    def close(self) -> None:
        """Complete the header and let the file appear under its name."""
        try:
            with naming(self.path):
                self._file.seek(0)
                self._header()
                if self._file.tell() != self._start:
                    raise RuntimeError(f"{self.path}: numpy changed the size of its header")
                self._file.close()
                os.replace(self._aside, self.path)
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Drop what was written."""
        try:
            self._file.close()  # flushes, which a full disk refuses once more
        except OSError:
            pass
        self._aside.unlink(missing_ok=True)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        self.close() if kind is None else self.abort()


def _plain(value: Any) -> Any:
    """numpy scalars and arrays, and paths, as JSON knows them."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"{type(value).__name__} has no JSON form")
