"""NormFormer: its formula, its start as the identity, symmetry, padding, causality, caches."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jetfm.errors import JetfmError
from jetfm.models.normformer import NormFormer, NormFormerBlock
from jetfm.models.transformer import n_parameters
from tests.toys import randomise

COUNTS = [0, 1, 2, 9, 131]


@pytest.fixture(scope="module")
def model() -> NormFormer:
    torch.manual_seed(0)
    return randomise(NormFormer(16, 2, 4)).eval()


class PlainBlock(nn.Module):
    """Paper 1's block from torch's own modules (official code of arXiv 2403.05618)."""

    def __init__(self, block: NormFormerBlock, dim: int, n_heads: int):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(dim) for _ in range(3))
        self.attention = nn.MultiheadAttention(dim, n_heads, batch_first=True)
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU())
        self.last = nn.Linear(dim, dim)
        pairs = [
            (self.norm1, block.attention_norm_in),
            (self.norm2, block.attention_norm_out),
            (self.attention.out_proj, block.attention.out),
            (self.mlp[0], block.mlp_norm),
            (self.mlp[1], block.mlp_in),
            (self.last, block.mlp_out),
        ]
        for mine, its in pairs:
            mine.load_state_dict(its.state_dict())
        with torch.no_grad():
            self.attention.in_proj_weight.copy_(block.attention.qkv.weight)
            self.attention.in_proj_bias.copy_(block.attention.qkv.bias)

    def forward(self, x, mask, future=None):
        y = self.norm1(x)
        y = self.attention(y, y, y, key_padding_mask=~mask, attn_mask=future)[0]
        x = x + self.norm2(y)
        return x + self.last(self.mlp(x))


@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torch_modules(model, causal):
    x = torch.randn(4, 7, 16)
    mask = torch.arange(7) < torch.tensor([7, 2, 5, 1])[:, None]
    future = torch.ones(7, 7).triu(1).bool() if causal else None
    expected = x
    for block in model.blocks:
        expected = PlainBlock(block, 16, 4)(expected, mask, future)
    torch.testing.assert_close(model(x, mask, causal)[mask], expected[mask], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("zero_gain", ["before", "after"])
def test_a_fresh_block_is_the_identity(zero_gain):
    """With dropout at work and in evaluation, whichever of the attention's gains is zero."""
    model = NormFormer(16, 3, 4, mlp_ratio=2, dropout=0.1, zero_gain=zero_gain)
    block = model.blocks[0]
    gains = {"before": block.attention_norm_in.weight, "after": block.attention_norm_out.weight}
    assert [name for name, gain in gains.items() if (gain == 0).all()] == [zero_gain]
    assert all((gain == 1).all() for name, gain in gains.items() if name != zero_gain)
    x = torch.randn(2, 5, 16)
    assert torch.equal(model.train()(x), x) and torch.equal(model.eval()(x), x)


def test_sizes_of_paper_1():
    """Four blocks of 128: q, k, v and out, three norms, and an MLP of the same width."""
    assert n_parameters(NormFormer(128, 4, 8)) == 4 * (6 * (128 * 128 + 128) + 3 * 2 * 128)


@pytest.mark.parametrize("zero_gain", ["before", "after"])
def test_the_gradient_reaches_every_parameter(zero_gain):
    """From the second step on: the first moves the gains that start at zero."""
    torch.manual_seed(0)
    model = NormFormer(16, 2, 4, dropout=0.0, zero_gain=zero_gain)
    x, target = torch.randn(2, 6, 4, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - target).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() > 0 and torch.isfinite(parameter.grad).all(), name


@settings(max_examples=25)
@given(
    counts=st.lists(st.sampled_from(COUNTS), min_size=1, max_size=4),
    extra=st.integers(0, 20),
    seed=st.integers(0, 2**31),
)
def test_padding_and_order(model, counts, extra, seed):
    """A jet in a padded batch, its constituents shuffled, gives what it gives alone."""
    generator = torch.Generator().manual_seed(seed)
    length = max(*counts, 0) + extra
    x = torch.randn(len(counts), length, 16, generator=generator)
    mask = torch.arange(length) < torch.tensor(counts)[:, None]
    got = model(torch.where(mask[..., None], x, 1e3), mask)
    assert torch.isfinite(got).all()
    for row, n in enumerate(counts):
        order = torch.randperm(n, generator=generator)
        alone = model(x[row : row + 1, :n][:, order])[0]
        torch.testing.assert_close(got[row, order], alone, rtol=1e-4, atol=1e-5)


def test_it_sees_the_whole_jet_unless_causal(model):
    x = torch.randn(3, 8, 16)
    whole, causal = model(x), model(x, causal=True)
    for position in range(1, 8):
        changed = x.clone()
        changed[:, position:] += torch.randn(3, 8 - position, 16)
        assert ((model(changed) - whole)[:, :position].abs().amax(-1) > 1e-4).all()
        difference = (model(changed, causal=True) - causal).abs()
        assert difference[:, :position].max() < 1e-6 and difference[:, position].max() > 1e-3


@pytest.mark.parametrize("pieces", [[1] * 70, [5, 1, 1, 63]])
def test_caches_give_the_uncached_result(model, pieces):
    x = torch.randn(3, 70, 16)
    caches = model.new_caches()
    assert len(caches) == 2
    got = torch.cat([model(part, caches=caches) for part in x.split(pieces, 1)], 1)
    torch.testing.assert_close(got, model(x, causal=True), rtol=1e-5, atol=1e-5)


def test_dropout_only_in_training():
    torch.manual_seed(0)
    model = randomise(NormFormer(16, 1, 4, dropout=0.5))
    x = torch.randn(2, 5, 16)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_heads_must_divide_the_width():
    with pytest.raises(JetfmError, match="n_heads"):
        NormFormer(16, 1, 3)
