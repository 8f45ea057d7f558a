"""The backbone: size, inputs by formula, symmetry, causality, caches."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.models.transformer import n_parameters
from jetfm.physics.features import Preprocessing
from jetfm.settings import BackboneSettings
from tests.toys import randomise, small_pretraining_settings, toy_jets

SMALL = small_pretraining_settings().backbone
WITH_PAIRS = SMALL.model_copy(update={"pair_bias": True})


@pytest.fixture(scope="module", params=[SMALL, WITH_PAIRS], ids=["plain", "pair bias"])
def backbone(request) -> Backbone:
    torch.manual_seed(0)
    return randomise(Backbone(request.param, preprocessing=Preprocessing())).eval()


COUNTS = torch.tensor([7, 3, 0, 1])


def test_paper_size():
    """The official example's count, and the start vector, which it holds elsewhere."""
    model = Backbone(BackboneSettings())
    assert n_parameters(model) - model.start.numel() == 1_590_144
    assert (model.start == 0).all() and model.start.shape == (3,)


def test_embeddings_start_with_the_width_asked_for():
    """The same numbers, narrower; a model of before the setting is found under its old name."""
    ids = BackboneSettings(input="token-id", n_blocks=1)
    narrow = ids.model_copy(update={"embedding_std": 0.02})
    weights = []
    for settings in (ids, narrow):
        torch.manual_seed(0)
        weights.append(Backbone(settings, n_codes=512).embedding.weight)
    torch.testing.assert_close(weights[1], 0.02 * weights[0])
    assert float(weights[0].detach().std()) == pytest.approx(1, abs=0.02)
    assert "embedding_std" not in ids.model_dump() and "embedding_std" in narrow.model_dump()
    with pytest.raises(ValidationError, match="embedding_std needs input 'token-id'"):
        BackboneSettings(embedding_std=0.02)


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
    bias = None
    if backbone.settings.pair_bias:
        bias = torch.zeros(2, 4, 9, 9)  # nothing for registers and start vector
        bias[:, :, 4:, 4:] = backbone.pair_bias(x, mask)
    expected = backbone.transformer(sequence, causal=causal, bias=bias)[:, 3:]
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


# Pair bias ---------------------------------------------------------------------------------------


def with_pairs(**changes) -> Backbone:
    torch.manual_seed(0)
    settings = WITH_PAIRS.model_copy(update=changes)
    return randomise(Backbone(settings, preprocessing=Preprocessing()))


@pytest.mark.parametrize("causal", [False, True])
def test_without_a_bias_the_rest_is_the_same_backbone(causal):
    """An MLP that says zero leaves the plain backbone, weight for weight; another does not."""
    model, x, mask = with_pairs().eval(), *toy_jets(COUNTS)
    plain = Backbone(SMALL).eval()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if "pair_bias" not in k})
    visible = F.pad(mask, (1, 0), value=True)
    expected = plain(x, mask, COUNTS, causal)[0][visible]
    assert (model(x, mask, COUNTS, causal)[0][visible] - expected).abs().max() > 1e-3
    for parameter in model.pair_bias.mlp[-1].parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(model(x, mask, COUNTS, causal)[0][visible], expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_gradients_reach_the_pair_mlp(causal, dropout):
    model, x, mask = with_pairs(dropout=dropout).train(), *toy_jets(COUNTS)
    hidden, visible = model(x, mask, COUNTS, causal)
    hidden[visible].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all() and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("causal", [False, True])
def test_tiny_jets_with_a_pair_bias(n, causal):
    model, x, mask = with_pairs().train(), *toy_jets([n])
    mask, x = mask[:, :n], x[:, :n]
    hidden, _ = model(x, mask, torch.tensor([n]), causal)
    hidden.sum().backward()
    assert torch.isfinite(hidden).all() and hidden.shape == (1, n + 1, 32)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_pair_bias_needs_kinematics_and_their_map():
    with pytest.raises(JetfmError, match="backbone.pair_bias: found no preprocessing"):
        Backbone(WITH_PAIRS)
    with pytest.raises(JetfmError, match="backbone.pair_bias: found a preprocessing of 3 features"):
        Backbone(WITH_PAIRS, 4, preprocessing=Preprocessing())
    with pytest.raises(ValidationError, match="pair_bias needs input 'continuous'"):
        BackboneSettings(pair_bias=True, input="token-id")


def test_post_norm_blocks_take_a_pair_bias_too():
    model, x, mask = with_pairs(network="gpt").eval(), *toy_jets(COUNTS)
    before, visible = model(x, mask, COUNTS, True)
    torch.nn.init.zeros_(model.pair_bias.mlp[-1].weight)
    after, _ = model(x, mask, COUNTS, True)
    assert (before - after)[visible].abs().max() > 1e-4
