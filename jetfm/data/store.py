"""The jets store: physical constituents of many jets, memory-mapped, gathered into dense batches.

A store is a folder of plain ``.npy`` files::

    constituents.npy   (n_total, F) float32, the jets' constituents one after the other
    offsets.npy        (n_jets + 1,) int64; jet i has rows offsets[i] to offsets[i + 1]
    jets.npy           (n_jets,) structured: class label, file columns, axis of the constituents
    store.json         names, counts per class, sha256 of the sources and of the arrays

``store.json`` is written last: the folder is a store if and only if it is there.

A store of many files has *parts*, ``parts/NAME/``, each a complete store in itself, and its own
``store.json`` lists them in order, each with the SHA-256 of its manifest, which holds those of its
arrays. Parts are written side by side, added, and made anew one by one (`jetfm.data.conversion`);
a jet's index counts through all of them. Both kinds of store are used alike.

Why this format. Training reads random jets many times. A flat row-major table on a memory map
gives a jet as one contiguous piece, a batch as one vectorised gather, shares its pages between
workers, needs no decompression and no library but numpy, and is written as a stream. Parquet and
ROOT are smaller on disk (about half) but must decode a whole row group to reach one jet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import awkward as ak
import numpy as np

from jetfm.data import jetclass
from jetfm.data.constituent_order import by_falling_pt
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.ragged import MANIFEST, RaggedFolder, write_manifest
from jetfm.errors import JetfmError
from jetfm.physics.jagged import padded
from jetfm.runtime.progress import Progress
from jetfm.schema import CLASS_NAMES, CLASSES, CONSTITUENT_FEATURES, JET_COLUMNS, KINEMATICS
from jetfm.storage.files import NpyWriter, make_folder, remove_leftovers, sha256

JET_DTYPE = np.dtype([(name, "i4" if name == "label" else "f4") for name in JET_COLUMNS])


class JetStore(RaggedFolder):
    """Jets with physical features, read-only.

    Attributes
    ----------
    constituents : (n_total, F) float32, memory-mapped, falling pt within a jet
    offsets, n_constituents : int64
    jets : structured array with the columns of the schema; `labels` is its class index
    features : names of the F columns
    info : what ``store.json`` says
    parts : folders of the parts; where there are any, the arrays are `JoinedArray`
    """

    kind, in_manifest = "jets store", {"features": list}
    flat_arrays = ("constituents",)
    jet_arrays = ("jets",)

    def _ready(self) -> None:
        self.features: tuple[str, ...] = tuple(map(str, self.info["features"]))
        self.labels = self.jets["label"].astype(np.int64)

    def dense(
        self,
        indices,
        max_constituents: int | None = None,
        features: Sequence[str] = KINEMATICS,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Some jets as a padded batch.

        Parameters
        ----------
        indices : B jet indices in any order, or a slice
        max_constituents : longer jets keep their leading ones in pt; `n_truncated` counts them
        features : columns to have, in this order

        Returns
        -------
        x : (B, T, F) float32, zero where padded; T is the longest jet of the batch
        mask : (B, T) bool, true for real constituents
        """
        columns = self.columns(features)
        rows, mask = self.rows_of(indices, max_constituents)
        table = np.take(self.constituents, rows, axis=0)
        if columns != list(range(table.shape[1])):
            table = np.take(table, columns, axis=1)
        return padded(table, mask), mask

    def columns(self, features: Sequence[str]) -> list[int]:
        """Positions of features in `constituents`."""
        missing = [name for name in features if name not in self.features]
        if missing:
            expected = f"some of {', '.join(self.features)}"
            raise JetfmError(self.folder, f"no feature {', '.join(missing)}", expected)
        return [self.features.index(name) for name in features]


class JetStoreWriter:
    """Write a store as a stream; it is complete only after a clean exit.

    Parameters
    ----------
    folder : created if missing; a store already there is invalid from the start of writing
    features : names of the constituents' columns
    may_be_empty : a part of a store may have no jets, a store of its own may not
    classes : names of the labels 0, 1, ...
    info : more entries for ``store.json``, e.g. the hashes of the sources

    Examples
    --------
    >>> with JetStoreWriter(folder, features) as writer:  # doctest: +SKIP
    ...     writer.append(constituents, n_constituents, jets)
    """

    def __init__(
        self,
        folder: str | Path,
        features: Sequence[str] = CONSTITUENT_FEATURES,
        may_be_empty: bool = False,
        classes: Sequence[str] = CLASS_NAMES,
        **info,
    ):
        self.folder, self.features, self.info = make_folder(folder), tuple(features), info
        self.may_be_empty, self.classes = may_be_empty, tuple(classes)
        (self.folder / MANIFEST).unlink(missing_ok=True)  # from here on not a store
        remove_leftovers(self.folder)
        self._constituents = NpyWriter(
            self.folder / "constituents.npy", "f4", (len(self.features),)
        )
        self._offsets = NpyWriter(self.folder / "offsets.npy", "i8")
        self._jets = NpyWriter(self.folder / "jets.npy", JET_DTYPE)
        self._offsets.append(np.zeros(1, np.int64))
        self._per_class = np.zeros(len(self.classes) + 1, np.int64)  # the last: unknown, -1

    def append(self, constituents, n_constituents, jets) -> None:
        """Add jets.

        Parameters
        ----------
        constituents : (n, F) float, jet after jet; sorted here by falling pt within a jet
        n_constituents : (B,) int, zero allowed, with sum n
        jets : (B,) structured with columns of the schema; absent ones become NaN, the label -1
        """
        constituents = np.asarray(constituents, np.float32)
        counts = np.asarray(n_constituents, np.int64)
        if counts.sum() != len(constituents) or len(counts) != len(jets):
            found = f"{len(jets)} jets, {len(counts)} counts, {len(constituents)} constituents"
            raise JetfmError(self.folder, found, f"{len(counts)} jets, {counts.sum()} constituents")
        if "pt" in self.features:
            order = by_falling_pt(constituents[:, self.features.index("pt")], counts)
            if order is not None:
                constituents = constituents[order]
        rows = np.empty(len(jets), JET_DTYPE)
        for name in JET_COLUMNS:
            absent = -1 if name == "label" else np.nan
            rows[name] = jets[name] if name in jets.dtype.names else absent
        self._constituents.append(constituents)
        self._offsets.append(self._constituents.n_rows - len(constituents) + np.cumsum(counts))
        self._jets.append(rows)
        n_labels = len(self._per_class)
        self._per_class += np.bincount(rows["label"] % n_labels, minlength=n_labels)

    @property
    def n_jets(self) -> int:
        """Jets written so far."""
        return self._jets.n_rows

    def wanted(self, labels: np.ndarray, limit: int | None) -> np.ndarray:
        """(B,) bool: jets that leave their class with at most `limit` when appended in order."""
        keep = np.ones(len(labels), bool)
        if limit is not None:
            for label in np.unique(labels):
                of_class = labels == label
                keep[of_class] = np.cumsum(of_class)[of_class] <= limit - self._per_class[label]
        return keep

    def is_complete(self, name: str, limit: int | None) -> bool:
        """Whether a file named `name` belongs to a class that has all its `limit` jets."""
        prefix = name.rsplit("_", 1)[0]
        full = [c for c in CLASSES if limit is not None and self._per_class[c.index] >= limit]
        return any(c.prefix == prefix for c in full)

    def __enter__(self) -> JetStoreWriter:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        writers = (self._constituents, self._offsets, self._jets)
        try:
            if kind is not None:
                return
            if self._jets.n_rows == 0 and not self.may_be_empty:
                raise JetfmError(self.folder, "zero jets", "at least one jet to store")
            for writer in writers:
                writer.close()
        finally:
            for writer in writers:
                writer.abort()  # does nothing to a closed one
        write_manifest(
            self.folder,
            kind=JetStore.kind,
            n_jets=self._jets.n_rows,
            n_constituents=self._constituents.n_rows,
            features=self.features,
            jets_per_class={n: int(self._per_class[i]) for i, n in enumerate(self.classes)},
            jets_of_unknown_class=int(self._per_class[-1]),
            **self.info,
        )


def build_store(
    paths: Iterable[str | Path],
    folder: str | Path,
    progress: bool = True,
    features: Sequence[str] = CONSTITUENT_FEATURES,
    step: int = 20_000,
    jets_per_class: int | None = None,
    iterate: Callable[..., Iterator[ak.Array]] = jetclass.iterate,
    layout: Layout = JETCLASS,
) -> JetStore:
    """Convert JetClass ROOT files to a store, in chunks of `step` jets.

    Jets keep the order of the files. The same files give the same bytes wherever they lie: the
    manifest names them without their folder, with their SHA-256.

    Parameters
    ----------
    jets_per_class : keep the first so many of each class; files named after a class that is
        complete are not opened
    iterate : reader of (path, step, features), for files of another kind or layout
    layout : that it reads by; its classes are the store's

    Raises
    ------
    JetfmError
        No files, a file that the reader refuses, or no room or permission in `folder`.
    """
    paths = [Path(path) for path in paths]
    if not paths:
        raise JetfmError(folder, "no source files", "at least one file of jets")
    sources, bar = [], Progress("jets store", len(paths), unit="file", show=progress)
    info = {"classes": layout.class_names, "sources": sources, **layout.recorded()}
    with bar, JetStoreWriter(folder, features, **info) as writer:
        for path in paths:
            n_before = writer.n_jets
            if writer.is_complete(path.name, jets_per_class):
                bar.update(1)
                continue
            for jets in iterate(path, step, features):
                jets = jets[writer.wanted(ak.to_numpy(jets.label), jets_per_class)]
                constituents, offsets = jetclass.features_of(jets, features)
                writer.append(constituents, np.diff(offsets), jet_rows(jets))
            n_jets = writer.n_jets - n_before
            sources.append({"name": path.name, "n_jets": n_jets, "sha256": sha256(path)})
            bar.update(1, n_jets)
    return JetStore(folder)


def jet_rows(jets: ak.Array) -> np.ndarray:
    """Columns of the schema for a chunk of `jetclass.iterate`, as a structured array."""
    rows = np.empty(len(jets), JET_DTYPE)
    rows["label"] = ak.to_numpy(jets.label)
    for name in ("pt", "eta", "phi"):
        rows[f"axis_{name}"] = ak.to_numpy(getattr(jets.axis, name))
    for name in ("pt", "eta", "phi", "energy"):
        rows[name] = ak.to_numpy(getattr(jets.jet, name))
    for name in ("sdmass", "tau1", "tau2", "tau3", "tau4"):
        rows[name] = ak.to_numpy(jets[name])
    return rows
