"""The backbone: size, inputs by formula, symmetry, causality, caches."""

from __future__ import annotations

import pytest
import torch

from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.models.transformer import n_parameters
from jetfm.settings import BackboneSettings
from tests.toys import randomise, small_pretraining_settings, toy_jets


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    torch.manual_seed(0)
    return randomise(Backbone(small_pretraining_settings().backbone)).eval()


COUNTS = torch.tensor([7, 3, 0, 1])


def test_paper_size():
    """The official example's count, and the start vector, which it holds elsewhere."""
    model = Backbone(BackboneSettings())
    assert n_parameters(model) - model.start.numel() == 1_590_144
    assert (model.start == 0).all() and model.start.shape == (3,)


@pytest.mark.parametrize("causal", [False, True])
def test_assembly_of_the_input(backbone, causal):
    """Registers without, start vector and constituents with the multiplicity term."""
    x, mask = toy_jets([5, 5])
    n = torch.tensor([5, 90])  # the second jet is truncated: its condition is the uncapped count
    hidden, visible = backbone(x, mask, n, causal)
    w, b = backbone.features_in.weight, backbone.features_in.bias
    jet = (n[:, None].float() - 50) * 0.1 @ backbone.multiplicity_in.weight.T
    sequence = torch.cat([backbone.start.expand(2, 1, 3), x], 1) @ w.T + b + jet[:, None]
    sequence = torch.cat([backbone.registers.expand(2, -1, -1), sequence], 1)
    expected = backbone.transformer(sequence, causal=causal)[:, 3:]
    torch.testing.assert_close(hidden, expected)
    assert hidden.shape == (2, 6, 32) and visible.all()
    assert backbone.multiplicity_in.bias is None


def test_multiplicity_is_seen_at_every_position(backbone):
    x, mask = toy_jets([5])
    a, _ = backbone(x, mask, torch.tensor([5]), True)
    b, _ = backbone(x, mask, torch.tensor([25]), True)
    assert ((a - b).abs().max(-1).values > 1e-3).all()


@pytest.mark.parametrize("causal", [False, True])
def test_registers_are_seen_by_every_position_and_dropped(backbone, causal):
    x, mask = toy_jets([5])
    n = torch.tensor([5])
    before, _ = backbone(x, mask, n, causal)
    for i in range(3):
        with torch.no_grad():
            change = torch.randn(32)  # not a constant, which LayerNorm removes
            backbone.registers[i] += change
            after, _ = backbone(x, mask, n, causal)
            backbone.registers[i] -= change
        assert ((before - after).abs().max(-1).values > 1e-4).all()


def test_bidirectional_is_permutation_equivariant(backbone):
    x, mask = toy_jets([8, 8])
    order = torch.randperm(8)
    n = torch.tensor([8, 8])
    straight, _ = backbone(x, mask, n, False)
    permuted, _ = backbone(x[:, order], mask, n, False)
    torch.testing.assert_close(permuted[:, 1:], straight[:, 1:][:, order])
    torch.testing.assert_close(permuted[:, 0], straight[:, 0])


def test_causality_and_its_absence(backbone):
    x, mask = toy_jets([8, 8])
    n = torch.tensor([8, 8])
    causal, _ = backbone(x, mask, n, True)
    both, _ = backbone(x, mask, n, False)
    for position in range(8):
        changed = x.clone()
        changed[:, position:] += 1
        # output k has seen d_s and the first k constituents
        got, _ = backbone(changed, mask, n, True)
        torch.testing.assert_close(
            got[:, : position + 1], causal[:, : position + 1], rtol=0, atol=1e-6
        )
        assert (got[:, position + 1] - causal[:, position + 1]).abs().max() > 1e-3
        got, _ = backbone(changed, mask, n, False)
        assert ((got - both).abs().amax(-1) > 1e-5).all()


@pytest.mark.parametrize("causal", [False, True])
def test_padding_is_not_seen(backbone, causal):
    x, mask = toy_jets(COUNTS, extra_padding=5)
    x[~mask] = 30.0
    hidden, visible = backbone(x, mask, COUNTS, causal)
    for i, n in enumerate(COUNTS.tolist()):
        alone, _ = backbone(x[i : i + 1, :n], mask[i : i + 1, :n], COUNTS[i : i + 1], causal)
        torch.testing.assert_close(hidden[i, : n + 1], alone[0], rtol=1e-5, atol=1e-5)
        assert visible[i].sum() == n + 1


def test_steps_equal_the_whole(backbone):
    x, mask = toy_jets([40, 40])
    n = torch.tensor([40, 77])
    caches = backbone.new_caches()
    steps = [backbone.begin(n, caches)]
    steps += [backbone.proceed(x[:, k], n, caches) for k in range(40)]
    whole, _ = backbone(x, mask, n, True)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-5, atol=1e-5)


def test_wrong_shapes_are_refused(backbone):
    x, mask = toy_jets([3, 2])
    for bad in (
        (x[..., :2], mask, COUNTS[:2]),
        (x, mask[:, :1], COUNTS[:2]),
        (x, mask, COUNTS[:1]),
    ):
        with pytest.raises(JetfmError, match="backbone input"):
            backbone(*bad, True)
