"""Distances against closed forms, libraries, and fresh samples of known distributions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import linalg, stats
from torchmetrics.image.fid import FrechetInceptionDistance

from jetfm.errors import JetfmError
from jetfm.judging.distances import (
    Frechet,
    QuantileKL,
    TailExcess,
    Values,
    Wasserstein,
    frechet_distance,
    judge,
    resampled,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(seed, n, mean=0.0, width=1.0):
    return Values.of_jets(rng(seed).normal(mean, width, n))


def ones(values: Values):
    return np.ones(values.n_jets)


def drawn_jets(seed, counts, width=1.0):
    """Jagged jets with ties, how often each was drawn, and the drawn values, repeated."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    numbers = np.round(2 * rng(seed).normal(0, width, offsets[-1])) / 2
    values = Values.of_constituents(numbers, offsets)
    weights = resampled(rng([seed, 5]), values.n_jets, 40)
    return values, weights, np.repeat(values.values, weights[values.jets].astype(int))


# --- values ---


def test_nan_is_left_out_and_counted():
    result = judge(Wasserstein, Values.of_jets(np.append(np.arange(9.0), np.nan)), normal(1, 30), 2)
    assert (result.measured.n, result.measured.n_undefined) == (9, 1)
    rows = Values.of_jets(np.array([[1.0, np.nan], [1.0, 2.0]]))
    np.testing.assert_array_equal(rows.values, [[1.0, 2.0]])
    np.testing.assert_array_equal(rows.jets, [1])


def test_nothing_defined_is_none_in_json():
    result = judge(QuantileKL, Values.of_jets(np.full(5, np.nan)), normal(1, 30), 2)
    assert math.isnan(result.measured.value) and result.measured.n_undefined == 5
    assert '"value": null' in json.dumps(result.to_dict(), allow_nan=False)


def test_bad_input():
    with pytest.raises(JetfmError, match="pt: found infinite values"):
        Values.of_jets(np.array([1.0, np.inf]), "pt")
    with pytest.raises(JetfmError, match="found 2 values; expected 3"):
        Values.of_constituents(np.zeros(2), np.array([0, 3]))
    with pytest.raises(JetfmError, match="n_bootstrap"):
        judge(Wasserstein, normal(1, 5), normal(2, 5), n_bootstrap=1)


# --- Wasserstein ---


@given(
    counts=st.lists(st.integers(0, 6), min_size=2, max_size=12),
    other=st.lists(st.integers(0, 140), min_size=2, max_size=5),
    seed=st.integers(0, 100),
)
def test_weighted_distance_equals_scipy(counts, other, seed):
    """Jagged jets, some empty, drawn with replacement; integers, so that many values tie."""
    counts[0], other[0] = 1, 2
    samples = []
    for k, lengths in enumerate((counts, other)):
        values = rng([seed, k]).integers(-5, 9, sum(lengths)).astype(float)
        samples.append(Values.of_constituents(values, np.concatenate([[0], np.cumsum(lengths)])))
    weights = [resampled(rng([seed, k, 5]), v.n_jets, 7) for k, v in enumerate(samples)]
    found = Wasserstein(*samples)(*weights)
    drawn = [w[v.jets] for w, v in zip(weights, samples, strict=True)]
    if not all(w.sum() > 0 for w in drawn):
        assert math.isnan(found)
        return
    expected = stats.wasserstein_distance(*(v.values for v in samples), *drawn)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_distance_of_shifted_samples_is_the_shift():
    values = normal(0, 5000)
    result = judge(Wasserstein, Values.of_jets(values.values + 0.7), values, 20)
    np.testing.assert_allclose(result.measured.value, 0.7, rtol=1e-9)
    assert 0 < result.measured.uncertainty < 0.05


@pytest.mark.parametrize("kind", [Wasserstein, QuantileKL, Frechet])
def test_a_sample_is_at_no_distance_from_itself(kind):
    values = Values.of_jets(rng().normal(size=(400, 4) if kind is Frechet else 400))
    np.testing.assert_allclose(kind(values, values)(ones(values), ones(values)), 0, atol=1e-10)


@pytest.mark.parametrize("kind", [Wasserstein, QuantileKL])
def test_floor_is_what_equal_samples_score(kind):
    """Fresh pairs of one distribution score the floor; a shift of 0.3 stands far above it."""
    fresh = []
    for i in range(80):
        pair = normal(i, 500), normal(i + 999, 2000)
        fresh.append(kind(*pair)(*map(ones, pair)))
    floor = judge(kind, normal(76, 500), normal(77, 2000), 80).floor
    np.testing.assert_allclose(floor.value, np.mean(fresh), rtol=0.2)
    np.testing.assert_allclose(floor.uncertainty, np.std(fresh), rtol=0.4)
    shifted = judge(kind, normal(78, 500, 0.3), normal(77, 2000), 2).measured
    assert floor.n == 500 and shifted.value > floor.value + 3 * floor.uncertainty


def test_floor_falls_with_the_sample_size():
    """As 1 / sqrt(n)."""
    sample = rng().normal(size=6400)
    small, large = (Values.of_jets(values) for values in (sample[:400], sample))
    floors = [judge(Wasserstein, values, values, 60).floor.value for values in (small, large)]
    np.testing.assert_allclose(floors[0] / floors[1], 4, rtol=0.3)


def test_uncertainty_is_of_jets_and_not_of_constituents():
    """Ten equal constituents a jet hold no more than one: the spread is that of the jets."""
    jets, offsets = rng(1).normal(size=300), np.arange(301) * 10
    repeated = Values.of_constituents(np.repeat(jets, 10), offsets)
    truth = normal(3, 300, 1.0)
    many, one = (judge(Wasserstein, v, truth) for v in (repeated, Values.of_jets(jets)))
    np.testing.assert_allclose(many.measured.value, one.measured.value, rtol=1e-9)
    np.testing.assert_allclose(many.measured.uncertainty, one.measured.uncertainty, rtol=1e-9)
    # of two normals one apart, the distance is the difference of the means
    np.testing.assert_allclose(one.measured.uncertainty, math.sqrt(2 / 300), rtol=0.3)


def test_one_seed_fixes_everything():
    first, again, other = (
        judge(QuantileKL, normal(1, 90), normal(2, 90), 5, seed) for seed in (3, 3, 4)
    )
    assert first == again and first.measured.uncertainty != other.measured.uncertainty


# --- divergence ---


def test_divergence_of_two_normals():
    """Against the binned integral, within the uncertainty; and d^2 / 2 but for the binning."""
    n, shift = 100_000, 0.5
    truth, sample = normal(1, n), normal(2, n, shift)
    edges = np.concatenate([[-np.inf], stats.norm.ppf(np.arange(1, 30) / 30), [np.inf]])
    expected = np.mean(np.log(1 / 30 / np.diff(stats.norm.cdf(edges - shift))))
    result = judge(QuantileKL, sample, truth, 20).measured
    np.testing.assert_allclose(result.value, expected, atol=4 * result.uncertainty)
    assert result.uncertainty < 0.02 * expected
    np.testing.assert_allclose(expected, shift**2 / 2, rtol=0.03)
    assert expected < shift**2 / 2  # binning loses information


def test_divergence_of_drawn_jets_is_scipys_entropy():
    """Of histograms of the values, each as often as its jet was drawn."""
    sides = drawn_jets(1, np.arange(40) % 9, 1.3), drawn_jets(2, np.arange(60) % 7)
    (sample, weights, drawn), (truth, truth_weights, truth_drawn) = sides
    divergence = QuantileKL(sample, truth)
    bins = np.concatenate([[-np.inf], divergence.edges, [np.inf]])
    q, p = (np.histogram(values, bins)[0] + 0.5 for values in (drawn, truth_drawn))
    found = divergence(weights, truth_weights)
    np.testing.assert_allclose(found, stats.entropy(p, q), rtol=1e-12)


def test_divergence_has_the_bias_of_its_bins():
    """Equal distributions: (bins - 1) / 2 (1 / n + 1 / m) on average."""
    pairs = [(normal(i, 600), normal(i + 500, 3000)) for i in range(100)]
    found = np.mean([QuantileKL(*pair)(*map(ones, pair)) for pair in pairs])
    np.testing.assert_allclose(found, 29 / 2 * (1 / 600 + 1 / 3000), rtol=0.1)


def test_a_missed_half_is_neither_infinite_nor_zero():
    """All of the sample in one bin of the truth: the other 29 are missed."""
    truth, n = Values.of_jets(np.arange(3000.0)), 2000
    sample = Values.of_jets(np.full(n, 5.0))
    divergence = QuantileKL(sample, truth)
    assert (divergence.n_bins, divergence.n_missed) == (30, 29)
    total = n + 15
    expected = -29 / 30 * math.log(30 * 0.5 / total) - math.log(30 * (n + 0.5) / total) / 30
    np.testing.assert_allclose(divergence(ones(sample), ones(truth)), expected, rtol=1e-9)
    more = Values.of_jets(np.full(10 * n, 5.0))  # surer that nothing is there
    assert QuantileKL(more, truth)(ones(more), ones(truth)) > expected + 2


def test_integers_have_a_bin_for_each_value():
    """Quantiles of 0, 1, 2 coincide; no bin of the truth is empty."""
    truth = Values.of_jets(np.repeat([0.0, 1.0, 2.0], [500, 300, 200]))
    sample = Values.of_jets(np.repeat([0.0, 1.0, 2.0], [2000, 3000, 5000]))
    divergence = QuantileKL(sample, truth)
    np.testing.assert_array_equal(divergence.edges, [1, 2])
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    np.testing.assert_allclose(divergence(ones(sample), ones(truth)), p @ np.log(p / q), rtol=5e-3)


def test_a_constant_truth_is_one_bin():
    truth, sample = Values.of_jets(np.ones(50)), normal(1, 50)
    assert QuantileKL(sample, truth).n_bins == 1
    assert judge(QuantileKL, sample, truth, 3).measured.value == 0


# --- Frechet ---


def test_frechet_of_commuting_covariances():
    """Of diagonal ones: sum of squared differences of means and of widths."""
    means, widths = rng(1).normal(size=(2, 5)), rng(2).uniform(0, 2, (2, 5))
    widths[1, 3] = 0
    found = frechet_distance(means[0], np.diag(widths[0] ** 2), means[1], np.diag(widths[1] ** 2))
    expected = ((means[0] - means[1]) ** 2 + (widths[0] - widths[1]) ** 2).sum()
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_frechet_equals_matrix_roots():
    a, b = rng(3).normal(size=(2, 6, 6))
    a, b = a @ a.T, b @ b.T
    expected = np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    zero = np.zeros(6)
    np.testing.assert_allclose(frechet_distance(zero, a, zero, b), expected, rtol=1e-8)
    np.testing.assert_allclose(frechet_distance(zero, b, zero, a), expected, rtol=1e-8)


def test_frechet_of_normal_samples():
    """Shift of 0.5 and a width of 1.2 in units of the truth's width, which is 10 in one feature."""
    n, scale = 40_000, np.array([10.0, 1.0, 1.0])
    truth = Values.of_jets(rng(1).normal(size=(n, 3)) * scale)
    sample = Values.of_jets((rng(2).normal(size=(n, 3)) * [1, 1.2, 1] + [0.5, 0, 0]) * scale)
    result = judge(Frechet, sample, truth, 20)
    np.testing.assert_allclose(
        result.measured.value, 0.25 + 0.04, atol=4 * result.measured.uncertainty
    )
    assert result.measured.uncertainty < 0.02 and result.floor.value < 0.001


def test_frechet_of_drawn_jets_is_torchmetrics():
    """Of features as they are, each row as often as it was drawn; the third is nearly the first."""
    samples, weights, rows = [], [], []
    for seed, n in ((7, 300), (8, 200)):
        x = rng(seed).normal(size=(n, 5)) * [30.0, 1, 1, 0.1, 1]
        x[:, 2] = x[:, 0] / 30 + 0.01 * x[:, 2]
        samples.append(Values.of_jets(x + [seed, 0, 0, 0, seed / 8]))
        weights.append(resampled(rng([seed, 5]), n, n))
        rows.append(np.repeat(samples[-1].values, weights[-1].astype(int), axis=0))
    unit = samples[1].values.std(0)
    score = FrechetInceptionDistance(torch.nn.Identity(), input_img_size=(5,)).set_dtype(
        torch.float64
    )
    for real, x in enumerate(rows):
        score.update(torch.from_numpy(x / unit), real=bool(real))
    found = Frechet(*samples)(*weights)
    np.testing.assert_allclose(found, score.compute().item(), rtol=1e-8)


def test_frechet_weights_repeat_jets():
    x = rng(4).normal(size=(30, 3))
    weights = resampled(rng(5), 30, 30)
    truth = Values.of_jets(rng(6).normal(size=(50, 3)))
    sample, repeated = Values.of_jets(x), Values.of_jets(np.repeat(x, weights.astype(int), axis=0))
    np.testing.assert_allclose(
        Frechet(sample, truth)(weights, ones(truth)),
        Frechet(repeated, truth)(ones(repeated), ones(truth)),
        rtol=1e-9,
    )


# --- tails ---


def test_tails_twice_as_heavy_or_as_light():
    """Truth: 1000 even values, ten in either tail. A factor of two either way is ln 2."""
    truth = Values.of_jets(np.arange(1000.0))
    heavy = Values.of_jets(
        np.concatenate([np.arange(1000.0), np.arange(10), 990.0 + np.arange(10)])
    )
    found = TailExcess(heavy, truth)(ones(heavy), ones(truth))
    shares = (20.5 / 1021, 10.5 / 1001)
    np.testing.assert_allclose(found, math.log(shares[0] / shares[1]), rtol=1e-12)
    light = Values.of_jets(np.arange(5.0, 995))
    found = TailExcess(light, truth)(ones(light), ones(truth))
    np.testing.assert_allclose(found, math.log((10.5 / 1001) / (5.5 / 991)), rtol=1e-12)


def test_tails_of_drawn_jets_are_those_of_scipys_distribution():
    """Shares beyond the quantiles of all of the truth, half a count added to each."""
    sides = drawn_jets(1, np.arange(200) % 9, 1.5), drawn_jets(2, np.arange(300) % 7)
    (sample, weights, _), (truth, truth_weights, _) = sides
    low, high = np.quantile(truth.values, (0.01, 0.99))
    shares = []
    for *_, drawn in sides:
        n, cdf = len(drawn), stats.ecdf(drawn).cdf
        beyond = np.array([cdf.evaluate(low), 1 - cdf.evaluate(np.nextafter(high, 0))])
        shares.append((beyond * n + 0.5) / (n + 1))
    expected = np.abs(np.log(shares[0] / shares[1])).mean()
    found = TailExcess(sample, truth)(weights, truth_weights)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_tails_of_equal_samples_are_at_the_floor_and_a_missing_tail_is_finite():
    truth = normal(1, 4000)
    equal = judge(TailExcess, normal(2, 4000), truth, 30)
    assert equal.measured.value < equal.floor.value + 3 * equal.floor.uncertainty
    narrow = judge(TailExcess, normal(3, 4000, 0.0, 0.3), truth, 30).measured
    assert 3 < narrow.value < 6  # ln(40.5 / 0.5) = 4.4
