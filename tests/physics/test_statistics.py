"""Metrics against known truths, literals, scipy and scikit-learn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import differentiate, optimize, stats
from sklearn.metrics import roc_auc_score, roc_curve

from jetfm.errors import JetfmError
from jetfm.physics import statistics


def rng(seed=0):
    return np.random.default_rng(seed)


# --- resolution ---


def test_fit_is_unbiased_with_honest_uncertainties():
    """Pulls over 150 toys of 400 residuals have mean near 0 and width near 1."""
    fits = [statistics.fit_resolution(rng(i).normal(3.0, 8.3, 400)) for i in range(150)]
    pulls = np.array([[(f.sigma - 8.3) / f.sigma_uncertainty, (f.mean - 3) / f.mean_uncertainty]
                      for f in fits])  # fmt: skip
    # the window follows the sample, which costs up to 0.2 standard errors
    np.testing.assert_array_less(np.abs(pulls.mean(axis=0)), 0.3)
    np.testing.assert_allclose(pulls.std(axis=0), 1, atol=0.25)
    chi2 = np.mean([f.chi2 / f.ndf for f in fits])
    np.testing.assert_allclose(chi2, 1, atol=0.1)


@settings(max_examples=30)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-100, 100))
def test_fit_follows_units_and_shifts(scale, shift):
    residuals = rng().normal(0, 1, 2000)
    unit = statistics.fit_resolution(residuals)
    moved = statistics.fit_resolution(residuals * scale + shift * scale)
    np.testing.assert_allclose(moved.sigma, unit.sigma * scale, rtol=1e-3)
    np.testing.assert_allclose(moved.mean, (unit.mean + shift) * scale, atol=2e-3 * scale)
    np.testing.assert_allclose(moved.sigma_uncertainty, unit.sigma_uncertainty * scale, rtol=1e-2)


def test_bin_integrals_make_wide_bins_harmless():
    """Eight bins: using the density at the centres instead would widen sigma by 4 %."""
    residuals = rng().normal(0, 1, 400_000)
    fit = statistics.fit_resolution(residuals, bins=8)
    np.testing.assert_allclose(fit.sigma, 1, atol=4 * fit.sigma_uncertainty)


def test_fit_is_scipys_truncated_normal():
    """Many bins: the maximum of the unbinned likelihood, and its curvature."""
    residuals, reach = rng(3).normal(0.2, 1, 1500), 1.5
    fit = statistics.fit_resolution(residuals, bins=2000, window=(-reach, reach))
    inside = residuals[abs(residuals) <= reach]

    def cost(at):  # (2, ...), of mean and sigma
        mean, sigma = at
        edges = (-reach - mean) / sigma, (reach - mean) / sigma
        values = inside.reshape(-1, *[1] * mean.ndim)
        return -stats.truncnorm.logpdf(values, *edges, mean, sigma).sum(0)

    best = optimize.minimize(cost, [0, 1], bounds=[(-1, 1), (0.3, 3)]).x
    curvature = differentiate.hessian(cost, best, initial_step=0.02).ddf
    errors = np.sqrt(np.diag(np.linalg.inv(curvature)))
    np.testing.assert_allclose([fit.mean, fit.sigma], best, rtol=2e-3)
    found = [fit.mean_uncertainty, fit.sigma_uncertainty]
    np.testing.assert_allclose(found, errors, rtol=2e-3)


@pytest.mark.parametrize(("mean", "sigma"), [(0.1, 0.4), (-1.2, 0.03), (0.0, 10.0)])
def test_bin_integrals_are_scipys_intervals(mean, sigma):
    """Also where the peak is outside the window, and both ends of a bin are far in its tail."""
    edges, normal = np.linspace(-1, 1, 41), stats.Normal(mu=mean, sigma=sigma)
    found = statistics._log_bin_probabilities(edges, mean, math.log(sigma))
    expected = normal.logcdf(edges[:-1], edges[1:]) - normal.logcdf(-1, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_tails_do_not_enter():
    core, tail = rng(1).normal(0, 4, 20_000), rng(2).normal(0, 60, 1000)
    fit = statistics.fit_resolution(np.concatenate([core, tail]))
    np.testing.assert_allclose(fit.sigma, 4, rtol=0.06)
    assert fit.std > 10 and fit.n_outside > 800
    assert fit.n_fitted + fit.n_outside == 21_000


def test_flat_residuals_are_not_given_a_width():
    fit = statistics.fit_resolution(rng().uniform(-1, 1, 20_000), window=(-1, 1))
    assert math.isnan(fit.sigma) and math.isnan(fit.sigma_uncertainty)
    np.testing.assert_allclose(fit.core_half_width, 0.6827, atol=0.01)


def test_undefined_residuals_are_counted():
    residuals = rng().normal(size=1000)
    residuals[:30] = np.nan
    fit = statistics.fit_resolution(residuals)
    assert fit.n_undefined == 30 and fit.n_fitted + fit.n_outside == 970


@pytest.mark.parametrize(
    ("residuals", "found"),
    [
        (np.zeros(100), "no spread"),
        (np.arange(10.0), "within"),
        (np.full(100, np.nan), "no defined values among 100"),
        (np.append(np.arange(50.0), np.inf), "infinite"),
    ],
)
def test_residuals_that_cannot_be_fitted(residuals, found):
    with pytest.raises(JetfmError, match=found):
        statistics.fit_resolution(residuals)


# --- classifiers ---


@settings(max_examples=40)
@given(scores=st.lists(st.integers(0, 6), min_size=4, max_size=60), seed=st.integers(0, 10))
def test_auc_equals_scikit_learn_with_ties(scores, seed):
    labels = rng(seed).integers(0, 2, len(scores))
    labels[:2] = 0, 1
    auc = statistics.roc_auc(labels, np.array(scores, float), n_bootstrap=0)
    np.testing.assert_allclose(auc.value, roc_auc_score(labels, scores), atol=1e-12)


@pytest.mark.parametrize("decimals", [16, 1])
def test_curve_and_rejection_lie_on_scikit_learns_curve(decimals):
    """With few ties and with many, at the first threshold that keeps enough of the signal."""
    labels = rng(6).integers(0, 2, 700)
    scores = np.round(labels + rng(7).normal(size=700), decimals)
    of_background, of_signal, thresholds = roc_curve(labels, scores, drop_intermediate=False)
    signal, background = statistics.roc_curve(labels, scores, 50)
    points = np.searchsorted(of_signal, signal - 1e-9)
    np.testing.assert_allclose(signal, of_signal[points], rtol=1e-12)
    np.testing.assert_allclose(background, of_background[points], rtol=1e-12)
    for efficiency in (0.05, 0.3, 0.5, 1.0):
        found = statistics.rejection(labels, scores, efficiency)
        point = np.searchsorted(of_signal, efficiency - 1e-9)
        assert found.threshold == thresholds[point]
        np.testing.assert_allclose(found.efficiency, of_signal[point], rtol=1e-12)
        np.testing.assert_allclose(1 / found.value, of_background[point], rtol=1e-12)


def test_auc_uncertainty_covers():
    """Spread over fresh samples equals the bootstrap's mean estimate."""
    truth = stats.norm.cdf(1 / math.sqrt(2))  # two unit normals one apart

    def sample(seed):
        labels = rng(seed).integers(0, 2, 400)
        return labels, labels + rng(seed + 10_000).normal(size=400)

    results = [statistics.roc_auc(*sample(seed), n_bootstrap=50) for seed in range(200)]
    values = np.array([r.value for r in results])
    np.testing.assert_allclose(values.mean(), truth, atol=4 * values.std() / math.sqrt(200))
    np.testing.assert_allclose(np.mean([r.uncertainty for r in results]), values.std(), rtol=0.2)


def test_rejection_of_two_normals():
    """At 30 % signal efficiency the threshold is known, and so is the background share."""
    n = 200_000
    labels = np.repeat([1, 0], n)
    scores = np.concatenate([rng(1).normal(1.5, 1, n), rng(2).normal(0, 1, n)])
    result = statistics.rejection(labels, scores, 0.3)
    truth = 1 / stats.norm.sf(stats.norm.isf(0.3) + 1.5)
    np.testing.assert_allclose(result.value, truth, atol=4 * result.uncertainty)
    np.testing.assert_allclose(result.efficiency, 0.3, atol=1e-5)
    np.testing.assert_allclose(result.high - result.low, 2 * result.uncertainty, rtol=0.05)


def test_rejection_counts_by_hand():
    labels = np.array([1] * 10 + [0] * 8)
    scores = np.array([*range(10, 0, -1), 9.5, 8.5, 1.5, 0, 0, 0, 0, 0], float)
    result = statistics.rejection(labels, scores, 0.3)  # the third signal has a score of 8
    assert (result.threshold, result.n_passed, result.value) == (8.0, 2, 4.0)
    np.testing.assert_allclose(result.uncertainty, 4 * math.sqrt(0.75 / 2))
    assert statistics.rejection(labels, scores, 1.0).n_passed == 3


def test_rejection_without_survivors_has_a_lower_limit():
    labels = np.array([1] * 5 + [0] * 100)
    result = statistics.rejection(labels, labels.astype(float))
    assert math.isinf(result.value) and math.isinf(result.high) and result.n_passed == 0
    # Clopper-Pearson: (1 - p)^100 = (1 - 0.6827) / 2 at the upper end of p
    p = 1 - ((1 - statistics.CORE) / 2) ** 0.01
    np.testing.assert_allclose(result.low, 1 / p, rtol=1e-6)


def test_tied_scores_raise_the_efficiency():
    labels, scores = np.array([1, 1, 1, 1, 0, 0]), np.array([1, 1, 1, 0, 1, 0], float)
    result = statistics.rejection(labels, scores, 0.3)
    assert result.efficiency == 0.75 and result.value == 2.0


def test_accuracy():
    result = statistics.accuracy(np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1]))
    assert result.value == 0.75 and result.n == 4
    np.testing.assert_allclose(result.uncertainty, math.sqrt(0.75 * 0.25 / 4))


@pytest.mark.parametrize("n", [1, 20, 400])
def test_none_or_all_right_is_not_certain(n):
    """Within a factor of two of half the exact interval of 68 %."""
    for chosen in (0, n):
        found = statistics.share_of(chosen, n)
        interval = stats.binomtest(chosen, n).proportion_ci(statistics.CORE, "exact")
        assert found.value == chosen / n
        assert 0.5 < found.uncertainty / ((interval.high - interval.low) / 2) < 2


def test_impossible_requests():
    with pytest.raises(JetfmError, match="0 and 1, both present"):
        statistics.roc_auc(np.ones(4), np.arange(4.0))
    with pytest.raises(JetfmError, match="not finite"):
        statistics.rejection(np.array([0, 1]), np.array([0.0, np.nan]))
    with pytest.raises(JetfmError, match="shapes"):
        statistics.roc_auc(np.array([0, 1]), np.zeros((2, 1)))
    with pytest.raises(JetfmError, match="efficiency"):
        statistics.rejection(np.array([0, 1]), np.arange(2.0), 0)


@pytest.mark.parametrize("ties", [False, True])
def test_pairwise_auc_is_scikit_learns_and_its_uncertainty_that_of_resampling(ties):
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(4), [150, 80, 60, 110])
    logits = rng.normal(0, 1, (400, 4)) + np.eye(4)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if ties:
        p = np.round(p, 1) + 0.01
        p /= p.sum(1, keepdims=True)
    found = statistics.pairwise_auc(labels, p)
    expected = roc_auc_score(labels, p, multi_class="ovo")
    assert found.value == pytest.approx(expected, abs=1e-12)
    resampled = []
    for _ in range(300):  # within classes
        some = np.concatenate([rng.choice(np.flatnonzero(labels == k), (labels == k).sum())
                               for k in range(4)])  # fmt: skip
        resampled.append(statistics.pairwise_auc(labels[some], p[some]).value)
    assert found.uncertainty == pytest.approx(np.std(resampled), rel=0.15)


def test_pairwise_auc_of_two_classes_is_the_auc():
    rng = np.random.default_rng(4)
    labels = np.arange(600) % 2
    score = rng.normal(1.2 * labels, 1)
    p = 1 / (1 + np.exp(-score))
    found, plain = (
        statistics.pairwise_auc(labels, np.stack([1 - p, p], 1)),
        statistics.roc_auc(labels, p),
    )
    assert found.value == pytest.approx(plain.value, abs=1e-12)
    assert found.uncertainty == pytest.approx(plain.uncertainty, rel=0.2)


def test_pairwise_auc_needs_all_classes():
    with pytest.raises(JetfmError, match="no jet of class 1"):
        statistics.pairwise_auc(np.array([0, 2]), np.eye(3)[[0, 2]])
