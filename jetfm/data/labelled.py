"""Jets with labels: batches of constituents, of tokens, or of what a fixed backbone makes of them.

A jet's label is the place of its class in the task's list of classes. Training jets of a size are
the first ones of a random order in which the classes take turns, so that any size is balanced and
larger sets contain the smaller ones (the papers do not say how labels are split by class).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jetfm.data.batches import InOrderBatches
from jetfm.data.store import JetStore, padded
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.physics.features import Preprocessing
from jetfm.schema import CLASSES, class_by_name
from jetfm.storage.files import NpyWriter, make_folder, read_json, write_json, write_npy

ENCODING_BATCH = 500


@dataclass(frozen=True)
class LabelledJets:
    """Jets of some classes of one split; small to send to a worker, which opens the files anew.

    Parameters
    ----------
    folder : of a jets store; jets of other classes are ignored
    classes : names as in the schema, in the order of the labels; empty means all ten
    preprocessing : network space of the constituents
    max_constituents : longer jets keep their leading ones in pt
    tokens : folder of the token store of the same jets, for models that read ids
    limit : so many jets at most, drawn with `seed`, as many of every class; zero means all

    Raises
    ------
    JetfmError
        A class without jets, or a token store of other jets.
    """

    folder: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing = Preprocessing()
    max_constituents: int = 128
    tokens: Path | None = None
    limit: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        found = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        for name, n_jets in zip(self.class_names, found, strict=True):
            if not n_jets:
                raise JetfmError(self.folder, f"no {name} jets", "jets of every class of the task")
        if self.tokens is not None and len(self.token_store) != len(self.store):
            found = f"tokens of {len(self.token_store)} jets"
            raise JetfmError(self.tokens, found, f"{len(self.store)}, as in {self.folder}")

    def __reduce__(self):  # without what is cached
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def store(self) -> JetStore:
        """The jets."""
        return JetStore(self.folder)

    @cached_property
    def token_store(self) -> TokenStore:
        """Their tokens."""
        return TokenStore(self.tokens)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        return self.classes or tuple(c.name for c in CLASSES)

    @cached_property
    def labels(self) -> np.ndarray:
        """(n_jets of the store,) int8, 100 MB for JetClass; -1 for classes not of the task."""
        of_class = np.full(len(CLASSES) + 1, -1, np.int8)  # the last: unknown, -1 in the store
        of_class[[class_by_name(n).index for n in self.class_names]] = range(len(self.class_names))
        return of_class[np.asarray(self.store.labels)]

    @cached_property
    def indices(self) -> np.ndarray:
        """(n,) ascending jets of the store."""
        found = np.flatnonzero(self.labels >= 0)
        if not self.limit or self.limit >= len(found):
            return found
        shuffled = np.random.default_rng([self.seed, 11]).permutation(found)
        labels = self.labels[shuffled]
        turn = np.empty(len(shuffled), np.int64)  # the how-manieth of its class
        for label in range(len(self.class_names)):
            turn[labels == label] = np.arange((labels == label).sum())
        return np.sort(shuffled[np.argsort(turn, kind="stable")[: self.limit]])

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """'x', 'mask', 'n_constituents' and 'label' of some jets of the store.

        'x' is (B, T, F) in network space, or ids (B, T) where the jets have `tokens`.
        """
        if self.tokens is None:
            physical, mask = self.store.dense(
                indices, self.max_constituents, self.preprocessing.features
            )
            x = torch.as_tensor(self.preprocessing.forward(physical, mask), dtype=torch.float32)
        else:
            rows, mask = self.token_store.rows_of(indices, self.max_constituents)
            x = torch.as_tensor(padded(self.token_store.ids[rows], mask, np.int64))
        return {
            "x": x,
            "mask": torch.as_tensor(mask),
            "n_constituents": torch.as_tensor(self.store.n_constituents[indices]),
            "label": torch.as_tensor(self.labels[indices]).long(),
        }

    def hashes(self, indices: np.ndarray) -> set[bytes]:
        """A hash of each jet's constituents: the same jet in two splits has the same one.

        Jets without constituents have none, since they are all the same.
        """
        store = self.store
        return {
            blake2b(
                store.constituents[store.offsets[jet] : store.offsets[jet + 1]], digest_size=16
            ).digest()
            for jet in indices
            if store.offsets[jet] < store.offsets[jet + 1]
        }

    def training_order(self, seed: int) -> np.ndarray:
        """Jets in random order, class after class in turn; stops where the rarest class ends."""
        rng = np.random.default_rng([seed, 7])
        labels = self.labels[self.indices]
        sides = [
            rng.permutation(self.indices[labels == label])
            for label in reversed(range(len(self.class_names)))
        ]
        n = min(map(len, sides))
        return np.stack([side[:n] for side in sides], axis=1).ravel()


class EncodedJets:
    """What a fixed backbone makes of some labelled jets, computed once, memory-mapped.

    Parameters
    ----------
    folder : as `encode` left it
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        read_json(self.folder / "encoded.json")  # written last: without it an error says so
        self._hidden, self._offsets, self._jets, self._labels = (
            np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in ("hidden", "offsets", "jets", "labels")
        )

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """'x' (B, T+1, C), 'mask' (B, T+1) and 'label' of some jets of the store."""
        places = np.searchsorted(self._jets, indices)
        places = np.minimum(places, len(self._jets) - 1)
        missing = self._jets[places] != indices
        if missing.any():
            raise JetfmError(self.folder, f"no jet {indices[missing][0]}", "one that was encoded")
        first, lengths = self._offsets[places], self._offsets[places + 1] - self._offsets[places]
        mask = np.arange(lengths.max()) < lengths[:, None]
        x = np.zeros((*mask.shape, self._hidden.shape[1]), np.float32)
        for row, start, n in zip(x, first, lengths, strict=True):
            row[:n] = self._hidden[start : start + n]
        return {
            "x": torch.from_numpy(x),
            "mask": torch.from_numpy(mask),
            "label": torch.from_numpy(self._labels[places]).long(),
        }


@torch.no_grad()
def encode(
    backbone: Backbone, jets: LabelledJets, indices: Sequence[int], folder: Path, causal: bool
) -> None:
    """Write what the backbone, without dropout, makes of some jets; see `EncodedJets`.

    A folder that is complete is left alone.
    """
    if (folder / "encoded.json").exists():
        return
    make_folder(folder)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    backbone.to(device).eval()
    jets_by_index = np.unique(indices)
    offsets = [0]
    with NpyWriter(folder / "hidden.npy", "f4", (backbone.dim,)) as writer:
        for start in range(0, len(jets_by_index), 20 * ENCODING_BATCH):
            some = jets_by_index[start : start + 20 * ENCODING_BATCH]
            rows: dict[int, np.ndarray] = {}
            for indices in InOrderBatches(jets.store.n_constituents, ENCODING_BATCH, some):
                batch = {key: value.to(device) for key, value in jets.batch(indices).items()}
                hidden, mask = backbone(
                    batch["x"], batch["mask"], batch["n_constituents"], causal=causal
                )
                for jet, row, real in zip(indices, hidden, mask, strict=True):
                    rows[int(jet)] = row[real].float().cpu().numpy()
            for jet in some:
                writer.append(rows[int(jet)])
                offsets.append(writer.n_rows)
    write_npy(folder / "offsets.npy", np.array(offsets))
    write_npy(folder / "jets.npy", jets_by_index)
    write_npy(folder / "labels.npy", jets.labels[jets_by_index])
    write_json(folder / "encoded.json", {"n_jets": len(jets_by_index)})
