"""Planted copies are found, fresh jets are not taken for copies, missing modes are seen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from jetfm.errors import JetfmError
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.memorisation import coverage, neighbours, share, token_duplicates
from tests.judging.jet_samples import joined, random_sample, sample_of


def tokens(jets) -> JetSample:
    """A sample with these ids and any constituents."""
    counts = [len(jet) for jet in jets]
    sample = random_sample(0, counts)
    return JetSample(sample.constituents, sample.offsets, ids=np.concatenate(jets).astype(int))


TRAINING = tokens([[1, 2, 3], [5, 5, 1], [7], []])


def values(result):
    return {name: (one.measured.value, one.floor.value) for name, one in result.items()}


def test_copies_of_tokens_by_hand():
    sample = tokens([[1, 2, 3], [3, 2, 1], [5, 1, 5], [5, 1], [5, 1, 1], [3, 1, 2], [7], [9]])
    truth = tokens([[7], [1, 3, 2], [2, 2], [4], [4], [6], [6, 6], [8]])
    found = values(token_duplicates(sample, truth, TRAINING))
    assert found["copied"] == (5 / 8, 2 / 8)  # as multisets: 5, 5, 1 is neither 5, 1 nor 5, 1, 1
    assert found["copied_sequence"] == (2 / 8, 1 / 8)
    assert found["repeated"] == (2 / 8, 1 / 8)
    assert found["repeated_sequence"] == (0, 1 / 8)


def test_an_empty_jet_copies_an_empty_jet_alone():
    result = token_duplicates(tokens([[], [0]]), tokens([[0], [0, 0]]), TRAINING)
    assert values(result)["copied"] == (0.5, 0)


def test_repetitions_are_counted_among_equally_many_jets():
    """All jets equal: n - 1 of n repeat, with n that of the smaller sample."""
    result = token_duplicates(tokens([[1]] * 50), tokens([[2]] * 5), TRAINING)
    assert values(result)["repeated"] == (4 / 5, 4 / 5)
    assert result["repeated"].measured.n == 5 and result["copied"].measured.n == 50


def test_ids_are_needed():
    with pytest.raises(JetfmError, match="no ids of truth; expected ids of all three"):
        token_duplicates(TRAINING, random_sample(1, [3]), TRAINING)


def test_fresh_jets_are_as_near_as_the_truth():
    training, truth, sample = sample_of(1, 1500), sample_of(2, 800), sample_of(3, 700)
    found = neighbours(sample, truth, training)
    ratio, close = found["distance_ratio"].measured, found["close"].measured
    assert abs(ratio.value - 1) < 4 * ratio.uncertainty < 0.3
    assert abs(close.value - 0.01) < 4 * close.uncertainty
    np.testing.assert_allclose(ratio.uncertainty, found["distance_ratio"].floor.uncertainty, rtol=1)
    assert found["distance_ratio"].floor.value == 1
    np.testing.assert_allclose(found["close"].floor.value, 0.01, atol=2 / 800)


def test_planted_copies_are_close_to_training_jets():
    """One jet in five is a training jet with its constituents in another order."""
    training, truth = sample_of(1, 1500), sample_of(2, 800)
    copies = training.take(np.arange(0, 800, 8))  # 100
    flipped = JetSample(copies.constituents[::-1], copies.offsets[-1] - copies.offsets[::-1])
    found = neighbours(joined(sample_of(3, 400), flipped), truth, training)
    close = found["close"].measured
    assert abs(close.value - 0.2 - 0.8 * 0.01) < 4 * math.sqrt(0.01 / 400)
    everything = neighbours(copies, truth, training)["distance_ratio"].measured
    assert everything.value == 0


def test_jets_off_the_truth_are_far():
    training, truth = sample_of(1, 800), sample_of(2, 800)
    ratio = neighbours(sample_of(3, 800, width=0.6), truth, training)["distance_ratio"].measured
    assert ratio.value > 1 + 5 * ratio.uncertainty


def test_undefined_jets_are_counted():
    short = random_sample(4, [0, 1, 2, 2])
    found = neighbours(joined(sample_of(3, 20), short), sample_of(2, 20), sample_of(1, 20))
    assert found["close"].measured.n == 20 and found["close"].measured.n_undefined == 4
    nothing = neighbours(short, sample_of(2, 20), sample_of(1, 20))["close"].measured
    assert math.isnan(nothing.value) and nothing.n_undefined == 4
    assert math.isnan(coverage(short, sample_of(2, 20)).measured.value)


def test_coverage():
    """Fresh jets cover what the truth covers; few or similar jets cover less; the truth, all."""
    truth = sample_of(1, 1000)
    fresh = coverage(sample_of(2, 1000), truth)
    assert abs(fresh.measured.value - fresh.floor.value) < 4 * fresh.floor.uncertainty
    assert 0.3 < fresh.floor.value < 0.8
    one = sample_of(3, 1).take(np.zeros(1000, int))
    assert coverage(one, truth).measured.value == 1 / 500
    few = coverage(sample_of(2, 50), truth)
    assert few.measured.value <= 0.1 and few.floor.value <= 0.1  # as many on both sides
    narrow = coverage(sample_of(4, 1000, width=0.02), truth)
    assert narrow.measured.value < narrow.floor.value - 4 * narrow.floor.uncertainty


def test_share_of_none_is_uncertain():
    none = share(np.zeros(98, bool))
    assert none.value == 0 and none.n == 98
    np.testing.assert_allclose(none.uncertainty, math.sqrt(0.01 * 0.99 / 98))
