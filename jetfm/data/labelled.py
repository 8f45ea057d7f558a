"""Jets with labels: batches of constituents or of their tokens.

A jet's label is the place of its class in the task's list of classes. Training jets of a size are
the first ones of a random order in which the classes take turns, so that any size is balanced and
larger sets contain the smaller ones (the papers do not say how labels are split by class).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jetfm.data.jet_ranges import Range, within
from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing
from jetfm.physics.jagged import padded
from jetfm.schema import CLASS_NAMES


@dataclass(frozen=True)
class LabelledJets:
    """Jets of some classes of one split; small to send to a worker, which opens the files anew.

    Parameters
    ----------
    folder : of a jets store; jets of other classes are ignored
    classes : names as in the store, in the order of the labels; empty means JetClass's ten
    preprocessing : network space of the constituents
    max_constituents : longer jets keep their leading ones in pt
    tokens : folder of the token store of the same jets, for models that read ids
    limit : so many jets at most, drawn with `seed`, as many of every class; zero means all
    targets : folder of the token store of the same jets, for models that read constituents and
        predict the tokens of some
    ranges : jets outside are ignored, too

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
    targets: Path | None = None
    ranges: tuple[Range, ...] = ()

    def __post_init__(self) -> None:
        found = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        for name, n_jets in zip(self.class_names, found, strict=True):
            if not n_jets:
                raise JetfmError(self.folder, f"no {name} jets", "jets of every class of the task")
        if self._token_folder is not None and len(self.token_store) != len(self.store):
            found = f"tokens of {len(self.token_store)} jets"
            raise JetfmError(self._token_folder, found, f"{len(self.store)}, as in {self.folder}")

    def __reduce__(self):  # without what is cached
        return type(self), tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def store(self) -> JetStore:
        """The jets."""
        return JetStore(self.folder)

    @cached_property
    def token_store(self) -> TokenStore:
        """Their tokens, as input or as targets."""
        return TokenStore(self._token_folder)

    @property
    def _token_folder(self) -> Path | None:
        return self.targets if self.tokens is None else self.tokens

    @property
    def tokenizer_hash(self) -> str | None:
        """Of the tokenizer that made the tokens; None without tokens, or where they do not say."""
        return None if self._token_folder is None else self.token_store.info.get("tokenizer")

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        return self.classes or CLASS_NAMES

    @cached_property
    def labels(self) -> np.ndarray:
        """(n_jets of the store,) small int, 100 MB for JetClass; -1 for classes not of the task."""
        names = self.class_names
        small = np.int8 if len(names) < 128 else np.int16
        of_class = np.full(len(self.store.class_names) + 1, -1, small)  # the last: -1 in the store
        of_class[[self.store.class_index(name) for name in names]] = range(len(names))
        return of_class[np.asarray(self.store.labels)]

    @cached_property
    def indices(self) -> np.ndarray:
        """(n,) ascending jets of the store."""
        found = np.flatnonzero(self.labels >= 0)
        found = found[within(self.store, found, self.ranges)]
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

        'x' is (B, T, F) in network space, or ids (B, T) where the jets have `tokens`. With
        `targets` also 'ids' (B, T), the token of each constituent, -1 where it has none.
        """
        tokens = None if self.tokens is None else self.token_store
        batch = network_batch(
            self.store, indices, self.preprocessing, self.max_constituents, tokens
        )
        if self.targets is not None:
            ids = self.token_store.of_constituents(indices, batch["mask"].shape[1])
            batch["ids"] = torch.as_tensor(ids)
        return batch | {"label": torch.as_tensor(self.labels[indices]).long()}

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


def network_batch(
    store: JetStore,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    max_constituents: int,
    tokens: TokenStore | None = None,
) -> dict[str, Tensor]:
    """'x', 'mask' and 'n_constituents' of some jets of a store, labelled or not.

    'x' is (B, T, F) in network space, or ids (B, T) where `tokens` are the jets' own.
    """
    if tokens is None:
        physical, mask = store.dense(indices, max_constituents, preprocessing.features)
        x = torch.as_tensor(preprocessing.forward(physical, mask), dtype=torch.float32)
    else:
        rows, mask = tokens.rows_of(indices, max_constituents)
        x = torch.as_tensor(padded(tokens.ids[rows], mask, np.int64))
    return {
        "x": x,
        "mask": torch.as_tensor(mask),
        "n_constituents": torch.as_tensor(store.n_constituents[indices]),
    }
