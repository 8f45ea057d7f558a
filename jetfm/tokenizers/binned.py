"""Binned tokenizer: a regular grid of cells in network space (2403.05618, II.B; 2303.07364).

    id = (i_pt * n_eta + i_eta) * n_phi + i_phi

A token is decoded to the centre of its cell. Nothing is learned but the range of the grid: in the
angles the papers' cut of +-0.8, in pt all that the training jets hold (our choice: paper 1 gives
the number of bins and says that they are linear in the inputs of the VQ-VAE). A constituent
outside is put into the cell at the edge, and counted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.models.exporting import exporting
from jetfm.physics.features import Preprocessing
from jetfm.settings import TokenizerSettings
from jetfm.tokenizers.interface import Tokenizer

HALF_WIDTH = 0.8  # 2403.05618, II.A: in eta_rel and phi_rel
_ROWS = 2**22  # constituents looked at once
_ROUNDING = 2e-6  # of a constituent in network space, where it comes in float32


class BinnedTokenizer(Tokenizer):
    """Regular grid; see the module. `bins` of the settings are the cells along each axis."""

    def __init__(
        self, settings: TokenizerSettings, preprocessing: Preprocessing | None = None
    ) -> None:
        super().__init__(settings, preprocessing)
        edge = HALF_WIDTH * self.preprocessing.angle_scale
        self.register_buffer("low", torch.tensor([torch.nan, -edge, -edge], dtype=torch.float64))
        self.register_buffer("high", torch.tensor([torch.nan, edge, edge], dtype=torch.float64))
        self.register_buffer("bins", torch.tensor(settings.bins), persistent=False)

    def fit(
        self,
        train: JetStore,
        validation: JetStore | None = None,
        folder: str | Path | None = None,
        seed: int = 0,
        max_constituents: int = 128,
        progress: bool = True,
    ) -> dict[str, Any]:
        """Take the range of pt from the training jets; the other arguments are not used."""
        column = train.columns(["pt"])[0]
        lowest, highest = np.inf, -np.inf
        for start in range(0, len(train.constituents), _ROWS):
            pt = train.constituents[start : start + _ROWS, column]
            lowest, highest = min(lowest, pt.min()), max(highest, pt.max())
        if not lowest < highest:
            raise JetfmError(train.folder, f"pt from {lowest} to {highest} GeV", "a range of pt")
        ends = np.array([[lowest, 0, 0], [highest, 0, 0]], np.float64)
        low, high = map(float, self.preprocessing.forward(ends)[:, 0])
        self.low[0], self.high[0] = low - _ROUNDING, high + _ROUNDING
        metrics = {"lowest_pt": float(lowest), "highest_pt": float(highest)}
        return {"metrics": metrics, "history": []}

    def out_of_range(self, x: Tensor, mask: Tensor) -> Tensor:
        """Real constituents (B, T) outside the grid."""
        self._check_fitted()
        return mask & ((x < self.low) | (x > self.high)).any(-1)

    def _latents(self, x: Tensor, mask: Tensor) -> Tensor:
        self._check_fitted()
        return x

    def _nearest(self, latents: Tensor) -> Tensor:
        cell = (latents.double() - self.low) / (self.high - self.low) * self.bins
        i = torch.clamp(cell.floor().long(), torch.zeros_like(self.bins), self.bins - 1)
        return (i[:, 0] * self.bins[1] + i[:, 1]) * self.bins[2] + i[:, 2]

    def _decoded_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        self._check_fitted()
        i_phi, rest = ids % self.bins[2], ids // self.bins[2]
        cell = torch.stack([rest // self.bins[1], rest % self.bins[1], i_phi], -1)
        centres = self.low + (cell + 0.5) * (self.high - self.low) / self.bins
        return torch.where(mask.unsqueeze(-1), centres, 0)

    def _check_fitted(self) -> None:
        if not exporting() and torch.isnan(self.low[0]):
            raise JetfmError("binned tokenizer", "no range of pt", "a call of fit, or load")
