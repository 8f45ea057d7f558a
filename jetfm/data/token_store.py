"""The token store: jets as token ids, beside the features that the tokenizer decodes from them.

Like the jets store (`jetfm.data.store`), a folder complete only when ``store.json`` is there::

    ids.npy           (n_total,) int32, 0 ... n_codes - 1, jet after jet
    decoded.npy       (n_total, F) float32, network space: the vectors d_i that feed pre-training
    positions.npy     (n_total,) int16, which constituent of its jet in the jets store a token
                      stands for: tokenizers may see them in random order
    offsets.npy       (n_jets + 1,) int64
    labels.npy        (n_jets,) int64, class index, -1 unknown
    multiplicity.npy  (n_jets,) int64, constituents the jet had before any cap: the condition N
    store.json        n_codes, hash of the tokenizer, counts, sha256 of the arrays
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jetfm.data.joined import blocks
from jetfm.data.ragged import MANIFEST, RaggedFolder, write_manifest
from jetfm.errors import JetfmError
from jetfm.physics.jagged import padded
from jetfm.storage.files import NpyWriter, make_folder, naming, remove_leftovers, write_npy

_LAST_POSITION = np.iinfo(np.int16).max


class TokenStore(RaggedFolder):
    """Tokenised jets, read-only and memory-mapped.

    Attributes
    ----------
    ids, decoded, positions, labels, multiplicity, offsets : as in the files
    n_constituents : (n_jets,) int64, tokens per jet
    n_codes : size of the codebook
    info : what ``store.json`` says, with what the writer was given (e.g. ``tokenizer_sha256``)
    parts : folders of the parts; where there are any, the arrays are `JoinedArray`
    """

    kind, in_manifest = "token store", {"n_codes": int}
    flat_arrays = ("ids", "decoded", "positions")
    jet_arrays = ("labels", "multiplicity")

    @property
    def n_codes(self) -> int:
        return self.info["n_codes"]

    def count_ids(self) -> np.ndarray:
        """(n_codes,) int64, how often each code occurs."""
        found = np.zeros(self.n_codes, np.int64)
        for _, ids in blocks(self.ids):
            found += np.bincount(ids, minlength=self.n_codes)
        return found

    def dense(
        self, indices, max_constituents: int | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Some jets as a padded batch; longer jets keep their first `max_constituents`.

        Returns
        -------
        ids : (B, T) int64, zero where padded
        decoded : (B, T, F) float32, zero where padded
        mask : (B, T) bool
        """
        rows, mask = self.rows_of(indices, max_constituents)
        ids = padded(np.take(self.ids, rows), mask, np.int64)
        return ids, padded(np.take(self.decoded, rows, axis=0), mask), mask

    def of_constituents(self, indices: np.ndarray, n: int) -> np.ndarray:
        """Ids of some jets by their constituents' places in the jets store, (B, n) int64.

        -1 where a constituent has no token (cuts, caps), or the jet no such constituent; tokens of
        those from place n on are left out.
        """
        rows, mask = self.rows_of(indices)
        jet = np.repeat(np.arange(len(mask)), mask.sum(1))
        place = np.take(self.positions, rows).astype(np.int64)
        kept = place < n
        ids = np.full((len(mask), n), -1, np.int64)
        ids[jet[kept], place[kept]] = np.take(self.ids, rows)[kept]
        return ids


class TokenStoreWriter:
    """Write a token store in batches; it is complete only after a clean exit.

    Parameters
    ----------
    folder : created if missing; a store already there is invalid from the start of writing
    n_codes : ids must lie in 0 ... n_codes - 1
    n_features : width of the decoded vectors
    n_constituents : (n_jets,) int, optional; tokens per jet, where known beforehand. Batches may
        then come in any order through `put`, e.g. bucketed by length, and every jet keeps its
        index.
    may_be_empty : a part of a store may have no jets, a store of its own may not
    info : more entries for ``store.json``: hash of the tokenizer, of the jets store, the seed

    Raises
    ------
    JetfmError
        An id outside the codebook (the jet is named), shapes that disagree, jets left out.
    """

    def __init__(
        self,
        folder: str | Path,
        n_codes: int,
        n_features: int = 3,
        n_constituents: np.ndarray | None = None,
        may_be_empty: bool = False,
        **info,
    ):
        self.may_be_empty = may_be_empty
        self.folder, self.n_codes, self.info = make_folder(folder), int(n_codes), info
        (self.folder / MANIFEST).unlink(missing_ok=True)  # from here on not a store
        remove_leftovers(self.folder)
        self.n_jets, self.n_total = 0, 0  # written so far
        rows = {"ids": ("i4", ()), "decoded": ("f4", (n_features,)), "labels": ("i8", ())}
        rows |= {"positions": ("i2", ()), "multiplicity": ("i8", ())}
        if n_constituents is None:
            self._in_order = {
                name: NpyWriter(self.folder / f"{name}.npy", *kind) for name, kind in rows.items()
            }
            self._in_order["offsets"] = NpyWriter(self.folder / "offsets.npy", "i8")
            self._in_order["offsets"].append(np.zeros(1, np.int64))
            return
        self._in_order = None
        self._offsets = np.concatenate([[0], np.cumsum(n_constituents)]).astype(np.int64)
        self._written = np.zeros(len(n_constituents), bool)
        self._maps = {}
        for name, (dtype, row_shape) in rows.items():
            n_rows = len(n_constituents) if name in TokenStore.jet_arrays else self._offsets[-1]
            shape = (int(n_rows), *row_shape)
            with naming(self.folder / f"{name}.npy"):
                if n_rows == 0:  # nothing to map
                    self._maps[name] = np.empty(shape, dtype)
                    continue
                array = np.lib.format.open_memmap(self._aside(name), "w+", dtype, shape)
                _reserve(self._aside(name))
            self._maps[name] = array

    def _aside(self, name: str) -> Path:
        return self.folder / f".{name}.npy.put.part"

    def append(self, ids, decoded, mask, labels=None, multiplicity=None, positions=None) -> None:
        """Add the next jets: ids (B, T) int, decoded (B, T, F), mask (B, T) bool, labels (B,).

        Arrays or CPU tensors; padded slots are dropped, `labels` None means unknown (-1).
        `multiplicity` (B,) is the uncapped number of constituents, by default that of tokens;
        `positions` (B, T) are the constituents' places in the jets store, by default in its order.
        """
        if self._in_order is None:
            raise JetfmError(self.folder, "append", "put(indices, ...), as lengths were given")
        ids, decoded, positions, labels, counts = self._checked(
            ids, decoded, mask, labels, positions
        )
        self._in_order["ids"].append(ids)
        self._in_order["decoded"].append(decoded)
        self._in_order["positions"].append(positions)
        self._in_order["labels"].append(labels)
        self._in_order["multiplicity"].append(counts if multiplicity is None else multiplicity)
        self._in_order["offsets"].append(self.n_total + np.cumsum(counts))
        self.n_jets, self.n_total = self.n_jets + len(counts), self.n_total + len(ids)

    def put(
        self, indices, ids, decoded, mask, labels=None, multiplicity=None, positions=None
    ) -> None:
        """Write the jets `indices` (B,), each once in all; other arguments as for `append`."""
        if self._in_order is not None:
            raise JetfmError(self.folder, "put", "append, as no lengths were given")
        indices = np.asarray(indices, np.int64)
        ids, decoded, positions, labels, counts = self._checked(
            ids, decoded, mask, labels, positions
        )
        expected = np.diff(self._offsets)[indices]
        if not np.array_equal(counts, expected):
            jet = int(np.flatnonzero(counts != expected)[0])
            found = f"{counts[jet]} tokens for jet {indices[jet]}"
            raise JetfmError(self.folder, found, f"{expected[jet]}, as announced")
        before = np.cumsum(counts) - counts
        rows = np.repeat(self._offsets[indices] - before, counts) + np.arange(counts.sum())
        self._maps["ids"][rows] = ids
        self._maps["decoded"][rows] = decoded
        self._maps["positions"][rows] = positions
        self._maps["labels"][indices] = labels
        self._maps["multiplicity"][indices] = counts if multiplicity is None else multiplicity
        self._written[indices] = True

    def _checked(self, ids, decoded, mask, labels, positions):
        ids, decoded, mask = np.asarray(ids), np.asarray(decoded), np.asarray(mask, bool)
        labels = np.full(len(mask), -1) if labels is None else np.asarray(labels)
        positions = np.cumsum(mask, axis=1) - 1 if positions is None else np.asarray(positions)
        rows = (ids.shape, decoded.shape[:2], positions.shape)
        if any(shape != mask.shape for shape in rows) or len(labels) != len(mask):
            shapes = f"ids {ids.shape}, decoded {decoded.shape}, positions {positions.shape}, "
            shapes += f"labels {labels.shape}"
            raise JetfmError(self.folder, shapes, f"shapes that agree with the mask {mask.shape}")
        outside = mask & ((ids < 0) | (ids >= self.n_codes))
        if outside.any():
            jet, slot = np.argwhere(outside)[0]
            found = f"id {ids[jet, slot]} at slot {slot} of jet {jet} of the batch"
            raise JetfmError(self.folder, found, f"0 to {self.n_codes - 1}")
        positions = positions[mask]
        if len(positions) and not (0 <= positions.min() and positions.max() <= _LAST_POSITION):
            found = f"positions {positions.min()} to {positions.max()}"
            raise JetfmError(self.folder, found, f"0 to {_LAST_POSITION}")
        flat = (ids[mask].astype(np.int32), decoded[mask], positions.astype(np.int16))
        return *flat, labels, mask.sum(axis=1)

    def __enter__(self) -> TokenStoreWriter:
        return self

    def __exit__(self, kind, value, traceback) -> None:
        try:
            if kind is None:
                self._complete()
        finally:
            for writer in (self._in_order or {}).values():
                writer.abort()  # does nothing to a closed one
            self._maps = {}
            remove_leftovers(self.folder)

    def _complete(self) -> None:
        if self._in_order is None:
            if not self._written.all():
                missing = np.flatnonzero(~self._written)
                found = f"{len(missing)} jets never written, the first {missing[0]}"
                raise JetfmError(self.folder, found, "every jet once")
            self.n_jets, self.n_total = len(self._written), int(self._offsets[-1])
            with NpyWriter(self.folder / "offsets.npy", "i8") as writer:
                writer.append(self._offsets)
            for name, array in self._maps.items():
                path = self.folder / f"{name}.npy"
                if not isinstance(array, np.memmap):
                    write_npy(path, array)
                    continue
                with naming(path):
                    array.flush()
                    self._aside(name).replace(path)
        if self.n_jets == 0 and not self.may_be_empty:
            raise JetfmError(self.folder, "zero jets", "at least one jet to store")
        for writer in (self._in_order or {}).values():
            writer.close()
        write_manifest(
            self.folder,
            kind=TokenStore.kind,
            n_codes=self.n_codes,
            n_jets=self.n_jets,
            n_constituents=self.n_total,
            **self.info,
        )


def _reserve(path: Path) -> None:
    """Claim a file's room on the disk now: a memory map of a full disk kills the process."""
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
