"""Jets with labels: batches of constituents, or of what a fixed backbone makes of them."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor, nn

from jetfm.data.batches import InOrderBatches
from jetfm.data.schema import class_by_name
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.features import Preprocessing
from jetfm.models.backbone import Backbone
from jetfm.settings import FinetuningSettings

ENCODING_BATCH = 500


class LabelledJets:
    """Signal and background jets of one split, in network space, label 1 for signal.

    Parameters
    ----------
    store : jets of one split; others than the two classes are ignored
    max_constituents : longer jets keep their leading ones in pt

    Attributes
    ----------
    indices : (n,) jets of the store
    labels : (n_jets of the store,) 1 signal, 0 background, -1 other
    """

    def __init__(
        self,
        store: JetStore,
        settings: FinetuningSettings,
        preprocessing: Preprocessing,
        max_constituents: int,
    ) -> None:
        signal, background = (
            class_by_name(n).index for n in (settings.signal, settings.background)
        )
        self.store, self.preprocessing = store, preprocessing
        self.max_constituents = max_constituents
        self.labels = np.full(len(store), -1)
        self.labels[store.labels == signal] = 1
        self.labels[store.labels == background] = 0
        self.indices = np.flatnonzero(self.labels >= 0)
        for name, label in ((settings.signal, 1), (settings.background, 0)):
            if not (self.labels == label).any():
                raise JetfmError(store.folder, f"no {name} jets", "jets of both classes")

    def _key(self) -> tuple:
        return (str(self.store.folder), self.max_constituents, self.labels.tobytes())

    def __eq__(self, other: object) -> bool:  # equal after a trip to a worker process, too
        return isinstance(other, LabelledJets) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key()[:2])

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """'x', 'mask', 'n_constituents' and 'label' of some jets of the store."""
        physical, mask = self.store.dense(indices, self.max_constituents)
        x = self.preprocessing.forward(physical, mask)
        return {
            "x": torch.as_tensor(x, dtype=torch.float32),
            "mask": torch.as_tensor(mask),
            "n_constituents": torch.as_tensor(self.store.n_constituents[indices]),
            "label": torch.as_tensor(self.labels[indices]),
        }

    def hashes(self) -> set[bytes]:
        """A hash of every jet's constituents: the same jet in two splits has the same one."""
        store = self.store
        return {
            blake2b(store.constituents[store.offsets[jet] : store.offsets[jet + 1]]).digest()
            for jet in self.indices
        }

    def training_order(self, seed: int) -> np.ndarray:
        """All jets, signal and background in turn, each in random order: any even start balances.

        Stops where the rarer class ends.
        """
        rng = np.random.default_rng([seed, 7])
        sides = [rng.permutation(np.flatnonzero(self.labels == label)) for label in (1, 0)]
        n = min(map(len, sides))
        return np.stack([side[:n] for side in sides], axis=1).ravel()


class EncodedJets:
    """What a fixed backbone makes of labelled jets, computed once and kept in memory."""

    def __init__(self, backbone: Backbone, jets: LabelledJets, indices: np.ndarray) -> None:
        backbone.eval()
        self.labels = jets.labels
        self.hidden: dict[int, Tensor] = {}
        batches = InOrderBatches(jets.store.n_constituents, ENCODING_BATCH, indices)
        with torch.no_grad():
            for some in batches:
                batch = jets.batch(some)
                hidden, mask = backbone(
                    batch["x"], batch["mask"], batch["n_constituents"], causal=False
                )
                for jet, row, real in zip(some, hidden, mask, strict=True):
                    self.hidden[int(jet)] = row[real].clone()

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        """'x' (B, T+1, C), 'mask' (B, T+1) and 'label' of some jets of the store."""
        rows = [self.hidden[int(jet)] for jet in indices]
        x = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(x.shape[1]) < lengths[:, None]
        return {"x": x, "mask": mask, "label": torch.as_tensor(self.labels[indices])}
