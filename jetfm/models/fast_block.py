"""The pre-norm block on a CPU: a cacheful of jets at a time, with its gradient by hand.

A block's intermediate tensors are many times larger than its input: (B, H, T, T) attention weights,
(B, T, 4C) of the MLP. Made for a whole batch at once they go to memory and back at every operation,
which takes longer than the arithmetic. Here each half of the block,

    x <- x + g1 * MHA(LN x),    x <- x + g2 * MLP(LN x),

is one function that works through the batch in pieces whose intermediates stay in a core's cache.
It keeps for the gradient what is dearer to compute again than to read: queries, keys and values,
the hidden layer before its activation, and the random bits of the dropout. Under autocast products
of matrices are in bfloat16, everything else in float32. The library behind products in bfloat16
makes a kernel for every number of rows that it has not met, which takes some twenty times as long
as the product: rows of zeros fill them up to a multiple of `ROWS`.

Exact: the plain form (`jetfm.models.transformer.Block`, used on a GPU) gives the same outputs and
gradients up to rounding. Gradients of gradients are not available.

Axes: B jets, T positions, C channels, H heads, D = C/H.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from jetfm.models.attention import RandomBits, attend, attend_backward

CACHE = 2**19  # numbers in the largest intermediate of a piece: 2 MB a core in float32
ROWS = 64  # a twentieth of a piece at most, and no more than some tens of kernels of a kind


def attention_half(x: Tensor, block, bias: Tensor | None, p: float) -> Tensor:
    """x + scale * attention(norm(x)).

    Parameters
    ----------
    x : (B, T, C) on the CPU
    block : a `jetfm.models.transformer.Block`
    bias : added to the scores, broadcastable to (B, H, T, T), -inf where a key is not seen; may ask
        for its gradient
    p : dropout probability of the attention weights
    """
    norm, attention = block.attention_norm, block.attention
    low = _product_type(x)
    with torch.autocast("cpu", enabled=False):
        return _AttentionHalf.apply(
            x, norm.weight, norm.bias, attention.qkv.weight, attention.qkv.bias,
            attention.out.weight, attention.out.bias, block.attention_scale,
            bias, attention.n_heads, norm.eps, p, low,
        )  # fmt: skip


def mlp_half(x: Tensor, block, p: float) -> Tensor:
    """x + scale * mlp_out(dropout(gelu(mlp_in(norm(x))))); arguments as for `attention_half`."""
    norm = block.mlp_norm
    low = _product_type(x)
    with torch.autocast("cpu", enabled=False):
        return _MLPHalf.apply(
            x, norm.weight, norm.bias, block.mlp_in.weight, block.mlp_in.bias,
            block.mlp_out.weight, block.mlp_out.bias, block.mlp_scale, norm.eps, p, low,
        )  # fmt: skip


class _AttentionHalf(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x, norm_w, norm_b, w_qkv, b_qkv, w_out, b_out, scale, bias, n_heads, eps, p, low
    ):
        shape = (*x.shape[:2], n_heads, x.shape[2] // n_heads)
        wide = torch.promote_types(x.dtype, torch.float32)  # of the attention itself
        temperature = shape[-1] ** -0.5
        projections = [t.to(low) for t in (w_qkv, b_qkv, w_out, b_out)]
        bits = RandomBits() if p else None
        out, kept = torch.empty_like(x), []
        for jets in _pieces(len(x), n_heads * x.shape[1] ** 2):
            x_here = x[jets]
            normed, mean, rstd = _layer_norm(x_here, norm_w, norm_b, eps)
            qkv = torch.addmm(projections[1], _rows(normed, low), projections[0].T)
            qkv = qkv[: normed.shape[0] * normed.shape[1]]
            q, k, v = _heads(qkv, shape[1:], wide)
            drawn = bits.draw((len(x_here), n_heads, x.shape[1], x.shape[1])) if p else None
            keep = bits.keep(drawn, p, wide) if p else None
            attended = attend(q.mul_(temperature), k, v, _of(bias, jets), keep)
            attended = _joined(attended.div_(1 - p), low)
            update = _like(torch.addmm(projections[3], attended, projections[2].T), x_here)
            torch.addcmul(x_here, update.to(x.dtype), scale, out=out[jets])
            if any(ctx.needs_input_grad):
                kept.append((jets, mean, rstd, qkv, attended, drawn))
        ctx.save_for_backward(x, norm_w, norm_b, w_qkv, w_out, b_out, scale, bias)
        ctx.kept, ctx.constants = kept, (n_heads, eps, p, low, wide, shape, temperature)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, norm_w, norm_b, w_qkv, w_out, b_out, scale, bias = ctx.saved_tensors
        n_heads, eps, p, low, wide, shape, temperature = ctx.constants
        w_qkv_low, w_out_low = w_qkv.to(low), (scale[:, None] * w_out).to(low)
        grad_x = torch.empty_like(x)
        grad_norm_w, grad_norm_b, grad_w_qkv, outer = (
            torch.zeros_like(t) for t in (norm_w, norm_b, w_qkv, w_out)
        )
        grad_b_qkv = w_qkv.new_zeros(len(w_qkv))
        grad_bias = None
        if ctx.needs_input_grad[8]:
            grad_bias = bias.new_empty(shape[0], n_heads, shape[1], shape[1])
        for jets, mean, rstd, qkv, attended, drawn in ctx.kept:
            x_here, grad_here = x[jets], grad[jets]
            grad_low = _rows(grad_here, low)
            add_product(outer, grad_low.T, attended)
            grad_attended = (grad_low @ w_out_low)[: len(qkv)]
            grad_attended = _apart(grad_attended, shape[1:], wide).div_(1 - p)
            q, k, v = _heads(qkv, shape[1:], wide)
            keep = RandomBits.keep(drawn, p, wide) if p else None
            *grad_qkv, grad_scores = attend_backward(
                grad_attended, q.mul_(temperature), k, v, _of(bias, jets), keep
            )
            if grad_bias is not None:
                grad_bias[jets] = grad_scores
            grad_qkv[0].mul_(temperature)
            grad_qkv = _joined(torch.stack(grad_qkv), low)
            grad_b_qkv += grad_qkv.sum(0, dtype=wide)
            normed, _, _ = _layer_norm(x_here, norm_w, norm_b, eps)
            add_product(grad_w_qkv, grad_qkv.T, _rows(normed, low))
            grad_normed = _like(grad_qkv @ w_qkv_low, x_here).to(x.dtype)
            into, more_w, more_b = _layer_norm_backward(
                grad_normed, x_here, mean, rstd, norm_w, norm_b
            )
            grad_norm_w += more_w
            grad_norm_b += more_b
            torch.add(grad_here, into, out=grad_x[jets])
        total = grad.sum((0, 1))
        grad_scale = (w_out * outer).sum(1) + b_out * total
        if grad_bias is not None:
            grad_bias = grad_bias.sum_to_size(bias.shape)
        return (
            grad_x, grad_norm_w, grad_norm_b, grad_w_qkv, grad_b_qkv,
            scale[:, None] * outer, scale * total, grad_scale, grad_bias, None, None, None, None,
        )  # fmt: skip


class _MLPHalf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, norm_w, norm_b, w_in, b_in, w_out, b_out, scale, eps, p, low):
        w_in_low, b_in_low, b_out_low = w_in.to(low), b_in.to(low), b_out.to(low)
        w_out_low = (w_out / (1 - p)).to(low)
        bits = RandomBits() if p else None
        out = torch.empty_like(x)
        kept = []
        x_rows, out_rows = x.flatten(0, 1), out.view(-1, x.shape[2])
        for rows in _pieces(len(x_rows), len(w_in)):
            x_here = x_rows[rows]
            normed, mean, rstd = _layer_norm(x_here, norm_w, norm_b, eps)
            hidden = torch.addmm(b_in_low, _rows(normed, low), w_in_low.T)
            active = F.gelu(hidden)
            drawn = bits.draw((len(x_here), len(w_in))) if p else None
            if p:
                active[: len(x_here)].mul_(bits.keep(drawn, p, low))
            update = _like(torch.addmm(b_out_low, active, w_out_low.T), x_here)
            torch.addcmul(x_here, update.to(x.dtype), scale, out=out_rows[rows])
            if any(ctx.needs_input_grad):
                kept.append((rows, mean, rstd, hidden, drawn))
        ctx.save_for_backward(x, norm_w, norm_b, w_in, w_out, b_out, scale)
        ctx.kept, ctx.constants = kept, (eps, p, low)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, norm_w, norm_b, w_in, w_out, b_out, scale = ctx.saved_tensors
        eps, p, low = ctx.constants
        w_in_low, w_out_low = w_in.to(low), (scale[:, None] * w_out / (1 - p)).to(low)
        grad_x = torch.empty_like(x)
        grad_norm_w, grad_norm_b, grad_w_in, outer = (
            torch.zeros_like(t) for t in (norm_w, norm_b, w_in, w_out)
        )
        grad_b_in = w_in.new_zeros(len(w_in))
        x_rows, grad_rows, into_rows = (t.flatten(0, 1) for t in (x, grad, grad_x))
        for rows, mean, rstd, hidden, drawn in ctx.kept:
            x_here, grad_here = x_rows[rows], grad_rows[rows]
            grad_low = _rows(grad_here, low)
            active, grad_active = F.gelu(hidden), grad_low @ w_out_low
            if p:
                keep = RandomBits.keep(drawn, p, low)
                active[: len(keep)].mul_(keep)
                grad_active[: len(keep)].mul_(keep)
            add_product(outer, grad_low.T, active)
            grad_hidden = torch.ops.aten.gelu_backward(grad_active, hidden)
            grad_b_in += grad_hidden.sum(0, dtype=grad_b_in.dtype)
            normed, _, _ = _layer_norm(x_here, norm_w, norm_b, eps)
            add_product(grad_w_in, grad_hidden.T, _rows(normed, low))
            grad_normed = _like(grad_hidden @ w_in_low, x_here).to(x.dtype)
            into, more_w, more_b = _layer_norm_backward(
                grad_normed, x_here, mean, rstd, norm_w, norm_b
            )
            grad_norm_w += more_w
            grad_norm_b += more_b
            torch.add(grad_here, into, out=into_rows[rows])
        outer /= 1 - p
        total = grad.sum((0, 1))
        grad_scale = (w_out * outer).sum(1) + b_out * total
        return (
            grad_x, grad_norm_w, grad_norm_b, grad_w_in, grad_b_in,
            scale[:, None] * outer, scale * total, grad_scale, None, None, None,
        )  # fmt: skip


def _product_type(x: Tensor) -> torch.dtype:
    """Of products of matrices: autocast's where it is on, else that of `x`."""
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype


def _pieces(n: int, numbers: int) -> Iterator[slice]:
    """Cut `n` rows, each with so many intermediate numbers, into cachefuls."""
    size = max(CACHE * torch.get_num_threads() // max(numbers, 1), 1)
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _of(bias: Tensor | None, jets: slice) -> Tensor | None:
    return bias if bias is None or len(bias) == 1 else bias[jets]


def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float):
    return torch.native_layer_norm(x, weight.shape, weight, bias, eps)


def _layer_norm_backward(grad, x, mean, rstd, weight, bias):
    return torch.ops.aten.native_layer_norm_backward(
        grad, x, weight.shape, mean, rstd, weight, bias, [True, True, True]
    )


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, T, C) or (n T, C) to rows (n T, C) of `dtype`, in bfloat16 filled up with zeros."""
    rows = x.reshape(-1, x.shape[-1])
    return _filled_up(rows.shape, rows, dtype) if _fills_up(dtype) else rows.to(dtype)


def _like(rows: Tensor, x: Tensor) -> Tensor:
    """Rows shaped as `x`, without those that fill them up."""
    return rows[: x.numel() // x.shape[-1]].view_as(x)


def _fills_up(dtype: torch.dtype) -> bool:
    return dtype == torch.bfloat16


def _filled_up(shape, values: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows, `values` in this shape, and below them zeros up to a multiple of `ROWS`."""
    n_rows = math.prod(shape[:-1])
    out = torch.empty(-(-n_rows // ROWS) * ROWS, shape[-1], dtype=dtype)
    out[:n_rows].view(values.shape).copy_(values)
    out[n_rows:] = 0
    return out


def _heads(qkv: Tensor, shape, dtype: torch.dtype) -> Tensor:
    """(n T, 3 C) to (3, n, H, T, D) of `dtype`, contiguous."""
    n_positions, n_heads, width = shape
    split = qkv.view(-1, n_positions, 3, n_heads, width).permute(2, 0, 3, 1, 4)
    return torch.empty(split.shape, dtype=dtype).copy_(split)


def _apart(x: Tensor, shape, dtype: torch.dtype) -> Tensor:
    """(n T, C) to (n, H, T, D) of `dtype`, contiguous."""
    split = x.view(-1, *shape).transpose(1, 2)
    return torch.empty(split.shape, dtype=dtype).copy_(split)


def _joined(x: Tensor, dtype: torch.dtype) -> Tensor:
    """(n, H, T, D) to (n T, C), or (3, n, H, T, D) to (n T, 3 C), of `dtype`."""
    whole = x.transpose(1, 2) if x.ndim == 4 else x.permute(1, 3, 0, 2, 4)
    n_rows = whole.shape[0] * whole.shape[1]
    shape = (n_rows, whole[0, 0].numel())
    if _fills_up(dtype):
        return _filled_up(shape, whole, dtype)
    return torch.empty(whole.shape, dtype=dtype).copy_(whole).view(shape)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a @ b, summed up in the type of `total`."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        total += a @ b
