"""NormFormer blocks (arXiv 2110.09456), as paper 1 uses them in its tokenizer and classifier.

    x <- x + LN(MHA(LN x)),    x <- x + Linear(dropout(SiLU(Linear(LN x)))).

One of the attention's two gains and the last Linear start at zero, so that a fresh block is the
identity. The official code of arXiv 2403.05618 zeroes the gain *before* the attention, where its
comment says after; `zero_gain` picks one. No positional encoding, and called exactly like
`jetfm.models.transformer.Transformer`, so that either serves wherever a stack of blocks is needed.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.models.attention import dropout
from jetfm.models.cache import KVCache
from jetfm.models.packing import Packing
from jetfm.models.transformer import AnyBlock, SelfAttention, Stack


class NormFormerBlock(AnyBlock):
    """One block; `dropout` acts on the attention weights and inside the MLP."""

    def __init__(
        self,
        dim: int,
        n_heads: int,
        mlp_ratio: int = 1,
        dropout: float = 0.1,
        zero_gain: str = "before",
    ) -> None:
        super().__init__()
        self.p = dropout
        self.attention_norm_in = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, n_heads, dropout)
        self.attention_norm_out = nn.LayerNorm(dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_ratio * dim)
        self.mlp_out = nn.Linear(mlp_ratio * dim, dim)
        norms = {"before": self.attention_norm_in, "after": self.attention_norm_out}
        for zero in (norms[zero_gain].weight, self.mlp_out.weight, self.mlp_out.bias):
            nn.init.zeros_(zero)

    def plain(
        self,
        x: Tensor,
        mask: Tensor | Packing | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The block as it is defined."""
        update = self.attention(self.attention_norm_in(x), mask, causal, cache, bias)
        x = x + self.attention_norm_out(update)
        hidden = F.silu(self.mlp_in(self.mlp_norm(x)))
        return x + self.mlp_out(dropout(hidden, self.p, self.training))


class NormFormer(Stack):
    """A stack of NormFormer blocks, without a closing norm.

    Parameters
    ----------
    dim, n_blocks, n_heads : width, depth and heads
    mlp_ratio : hidden width of the MLP over `dim`; 1 in paper 1's code
    dropout : on attention weights and in the MLP
    zero_gain : 'before' or 'after': which norm of the attention starts with gain zero
    """

    def __init__(
        self,
        dim: int,
        n_blocks: int,
        n_heads: int,
        mlp_ratio: int = 1,
        dropout: float = 0.1,
        zero_gain: str = "before",
    ) -> None:
        super().__init__(
            NormFormerBlock(dim, n_heads, mlp_ratio, dropout, zero_gain) for _ in range(n_blocks)
        )
