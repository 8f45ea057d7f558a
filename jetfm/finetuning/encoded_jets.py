"""Labelled jets as a fixed backbone sees them, computed once for all fits of its heads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jetfm.data.batches import InOrderBatches
from jetfm.data.labelled import LabelledJets
from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.runtime.device import current_device, evaluation_batch
from jetfm.storage.files import NpyWriter, make_folder, read_json, write_json, write_npy

WRITTEN_AT_ONCE = 10_000  # jets in memory


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
    device = current_device()
    backbone.to(device).eval()
    jets_by_index = np.unique(indices)
    offsets = [0]
    with NpyWriter(folder / "hidden.npy", "f4", (backbone.dim,)) as writer:
        for start in range(0, len(jets_by_index), WRITTEN_AT_ONCE):
            some = jets_by_index[start : start + WRITTEN_AT_ONCE]
            rows: dict[int, np.ndarray] = {}
            for indices in InOrderBatches(jets.store.n_constituents, evaluation_batch(), some):
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
