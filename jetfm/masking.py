"""Masked particles: which ones, what is left of the jet, and where the mask vectors go.

After arXiv 2512.04149, figure 2: a share of each jet's constituents is masked and kept out of the
backbone; after it, trainable vectors take their places, told apart by the rank in falling pt
*within the masked subset*. The official code draws the masked ones over a whole batch, start slots
included; here every jet loses its own share, and never its start.

Axes: B jets, T slots, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Visible(NamedTuple):
    """What a jet is without its masked constituents, moved to the left.

    Attributes
    ----------
    slots : (B, V) int64, where in the whole jet each visible constituent is
    mask : (B, V) True at visible constituents, False where a jet has fewer than V
    """

    slots: Tensor
    mask: Tensor

    def take(self, x: Tensor) -> Tensor:
        """(B, T, ...) of the whole jet to (B, V, ...) of its visible constituents."""
        index = self.slots.reshape(*self.slots.shape, *(1,) * (x.ndim - 2))
        return x.gather(1, index.expand(-1, -1, *x.shape[2:]))


def draw_masked(mask: Tensor, fraction: float) -> Tensor:
    """Which constituents are masked, (B, T), drawn from torch's global generator.

    Every jet of N loses floor(fraction N) or one more, so that the share is exact on average even
    for a handful of constituents (our choice). Each constituent is as likely as any other.

    Parameters
    ----------
    mask : (B, T) True at real constituents
    """
    n = mask.sum(1)
    count = (fraction * n + torch.rand(len(mask), device=mask.device)).floor()
    keys = torch.where(mask, torch.rand(mask.shape, device=mask.device), 2.0)
    place = keys.argsort(1).argsort(1)  # padding comes last
    return place < count.clamp(max=n)[:, None]


def pt_ranks(pt: Tensor, masked: Tensor) -> Tensor:
    """Rank 0, 1, ... in falling pt within each jet's masked subset, (B, T) int64; -1 elsewhere.

    Parameters
    ----------
    pt : (B, T), any monotonic function of it will do
    """
    keys = torch.where(masked, -pt.float(), torch.inf)
    order = keys.argsort(dim=1, stable=True).argsort(1)
    return torch.where(masked, order, -1)


def visible_part(mask: Tensor, masked: Tensor) -> Visible:
    """The constituents that are not masked, in their order, moved to the left."""
    kept = mask & ~masked
    counts = kept.sum(1)
    width = max(int(counts.max()), 1) if len(counts) else 1
    slots = (~kept).to(torch.uint8).argsort(dim=1, stable=True)[:, :width]
    return Visible(slots, torch.arange(width, device=mask.device) < counts[:, None])


def put_back(hidden: Tensor, visible: Visible, ranks: Tensor, mask_vectors: Tensor) -> Tensor:
    """The whole jet again: the backbone's output, and mask vectors where constituents are masked.

    Parameters
    ----------
    hidden : (B, 1 + V, C) of the start and the visible constituents
    ranks : (B, T) of `pt_ranks`
    mask_vectors : (R, C) by rank; the last one serves all ranks beyond

    Returns
    -------
    (B, 1 + T, C); padded slots hold zeros
    """
    n_slots, width = ranks.shape[1], hidden.shape[-1]
    whole = hidden.new_zeros(len(hidden), 1 + n_slots, width)
    whole[:, 0] = hidden[:, 0]
    jet, column = visible.mask.nonzero(as_tuple=True)
    whole = whole.index_put((jet, visible.slots[jet, column] + 1), hidden[jet, column + 1])
    jet, slot = (ranks >= 0).nonzero(as_tuple=True)
    chosen = mask_vectors[ranks[jet, slot].clamp(max=len(mask_vectors) - 1)]
    return whole.index_put((jet, slot + 1), chosen.to(whole.dtype))
