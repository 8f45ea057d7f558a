"""Labelled jets for the token-quality classifiers, original or reconstructed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.physics.features import FEATURE_SETS, Preprocessing
from jetfm.schema import CLASSES


class ClassifierJets:
    """Labelled jets of one split, with original or with reconstructed constituents.

    Batches are put together when asked for, which takes about a hundredth of a training step.

    Parameters
    ----------
    store : a jets store for original constituents, a token store for reconstructed ones
    preprocessing : of the tokenizer that decoded the token store; None with a jets store
    max_constituents : longer jets keep their leading ones in pt. A token store must have been cut
        when it was written: it need not be sorted in pt.
    features : of a constituent, 'kinematics' or 'full' (`jetfm.physics.features.FEATURE_SETS`)

    Attributes
    ----------
    classes : (n_classes,) class indices of the schema that occur, ascending
    labels : (n_jets of the store,) position in `classes`, -1 where the class is unknown
    indices : jets of the store with a label
    lengths : (n_jets of the store,) constituents of each jet in a batch
    n_codes : size of the codebook, None for original constituents
    network_space : that batches are in, whatever the tokenizer used

    Raises
    ------
    JetfmError
        A token store without the preprocessing that its vectors need, or a jets store with one;
        tokens of fewer features, or beyond `max_constituents`; fewer than two classes.
    """

    def __init__(
        self,
        store: JetStore | TokenStore,
        preprocessing: Preprocessing | None = None,
        max_constituents: int = 128,
        features: str = "kinematics",
    ) -> None:
        reconstructed = isinstance(store, TokenStore)
        if reconstructed == (preprocessing is None):
            found = f"{store.kind} {'without' if reconstructed else 'with'} preprocessing"
            raise JetfmError(store.folder, found, "one for a token store and none for a jets store")
        if reconstructed and store.n_truncated(max_constituents):
            found = f"jets of up to {store.n_constituents.max()} tokens, in an order of their own"
            raise JetfmError(store.folder, found, f"at most {max_constituents}")
        self.store, self.preprocessing = store, preprocessing
        self.max_constituents, self.features = max_constituents, features
        self.network_space = Preprocessing(features=FEATURE_SETS[features])
        if preprocessing is not None and preprocessing.n_features < self.n_features:
            found = f"tokens that decode to {preprocessing.n_features} features"
            raise JetfmError(store.folder, found, f"{self.n_features}")
        self.n_codes: int | None = store.n_codes if reconstructed else None
        self.lengths = np.minimum(store.n_constituents, max_constituents)
        self.indices = np.flatnonzero(store.labels >= 0)
        self.classes = np.unique(store.labels[self.indices])
        self.labels = np.full(len(store), -1)
        self.labels[self.indices] = np.searchsorted(self.classes, store.labels[self.indices])
        if len(self.classes) < 2:
            found = f"jets of {len(self.classes)} classes"
            raise JetfmError(store.folder, found, "labelled jets of at least two classes")

    def __reduce__(self):  # the arrays are soon made again, the store opens its files anew
        return type(self), (self.store, self.preprocessing, self.max_constituents, self.features)

    @property
    def n_features(self) -> int:
        """Of a constituent in a batch."""
        return self.network_space.n_features

    @property
    def class_names(self) -> list[str]:
        """Names of `classes`."""
        return [CLASSES[index].name for index in self.classes]

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """'x' (B, T, F) in `network_space`, 'mask' (B, T) and 'label' (B,) of some jets.

        Raises
        ------
        JetfmError
            A constituent that is not finite; names its jet.
        """
        if self.preprocessing is None:
            physical, mask = self.store.dense(
                indices, self.max_constituents, self.network_space.features
            )
        else:
            _, decoded, mask = self.store.dense(indices, self.max_constituents)
            with np.errstate(over="ignore"):  # an infinite pt is reported below
                physical = self.preprocessing.inverse(decoded.astype(np.float64), mask)
            physical = physical[..., : self.n_features]
        x = self.network_space.forward(physical, mask)
        finite = np.isfinite(x)
        if not finite.all():
            jet = int(np.asarray(indices)[np.argwhere(~finite)[0, 0]])
            found = f"a constituent that is not finite, jet {jet}"
            raise JetfmError(self.store.folder, found, "finite features")
        return {
            "x": torch.as_tensor(x, dtype=torch.float32),
            "mask": torch.as_tensor(mask),
            "label": torch.as_tensor(self.labels[indices]),
        }

    def balanced_order(self, seed: int) -> np.ndarray:
        """All labelled jets in random order, one of each class in turn for as long as they last.

        Any start of it is balanced, and longer ones contain shorter ones.
        """
        order = np.random.default_rng([seed, 13]).permutation(self.indices)
        labels = self.labels[order]
        rank = np.empty(len(order), np.int64)  # how many of its class come before a jet
        for label in range(len(self.classes)):
            of_class = labels == label
            rank[of_class] = np.arange(of_class.sum())
        return order[np.lexsort((labels, rank))]
