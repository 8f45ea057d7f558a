"""Pair features against four-momenta, their symmetries and edges; the bias against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import vector
from hypothesis import given
from hypothesis import strategies as st

from jetfm.models import interactions
from jetfm.models.interactions import FLOOR, PairBias, SeenConstituents, pair_features
from jetfm.physics.features import Preprocessing
from jetfm.schema import CONSTITUENT_FEATURES
from tests.toys import randomise, toy_jets

MAPS = [Preprocessing(), Preprocessing(pt_map="log"), Preprocessing(angle_scale=1.5, pt_shift=0)]


def all_pairs(length: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(length)] * 2).T


def features_of(physical, preprocessing=MAPS[0], mask=None) -> torch.Tensor:
    """(B, T, T, 4) of physical kinematics (B, T, 3)."""
    length = physical.shape[1]
    mask = torch.ones(physical.shape[:2], dtype=torch.bool) if mask is None else mask
    x = preprocessing.forward(physical, mask)
    return pair_features(x, mask, preprocessing, all_pairs(length)).unflatten(1, (length, length))


def wide_jets(n_jets=20, length=9, seed=0) -> torch.Tensor:
    """pt [GeV] over five decades, eta within 3, phi within a turn: (B, T, 3) float64."""
    rng = np.random.default_rng(seed)
    shape = n_jets, length
    values = (
        10 ** rng.uniform(-2, 3, shape),
        rng.uniform(-3, 3, shape),
        rng.uniform(-3.1, 3.1, shape),
    )
    return torch.as_tensor(np.stack(values, -1))


@pytest.mark.parametrize("preprocessing", MAPS)
def test_features_of_four_momenta(preprocessing):
    """dR, kT, z and the mass of the summed momenta, as vector computes them."""
    physical = wide_jets()
    pt, eta, phi = (t[..., None].numpy() for t in physical.unbind(-1))
    a = vector.array({"pt": pt, "eta": eta, "phi": phi, "mass": 0 * pt})
    b = vector.array({k: np.swapaxes(a[k], 1, 2) for k in ("pt", "eta", "phi", "mass")})
    softer, dr = np.minimum(a.pt, b.pt), a.deltaR(b)
    off = ~np.eye(9, dtype=bool)
    m2 = np.maximum((a + b).mass2, FLOOR)  # rounding leaves a negative mass2 on the diagonal
    expected = np.stack([dr, softer * dr, softer / (a.pt + b.pt), m2], -1)
    found = features_of(physical, preprocessing).exp().numpy()
    np.testing.assert_allclose(found[:, off], expected[:, off], rtol=1e-6)
    self_pairs = found[:, ~off]
    np.testing.assert_allclose(
        self_pairs, np.broadcast_to([FLOOR, FLOOR, 0.5, FLOOR], self_pairs.shape)
    )


@pytest.mark.parametrize("distance", [1e-1, 1e-3, 1e-5])
def test_collinear_pairs_in_float32(distance):
    """Massless and nearly collinear: m^2 = pt_a pt_b dR^2, where cosh - cos would be rounding."""
    rng = np.random.default_rng(0)
    angle = rng.uniform(0, 2 * np.pi, 50)
    steps = distance * np.stack([np.cos(angle), np.sin(angle)], -1)
    physical = np.zeros((50, 2, 3))
    physical[..., 0] = [400.0, 30.0]
    physical[:, 1, 1:] = steps  # from zero: float32 holds small angles exactly, not their sums
    found = features_of(torch.as_tensor(physical, dtype=torch.float32))[:, 0, 1]
    assert found.dtype == torch.float32
    expected = [distance, 30 * distance, 30 / 430, 400 * 30 * distance**2]
    expected = np.broadcast_to(np.log(np.maximum(expected, FLOOR)), found.shape)
    # m^2 departs from it by dR^2 / 12 at most
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5 + distance**2 / 10)


@pytest.mark.parametrize("turn", [0.3, 2.0, -3.0, 2 * math.pi])
@pytest.mark.parametrize("shift", [0.0, -0.7])
def test_only_differences_of_angles_count(turn, shift):
    """The frame may turn about the beam, and be boosted along it."""
    physical = wide_jets()
    moved = physical + torch.tensor([0.0, shift, turn], dtype=physical.dtype)
    moved[..., 2] = torch.remainder(moved[..., 2] + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(features_of(moved), features_of(physical), rtol=0, atol=1e-9)


def test_symmetric_and_equivariant():
    physical, order = wide_jets(), torch.randperm(9)
    features = features_of(physical)
    torch.testing.assert_close(features, features.transpose(1, 2))
    permuted = features_of(physical[:, order])
    torch.testing.assert_close(permuted, features[:, order][:, :, order])


def test_only_the_kinematics_are_read():
    full = Preprocessing(features=CONSTITUENT_FEATURES)
    x, mask = toy_jets([5])
    wide = torch.cat([x, torch.full((1, 5, 11), 1e30)], -1)
    pairs = all_pairs(5)
    expected = pair_features(x, mask, Preprocessing(), pairs)
    assert torch.equal(pair_features(wide, mask, full, pairs), expected)


def test_padding_gives_zero_and_changes_nothing():
    x, mask = toy_jets([4, 2, 0], extra_padding=3)
    x[~mask] = 1e9  # whose exponential is infinite
    x.requires_grad_()
    features = pair_features(x, mask, Preprocessing(), all_pairs(7)).unflatten(1, (7, 7))
    for i, n in enumerate([4, 2, 0]):
        alone = pair_features(x[i : i + 1, :n], mask[i : i + 1, :n], MAPS[0], all_pairs(n))
        assert torch.equal(features[i, :n, :n].flatten(0, 1), alone[0])
        assert (features[i, n:] == 0).all() and (features[i, :, n:] == 0).all()
    features.sum().backward()
    assert torch.isfinite(x.grad).all() and (x.grad[~mask] == 0).all()


constituents = st.tuples(
    st.sampled_from([0.0, 1e-6, 0.1, 5.0, 900.0]), st.floats(-1, 1), st.floats(-1, 1)
)


@given(st.lists(constituents, max_size=2), st.sampled_from([torch.float32, torch.float64]))
def test_jets_of_up_to_two_constituents(jet, dtype):
    """No pt, no distance, no partner: numbers above the floor, gradients that are numbers."""
    physical = torch.tensor(jet, dtype=dtype).view(1, len(jet), 3)
    mask = torch.ones(1, len(jet), dtype=torch.bool)
    x = Preprocessing().forward(physical, mask).requires_grad_()
    features = pair_features(x, mask, Preprocessing(), all_pairs(len(jet)))
    assert torch.isfinite(features).all()
    assert (features >= math.log(FLOOR) - 1e-5).all() and (features[..., 2] <= 0).all()
    features.sum().backward()
    assert torch.isfinite(x.grad).all()


# The bias ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bias() -> PairBias:
    torch.manual_seed(0)
    return randomise(PairBias(4, Preprocessing())).eval()


@pytest.mark.parametrize("piece", [1, 7, 4096])  # pairs that go through the MLP at a time
def test_bias_by_loops(bias, monkeypatch, piece):
    """Four numbers, less their mean, over their spread, through the MLP, for every pair."""
    monkeypatch.setattr(interactions, "_PIECE", piece)
    x, mask = toy_jets([5, 3])
    found = bias(x, mask)
    means, spreads = torch.tensor([-1.4, -0.2, -1.6, 0.9]), torch.tensor([1.0, 1.1, 0.9, 2.3])
    for jet, n in enumerate([5, 3]):
        for a in range(5):
            for b in range(5):
                pair = torch.tensor([[a], [b]])
                features = pair_features(x[jet : jet + 1], mask[jet : jet + 1], MAPS[0], pair)
                expected = bias.mlp(((features[0, 0] - means) / spreads).clamp(-5, 5))
                expected = expected if max(a, b) < n else torch.zeros(4)
                torch.testing.assert_close(found[jet, :, a, b], expected)
    assert found.shape == (2, 4, 5, 5)


def test_bias_is_symmetric_and_equivariant(bias):
    x, mask = toy_jets([8, 8])
    order = torch.randperm(8)
    found = bias(x, mask)
    assert torch.equal(found, found.mT)
    torch.testing.assert_close(bias(x[:, order], mask), found[:, :, order][..., order])


@pytest.mark.parametrize("training", [False, True])
def test_bias_of_a_jet_is_its_own(bias, training):
    """Neither padding nor the other jets of the batch change it, in training either."""
    counts = [7, 1, 0, 2]
    x, mask = toy_jets(counts, extra_padding=2)
    x[~mask] = 50.0
    bias.train(training)
    found = bias(x, mask)
    for i, n in enumerate(counts):
        alone = bias(x[i : i + 1, :n], mask[i : i + 1, :n])
        torch.testing.assert_close(found[i, :, :n, :n], alone[0])
        assert (found[i, :, n:] == 0).all() and (found[i, ..., n:] == 0).all()
    bias.eval()


def test_newest_is_the_last_row(bias):
    x, mask = toy_jets([6, 6, 6])
    seen = SeenConstituents()
    for k in range(6):
        rows = torch.arange(3) if k < 3 else torch.tensor([2, 0])
        if k == 3:
            seen.keep(rows)
        found = bias.newest(seen.add(x[rows, k]))
        whole = bias(x[rows, : k + 1], mask[rows, : k + 1])
        torch.testing.assert_close(found, whole[:, :, -1:])


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    model = PairBias(2, Preprocessing())
    model = randomise(model).double()
    x, mask = toy_jets([3, 1])
    x = x.double().requires_grad_()
    names = ["mlp.0.weight", "mlp.6.weight", "mlp.6.bias"]
    given = [dict(model.named_parameters())[name].detach().clone() for name in names]

    def call(x, *values):
        named = dict(zip(names, values, strict=True))
        return torch.func.functional_call(model, named, (x, mask))

    assert torch.autograd.gradcheck(call, (x, *(g.requires_grad_() for g in given)), atol=1e-6)


def test_fresh_scores_are_of_order_one():
    """Neither drowned by the bias nor deaf to it: its spread is below that of a softmax's unit."""
    torch.manual_seed(0)
    x, mask = toy_jets([30] * 4)
    found = PairBias(8, Preprocessing())(x, mask)
    assert 1e-3 < found.std() < 1 and found.abs().max() < 2
