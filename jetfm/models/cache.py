"""Key-value cache of an attention layer, and the attention of the newest position to all of it.

On a CPU a step of generation meets one query per jet and head: half a thousand products of a
vector with a small matrix, each too short for a matrix library or a fused kernel to get going.
With the jets innermost, the same sums are four passes over contiguous memory, at its bandwidth.
Axes: T positions, H heads, D channels of a head, B jets.
"""

from __future__ import annotations

import math
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from jetfm.models.attention import attention


class KVCache:
    """Keys and values of the positions one attention layer has seen.

    Storage (T, 2, H, D, B) grows by doubling; `keep` drops the jets that have finished.
    """

    def __init__(self) -> None:
        self.length = 0
        self._stored: Tensor | None = None

    def attend(self, qkv: Tensor, bias: Tensor | None = None) -> Tensor:
        """Add the newest S positions and let each of them see all up to itself.

        Parameters
        ----------
        qkv : (S, 3, H, D, B), queries, keys and values
        bias : added to the scores, broadcastable to (B, H, S, T) with all T positions so far

        Returns
        -------
        (B, S, H D)
        """
        before, self.length = self.length, self.length + len(qkv)
        self._reserve(qkv, before)
        self._stored[before : self.length] = qkv[:, 1:]
        keys, values = self._stored[: self.length].unbind(1)  # (T, H, D, B)
        if len(qkv) == 1:
            bias = None if bias is None else bias.squeeze(2).permute(2, 1, 0)  # (T, H, B)
            return newest_attention(qkv[0, 0], keys, values, bias).T.unsqueeze(1)
        q, k, v = (t.permute(3, 1, 0, 2) for t in (qkv[:, 0], keys, values))  # (B, H, ., D)
        return attention(q, k, v, causal=True, bias=bias).transpose(1, 2).flatten(2)

    def keep(self, rows: Tensor) -> None:
        """Keep only these jets, (B',) integer indices; an index may come several times."""
        if self._stored is not None:
            self._stored = self._stored[..., rows]

    def _reserve(self, like: Tensor, before: int) -> None:
        """Make room for `length` positions; `like` is (S, 3, H, D, B)."""
        if self._stored is None or self.length > len(self._stored):
            grown = like.new_empty(max(32, 2 * self.length), 2, *like.shape[2:])
            if self._stored is not None:
                grown[:before] = self._stored[:before]
            self._stored = grown


class FixedCache:
    """A cache with room for all positions from the start, whose place the device knows.

    A step is the same work at any position, and asks for nothing: it can be recorded.

    Parameters
    ----------
    seen : holds the first positions
    n_positions : room for so many
    step : (1,) int64, how many came after those of `seen`; whoever calls counts it up
    """

    def __init__(self, seen: KVCache, n_positions: int, step: Tensor) -> None:
        self.offset, self.n_positions, self.step = seen.length, n_positions, step
        self.window = n_positions  # attention looks at so many, the newest among them
        first = seen._stored[: seen.length].permute(1, 4, 2, 0, 3)  # (2, B, H, T, D)
        self.stored = first.new_zeros(*first.shape[:3], n_positions, first.shape[4])
        self.stored[:, :, :, : seen.length] = first

    def attend(self, qkv: Tensor, bias: Tensor | None = None) -> Tensor:
        """As `KVCache.attend`, of one newest position and without a bias."""
        q, *kv = (t.permute(2, 0, 1).unsqueeze(2) for t in qkv[0])  # (B, H, 1, D)
        place = self.step + self.offset
        self.stored.index_copy_(3, place, torch.stack(kv))
        keys, values = self.stored[:, :, :, : self.window]
        seen = (torch.arange(self.window, device=place.device) <= place).unsqueeze(0)
        attended = F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
        return attended.transpose(1, 2).flatten(2)

    def rows(self, rows: Tensor | slice, step: Tensor) -> FixedCache:
        """Some jets, in new memory and with another counter."""
        other = copy(self)
        other.stored, other.step = self.stored[:, rows].clone(), step
        return other

    def take(self, other: FixedCache, rows: Tensor | slice) -> None:
        """Become some jets of another cache, in the same memory."""
        self.stored.copy_(other.stored[:, rows])


def newest_attention(q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(D) + bias) v of one query per jet and head.

    Parameters
    ----------
    q : (H, D, B)
    keys, values : (T, H, D, B)
    bias : (T, H, B)

    Returns
    -------
    (H D, B)
    """
    scores = (keys * (q / math.sqrt(q.shape[1]))).sum(2)  # (T, H, B)
    weights = torch.softmax(scores if bias is None else scores + bias, 0)
    return (weights.unsqueeze(2) * values).sum(0).flatten(0, 1)
