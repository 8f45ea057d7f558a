"""Reader of jets in parquet files: weaver's and JetClass-II's columns, or a map's.

One row a jet, one list column a property of the constituents, as awkward, arrow, pandas and weaver
write them (lists of any kind, records of lists, lists of records)::

    part_px, part_py, part_pz, part_energy    [GeV], and further part_* that are asked for
    jet_pt, jet_eta, jet_phi, jet_energy      the jet's own; the constituents' sum where missing
    jet_sdmass, jet_tau1 ... jet_tau4         NaN where missing or null
    label_*                                   one-hot; or classes by expression

`jetfm.data.layout` says what else they may be called, and chunks have the form of
`jetfm.data.jetclass`, whose conventions hold: angles relative to the vector sum of the
constituents, eta not flipped, falling pt. Constituents whose momentum is zero altogether are
padding and left out; a jet without constituents is kept. Without labels a jet has the label -1.

JetClass-II (Li et al., arXiv 2405.12972; README of jet-universe/sophon): 100,000 jets a file,
momenta in GeV, displacements in mm, 188 classes in ``jet_label``; ``examples/jetclass2.yaml`` names
some of them and the pT that its authors select.

Read are only the columns that are needed, a few row groups or pages at a time: memory grows with
`step`, not with the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from jetfm.data.jet_columns import Source, jets_of, labels_in
from jetfm.data.layout import JET_SHAPES, JETCLASS, LABELS, Layout
from jetfm.errors import JetfmError
from jetfm.schema import CONSTITUENT_FEATURES, SETTINGS_KEY, UNLABELLED, is_jagged
from jetfm.storage.files import naming

JET_PT_RANGE = (500.0, 1000.0)  # GeV: JetClass's selection, where a layout has no other

_MAGIC = b"PAR1"  # the first bytes and the last
_BUFFER = 2**20  # bytes of a column read at once
_LABELS_AT_ONCE = 1_000_000  # jets


def iterate(
    paths: str | Path | Sequence[str | Path],
    step: int = 20_000,
    features: Sequence[str] = CONSTITUENT_FEATURES,
    pt_range: tuple[float, float] | None = JET_PT_RANGE,
    rows: tuple[int, int] | None = None,
    layout: Layout = JETCLASS,
) -> Iterator[ak.Array]:
    """Yield the jets of parquet files in chunks of at most `step`, file by file, in order.

    Parameters
    ----------
    paths : one file or several
    step : jets in memory at a time
    features : constituent features to have; only their columns are read
    pt_range : GeV; the median pt of a chunk must lie within, which tells MeV from GeV. That of
        `layout` comes first; None skips this check.
    rows : first jet and the one after the last, of each file; all by default
    layout : what the files call their columns, and which jets make which class

    Raises
    ------
    JetfmError
        Not a parquet file, truncated or damaged, a missing column, one that holds no numbers or
        not one a constituent, no jets, columns of different length, nulls, values that are not
        finite, labels that are not one-hot, momenta in the wrong unit. The message names the file,
        the column and the cause.
    """
    unknown = [name for name in features if name not in CONSTITUENT_FEATURES]
    if unknown:
        expected = f"some of {', '.join(CONSTITUENT_FEATURES)}"
        raise JetfmError("features", ", ".join(map(repr, unknown)), expected)
    if step < 1:
        raise JetfmError("step", str(step), "a positive number of jets")
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    for path in map(Path, paths):
        with open_parquet(path) as file:
            applied = layout.of_file(file.columns, path)
            names = applied.columns(file.columns, features, path)
            source, labelled = Source(path, "column", names), not file.settings.get(UNLABELLED)
            first, end = rows or (0, file.n_jets)
            wanted = names | applied.columns_of_classes()
            unit = None if pt_range is None else applied.pt_range or pt_range
            for start, columns in file.read(wanted, first, min(end, file.n_jets), step):
                labels = labels_in(source, applied, columns, start, labelled)
                yield jets_of(source, columns, start, unit, labels, filled=False)
                del columns


def count_jets(path: str | Path, layout: Layout = JETCLASS) -> int:
    """Number of jets in a file, at least one, without reading any."""
    with open_parquet(Path(path)) as file:
        return file.n_jets


def count_classes(
    path: str | Path, rows: tuple[int, int] | None = None, layout: Layout = JETCLASS
) -> np.ndarray:
    """(classes + 1,) int64, jets of each class of a file or of a range; the last: of none."""
    found = np.zeros(len(layout.class_names) + 1, np.int64)
    with open_parquet(Path(path)) as file:
        applied = layout.of_file(file.columns, path)
        names = applied.columns(file.columns, (), path)
        labels = {name: theirs for name, theirs in names.items() if name in LABELS}
        first, end = rows or (0, file.n_jets)
        end, wanted = min(end, file.n_jets), labels | applied.columns_of_classes()
        if not wanted or (file.settings.get(UNLABELLED) and not applied.classes):
            found[-1] = end - first
            return found
        source = Source(Path(path), "column", names)
        for start, columns in file.read(wanted, first, end, _LABELS_AT_ONCE):
            index = labels_in(source, applied, columns, start)
            found += np.bincount(index % len(found), minlength=len(found))
    return found


def features_in(path: str | Path, layout: Layout = JETCLASS) -> tuple[str, ...]:
    """Constituent features that a file has."""
    with open_parquet(Path(path)) as file:
        return layout.of_file(file.columns, path).features(file.columns)


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Parameters
    ----------
    path : in the file, for the library
    steps : names of the records that lead to it, its own last
    depth : lists around each number
    type : of a row, as arrow calls it
    """

    path: str
    steps: tuple[str, ...]
    depth: int
    type: str


class open_parquet:
    """Context manager: a parquet file of jets.

    Attributes
    ----------
    columns : by name, within records with dots between
    n_jets : rows, at least one
    settings : what jetfm wrote about a file of its own, else empty
    """

    def __init__(self, path: Path):
        self.path = Path(path)

    def __enter__(self) -> open_parquet:
        check_parquet_file(self.path)
        self._bytes = None
        try:
            self._bytes = pa.OSFile(str(self.path))
            self._file = parquet.ParquetFile(
                self._bytes,
                buffer_size=_BUFFER,
                pre_buffer=False,  # it would hold all columns of all row groups
                page_checksum_verification=True,
            )
            self.columns = _columns(self._file)
            self.n_jets = self._file.metadata.num_rows
            metadata = self._file.metadata.metadata or {}
            self.settings = json.loads(metadata.get(SETTINGS_KEY.encode(), b"{}"))
            if not isinstance(self.settings, dict):
                raise ValueError(f"'{SETTINGS_KEY}' is {self.settings!r:.40}")
        except Exception as error:  # arrow raises many kinds on damaged bytes
            self._close()
            raise _damaged(self.path, error) from error
        if self.n_jets == 0:
            self._close()
            raise JetfmError(self.path, "zero jets", "at least one row")
        return self

    def __exit__(self, *error) -> None:
        self._close()

    def _close(self) -> None:
        if self._bytes is not None:
            self._bytes.close()

    def read(self, names: Mapping, start: int, stop: int, step: int) -> Iterator[tuple[int, dict]]:
        """Rows `start` to `stop` in chunks of at most `step`: the place of the first, columns.

        Columns are those of `jetfm.data.jet_columns`; with a key ``("class", name)``, arrow's.
        """
        wanted = {key: self._column(key, name) for key, name in names.items()}
        groups, at, n_before = [], 0, 0
        for number in range(self._file.num_row_groups):
            n_rows = self._file.metadata.row_group(number).num_rows
            if n_before + n_rows <= start:
                at += n_rows
            elif n_before < stop:
                groups.append(number)
            n_before += n_rows
        paths = list(dict.fromkeys(column.path for column in wanted.values()))
        try:
            batches = self._file.iter_batches(step, groups, paths, use_threads=False)
        except Exception as error:
            raise _damaged(self.path, error) from error
        while at < stop:
            try:
                batch = next(batches, None)
            except Exception as error:  # truncated pages, bad compression, wrong checksums ...
                raise _damaged(self.path, error) from error
            if batch is None:
                raise JetfmError(self.path, f"{at} rows", f"{self.n_jets}, as it says; damaged?")
            first, end = max(start - at, 0), min(stop - at, len(batch))
            if first < end:
                some = batch.slice(first, end - first)
                yield at + first, self._arrays(some, wanted, names, at + first)
            at += len(batch)

    def _column(self, key, name: str) -> Column:
        column, jagged = self.columns[name], isinstance(key, str) and is_jagged(key)
        if column.depth != jagged or not column.path:
            what = "one number per constituent" if jagged else "one number per jet"
            raise JetfmError(f"{self.path}: column '{name}'", f"type {column.type}", what)
        return column

    def _arrays(self, batch: pa.RecordBatch, wanted: Mapping, names: Mapping, start: int) -> dict:
        found: dict = {}
        for key, column in wanted.items():
            where = f"{self.path}: column '{names[key]}'"
            try:
                values, counts = _unpacked(batch, column, where, start)
                if isinstance(key, tuple):
                    found[key] = values
                    continue
                if counts is not None:
                    found["counts", key] = counts
                if values.null_count and key not in JET_SHAPES:
                    at = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
                    jet = at if counts is None else np.searchsorted(np.cumsum(counts), at, "right")
                    raise JetfmError(where, f"a null in jet {start + int(jet)}", "a number")
                found[key] = _numbers(values)
            except pa.ArrowException as error:
                raise _damaged(self.path, error) from error
        return found


def check_parquet_file(path: Path) -> None:
    """Check the first and the last bytes of a parquet file."""
    with naming(path), path.open("rb") as file:
        head = file.read(4)
        size = file.seek(0, 2)
        file.seek(max(size - 4, 0))
        tail = file.read(4)
    if head != _MAGIC:
        found = "an empty file" if size == 0 else f"first bytes {head!r}"
        raise JetfmError(path, found, "a parquet file, which starts with b'PAR1'")
    if tail != _MAGIC or size < 12:
        found = f"a parquet file of {size} bytes that ends with {tail!r}"
        raise JetfmError(path, found, "b'PAR1'; truncated?")


def _columns(file: parquet.ParquetFile) -> dict[str, Column]:
    """Columns of a file by name; those that are no numbers with an empty path."""
    leaves = [
        (steps, depth, kind, row)
        for field in file.schema_arrow
        for steps, depth, kind, row in _leaves(field.type, (field.name,), 0, field.type)
    ]
    if len(leaves) != len(file.schema):
        raise ValueError(f"{len(leaves)} columns where the footer has {len(file.schema)}")
    found: dict[str, Column] = {}
    for number, (steps, depth, kind, row) in enumerate(leaves):
        name = ".".join(steps)
        path = file.schema.column(number).path if _is_number(kind) and name not in found else ""
        found[name] = Column(path, steps, depth, f"{row:.80}" if path or name not in found
                             else "two columns of this name")  # fmt: skip
    return found


def _leaves(kind: pa.DataType, steps: tuple[str, ...], depth: int, row: pa.DataType) -> Iterator:
    """Steps, depth and type of every column of the file within a column of the schema."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    if pa.types.is_struct(kind):
        for child in kind:
            yield from _leaves(child.type, (*steps, child.name), depth, row)
    elif pa.types.is_map(kind):
        for name, child in (("key", kind.key_type), ("value", kind.item_type)):
            yield from _leaves(child, (*steps, name), depth + 2, row)  # never one that we read
    elif _is_list(kind):
        yield from _leaves(kind.value_type, steps, depth + 1, row)
    else:
        yield steps, depth, kind, str(row)


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )


def _is_number(kind: pa.DataType) -> bool:
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
    )


def _unpacked(
    batch: pa.RecordBatch, column: Column, where: str, start: int
) -> tuple[pa.Array, np.ndarray | None]:
    """Numbers of a column, and how many of them each jet has if they are of constituents."""
    first, *steps = column.steps
    array, counts = batch.column(first), None
    while True:
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        if pa.types.is_struct(array.type):
            array = pc.struct_field(array, steps.pop(0))
        elif _is_list(array.type):
            if array.null_count:
                jet = start + int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
                expected = "a list, which may be empty"
                raise JetfmError(where, f"a null in jet {jet}", expected)
            counts = pc.list_value_length(array).to_numpy(zero_copy_only=False).astype(np.int64)
            array = array.flatten()
        else:
            return array, counts


def _numbers(values: pa.Array) -> np.ndarray:
    """As numpy has them: NaN for null, 0 and 1 for truth values."""
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return values.to_numpy(zero_copy_only=False)


def _damaged(path: Path, error: Exception) -> JetfmError:
    if isinstance(error, JetfmError):
        return error
    cause = " ".join(str(error).split())[:120]
    found = f"unreadable bytes ({type(error).__name__}: {cause})"
    return JetfmError(path, found, "a complete parquet file; truncated or damaged?")
