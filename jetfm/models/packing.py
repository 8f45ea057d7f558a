"""Jets one after the other, without the padding between them.

A padded batch works on the slots of its longest jet for every jet. Packed, real positions alone go
through a stack's blocks, and attention is told where each jet starts: on a GPU, in 16-bit numbers,
by `torch.nn.attention.varlen`, whose kernel reads neither padding nor a mask. It has no dropout of
attention weights and adds nothing to scores (`BackboneSettings.dropout_on`). Elsewhere attention
pads its inputs again: the same result, and no gain.

Axes: B jets, T slots, n real positions of all jets, C channels, H heads, D = C/H.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

from jetfm.models.attention import attention


class Packing(NamedTuple):
    """Where the real positions of a padded batch stand, and how many each jet has.

    Attributes
    ----------
    rows : (n,) int64, their places among the B * T slots, ascending
    starts : (B + 1,) int32, where each jet starts among them, and n
    mask : (B, T) True at real positions
    """

    rows: Tensor
    starts: Tensor
    mask: Tensor

    @classmethod
    def of(cls, mask: Tensor, n: int) -> Packing:
        """Of a right-padded batch with so many real positions, which a GPU would have to be asked.

        Every jet has at least one.
        """
        starts = F.pad(mask.sum(1).cumsum(0), (1, 0))
        position = torch.arange(n, device=mask.device)
        jet = torch.searchsorted(starts[1:], position, right=True)
        rows = jet * mask.shape[1] + position - starts[jet]
        return cls(rows, starts.int(), mask)

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, ...) to (n, ...)."""
        return x.flatten(0, 1).index_select(0, self.rows)

    def unpack(self, x: Tensor) -> Tensor:
        """(n, ...) to (B, T, ...), with zeros where there is padding."""
        n_jets, length = self.mask.shape
        padded = x.new_zeros(n_jets * length, *x.shape[1:])
        return padded.index_copy(0, self.rows, x).unflatten(0, (n_jets, length))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        """Scaled dot-product attention within each jet, (n, H, D) each."""
        if q.device.type == "cuda" and q.dtype in (torch.bfloat16, torch.float16):
            longest = self.mask.shape[1]
            window = (-1, 0 if causal else -1)
            return varlen_attn(
                q, k, v, self.starts, self.starts, longest, longest, window_size=window
            )
        q, k, v = (self.unpack(t).transpose(1, 2) for t in (q, k, v))
        attended = attention(q, k, v, None if causal else self.mask, causal)
        return self.pack(attended.transpose(1, 2))
