"""Folders of arrays with one row a constituent: opening, parts, batches, checksums.

What the jets store and the token store share; `jetfm.data.store` says why they look as they do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import numpy as np

from jetfm.data.joined import JoinedArray, blocks
from jetfm.errors import JetfmError
from jetfm.schema import CLASS_NAMES, class_by_name
from jetfm.storage.artifacts import fingerprint
from jetfm.storage.files import NpyReader, map_npy, naming, read_json, sha256, write_json

MANIFEST, PARTS = "store.json", "parts"
VERSION = 1
GAP = 16  # jets, some 10 kB: read with those on both sides; to skip more costs less

_MANY = 100  # rows of one part: read, not mapped, so that no pages stay with this process
_COUNTED = ("n_jets", "n_constituents")
_COUNTS = dict.fromkeys(_COUNTED, int)
_SUMMED = (
    *_COUNTED, "jets_of_unknown_class", "n_truncated", "jets_per_class", "out_of_range", "removed",
)  # fmt: skip
_OF_A_PART = ("sha256", "at_most", "rows", "part", "source", "layout")


class RaggedFolder:
    """A complete folder of memory-mapped arrays, some with one row per constituent.

    Base of JetStore and TokenStore; picklable, a worker opens the files anew.

    Raises
    ------
    JetfmError
        No manifest (missing or incomplete), another kind, or arrays that disagree with it.
    """

    kind: str
    in_manifest: dict[str, type]  # what ``store.json`` says beside what every store's does
    flat_arrays: tuple[str, ...]  # one row per constituent
    jet_arrays: tuple[str, ...]  # one row per jet
    parts: Sequence[Path] = ()  # folders of the parts, if there are any

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / MANIFEST).exists():
            found = "no store.json" if self.folder.is_dir() else "no such folder"
            raise JetfmError(self.folder, found, f"a complete {self.kind}")
        self.info = manifest(self.folder)
        if self.info["kind"] != self.kind:
            raise JetfmError(self.folder, f"a {self.info['kind']}", f"a {self.kind}")
        _check_entries(self.folder / MANIFEST, self.info, self.in_manifest)
        if "parts" in self.info:
            self._open_parts()
        else:
            self.offsets = _open(self.folder, "offsets", self.info["n_jets"] + 1)
            self.n_constituents = _lengths(self.folder, self.offsets, self.info["n_constituents"])
            for name, n_rows in self._rows(self.info).items():
                setattr(self, name, _open(self.folder, name, n_rows))
        self._ready()

    def _rows(self, info: dict) -> dict[str, int]:
        """Length of each array beside the offsets."""
        rows = dict.fromkeys(self.flat_arrays, info["n_constituents"])
        return rows | dict.fromkeys(self.jet_arrays, info["n_jets"])

    def _open_parts(self) -> None:
        """The parts' arrays, joined; each file is opened when something in it is asked for."""
        parts = self.info["parts"]
        self.parts = [self.folder / PARTS / part["name"] for part in parts]
        for path in self.parts:
            if not (path / MANIFEST).exists():
                raise JetfmError(path, "no store.json", f"a complete part of the {self.kind}")
        n_jets, n_rows = (np.cumsum([0] + [p[key] for p in parts]) for key in _COUNTED)

        @cache
        def opened(name: str, part: int) -> np.ndarray:
            n = parts[part]["n_jets"] + 1 if name == "offsets" else self._rows(parts[part])[name]
            array = _open(self.parts[part], name, n)
            if name == "offsets":
                _lengths(self.parts[part], array, parts[part]["n_constituents"])
            return array

        def joined(name: str, starts: np.ndarray) -> JoinedArray:
            return JoinedArray(starts, lambda part, rows: opened(name, part)[rows])

        def offsets(part: int, rows) -> np.ndarray:
            if part == len(parts):  # the end of the last jet
                return n_rows[-1:][rows]
            return opened("offsets", part)[:-1][rows] + n_rows[part]

        def lengths(part: int, rows) -> np.ndarray:
            if isinstance(rows, slice) or len(rows) < _MANY:
                ends = opened("offsets", part)
                return ends[1:][rows] - ends[:-1][rows]
            first, last = rows.min(), rows.max()
            with NpyReader(self.parts[part] / "offsets.npy") as file:
                ends = file.read(first, last + 2)
            return ends[rows - first + 1] - ends[rows - first]

        self.offsets = JoinedArray([*n_jets, n_jets[-1] + 1], offsets)
        self.n_constituents = JoinedArray(n_jets, lengths)
        for name in self.flat_arrays:
            setattr(self, name, joined(name, n_rows))
        for name in self.jet_arrays:
            setattr(self, name, joined(name, n_jets))

    def __reduce__(self):
        return type(self), (self.folder,)

    def __len__(self) -> int:
        return self.info["n_jets"]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.folder)!r}, {len(self)} jets)"

    @property
    def n_jets(self) -> int:
        return len(self)

    def n_truncated(self, max_constituents: int) -> int:
        """Jets that lose constituents in batches of at most `max_constituents`."""
        lengths = blocks(self.n_constituents)
        return sum(int((some > max_constituents).sum()) for _, some in lengths)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the labels 0, 1, ...: those of JetClass, then a user's own."""
        counted = self.info.get("jets_per_class")
        return tuple(counted) if isinstance(counted, dict) else CLASS_NAMES

    def class_index(self, name: str) -> int:
        """Label of a class, named as here or as in the schema; no such class is a JetfmError."""
        names = self.class_names
        if name in names:
            return names.index(name)
        try:
            return class_by_name(name).index
        except JetfmError as error:
            raise JetfmError(
                f"{self.folder}: class", repr(name), f"one of {', '.join(names)}"
            ) from error

    def indices_of(self, *classes: str) -> np.ndarray:
        """Ascending indices (int64) of the jets of these classes, see `class_index`."""
        wanted = [self.class_index(name) for name in classes]
        labels = blocks(self.labels)
        found = [start + np.flatnonzero(np.isin(some, wanted)) for start, some in labels]
        return np.concatenate([np.arange(0), *found])

    def jets_of(self, classes: Sequence[str]) -> np.ndarray:
        """Ascending indices of the jets of these classes; of all jets where none is named.

        Raises
        ------
        JetfmError
            There is no such jet.
        """
        indices = self.indices_of(*classes) if classes else np.arange(len(self))
        if not len(indices):
            raise JetfmError(self.folder, f"no jets of {', '.join(classes)}", "at least one")
        return indices

    def hash_of_arrays(self) -> str:
        """SHA-256 that stands for all arrays, of every part, as the manifests have them.

        Of the files that they were made from it knows nothing: jets simulated twice have the same
        arrays, though their ROOT files, which name the time when they were written, differ.
        """
        of_parts = [type(self)(folder).info["sha256"] for folder in self.parts]
        return fingerprint(of_parts or self.info["sha256"], length=64)

    def verify(self) -> None:
        """Compare every file's SHA-256 with its manifest; a difference is a JetfmError.

        It names the file, and so the part of the store: ``jetfm convert --verify``, or
        ``tokenize --verify``, makes it anew.
        """
        self._verify_own_files()
        for path in self.parts:
            type(self)(path).verify()

    def _verify_own_files(self) -> None:
        for name, expected in self.info["sha256"].items():
            with naming(self.folder / name):
                found = sha256(self.folder / name)
            if found != expected:
                raise JetfmError(self.folder / name, f"sha256 {found}", expected)

    def forget_damaged(self) -> bool:
        """Take the manifests from the parts, or from the folder, that `verify` finds damaged, and
        from the whole, so that they count as never made; whether there were any."""
        damaged = set()
        for folder in (self.folder, *self.parts):
            try:
                type(self)(folder)._verify_own_files()
            except JetfmError:
                damaged |= {folder, self.folder}
        for folder in damaged:
            (folder / MANIFEST).unlink(missing_ok=True)
        return bool(damaged)

    def hold(self, jets: np.ndarray) -> RaggedFolder:
        """Some jets in memory, as a store of their own with indices from 0 on.

        Whole ranges are read from the files, not single jets from their maps: for jets in blocks
        this is faster, most of all where a disk or a network has to be waited for, and afterwards
        none of the files' pages count as this process's.

        Parameters
        ----------
        jets : (n,) int64, ascending, at least one
        """
        runs = self._runs(jets)
        offsets = _read("offsets", [(run.folder, run.first, run.last + 1) for run in runs])
        counts = np.concatenate([run.locate(ends) for run, ends in zip(runs, offsets, strict=True)])
        held = object.__new__(type(self))
        n_rows = int(counts.sum())
        held.folder, held.n_constituents = self.folder, counts
        held.info = self.info | {"n_jets": len(jets), "n_constituents": n_rows}
        held.offsets = np.concatenate([[0], np.cumsum(counts)])
        by_rows = [(run.folder, run.first_row, run.last_row, run.rows) for run in runs]
        by_jets = [(run.folder, run.first, run.last, run.jets) for run in runs]
        for name in self.flat_arrays:
            setattr(held, name, _gathered(name, by_rows, n_rows))
        for name in self.jet_arrays:
            setattr(held, name, _gathered(name, by_jets, len(jets)))
        held._ready()
        return held

    def _runs(self, jets: np.ndarray) -> list[_Run]:
        starts = self.offsets.starts[:-2] if self.parts else np.zeros(1, np.int64)
        folders = self.parts or [self.folder]
        part_of = np.searchsorted(starts, jets, side="right") - 1
        borders = np.flatnonzero((np.diff(part_of) != 0) | (np.diff(jets) > GAP)) + 1
        runs = []
        for begin, end in zip([0, *borders], [*borders, len(jets)], strict=True):
            some = jets[begin:end] - starts[part_of[begin]]
            first, last = int(some[0]), int(some[-1]) + 1
            runs.append(_Run(folders[part_of[begin]], first, last, some - first))
        return runs

    def _ready(self) -> None:
        """What a kind of store derives from its arrays."""

    def rows_of(
        self, indices, max_constituents: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the flat arrays that hold some jets, and the mask that lays them out.

        Returns
        -------
        rows : (n,) int64, jet after jet
        mask : (B, T) bool with n true slots, row-major in the order of `rows`; T is the longest
            jet here, at most `max_constituents`
        """
        if isinstance(indices, slice):
            indices = np.arange(*indices.indices(len(self)))
        indices = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if len(indices) and not (0 <= indices.min() and indices.max() < len(self)):
            found = f"jet indices {indices.min()} to {indices.max()}"
            raise JetfmError(self.folder, found, f"0 to {len(self) - 1}")
        counts = self.n_constituents[indices]
        if max_constituents is not None:
            counts = np.minimum(counts, max_constituents)
        mask = np.arange(counts.max(initial=0)) < counts[:, None]  # (B, T)
        before = np.cumsum(counts) - counts
        rows = np.repeat(self.offsets[indices] - before, counts) + np.arange(counts.sum())
        return rows, mask


def _lengths(folder: Path, offsets: np.ndarray, n_rows: int) -> np.ndarray:
    """Rows of each jet; offsets that cannot be are a JetfmError."""
    ends, lengths = (int(offsets[0]), int(offsets[-1])), np.diff(offsets)
    if ends != (0, n_rows) or (lengths < 0).any():
        found = f"offsets from {ends[0]} to {ends[1]}, or falling"
        raise JetfmError(folder / "offsets.npy", found, f"rising from 0 to {n_rows}")
    return lengths


def _open(folder: Path, name: str, n_rows: int) -> np.ndarray:
    array = map_npy(folder / f"{name}.npy")
    if len(array) != n_rows:
        path = folder / f"{name}.npy"
        raise JetfmError(path, f"{len(array)} rows", f"{n_rows}, as {MANIFEST} says")
    return array


@dataclass
class _Run:
    """Neighbouring jets of one folder: `first` to `last` are read, `jets` of them, from 0, kept."""

    folder: Path
    first: int
    last: int
    jets: np.ndarray | slice

    def locate(self, ends: np.ndarray) -> np.ndarray:
        """Find which rows that means; `ends` are the offsets from `first` on."""
        self.first_row, self.last_row = int(ends[0]), int(ends[-1])
        counts = np.diff(ends)[self.jets]
        if len(self.jets) == self.last - self.first:
            self.jets = self.rows = slice(None)
        else:
            before = np.cumsum(counts) - counts
            starts = np.repeat(ends[self.jets] - ends[0] - before, counts)
            self.rows = starts + np.arange(len(starts))
        return counts


def _read(name: str, ranges: Iterable[tuple[Path, int, int]]) -> Iterator[np.ndarray]:
    """Ranges of one array, from several folders; a file is opened once for successive ones."""
    for folder, some in groupby(ranges, key=itemgetter(0)):
        with NpyReader(folder / f"{name}.npy") as file:
            for _, first, last in some:
                yield file.read(first, last)


def _gathered(name: str, ranges: Sequence[tuple], n: int) -> np.ndarray:
    """The wanted rows of ranges (folder, first, last, wanted), `n` in all."""
    pieces = _read(name, [some[:3] for some in ranges])
    found, at = None, 0
    for piece, (*_, wanted) in zip(pieces, ranges, strict=True):
        piece = piece[wanted]
        found = np.empty((n, *piece.shape[1:]), piece.dtype) if found is None else found
        found[at : at + len(piece)] = piece
        at += len(piece)
    return found


def manifest(folder: Path) -> dict:
    """``store.json`` of a folder; one that lacks what every store has is a JetfmError."""
    path = folder / MANIFEST
    info = read_json(path)
    _check_entries(path, info, {"kind": str, "sha256": dict} | _COUNTS)
    if "parts" in info:
        _check_entries(path, info, {"parts": list})
        for part in info["parts"]:
            _check_entries(path, part, {"name": str} | _COUNTS)
    return info


def _check_entries(path: Path, found: object, expected: dict[str, type]) -> None:
    for key, kind in expected.items():
        value = found.get(key) if isinstance(found, dict) else None
        if not isinstance(value, kind) or isinstance(value, bool) or (kind is int and value < 0):
            text = f"damaged ({value!r:.40} as '{key}')"
            raise JetfmError(path, text, "the manifest of a complete store")


def write_manifest(folder: Path, **entries) -> None:
    """Hash the arrays of a folder and write ``store.json``, which completes it."""
    hashes = {path.name: sha256(path) for path in sorted(folder.glob("*.npy"))}
    write_json(folder / MANIFEST, {"version": VERSION, **entries, "sha256": hashes})


def join_parts(
    folder: str | Path, kind: type[RaggedFolder], names: Sequence[str], **info
) -> RaggedFolder:
    """Make ``parts/NAME/`` for each of `names`, complete stores, one store in this order.

    Counts in the parts' manifests are summed, the lists of sources joined; all else must agree.
    `info` are more entries for ``store.json``.

    Raises
    ------
    JetfmError
        No parts, a part that is missing, incomplete or damaged, or parts that disagree, e.g. in
        their features.
    """
    folder = Path(folder)
    if not names:
        raise JetfmError(folder, "no parts", "at least one")
    paths = [folder / PARTS / name for name in names]
    infos = [kind(path).info for path in paths]
    joined: dict = {}
    for path, of_part in zip(paths, infos, strict=True):
        for key, value in of_part.items():
            if key in _OF_A_PART:
                continue
            if key not in joined:
                joined[key] = list(value) if key == "sources" else value
            elif key == "sources":
                joined[key] += value
            elif key in _SUMMED:
                joined[key] = _sum(joined[key], value, path)
            elif joined[key] != value:
                raise JetfmError(path, f"{key} {value}", f"{joined[key]}, as in {paths[0].name}")
    joined["parts"] = [
        {"name": name} | {key: of_part[key] for key in _COUNTED}
        for name, of_part in zip(names, infos, strict=True)
    ]
    hashes = {f"{PARTS}/{name}/{MANIFEST}": sha256(folder / PARTS / name / MANIFEST)
              for name in names}  # fmt: skip
    write_json(folder / MANIFEST, joined | info | {"sha256": hashes})
    return kind(folder)


def _sum(one, other, where: Path):
    if not isinstance(one, dict):
        return one + other
    if list(one) != list(other):
        raise JetfmError(where, f"counts of {', '.join(other)}", f"of {', '.join(one)}")
    return {key: one[key] + other[key] for key in one}
