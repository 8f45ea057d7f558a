"""The shared block: reference, symmetry, causality, padding, caches."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from jetfm.errors import JetfmError
from jetfm.models.transformer import Block, Transformer
from tests.toys import randomise


@pytest.fixture(scope="module")
def transformer() -> Transformer:
    torch.manual_seed(0)
    return randomise(Transformer(16, 3, 4, final_norm=True)).eval()


def test_block_agrees_with_torch_modules():
    """x + g1 MHA(LN x), then x + g2 MLP(LN x), built from torch's own modules."""
    torch.manual_seed(0)
    block = randomise(Block(16, 4)).eval()
    reference = nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.attention.qkv.weight)
        reference.in_proj_bias.copy_(block.attention.qkv.bias)
        reference.out_proj.weight.copy_(block.attention.out.weight)
        reference.out_proj.bias.copy_(block.attention.out.bias)
    x = torch.randn(3, 6, 16)
    mask = torch.arange(6) < torch.tensor([6, 2, 5])[:, None]
    y = block.attention_norm(x)
    y = x + block.attention_scale * reference(y, y, y, key_padding_mask=~mask)[0]
    mlp = nn.Sequential(block.mlp_norm, block.mlp_in, nn.GELU(), block.mlp_out)
    expected = y + block.mlp_scale * mlp(y)
    torch.testing.assert_close(block(x, mask)[mask], expected[mask])


def test_layer_scale_starts_where_told_and_zero_makes_the_identity():
    block = Block(16, 4, layer_scale=0.0)
    x = torch.randn(2, 5, 16)
    assert torch.equal(block(x), x)
    assert (Block(16, 4).mlp_scale == 1).all() and (Block(16, 4).attention_scale == 1).all()


def test_permutation_equivariance(transformer):
    x = torch.randn(4, 9, 16)
    order = torch.randperm(9)
    torch.testing.assert_close(transformer(x[:, order]), transformer(x)[:, order])


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_not_seen(transformer, causal):
    x = torch.randn(3, 9, 16)
    mask = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    garbage = torch.where(mask[..., None], x, 1e3)
    got = transformer(garbage, mask, causal)
    for i, n in enumerate([9, 4, 1]):
        alone = transformer(x[i : i + 1, :n], causal=causal)[0]
        torch.testing.assert_close(got[i, :n], alone)


def test_a_jet_of_padding_only_does_no_harm(transformer):
    x = torch.randn(2, 3, 16, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3])
    y = transformer(x, mask)
    y[mask].sum().backward()
    assert torch.isfinite(y).all() and torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all()


@pytest.mark.parametrize("bias", [None, torch.zeros(2, 4, 0, 0)])
def test_no_position_at_all(transformer, bias):
    """A batch whose jets are all empty."""
    mask = torch.ones(2, 0, dtype=torch.bool)
    assert transformer(torch.zeros(2, 0, 16), mask, bias=bias).shape == (2, 0, 16)


def test_causality(transformer):
    x = torch.randn(2, 8, 16)
    y = transformer(x, causal=True)
    for position in range(1, 8):
        changed = x.clone()
        changed[:, position:] += torch.randn(2, 8 - position, 16)
        z = transformer(changed, causal=True)
        torch.testing.assert_close(z[:, :position], y[:, :position], rtol=0, atol=1e-6)
        assert (z[:, position] - y[:, position]).abs().max() > 1e-3


def test_a_bias_can_hide_what_a_mask_hides(transformer):
    """-inf in the bias is a mask, and finite numbers at hidden keys are not seen."""
    x = torch.randn(3, 9, 16)
    mask = torch.arange(9) < torch.tensor([9, 4, 1])[:, None]
    hiding = torch.zeros(3, 1, 1, 9).masked_fill(~mask[:, None, None], -torch.inf)
    expected = transformer(x, mask)
    torch.testing.assert_close(transformer(x, bias=hiding)[mask], expected[mask])
    garbage = torch.where(mask[:, None, None], 0, 50 * torch.randn(3, 4, 9, 9))
    torch.testing.assert_close(transformer(x, mask, bias=garbage)[mask], expected[mask])


def test_causality_with_a_bias(transformer):
    """Neither a later position nor the bias towards it is seen."""
    x, bias = torch.randn(2, 8, 16), torch.randn(2, 4, 8, 8)
    y = transformer(x, causal=True, bias=bias)
    for position in range(1, 8):
        changed, other = x.clone(), bias.clone()
        changed[:, position:] += torch.randn(2, 8 - position, 16)
        other[..., position:] += torch.randn(2, 4, 8, 8 - position)
        z = transformer(changed, causal=True, bias=other)
        torch.testing.assert_close(z[:, :position], y[:, :position], rtol=0, atol=1e-6)
        assert (z[:, position] - y[:, position]).abs().max() > 1e-3


def test_a_jet_of_padding_only_has_a_finite_gradient_of_the_bias(transformer):
    x, bias = torch.randn(2, 3, 16), torch.randn(2, 4, 3, 3, requires_grad=True)
    mask = torch.tensor([[True, True, False], [False] * 3])
    transformer(x, mask, bias=bias)[mask].sum().backward()
    assert torch.isfinite(bias.grad).all() and (bias.grad[0, :, :2, :2] != 0).any()
    assert (bias.grad[1] == 0).all() and (bias.grad[0, :, :, 2] == 0).all()


@pytest.mark.parametrize("pieces", [[1] * 80, [5, 1, 1, 73], [40, 40]])
def test_caches_give_the_uncached_result(transformer, pieces):
    x = torch.randn(3, 80, 16)
    caches = transformer.new_caches()
    got = torch.cat([transformer(part, caches=caches) for part in x.split(pieces, 1)], 1)
    torch.testing.assert_close(got, transformer(x, causal=True), rtol=1e-5, atol=1e-5)


def test_caches_can_lose_jets(transformer):
    x = torch.randn(5, 6, 16)
    caches = transformer.new_caches()
    transformer(x[:, :4], caches=caches)
    rows = torch.tensor([4, 1])
    for cache in caches:
        cache.keep(rows)
    got = transformer(x[rows, 4:], caches=caches)
    torch.testing.assert_close(got, transformer(x, causal=True)[rows, 4:], rtol=1e-5, atol=1e-5)


def test_dropout_only_in_training():
    torch.manual_seed(0)
    model = Transformer(16, 1, 4, dropout=0.5, attention_dropout=0.5)
    x = torch.randn(2, 5, 16)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_heads_must_divide_the_width():
    with pytest.raises(JetfmError, match="n_heads"):
        Transformer(16, 1, 3)
