"""Tables that pandas wrote to HDF5, read without pandas and without unpickling anything.

``DataFrame.to_hdf(key, format="table")`` writes, through PyTables, a group ``key`` with a compound
dataset ``table``: an ``index``, and one field per block of columns of one type, ``values_block_0``
and so on (or one field per column, with ``data_columns``). Which columns a block holds stands in
its attribute ``values_block_0_kind``, as a *pickled* list of names. A pickle is a program: loading
one from a downloaded file may run anything. The names are read from its opcodes instead, which
executes none of them, and any opcode that a list of text does not need is refused.
"""

from __future__ import annotations

import pickletools
from collections.abc import Sequence
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  registers Blosc, which pandas' files are compressed with
import numpy as np

from jetfm.errors import JetfmError
from jetfm.storage.files import naming

SIGNATURE = b"\x89HDF\r\n\x1a\n"

_TEXT = {
    "STRING", "BINSTRING", "SHORT_BINSTRING",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_LIST = {
    "PROTO", "FRAME", "MARK", "LIST", "EMPTY_LIST", "APPEND", "APPENDS",
    "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "STOP",
}  # fmt: skip


# What h5py raises over damaged files; a KeyError comes from HDF5 itself, for a broken header.
_DAMAGES = (OSError, RuntimeError, KeyError, ValueError, TypeError)


class PandasTable:
    """A table in an HDF5 file, read in ranges of rows; a context manager.

    Parameters
    ----------
    path : HDF5 file
    key : name of the table, pandas' ``key``

    Attributes
    ----------
    columns : where each column lies, name -> (field of the dataset, position in it)

    Raises
    ------
    JetfmError
        Not an HDF5 file, truncated, no such table, pandas' other format, a bare array, or column
        names that are more than a list of text.
    """

    def __init__(self, path: str | Path, key: str = "table"):
        self.path = Path(path)
        with naming(self.path), self.path.open("rb") as file:
            head = file.read(len(SIGNATURE))
            empty = not head
        if head != SIGNATURE:
            found = "an empty file" if empty else f"first bytes {head!r}"
            raise JetfmError(self.path, found, f"an HDF5 file, which starts with {SIGNATURE!r}")
        try:
            self._file = h5py.File(self.path, "r")
        except _DAMAGES as error:
            raise self._damaged(error) from None
        try:
            self._dataset = self._find(key)
            self.columns = self._find_columns()
        except _DAMAGES as error:
            self._file.close()
            raise self._damaged(error) from None
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PandasTable:
        return self

    def __exit__(self, *error) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self._dataset)

    def read(self, start: int, stop: int, groups: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """Rows `start` to `stop`, each read and decompressed once.

        Parameters
        ----------
        groups : names of columns; those of a group share a type

        Returns
        -------
        one (stop - start, n) array per group, its columns in the order of the names

        Raises
        ------
        JetfmError
            A missing column, a range beyond the table, or bytes that cannot be decoded.
        """
        missing = [name for names in groups for name in names if name not in self.columns]
        if missing:
            found = f"{len(self.columns)} columns, {_listed(list(self.columns))}"
            raise JetfmError(f"{self.path}: table", found, f"also {_listed(missing)}")
        if not 0 <= start <= stop <= len(self):
            raise JetfmError(self.path, f"rows {start} to {stop}", f"a range in 0 to {len(self)}")
        try:
            rows = self._dataset[start:stop]
        except _DAMAGES as error:
            raise self._damaged(error) from None
        return [self._gather(rows, names) for names in groups]

    def _gather(self, rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        places = [self.columns[name] for name in names]
        dtype = np.result_type(*{rows.dtype[field].base for field, _ in places})
        result = np.empty((len(rows), len(names)), dtype)
        for field in {field for field, _ in places}:
            into = [i for i, place in enumerate(places) if place[0] == field]
            block = rows[field].reshape(len(rows), -1)
            result[:, into] = block[:, [places[i][1] for i in into]]
        return result

    def _find(self, key: str) -> h5py.Dataset:
        where, expected = f"{self.path}: key '{key}'", "a table of pandas, to_hdf(format='table')"
        if key not in self._file:
            found = ", ".join(self._file) or "nothing"
            raise JetfmError(self.path, found, f"a table named '{key}'")
        group = self._file[key]
        if not isinstance(group, h5py.Group):
            raise JetfmError(where, f"a bare array of shape {group.shape}", expected)
        if "block0_values" in group or "axis0" in group:
            raise JetfmError(where, "a frame in pandas' fixed format", expected)
        dataset = group.get("table")
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.names is None:
            raise JetfmError(where, f"a group of {', '.join(group) or 'nothing'}", expected)
        if dataset.ndim != 1:
            raise JetfmError(where, f"an array of {dataset.ndim} dimensions", expected)
        return dataset

    def _find_columns(self) -> dict[str, tuple[str, int]]:
        columns: dict[str, tuple[str, int]] = {}
        for field in self._dataset.dtype.names:
            if field == "index":
                continue
            where = f"{self.path}: attribute '{field}_kind'"
            pickled = self._dataset.attrs.get(f"{field}_kind")
            if isinstance(pickled, str):  # h5py's form of text of variable length
                pickled = pickled.encode()
            if not isinstance(pickled, (bytes, np.void)):
                found = "nothing" if pickled is None else type(pickled).__name__
                raise JetfmError(where, found, "the names of the columns of this block")
            names = names_in_pickle(bytes(pickled), where)
            width = int(np.prod(self._dataset.dtype[field].shape))
            if len(names) != width:
                raise JetfmError(where, f"{len(names)} names", f"{width}, one per column")
            for position, name in enumerate(names):
                if name in columns:
                    raise JetfmError(where, f"'{name}' a second time", "different names")
                columns[name] = (field, position)
        return columns

    def _damaged(self, error: Exception) -> JetfmError:
        cause = " ".join(str(error).split())[:120]
        found = f"unreadable bytes ({type(error).__name__}: {cause})"
        return JetfmError(self.path, found, "a complete HDF5 file; truncated or damaged?")


def _listed(names: Sequence[str], at_most: int = 4) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more


def names_in_pickle(pickled: bytes, where: object = "pickle") -> list[str]:
    """The strings of a pickled flat list of strings, without executing the pickle.

    Raises
    ------
    JetfmError
        Any opcode that such a list does not need (imports, calls, numbers, references to earlier
        objects), or bytes that are no pickle.

    Examples
    --------
    >>> names_in_pickle(b"(lp0\\nVE_0\\np1\\naVPX_0\\np2\\na.")
    ['E_0', 'PX_0']
    """
    names = []
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name in _TEXT:
                names.append(str(argument))
            elif opcode.name not in _LIST:
                found = f"the pickle opcode {opcode.name}"
                raise JetfmError(where, found, "a list of text; nothing else is read")
    except ValueError as error:
        found = f"no pickle ({' '.join(str(error).split())[:80]})"
        raise JetfmError(where, found, "a pickled list of text") from None
    return names
