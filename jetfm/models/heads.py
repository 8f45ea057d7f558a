"""Heads on the backbone: one that predicts tokens, one that classifies jets.

At the paper's size (width 128, 8192 codes, 10 classes) a token head has 1,322,754 parameters and
the class head 417,034 (arXiv 2512.04149, official example configuration).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.models.attention import attention
from jetfm.models.compiled import compiled_form
from jetfm.models.fast_block import add_product
from jetfm.models.transformer import KVCache, Transformer
from jetfm.settings import TokenHeadSettings

_CHUNK_ROWS = 1024  # rows of one product with the vocabulary: large enough for its full speed
_CHUNK_ROWS_GPU = 2**14  # few launches; 16384 x 8194 float32 are half a GiB
_CACHE_ROWS = 64  # rows of logits worked on at once: 64 x 8194 float32 are 2 MB, a core's cache


def _chunk_rows(device: torch.device) -> int:
    return _CHUNK_ROWS if device.type == "cpu" else _CHUNK_ROWS_GPU


class _LinearCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a linear layer's logits, its gradient formed chunk by chunk."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, dtype, compiled):
        n = len(hidden)
        losses = hidden.new_empty(n, dtype=torch.float32)
        n_correct = targets.new_zeros(())
        grads = [torch.zeros_like(t, dtype=torch.float32) for t in (hidden, weight, bias)]
        weight_low, bias = weight.to(dtype), bias.float()
        size = _chunk_rows(hidden.device)
        for start in range(0, n, size):
            rows = slice(start, start + size)
            h, t = hidden[rows].to(dtype), targets[rows]
            logits = h @ weight_low.T  # (R, V); becomes its own gradient
            if hidden.device.type == "cpu" and not compiled:
                n_correct += _in_cachefuls(logits, bias, t, losses[rows], grads[2])
            else:
                whole = compiled_form(_softmax_gradient) if compiled else _softmax_gradient
                logits, losses[rows], correct = whole(logits, bias, t)
                n_correct += correct.sum()
                grads[2] += logits.sum(0, dtype=torch.float32)
            grads[0][rows] = logits @ weight_low
            add_product(grads[1], logits.T, h)
        for grad in grads:
            grad /= max(n, 1)
        ctx.save_for_backward(*grads)
        ctx.types = hidden.dtype, weight.dtype, bias.dtype
        ctx.mark_non_differentiable(n_correct)
        return losses.sum() / max(n, 1), n_correct

    @staticmethod
    def backward(ctx, grad, _):
        grads = ((g * grad).to(kind) for g, kind in zip(ctx.saved_tensors, ctx.types, strict=True))
        return *grads, None, None, None


def _in_cachefuls(
    logits: Tensor, bias: Tensor, targets: Tensor, losses: Tensor, grad_bias: Tensor
) -> Tensor:
    """`_softmax_gradient` in place, a cacheful at a time.

    Writes the cross-entropies to `losses` (R,), adds the gradient of the bias to `grad_bias`, and
    returns the number of rows where no logit is larger than the target's.
    """
    n_correct = targets.new_zeros(())
    size = _CACHE_ROWS * torch.get_num_threads()
    for start in range(0, len(logits), size):
        rows = slice(start, start + size)
        here, index = logits[rows].float(), targets[rows, None]
        here += bias
        largest, at_target = here.amax(1), here.gather(1, index).squeeze(1)
        n_correct += (at_target >= largest).sum()
        softmax = torch.softmax(here, 1)
        # the largest probability is 1 / sum exp(logit - largest)
        losses[rows] = largest - softmax.amax(1).log() - at_target
        softmax.scatter_add_(1, index, softmax.new_full((), -1.0).expand(index.shape))
        grad_bias += softmax.sum(0)
        logits[rows] = softmax
    return n_correct


def _softmax_gradient(
    logits: Tensor, bias: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax minus one-hot (R, V) of logits without their bias, in the logits' type; the
    cross-entropies (R,); and where no logit is larger than the target's, (R,) bool.

    Without in-place writes and scattering, so that a compiler can make one pass of each of its two
    halves.
    """
    full = torch.add(logits, bias)  # float32
    at_target = full.gather(1, targets[:, None]).squeeze(1)
    is_target = torch.arange(full.shape[1], device=full.device) == targets[:, None]
    probabilities = torch.softmax(full, 1)
    gradient = torch.where(is_target, probabilities - 1, probabilities).to(logits.dtype)
    return gradient, full.logsumexp(1) - at_target, at_target >= full.amax(1)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, compiled: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy of ``hidden @ weight.T + bias`` without ever holding all logits.

    Parameters
    ----------
    hidden : (n, C); weight : (V, C); bias : (V,)
    targets : (n,) int64 in 0..V-1
    compiled : what is done to the logits is, see `jetfm.models.compiled`

    Returns
    -------
    mean loss (0 for n = 0) and the number of targets that have the largest logit
    """
    if torch.is_grad_enabled() and hidden.requires_grad:
        device = hidden.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            return _LinearCrossEntropy.apply(
                hidden, weight, bias, targets, low or weight.dtype, compiled
            )
    loss = hidden.new_zeros((), dtype=torch.float32)
    n_correct = targets.new_zeros(())
    size = _chunk_rows(hidden.device)
    for h, t in zip(hidden.split(size), targets.split(size), strict=True):
        if len(t):
            logits = F.linear(h, weight, bias).float()
            loss = loss + F.cross_entropy(logits, t, reduction="sum")
            n_correct = n_correct + (logits.argmax(1) == t).sum()
    return loss / max(len(targets), 1), n_correct


def head_blocks(
    dim: int,
    n_heads: int,
    settings: TokenHeadSettings,
    attention_dropout: float,
    layer_scale: float,
    residual_dropout: float = 0.0,
) -> Transformer:
    """What a head that predicts constituents does before its last layer: blocks and LayerNorm."""
    return Transformer(
        dim,
        settings.n_blocks,
        n_heads,
        settings.mlp_ratio,
        attention_dropout=attention_dropout,
        layer_scale=layer_scale,
        final_norm=settings.n_blocks > 0,
        residual_dropout=residual_dropout,
    )


class TokenHead(nn.Module):
    """Two blocks (MLP x2), LayerNorm, Linear to the vocabulary of `jetfm.models.objectives`.

    Parameters
    ----------
    dim, n_heads : of the backbone
    n_codes : K
    attention_dropout, residual_dropout : as in the backbone; the MLP has none (official example
        configuration)
    """

    compiled = False  # the loss, see `jetfm.models.compiled`

    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_codes: int,
        settings: TokenHeadSettings | None = None,
        attention_dropout: float = 0.1,
        layer_scale: float = 1.0,
        residual_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        settings = settings or TokenHeadSettings()
        self.n_codes = n_codes
        self.transformer = head_blocks(
            dim, n_heads, settings, attention_dropout, layer_scale, residual_dropout
        )
        self.unembedding = nn.Linear(dim, n_codes + 2)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        causal: bool,
        caches: list[KVCache] | None = None,
    ) -> Tensor:
        """Logits (B, T, K+2) of the backbone's output (B, T, C)."""
        return self.unembedding(self.transformer(hidden, mask, causal, caches))

    def loss(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        causal: bool,
        positions: Tensor,
        targets: Tensor,
        n_real: int | None = None,
    ) -> tuple[Tensor, int, Tensor]:
        """Mean cross-entropy where there is a target; no other logit is computed.

        Parameters
        ----------
        positions : (n,) int64, those with a target, in the B * T positions of `hidden`
        targets : (n,) int64, ids of the vocabulary
        n_real : of `jetfm.models.transformer.Stack`

        Returns
        -------
        mean loss, number of targets, number of them predicted correctly
        """
        features = self._features(hidden, mask, causal, positions, n_real)
        loss, n_correct = linear_cross_entropy(
            features, self.unembedding.weight, self.unembedding.bias, targets, self.compiled
        )
        return loss, len(targets), n_correct

    @torch.no_grad()
    def per_target(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        causal: bool,
        positions: Tensor,
        targets: Tensor,
        n_real: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy (n,) of every target, and whether it has the largest logit, (n,) bool."""
        features = self._features(hidden, mask, causal, positions, n_real)
        losses, correct, size = [], [], _chunk_rows(hidden.device)
        for h, t in zip(features.split(size), targets.split(size), strict=True):
            logits = self.unembedding(h).float()
            losses.append(F.cross_entropy(logits, t, reduction="none"))
            correct.append(logits.argmax(1) == t)
        return torch.cat(losses), torch.cat(correct)

    def _features(self, hidden, mask, causal, positions, n_real) -> Tensor:
        """(n, C)."""
        if not len(self.transformer.blocks):
            n_real = None  # one layer, which works on what is asked for alone
        hidden = self.transformer(hidden, mask, causal, n_real=n_real)
        return hidden.flatten(0, 1).index_select(0, positions)


class ClassAttentionBlock(nn.Module):
    """A class token looks at itself and the jet (after Particle Transformer, arXiv 2202.03772).

    Keys and values are LayerNorm([token, x]), the query is the raw token; LayerNorm after the
    attention; MLP with an inner LayerNorm. No dropout.
    """

    def __init__(self, dim: int, n_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.attention_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim),
            nn.Linear(dim, mlp_ratio * dim),
            nn.GELU(),
            nn.LayerNorm(mlp_ratio * dim),
            nn.Linear(mlp_ratio * dim, dim),
        )
        nn.init.xavier_uniform_(self.qkv.weight)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)

    def forward(self, token: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """Update the token (B, 1, C) from x (B, T, C) where `mask` (B, T) is True."""
        seen = torch.cat([mask.new_ones(x.shape[0], 1), mask], 1)
        keys = self.norm(torch.cat([token, x], 1))
        (wq, wk, wv), (bq, bk, bv) = self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)
        q, k, v = (
            F.linear(t, w, b).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for t, w, b in ((token, wq, bq), (keys, wk, bk), (keys, wv, bv))
        )
        update = self.out(attention(q, k, v, seen).transpose(1, 2).flatten(2))
        token = self.attention_norm(update) + token
        return token + self.mlp(token)


class ClassHead(nn.Module):
    """Linear, random class token, two class-attention blocks, Linear to the classes.

    Parameters
    ----------
    dim, n_heads : of the backbone
    n_classes : number of outputs
    """

    def __init__(self, dim: int, n_heads: int, n_classes: int = 10, n_blocks: int = 2) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(ClassAttentionBlock(dim, n_heads) for _ in range(n_blocks))
        self.out = nn.Linear(dim, n_classes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, n_classes) of the backbone's output (B, T, C) and its mask (B, T)."""
        x = self.project(hidden)
        token = self.token.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            token = block(token, x, mask)
        return self.out(token.squeeze(1))
