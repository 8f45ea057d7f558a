"""Attention and dropout against plain references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest

from jetfm.models import attention as module
from jetfm.models.attention import attention, dropout, keep_mask


def inputs(dtype=torch.float64, queries=7, keys=7):
    torch.manual_seed(0)
    q = torch.randn(2, 3, queries, 4, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(2, 3, keys, 4, dtype=dtype, requires_grad=True) for _ in range(2))
    mask = torch.arange(keys) < torch.tensor([keys, 4])[:, None]
    return q, k, v, mask


def plain(q, k, v, mask=None, causal=False, weights_factor=1.0, bias=0.0):
    """Attention as a textbook writes it."""
    scores = torch.einsum("bhsd,bhtd->bhst", q, k) / np.sqrt(q.shape[-1]) + bias
    n_queries, n_keys = scores.shape[-2:]
    if mask is not None:
        scores = scores.masked_fill(~mask[:, None, None], -torch.inf)
    if causal:
        position = torch.arange(n_keys - n_queries, n_keys)[:, None]
        scores = scores.masked_fill(torch.arange(n_keys) > position, -torch.inf)
    return torch.einsum("bhst,bhtd->bhsd", scores.softmax(-1) * weights_factor, v)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("queries", [7, 3, 1])
def test_agrees_with_the_textbook(causal, masked, queries):
    q, k, v, mask = inputs(queries=queries)
    mask = mask if masked else None
    expected = plain(q, k, v, mask, causal)
    torch.testing.assert_close(attention(q, k, v, mask, causal), expected)


@pytest.mark.parametrize("causal", [False, True])
def test_dropout_acts_on_the_weights_and_so_does_its_gradient(causal, monkeypatch):
    q, k, v, mask = inputs()
    torch.manual_seed(5)
    keep = torch.rand(2, 3, 7, 7) > 0.3
    monkeypatch.setattr(module, "keep_mask", lambda like, p: keep.to(like.dtype))
    got = attention(q, k, v, mask, causal, p=0.3)
    expected = plain(q, k, v, mask, causal, keep / 0.7)
    torch.testing.assert_close(got, expected)
    w = torch.randn_like(got)
    grads = torch.autograd.grad((got * w).sum(), (q, k, v))
    for a, b in zip(grads, torch.autograd.grad((expected * w).sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 3, 7, 7), (1, 3, 7, 7), (2, 1, 1, 7)])
def test_a_bias_joins_the_scores_and_gets_its_gradient(causal, masked, p, shape, monkeypatch):
    q, k, v, mask = inputs()
    torch.manual_seed(5)
    keep = torch.rand(2, 3, 7, 7) >= p
    monkeypatch.setattr(module, "keep_mask", lambda like, p: keep.to(like.dtype))
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mask = mask if masked else None
    got = attention(q, k, v, mask, causal, p, bias)
    expected = plain(q, k, v, mask, causal, keep / (1 - p), bias)
    torch.testing.assert_close(got, expected)
    w, sources = torch.randn_like(got), (q, k, v, bias)
    grads = torch.autograd.grad((got * w).sum(), sources)
    for a, b in zip(grads, torch.autograd.grad((expected * w).sum(), sources), strict=True):
        torch.testing.assert_close(a, b)


def test_attention_is_float32_under_autocast():
    q, k, v, mask = inputs(torch.float32)
    exact = attention(q, k, v, mask)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(attention(q, k, v, mask), exact)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5])
def test_keep_mask_has_the_right_rate_everywhere(p, dtype):
    torch.manual_seed(1)
    keep = keep_mask(torch.empty(400, 1001, dtype=dtype), p)
    assert keep.dtype == dtype and set(keep.unique().tolist()) == {0.0, 1.0}
    drop = keep == 0
    assert binomtest(int(drop.sum()), drop.numel(), p).pvalue > 1e-4
    for lane in range(4):  # four elements share one 64-bit number
        part = drop.flatten()[lane::4]
        assert binomtest(int(part.sum()), part.numel(), p).pvalue > 1e-4
    neighbours = np.corrcoef(drop.flatten()[:-1].numpy(), drop.flatten()[1:].numpy())[0, 1]
    assert abs(neighbours) < 5 / np.sqrt(drop.numel())


def test_dropout_scales_and_passes_the_same_elements_back():
    x = torch.randn(50, 60, requires_grad=True)
    torch.manual_seed(2)
    y = dropout(x, 0.25, True)
    kept = y != 0
    torch.testing.assert_close(y, torch.where(kept, x / 0.75, 0))
    y.sum().backward()
    torch.testing.assert_close(x.grad, kept / 0.75)
    assert dropout(x, 0.25, False) is x
    torch.manual_seed(2)
    assert torch.equal(dropout(x, 0.25, True), y)


def test_dropout_follows_the_seed_and_matches_torch_in_distribution():
    torch.manual_seed(3)
    ones = torch.ones(2000, 100)
    ours, theirs = dropout(ones, 0.1, True), F.dropout(ones, 0.1)
    assert ours.unique().tolist() == theirs.unique().tolist()
    assert abs(ours.mean() - theirs.mean()) < 5 * np.sqrt(2 * 0.1 / 0.9 / ones.numel())
