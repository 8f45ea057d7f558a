"""Dropout and attention, with the papers' mathematics at a CPU's best speed.

On two cores a training step of these small models is bound by memory and by random numbers, not by
multiplication: ``torch.nn.functional.dropout`` draws one 32-bit number per element on one thread,
and `scaled_dot_product_attention` leaves its fused path as soon as dropout is asked for. Here
dropout takes 16 random bits per element, and attention with dropout is one function with its own
gradient. Both are exact: same distribution, same expectation. Attention always runs in float32 on
a CPU, because its bfloat16 backward is several times slower there.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_INT64_MIN, _INT16_MIN = -(2**63), -(2**15)


def keep_mask(like: Tensor, p: float) -> Tensor:
    """Zeros with probability `p` (rounded to a multiple of 2**-16), else ones, shaped `like`.

    In the type of `like`, because a product with booleans takes four times as long. The bits come
    from torch's global generator, so ``torch.manual_seed`` fixes them.
    """
    n = like.numel()
    bits = torch.empty((n + 3) // 4, dtype=torch.int64, device=like.device)
    bits.random_(_INT64_MIN, None)  # the full range: plain random_() leaves the sign bit at zero
    bits = bits.view(torch.int16)[:n].view(like.shape)
    return torch.ge(bits, _INT16_MIN + round(p * 2**16), out=torch.empty_like(like))


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
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return _Dropout.apply(x, p)


class _DropoutAttention(torch.autograd.Function):
    """softmax(q k^T / sqrt(d)) with dropout on the weights, times v; float32 or float64.

    The factors 1/sqrt(d) and 1/(1-p) act on the small (T, D) tensors instead of the (S, T) ones.
    """

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, blocked: Tensor | None, p: float) -> Tensor:
        ctx.temperature, ctx.scale = 1 / math.sqrt(q.shape[-1]), 1 / (1 - p)
        scores = (q * ctx.temperature) @ k.mT  # (B, H, S, T)
        if blocked is not None:
            scores.masked_fill_(blocked, -torch.inf)
        weights = torch.softmax(scores, -1)
        keep = keep_mask(weights, p)
        ctx.save_for_backward(q, k, v, weights, keep)
        return ((weights * keep) @ v).mul_(ctx.scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        q, k, v, weights, keep = ctx.saved_tensors
        with torch.autocast(grad.device.type, enabled=False):
            grad = grad.to(v.dtype) * ctx.scale
            grad_v = (weights * keep).mT @ grad
            grad_w = (grad @ v.mT).mul_(keep)
            grad_s = torch._softmax_backward_data(grad_w, weights, -1, weights.dtype)
            grad_q = (grad_s @ k).mul_(ctx.temperature)
            grad_k = (grad_s.mT @ q).mul_(ctx.temperature)
            return grad_q, grad_k, grad_v, None, None


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    causal: bool = False,
    p: float = 0.0,
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

    Returns
    -------
    (B, H, S, D) in float32 on a CPU, in the input's type elsewhere
    """
    if q.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            q, k, v = (t if t.dtype == torch.float64 else t.float() for t in (q, k, v))
            return _attention(q, k, v, mask, causal, p)
    return _attention(q, k, v, mask, causal, p)


def _attention(q, k, v, mask, causal, p):
    n_queries, n_keys = q.shape[-2], k.shape[-2]
    causal = causal and n_queries > 1  # a single, newest query sees everything
    if not (p and q.device.type == "cpu"):
        if causal and mask is None and n_queries == n_keys:
            return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        blocked = _blocked(mask, causal, n_queries, n_keys, q.device)
        seen = None if blocked is None else ~blocked
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p)
    return _DropoutAttention.apply(q, k, v, _blocked(mask, causal, n_queries, n_keys, q.device), p)


def _blocked(mask, causal, n_queries, n_keys, device) -> Tensor | None:
    """Boolean, broadcastable to (B, H, S, T): True where a key is hidden."""
    blocked = None if mask is None else ~mask[:, None, None, :]
    if causal:
        future = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
        future = future.triu(n_keys - n_queries + 1)
        blocked = future if blocked is None else blocked | future
    return blocked
