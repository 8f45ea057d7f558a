"""Arrays that lie in several files, used as one: read where indexed, never as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

_BLOCK = 1 << 20  # rows at a time, where all are needed


class JoinedArray(NDArrayOperatorsMixin):
    """Several arrays along their first axis, read-only.

    Indexing reads just what it asks for and answers with numpy arrays: a number, a slice, indices,
    a mask, a tuple that begins with one of these, or the name of a field (lazy again). Arithmetic,
    comparisons and ``np.asarray`` read everything.

    Parameters
    ----------
    starts : (P + 1,) int64, ascending; part p holds the rows starts[p] to starts[p + 1]
    read : ``read(p, key)``, rows of part p for a slice or for int indices that count from its start
    """

    def __init__(self, starts: np.ndarray, read: Callable[[int, slice | np.ndarray], np.ndarray]):
        self.starts, self.read = np.asarray(starts, np.int64), read

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def dtype(self) -> np.dtype:
        return self._nothing().dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self._nothing().shape[1:])

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def _nothing(self) -> np.ndarray:
        return self.read(0, slice(0, 0))

    def __repr__(self) -> str:
        return f"JoinedArray({self.shape}, {self.dtype}, {len(self.starts) - 1} parts)"

    def __getitem__(self, key):
        if isinstance(key, str):
            return JoinedArray(self.starts, lambda part, rows: self.read(part, rows)[key])
        if isinstance(key, tuple):
            first, *rest = key
            one = isinstance(first, (int, np.integer))
            return self[first][tuple(rest) if one else (slice(None), *rest)]
        if isinstance(key, (int, np.integer)):
            at = key + len(self) if key < 0 else key
            if not 0 <= at < len(self):
                raise IndexError(f"index {key} of {len(self)} rows")
            part = self._part_of(at)
            first = int(at - self.starts[part])
            return self.read(part, slice(first, first + 1))[0]
        if isinstance(key, slice):
            start, stop, step = key.indices(len(self))
            if step != 1:
                return self.take(np.arange(start, stop, step))
            return self._between(start, max(start, stop))
        key = np.asarray(key)
        return self.take(np.flatnonzero(key) if key.dtype == bool else key.astype(np.int64))

    def _part_of(self, rows):
        return np.searchsorted(self.starts, rows, side="right") - 1

    def _between(self, start: int, stop: int) -> np.ndarray:
        if start == stop:
            return self._nothing()
        first, last = self._part_of(start), self._part_of(stop - 1)
        pieces = [
            self.read(
                part,
                slice(max(start - int(self.starts[part]), 0), stop - int(self.starts[part])),
            )
            for part in range(first, last + 1)
        ]
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def take(self, indices, axis: int | None = 0, out=None, mode: str = "raise") -> np.ndarray:
        """Rows `indices` (any shape), as ``np.take(self, indices, axis=0)`` calls it.

        Rows come as runs of neighbours, one a jet, so parts are looked up by run; each part is
        asked once for all of its rows.
        """
        if axis not in (0, None) or out is not None or mode != "raise":
            raise NotImplementedError("only rows along the first axis, into a new array")
        indices = np.asarray(indices, np.int64)
        rows = indices.reshape(-1)
        if not len(rows):
            return self._nothing().reshape(*indices.shape, *self.shape[1:])
        if not (0 <= rows.min() and rows.max() < len(self)):
            rows = np.where(rows < 0, rows + len(self), rows)
            if not (0 <= rows.min() and rows.max() < len(self)):
                raise IndexError(f"rows {indices.min()} to {indices.max()} of {len(self)}")
        part_of = self._parts_of_runs(rows)
        order = np.argsort(part_of, kind="stable")  # radix sort of 16-bit numbers
        ordered, sorted_parts = rows[order], part_of[order]
        begins = np.flatnonzero(np.diff(sorted_parts, prepend=sorted_parts[0] + 1))
        found = None
        for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
            part = int(sorted_parts[begin])
            values = self.read(part, ordered[begin:end] - self.starts[part])
            if len(begins) == 1:
                found = values  # one part: the stable order is that of the rows
                break
            if found is None:
                found = np.empty((len(rows), *values.shape[1:]), values.dtype)
            found[order[begin:end]] = values
        return found.reshape(*indices.shape, *found.shape[1:])

    def _parts_of_runs(self, rows: np.ndarray) -> np.ndarray:
        """(n,) part of every row, the smallest type that numbers the parts."""
        begins = np.flatnonzero(np.diff(rows, prepend=rows[0] - 2) != 1)
        ends = np.append(begins[1:], len(rows))
        first, last = self._part_of(rows[begins]), self._part_of(rows[ends - 1])
        if (first != last).any():  # neighbours on both sides of a border
            return self._part_of(rows)
        small = np.uint16 if len(self.starts) <= 2**16 else np.int64
        return np.repeat(first.astype(small), ends - begins)

    def astype(self, dtype) -> JoinedArray:
        """The same in another type, lazily."""
        return JoinedArray(self.starts, lambda part, rows: self.read(part, rows).astype(dtype))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        if copy is False:
            raise ValueError("parts in several files cannot be one array without a copy")
        whole = np.empty(self.shape, dtype or self.dtype)
        for start, block in blocks(self):
            whole[start : start + len(block)] = block
        return whole

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        inputs = [np.asarray(x) if isinstance(x, JoinedArray) else x for x in inputs]
        return getattr(ufunc, method)(*inputs, **options)

    def __iter__(self) -> Iterator:
        return (row for _, block in blocks(self) for row in block)

    def max(self, axis=None, out=None, **options):
        """Largest value, a block at a time."""
        return max(block.max(**options) for _, block in blocks(self))

    def min(self, axis=None, out=None, **options):
        """Smallest value, a block at a time."""
        return min(block.min(**options) for _, block in blocks(self))

    def tolist(self) -> list:
        return np.asarray(self).tolist()


def blocks(array: np.ndarray | JoinedArray) -> Iterator[tuple[int, np.ndarray]]:
    """Pieces of a long array, each with the row that it starts at; memory does not grow."""
    for start in range(0, len(array), _BLOCK):
        yield start, array[start : start + _BLOCK]
