"""What is not physical is counted and left out of observables; malformed samples are named."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.judging.jet_sample import JetSample, acceptance_of, count_violations
from tests.judging.jet_samples import random_sample


def test_violations_by_hand():
    x = np.array(
        [
            [10.0, 0.1, 0.1],  # jet 0: fine, but two were asked for
            [np.nan, 0.1, 0.1],  # jet 1: not finite, outside, no momentum, too hard to compute with
            [10.0, 0.1, -1.5],
            [0.0, 0.0, 0.0],
            [1e12, 0.0, 0.0],
            [-3.0, 0.1, 2.0],  # jet 3: no momentum, and that only
            [5.0, 0.1, 0.1],
            [5.0, 0.2, 0.1],
            [5.0, 0.1, 0.2],
        ]
    )
    sample = JetSample(x, [0, 1, 5, 5, 9], requested=[2, 4, 0, 3])
    found = count_violations(sample, (0.8, 0.8)).to_dict()
    assert found == {
        "n_jets": 4,
        "n_constituents": 9,
        "not_finite": 1,
        "no_momentum": 2,
        "outside": 1,
        "left_out": 4,
        "jets_with_any": 2,
        "empty_jets": 1,
        "undefined_ratios": 3,
        "other_multiplicity": 2,
    }
    assert count_violations(sample, (0.8, 1.6)).outside == 0
    np.testing.assert_array_equal(sample.physical.n_constituents, [1, 1, 0, 3])
    np.testing.assert_array_equal(sample.observables["n_constituents"], [1, 4, 0, 4])
    assert np.isnan(sample.observables["jet_mass"]).tolist() == [False, False, True, False]


def test_nothing_asked_for_is_not_zero_violations():
    sample = random_sample(1, [4, 5])
    assert count_violations(sample, (2.0, 2.0)).other_multiplicity is None


def test_acceptance_is_what_jets_span_or_their_radius():
    narrow = JetSample([[1.0, 0.1, 0.1]], [0, 1])
    assert acceptance_of(narrow) == (0.8, 0.8)
    wide = JetSample([[1.0, -0.95, 0.1], [-1.0, 3.0, 3.0]], [0, 2])  # one has no momentum
    assert acceptance_of(wide) == (0.95, 0.8)


def test_extreme_momenta_do_not_overflow():
    sample = JetSample([[9e8, 19.0, 0.1], [1.0, -19.0, 3.0], [1e-30, 0.0, 0.0]], [0, 3])
    assert all(np.isfinite(values).all() for values in sample.observables.values())


@settings(max_examples=30)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 3, 40, 130]), min_size=1, max_size=6),
    seed=st.integers(0, 20),
)
def test_take_commutes_with_everything(counts, seed):
    """Jets taken in any order, and twice, are the same jets."""
    rng = np.random.default_rng(seed)
    sample = random_sample(seed, counts)
    bad = rng.random(len(sample.constituents)) < 0.2
    x = np.where(bad[:, None], [-1.0, 0, 0], sample.constituents)
    ids = np.arange(len(x))
    sample = JetSample(x, sample.offsets, np.arange(len(counts)), np.arange(len(counts)), ids)
    jets = rng.integers(0, len(counts), 5)
    taken = sample.take(jets)
    for name, values in sample.observables.items():
        np.testing.assert_array_equal(taken.observables[name], values[jets])
    np.testing.assert_array_equal(taken.labels, jets)
    np.testing.assert_array_equal(taken.requested, jets)
    np.testing.assert_array_equal(taken.constituents, x[taken.ids])
    np.testing.assert_array_equal(taken.physical.ids, taken.ids[taken.constituents[:, 0] > 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((2, 4)), [0, 2]), r"constituents of shape \(2, 4\)"),
        ((np.zeros((2, 3)), [0]), "no jets"),
        ((np.zeros((2, 3)), [0, 3]), "offsets from 0 to 3"),
        ((np.zeros((2, 3)), [0, 2, 1, 2]), "rising"),
        ((np.zeros((2, 3)), [0, 2], [1, 1]), r"requested: found shape \(2,\)"),
        ((np.zeros((2, 3)), [0, 2], None, [1], [7]), r"ids: found shape \(1,\)"),
    ],
)
def test_malformed_samples(arguments, message):
    with pytest.raises(JetfmError, match=message):
        JetSample(*arguments)
