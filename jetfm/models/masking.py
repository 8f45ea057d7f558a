"""Masked particles: which ones, what is left of the jet, and where the mask vectors go.

After arXiv 2512.04149, figure 2: a share of each jet's constituents is masked and kept out of the
backbone; after it, trainable vectors take their places, told apart by the rank in falling pt
*within the masked subset*. The official code draws the masked ones over a whole batch, start slots
included; here every jet loses its own share, and never its start.

All but `put_back` is worked out on the CPU while the batch is made: what is visible decides the
shapes of the step, and a GPU would have to stop and tell them.

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


class Part(NamedTuple):
    """Which jets of a larger batch a batch holds, so that random numbers are theirs wherever they
    are: the same however many processes share the batch.

    Attributes
    ----------
    shape : (B, T) of the larger batch
    rows : (B',) int64 of its jets, in order
    """

    shape: tuple[int, int]
    rows: Tensor


def draw_masked(
    mask: Tensor,
    fraction: float,
    generator: torch.Generator | None = None,
    part: Part | None = None,
) -> Tensor:
    """Which constituents are masked, (B, T).

    Every jet of N loses floor(fraction N) or one more, so that the share is exact on average even
    for a handful of constituents (our choice). Each constituent is as likely as any other.

    Parameters
    ----------
    mask : (B, T) True at real constituents
    generator : by default torch's global one
    part : these jets are some of a larger batch; by default they are all
    """
    n = mask.sum(1)
    n_jets, length = mask.shape if part is None else part.shape
    share, keys = (
        torch.rand(shape, generator=generator, device=mask.device)
        for shape in (n_jets, (n_jets, length))
    )
    if part is not None:
        share, keys = share[part.rows], keys[part.rows, : mask.shape[1]]
    count = (fraction * n + share).floor()
    keys = torch.where(mask, keys, 2.0)
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


def whole_rows(visible: Visible, ranks: Tensor, n_vectors: int) -> Tensor:
    """Where `put_back` takes each position of the whole jet from.

    Parameters
    ----------
    ranks : (B, T) of `pt_ranks`
    n_vectors : R, how many mask vectors there are; the last one serves all ranks beyond

    Returns
    -------
    (B, 1 + T) int64, rows of [hidden states (B * (1 + V)), mask vectors (R), zeros (1)]
    """
    n_jets, width = visible.mask.shape
    vectors = n_jets * (1 + width)  # their first row
    zeros = vectors + n_vectors
    start = torch.arange(0, vectors, 1 + width, device=ranks.device)[:, None]
    own = start + torch.arange(1, 1 + width, device=ranks.device)
    rows = torch.full_like(ranks, zeros)
    rows.scatter_(1, visible.slots, torch.where(visible.mask, own, zeros))
    rows = torch.where(ranks >= 0, vectors + ranks.clamp(max=n_vectors - 1), rows)
    return torch.cat([start, rows], 1)


def put_back(hidden: Tensor, rows: Tensor, mask_vectors: Tensor) -> Tensor:
    """The whole jet again: the backbone's output, and mask vectors where constituents are masked.

    Parameters
    ----------
    hidden : (B, 1 + V, C) of the start and the visible constituents
    rows : (B, 1 + T) of `whole_rows`
    mask_vectors : (R, C) by rank

    Returns
    -------
    (B, 1 + T, C); padded slots hold zeros
    """
    width = hidden.shape[-1]
    zeros = hidden.new_zeros(1, width)
    source = torch.cat([hidden.flatten(0, 1), mask_vectors.to(hidden.dtype), zeros])
    return source.index_select(0, rows.flatten()).view(*rows.shape, width)
