"""The transformer block that tokenizer, backbone, heads and classifiers share, and its stack.

Pre-norm with LayerScale (arXiv 2103.17239):

    x <- x + g1 * MHA(LN x),    x <- x + g2 * MLP(LN x),    g1, g2 vectors.

No positional encoding: without a causal mask a stack is equivariant under permutations of the
constituents. Axes: B jets, T positions, C channels, H heads, D = C/H. Packed (`Packing` in place of
a mask), blocks take the n real positions of all jets, (n, C), instead of (B, T, C).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.errors import JetfmError
from jetfm.models.attention import attention, dropout, score_bias
from jetfm.models.cache import KVCache
from jetfm.models.compiled import compiled_form
from jetfm.models.exporting import exporting
from jetfm.models.fast_block import attention_half, mlp_half
from jetfm.models.packing import Packing


class SelfAttention(nn.Module):
    """Multi-head self-attention, initialised like ``torch.nn.MultiheadAttention``."""

    def __init__(
        self, dim: int, n_heads: int, dropout: float = 0.0, input_bias: bool = True
    ) -> None:
        super().__init__()
        if dim % n_heads:
            raise JetfmError("n_heads", f"{n_heads} heads", f"a divisor of the width {dim}")
        self.n_heads, self.p = n_heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim, bias=input_bias)
        self.out = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.qkv.weight)
        if input_bias:
            nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | Packing | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        if cache is not None:
            return self.out(cache.attend(self._jets_innermost(x), bias))
        if isinstance(mask, Packing):
            q, k, v = self.qkv(x).unflatten(-1, (3, self.n_heads, -1)).unbind(1)  # (n, H, D)
            return self.out(mask.attention(q, k, v, causal).flatten(1))
        q, k, v = (
            self.qkv(x)  # (B, T, C) -> (3, B, H, T, D)
            .unflatten(-1, (3, self.n_heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        x = attention(q, k, v, mask, causal, self.p if self.training else 0.0, bias)
        return self.out(x.transpose(1, 2).flatten(2))

    def _jets_innermost(self, x: Tensor) -> Tensor:
        """Queries, keys and values of (B, S, C) as a cache takes them, (S, 3, H, D, B)."""
        qkv, bias = self.qkv.weight @ x.flatten(0, 1).T, self.qkv.bias  # (3 C, B S)
        qkv = qkv if bias is None else qkv + bias[:, None]
        heads = (self.n_heads, x.shape[2] // self.n_heads)
        return qkv.view(3, *heads, *x.shape[:2]).permute(4, 0, 1, 2, 3)


class AnyBlock(nn.Module):
    """What all kinds of blocks share: `plain`, as they are defined, and its compiled form.

    Attributes
    ----------
    compiled : take that form (`jetfm.models.compiled`)
    """

    compiled = False

    def forward(
        self,
        x: Tensor,
        mask: Tensor | Packing | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Arguments of `Stack`, of one block."""
        if self.compiled and cache is None:
            return compiled_form(type(self).plain)(self, x, mask, causal, None, bias)
        return self.plain(x, mask, causal, cache, bias)


class Block(AnyBlock):
    """Pre-norm block with LayerScale; `dropout` acts inside the MLP, after its activation.

    `residual_dropout` acts on what the attention adds; the papers' is that of its weights.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_scale: float = 1.0,
        residual_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.p, self.p_residual = dropout, residual_dropout
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, n_heads, attention_dropout)
        self.attention_scale = nn.Parameter(torch.full((dim,), layer_scale))
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_ratio * dim)
        self.mlp_out = nn.Linear(mlp_ratio * dim, dim)
        self.mlp_scale = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | Packing | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        padded = cache is None and not isinstance(mask, Packing) and not self.compiled
        # of no position at all there is nothing to cut into pieces
        if x.device.type == "cpu" and padded and x.shape[1] and self._pieces_pay(bias):
            return self.in_pieces(x, mask, causal, bias)
        return super().forward(x, mask, causal, cache, bias)

    def _pieces_pay(self, bias: Tensor | None) -> bool:
        """Whether `in_pieces` is the faster way: with random numbers, a bias, or bfloat16.

        With dropout it takes up to a quarter less at the paper's size, and as long at the laptop's;
        without, the plain form takes 5 to 30 % less at the laptop's, and as long at the paper's.
        """
        if exporting() or (self.training and self.p_residual > 0):
            return False  # no form to write down, and none with that dropout
        dropping = self.training and (self.p > 0 or self.attention.p > 0)
        return dropping or bias is not None or torch.is_autocast_enabled("cpu")

    def plain(
        self,
        x: Tensor,
        mask: Tensor | Packing | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The block as it is defined."""
        update = self.attention(self.attention_norm(x), mask, causal, cache, bias)
        update = dropout(update, self.p_residual, self.training)
        x = x + self.attention_scale * update
        hidden = F.gelu(self.mlp_in(self.mlp_norm(x)))
        return x + self.mlp_scale * self.mlp_out(dropout(hidden, self.p, self.training))

    def in_pieces(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The same on a CPU, a cacheful of jets at a time: `jetfm.models.fast_block`."""
        x = x.contiguous()
        wide = torch.promote_types(x.dtype, torch.float32)
        bias = score_bias(mask, causal, x.shape[1], x.shape[1], x.device, wide, bias)
        x = attention_half(x, self, bias, self.attention.p if self.training else 0.0)
        return mlp_half(x, self, self.p if self.training else 0.0)


class Stack(nn.Module):
    """Blocks one after the other, optionally closed by a LayerNorm of width `norm_dim`."""

    def __init__(self, blocks: Iterable[nn.Module], norm_dim: int | None = None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.final_norm = nn.LayerNorm(norm_dim) if norm_dim else nn.Identity()

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
        caches: list[KVCache] | None = None,
        bias: Tensor | None = None,
        n_real: int | None = None,
    ) -> Tensor:
        """Map (B, T, C) to (B, T, C).

        Parameters
        ----------
        mask : (B, T) boolean, True at real positions, right-padded. Ignored when `causal`, where
            padding lies in the future of every real position. Output at padded positions has no
            meaning.
        causal : position i sees positions up to i
        caches : one per block (`new_caches`), for incremental evaluation; implies `causal`, and
            no padding
        bias : broadcastable to (B, H, T, T), added to the attention scores of every block; may ask
            for its gradient. With caches (B, H, S, T): of the newest S positions to all T so far.
        """
        causal = causal or caches is not None
        if causal or _all_real(mask):
            mask = None
        elif mask is not None:
            # a jet without constituents still needs one key: softmax over nothing is NaN
            empty = ~mask.any(1, keepdim=True)
            mask = torch.cat([mask[:, :1] | empty, mask[:, 1:]], 1)
        if bias is not None and caches is None:  # what hides keys joins it once for all blocks
            bias = score_bias(mask, causal, x.shape[1], x.shape[1], x.device, bias.dtype, bias)
            mask, causal = None, False
        for i, block in enumerate(self.blocks):
            x = block(x, mask, causal, None if caches is None else caches[i], bias)
        return self.final_norm(x)

    def new_caches(self) -> list[KVCache]:
        """Empty key-value caches for one batch of sequences."""
        return [KVCache() for _ in self.blocks]


def _all_real(mask: Tensor | None) -> bool:
    """Whether nothing is padded; not asked on a GPU, where it would cost more than the mask."""
    return mask is not None and mask.device.type == "cpu" and not exporting() and bool(mask.all())


class Transformer(Stack):
    """A stack of pre-norm blocks.

    Parameters
    ----------
    dim, n_blocks, n_heads : width, depth and heads
    mlp_ratio : hidden width of the MLP over `dim`
    dropout, attention_dropout, residual_dropout : probabilities in the MLP, on the attention
        weights, and on what the attention adds
    layer_scale : initial value of every LayerScale vector
    final_norm : close with a LayerNorm

    Raises
    ------
    JetfmError
        When the heads do not divide the width.
    """

    def __init__(
        self,
        dim: int,
        n_blocks: int,
        n_heads: int,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        layer_scale: float = 1.0,
        final_norm: bool = False,
        residual_dropout: float = 0.0,
    ) -> None:
        options = {
            "dropout": dropout, "attention_dropout": attention_dropout,
            "layer_scale": layer_scale, "residual_dropout": residual_dropout,
        }  # fmt: skip
        super().__init__(
            (Block(dim, n_heads, mlp_ratio, **options) for _ in range(n_blocks)),
            dim if final_norm else None,
        )


class GPTBlock(AnyBlock):
    """Post-norm block of paper 1 (arXiv 2403.05618, II.C): ReLU, no dropout.

        x <- LN(x + MHA(x)),    x <- LN(x + MLP(x)).

    No bias in queries, keys and values (official code).
    """

    def __init__(self, dim: int, n_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, n_heads, input_bias=False)
        self.attention_norm = nn.LayerNorm(dim)
        self.mlp_in = nn.Linear(dim, mlp_ratio * dim)
        self.mlp_out = nn.Linear(mlp_ratio * dim, dim)
        self.mlp_norm = nn.LayerNorm(dim)

    def plain(
        self,
        x: Tensor,
        mask: Tensor | Packing | None = None,
        causal: bool = False,
        cache: KVCache | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The block as it is defined."""
        x = self.attention_norm(x + self.attention(x, mask, causal, cache, bias))
        return self.mlp_norm(x + self.mlp_out(F.relu(self.mlp_in(x))))


def n_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad)
