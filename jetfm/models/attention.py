"""Dropout and attention, with the papers' mathematics at a CPU's best speed.

On a core or two a training step of these small models is bound by memory and by random numbers, not
by multiplication: ``torch.nn.functional.dropout`` draws one 32-bit number per element, and
`scaled_dot_product_attention` leaves its fused path as soon as dropout is asked for. Here dropout
takes 16 random bits per element from a quick generator, and attention with dropout is one function
with its own gradient, computed for a cacheful of jets at a time. Both are exact: same
distribution, same expectation. Attention always runs in float32 on a CPU, because its bfloat16
backward is several times slower there.

On a GPU it is torch's `scaled_dot_product_attention`: the flash kernel for causal passes, which
need no mask, and a fused kernel with a boolean mask for the others. Without padding at all:
`jetfm.models.packing`.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_INT16_MIN = -(2**15)


class RandomBits:
    """16-bit random numbers, several times as fast as torch's, seeded by torch's generator.

    ``torch.manual_seed`` fixes them. The stream is numpy's SFC64.
    """

    def __init__(self) -> None:
        seed = int(torch.empty((), dtype=torch.int64).random_())
        self._generator = np.random.Generator(np.random.SFC64(seed))

    def draw(self, shape) -> Tensor:
        """Uniform int16 numbers of this shape."""
        n = math.prod(shape)
        bits = self._generator.integers(0, 2**64 - 1, (n + 3) // 4, np.uint64, endpoint=True)
        return torch.from_numpy(bits.view(np.int16)[:n]).view(shape)

    @staticmethod
    def keep(bits: Tensor, p: float, dtype: torch.dtype) -> Tensor:
        """Zeros with probability `p` (rounded to a multiple of 2**-16), else ones.

        In the type of what they will multiply: a product with booleans takes several times as long.
        """
        keep = torch.empty(bits.shape, dtype=dtype)
        return torch.ge(bits, _INT16_MIN + round(p * 2**16), out=keep)


def keep_mask(like: Tensor, p: float) -> Tensor:
    """Zeros with probability `p`, else ones, shaped `like` and of its type."""
    bits = RandomBits()
    return bits.keep(bits.draw(like.shape), p, like.dtype)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, p: float) -> Tensor:
        keep = keep_mask(x, p)
        ctx.save_for_backward(keep)
        ctx.scale = 1 / (1 - p)
        return (x * keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (keep,) = ctx.saved_tensors
        return (grad * keep).mul_(ctx.scale), None


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Inverted dropout: elements vanish with probability `p`, the rest grow by 1/(1-p)."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, p)
    return _Dropout.apply(x, p)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, keep: Tensor | None) -> Tensor:
    """(softmax(q k^T + bias) * keep) v; no factor of 1/sqrt(D) or 1/(1-p).

    Parameters
    ----------
    q : (B, H, S, D); k, v : (B, H, T, D)
    bias, keep : broadcastable to (B, H, S, T)
    """
    weights = _weights(q, k, bias)
    return (weights if keep is None else weights * keep) @ v


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the scores, given that of `attend`'s output (B, H, S, D).

    That of the scores, (B, H, S, T), is also the bias's before broadcasting.
    """
    weights = _weights(q, k, bias)  # quicker to compute again than to keep
    grad_weights = grad @ v.mT
    if keep is not None:
        grad_weights *= keep
    grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
    dropped = weights if keep is None else weights.mul_(keep)
    return grad_scores @ k, grad_scores.mT @ q, dropped.mT @ grad, grad_scores


def _weights(q: Tensor, k: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T + bias), (B, H, S, T)."""
    scores = q @ k.mT
    if bias is not None:
        scores += bias  # adding -inf takes a tenth of the time of masked_fill_
    return torch.softmax(scores, -1)


class _DropoutAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) with dropout on the weights, times v; float32 or float64.

    The factors 1/sqrt(d) and 1/(1-p) act on the small (T, D) tensors instead of the (S, T) ones.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, p: float) -> Tensor:
        ctx.temperature, ctx.scale = 1 / math.sqrt(q.shape[-1]), 1 / (1 - p)
        keep = keep_mask(q.new_empty(*q.shape[:-1], k.shape[-2]), p)
        ctx.save_for_backward(q, k, v, bias, keep)
        return attend(q * ctx.temperature, k, v, bias, keep).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, bias, keep = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.to(v.dtype) * ctx.scale
            grad_q, grad_k, grad_v, grad_bias = attend_backward(
                grad, q * ctx.temperature, k, v, bias, keep
            )
            grad_bias = grad_bias.sum_to_size(bias.shape) if ctx.needs_input_grad[3] else None
            return grad_q.mul_(ctx.temperature), grad_k, grad_v, grad_bias, None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    p: float = 0.0,
    bias: Tensor | None = None,
) -> Tensor:
    """Scaled dot-product attention.

    Parameters
    ----------
    q : (B, H, S, D); k, v : (B, H, T, D)
    mask : (B, T) boolean, True where a key may be seen; every row needs at least one such key.
        With right-padded sequences a causal caller may leave it out: the padding lies in the
        future of every real position.
    causal : position i of the last S positions sees keys up to its own
    p : dropout probability on the attention weights
    bias : broadcastable to (B, H, S, T), added to the scaled scores; may ask for its gradient

    Returns
    -------
    (B, H, S, D) in float32 on a CPU, in the input's type elsewhere
    """
    if q.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            q, k, v = (t if t.dtype == torch.float64 else t.float() for t in (q, k, v))
            return _attention(q, k, v, mask, causal, p, bias)
    return _attention(q, k, v, mask, causal, p, bias)


def _attention(q, k, v, mask, causal, p, bias):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    causal = causal and n_queries > 1  # a single, newest query sees everything
    if bias is not None:
        bias = bias.to(q.dtype)
    by_hand = p and q.device.type == "cpu" and not torch.compiler.is_compiling()
    if not by_hand:
        if bias is not None:
            bias = score_bias(mask, causal, n_queries, n_keys, q.device, q.dtype, bias)
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=p)
        if causal and mask is None and n_queries == n_keys:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        hidden = _hidden(mask, causal, n_queries, n_keys, q.device)
        seen = None if hidden is None else ~hidden
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)
    bias = score_bias(mask, causal, n_queries, n_keys, q.device, q.dtype, bias)
    return _DropoutAttention.apply(q, k, v, bias, p)


def score_bias(
    mask: Tensor | None,
    causal: bool,
    n_queries: int,
    n_keys: int,
    device: torch.device,
    dtype: torch.dtype,
    bias: Tensor | None = None,
) -> Tensor | None:
    """What is added to the scores: `bias` (default 0), and -inf where a key is hidden.

    Broadcastable to (B, H, S, T).
    """
    hidden = _hidden(mask, causal, n_queries, n_keys, device)
    if hidden is None:
        return bias
    if bias is not None:
        return bias.masked_fill(hidden, -torch.inf)
    return torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)


def _hidden(mask, causal, n_queries, n_keys, device) -> Tensor | None:
    """Boolean, broadcastable to (B, H, S, T): True where a key is hidden."""
    hidden = None if mask is None else ~mask[:, None, None, :]
    if causal:
        future = torch.ones(1, 1, n_queries, n_keys, dtype=torch.bool, device=device)
        future = future.triu(n_keys - n_queries + 1)
        hidden = future if hidden is None else hidden | future
    return hidden
