"""The density: normalised, the textbook's Gaussian mixture, and sampled as it says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from jetfm.errors import JetfmError
from jetfm.models.continuous_head import DensityHead, NextConstituent
from tests.toys import randomise

DIM = 16


def random_density(n_features, n_components, batch=(), seed=0) -> NextConstituent:
    """A mixture in float64 with strong correlations and widths from 0.3 to 1."""
    g = torch.Generator().manual_seed(seed)
    n_couplings = n_features * (n_features - 1) // 2

    def normal(*shape):
        return torch.randn((*batch, *shape), generator=g, dtype=torch.float64)

    return NextConstituent(
        normal(),
        torch.log_softmax(normal(n_components), -1),
        normal(n_components, n_features),
        0.3 + 0.7 * torch.sigmoid(normal(n_components, n_features)),
        normal(n_components, n_couplings),
    )


def covariances(density: NextConstituent) -> torch.Tensor:
    """(..., K, F, F) by the definition: (1 - C) (x - mu) = sigma * normal."""
    n_features = density.means.shape[-1]
    rows, columns = torch.tril_indices(n_features, n_features, -1)
    inverse = torch.eye(n_features, dtype=density.means.dtype)
    inverse = inverse.repeat(*density.means.shape[:-1], 1, 1)
    inverse[..., rows, columns] = -density.couplings
    mixing = torch.linalg.inv(inverse) * density.scales.unsqueeze(-2)
    return mixing @ mixing.mT


@pytest.mark.parametrize("n_features", [1, 2, 3, 5])
def test_density_is_torchs_mixture_of_multivariate_normals(n_features):
    density = random_density(n_features, 4, batch=(7, 2))
    reference = MixtureSameFamily(
        Categorical(logits=density.log_weights),
        MultivariateNormal(density.means, covariances(density)),
    )
    x = 2 * torch.randn(7, 2, n_features, dtype=torch.float64)
    torch.testing.assert_close(density.log_prob(x), reference.log_prob(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("n_features", [1, 2, 3])
def test_density_integrates_to_one(n_features):
    """A grid: the trapezium rule is exact for smooth functions that vanish at the edges."""
    density = random_density(n_features, 3)
    axis = torch.linspace(-12, 12, 121, dtype=torch.float64)
    x = torch.cartesian_prod(*[axis] * n_features).reshape(-1, n_features)
    total = sum(density.log_prob(part).exp().sum() for part in x.split(200_000))
    assert total.item() * 0.2**n_features == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("n_features", [1, 3])
def test_draws_follow_the_density(n_features):
    """Share of stops, of components, and moments, against their closed forms."""
    n = 200_000
    one = random_density(n_features, 3, seed=3)
    many = NextConstituent(*(t.expand(n, *t.shape) for t in one))
    u = torch.from_numpy(np.random.default_rng(1).random((n, 2 + n_features)))
    stop, x = many.draw(u)
    p_stop = torch.sigmoid(one.stop_logit).item()
    assert stop.double().mean().item() == pytest.approx(p_stop, abs=5 / np.sqrt(n))
    w, means, cov = one.log_weights.exp(), one.means, covariances(one)
    mean = (w[:, None] * means).sum(0)
    away = means - mean
    covariance = (w[:, None, None] * (cov + away[:, :, None] * away[:, None, :])).sum(0)
    torch.testing.assert_close(x.mean(0), mean, rtol=0, atol=0.02)
    torch.testing.assert_close(torch.cov(x.T).reshape(covariance.shape), covariance,
                               rtol=0.03, atol=0.03)  # fmt: skip
    # higher moments too: the mean of ln p over draws is minus the entropy of the reference's draws
    reference = MixtureSameFamily(Categorical(probs=w), MultivariateNormal(means, cov))
    torch.manual_seed(0)
    expected = reference.log_prob(reference.sample((n,))).mean().item()
    assert one.log_prob(x).mean().item() == pytest.approx(expected, abs=0.02)


def test_one_component_maps_uniform_numbers_to_normal_ones():
    one = random_density(2, 1)
    u = torch.rand(20_000, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    _, x = NextConstituent(*(t.expand(len(u), *t.shape) for t in one)).draw(u)
    pulls = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariances(one)[0]), (x - one.means[0]).mT, upper=False
    )
    normal = torch.special.ndtri(u[:, 2:].mT)
    torch.testing.assert_close(pulls, normal, rtol=1e-8, atol=1e-8)
    assert kstest(pulls.flatten().numpy(), "norm").pvalue > 1e-3


def test_edges_of_the_uniform_numbers():
    density = random_density(3, 4, batch=(2,))
    u = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)[:, None].expand(2, 5)
    stop, x = density.draw(u)
    assert stop.tolist() == [True, False] and torch.isfinite(x).all()


def test_probabilities_to_stop_and_to_go_on_add_up():
    logit = torch.tensor([-200.0, -3.0, 0.0, 3.0, 200.0])
    density = NextConstituent(logit, *random_density(1, 1, batch=(5,))[1:])
    total = density.log_stop.exp() + density.log_go_on.exp()
    torch.testing.assert_close(total, torch.ones(5))
    assert density.log_stop[0] == -200 and density.log_go_on[-1] == -200


@settings(max_examples=30)
@given(
    n_features=st.integers(1, 4),
    n_components=st.integers(1, 5),
    size=st.sampled_from([0.0, 1.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_gradients_are_finite_even_far_from_the_data(n_features, n_components, size, seed):
    torch.manual_seed(seed)
    head = randomise(DensityHead(DIM, 4, n_features, n_components), seed)
    x = size * torch.randn(6, n_features)
    density = head.density(torch.randn(6, DIM))
    loss = -density.log_prob(x).mean() - density.log_stop.mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in head.out.parameters())
    assert head.out.weight.grad.abs().sum() > 0


def test_the_floor_bounds_the_density():
    head = DensityHead(DIM, 4, 3, 2, min_scale=0.05)
    with torch.no_grad():
        head.out.bias -= 50
        density = head.density(torch.zeros(1, DIM))
    assert density.scales.min() == pytest.approx(0.05, rel=1e-6)
    peak = density.log_prob(density.means[:, 0])
    assert peak <= -3 * np.log(0.05 * np.sqrt(2 * np.pi)) + 1e-4


def test_density_keeps_its_precision_under_autocast():
    torch.manual_seed(0)
    head = randomise(DensityHead(DIM, 4)).eval()
    features = torch.randn(5, DIM)
    expected = head.density(features)
    with torch.autocast("cpu", torch.bfloat16):
        found = head.density(features)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32 and torch.equal(a, b)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_features": 0}, "n_features"),
        ({"n_components": 0}, "n_components"),
        ({"min_scale": 0.0}, "min_scale"),
        ({"n_heads": 3}, "n_heads"),
    ],
)
def test_impossible_heads_are_refused(options, message):
    with pytest.raises(JetfmError, match=message):
        DensityHead(**({"dim": DIM, "n_heads": 4} | options))
