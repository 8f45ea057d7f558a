"""EPiC layers: formula, equivariance, indifference to padding, and what the network is told."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from jetfm.errors import JetfmError
from jetfm.models.epic import EPiCLayer, EPiCNetwork, JetLinear, embed_time, pool, pooling_weights
from jetfm.models.transformer import n_parameters
from jetfm.settings import FlowSettings
from tests.toys import randomise

COUNTS = (0, 1, 2, 7, 150)


def network(n_features: int = 3) -> EPiCNetwork:
    torch.manual_seed(0)
    made = EPiCNetwork(FlowSettings(n_layers=3, dim=16, global_dim=5), n_features)
    return randomise(made).eval()


def clouds(counts=COUNTS, n_features: int = 3, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    x = torch.randn(*mask.shape, n_features, generator=generator)
    return x, mask, torch.rand(len(counts), generator=generator)


def test_paper_size():
    """Counted by hand from the formula, with one gain a row for the weight normalisation."""
    n, dim, jet, condition = 3, 300, 16, 13

    def rows(n_in, n_out):
        return n_out * (n_in + 2)  # direction, gain, bias

    layer = rows(2 * dim + jet + condition, dim) + rows(dim, jet)
    layer += rows(dim + jet + condition, dim) + rows(dim, dim)
    ends = rows(n + condition, dim) + rows(dim, dim) + rows(dim, n)
    ends += rows(2 * dim + condition, dim) + rows(dim, jet)
    assert n_parameters(EPiCNetwork(FlowSettings(), n)) == 20 * layer + ends


def test_jet_linear_is_a_linear_map_of_the_concatenation():
    torch.manual_seed(0)
    layer, plain = randomise(JetLinear(4, 3, 6)), nn.Linear(7, 6)
    local, jet = torch.randn(2, 5, 4), torch.randn(2, 3)
    direction = layer.linear.parametrizations.weight.original1
    gain = layer.linear.parametrizations.weight.original0
    with torch.no_grad():
        plain.weight.copy_(gain * direction / direction.norm(dim=1, keepdim=True))
        plain.bias.copy_(layer.linear.bias)
    both = torch.cat([local, jet.unsqueeze(1).expand(-1, 5, -1)], -1)
    torch.testing.assert_close(layer(local, jet), plain(both))


def test_layer_against_its_formula_jet_by_jet():
    torch.manual_seed(0)
    layer = randomise(EPiCLayer(dim=6, global_dim=4, condition_dim=2))
    counts = (3, 1, 5)
    h, mask, _ = clouds(counts, 6)
    g, c = torch.randn(3, 4), torch.randn(3, 2)
    weights = pooling_weights(mask, mask.sum(1), 0.1, h.dtype)
    new_h, new_g = layer(h, g, c, weights)
    for j, n in enumerate(counts):
        own = h[j, :n]
        inputs = torch.cat([own.mean(0), 0.1 * own.sum(0), g[j], c[j]])
        expected = F.leaky_relu(g[j] + layer.global_out(F.leaky_relu(layer.global_in(inputs))))
        torch.testing.assert_close(new_g[j], expected)
        for i in range(n):
            inputs = torch.cat([own[i], expected, c[j]])
            hidden = F.leaky_relu(layer.local_in.linear(inputs))
            of_one = F.leaky_relu(own[i] + layer.local_out(hidden))
            torch.testing.assert_close(new_h[j, i], of_one)


def test_pooling_of_a_jet_without_constituents_is_zero():
    h, mask, _ = clouds((0, 3), 4)
    pooled = pool(h, pooling_weights(mask, mask.sum(1), 1.0, h.dtype))
    assert (pooled[0] == 0).all()
    torch.testing.assert_close(pooled[1], torch.cat([h[1].mean(0), h[1].sum(0)]))


def test_equivariant_under_permutations():
    model, (x, mask, t) = network(), clouds()
    order = torch.stack([torch.randperm(x.shape[1]) for _ in x])

    def permuted(values):
        return torch.stack([v[o] for v, o in zip(values, order, strict=True)])

    with torch.no_grad():
        expected = permuted(model(x, mask, t))
        got = model(permuted(x), permuted(mask), t)  # holes between constituents, too
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(
    st.lists(st.one_of(st.integers(0, 3), st.integers(120, 140)), min_size=1, max_size=4),
    st.integers(0, 20),
    st.sampled_from([0.0, 1e6, float("nan"), float("inf")]),
)
def test_padding_never_matters(counts, extra, garbage):
    """A jet alone and unpadded, against the same jet in a batch with anything in the padding."""
    model = network()
    x, mask, t = clouds([*counts, 1])
    padding = mask.new_zeros(len(x), extra)
    mask = torch.cat([mask, padding], 1)
    x = torch.cat([x, x.new_zeros(*padding.shape, 3)], 1)
    x[~mask] = garbage
    x.requires_grad_()
    velocity = model(x, mask, t)
    assert (velocity[~mask] == 0).all()
    for j, n in enumerate(counts):
        alone = model(x[j : j + 1, :n], mask[j : j + 1, :n], t[j : j + 1])
        torch.testing.assert_close(velocity[j, :n], alone[0], rtol=1e-4, atol=1e-5)
    velocity.sum().backward()
    assert torch.isfinite(x.grad[mask]).all() and (x.grad[~mask] == 0).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_constituents_time_and_multiplicity_matter():
    """The velocity of one constituent depends on the others, on t, and on how many there are."""
    model, (x, mask, t) = network(), clouds((4,))
    moved = x.clone()
    moved[0, 3] += 1
    same = x[:, :1].expand(-1, 4, -1)  # of any number of these the mean is the same
    two = mask & (torch.arange(4) < 2)
    with torch.no_grad():
        first = model(x, mask, t)[0, 0]
        differences = [
            model(moved, mask, t)[0, 0] - first,
            model(x, mask, t + 0.1)[0, 0] - first,
            model(same, mask, t)[0, 0] - model(same, two, t)[0, 0],
        ]
    assert all(d.abs().max() > 1e-4 for d in differences)  # rounding is a thousand times smaller


def test_time_embedding_literally():
    embedded = embed_time(torch.tensor([0.0, 0.25]), 3)
    half = np.sqrt(0.5)
    expected = [[1, 1, 1, 0, 0, 0], [half, 0, -1, half, 1, 0]]
    np.testing.assert_allclose(embedded, expected, atol=1e-6)


@pytest.mark.parametrize(
    "shapes", [((2, 5, 4), (2, 5), (2,)), ((2, 5, 3), (2, 4), (2,)), ((2, 5, 3), (2, 5), (1,))]
)
def test_shapes_that_do_not_fit_are_refused(shapes):
    x, mask, t = (torch.zeros(shape) for shape in shapes)
    with pytest.raises(JetfmError, match=r"EPiC input.*expected \(B, T, 3\), \(B, T\), \(B,\)"):
        network()(x, mask.bool(), t)
