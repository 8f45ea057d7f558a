"""Sums over seeds: the right pairs, and errors that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.ledger.contrasts import Term, contrast
from jetfm.physics.statistics import standard_error

N_TRIALS = 4000


def _covered(draw, truth: float = 0.0) -> float:
    """Share of trials whose value is within two errors of the truth."""
    found = [contrast(draw()) for _ in range(N_TRIALS)]
    return float(np.mean([abs(one.value - truth) < 2 * one.error for one in found]))


def test_with_equal_seeds_everything_is_paired():
    """What seeds share cancels, between contenders and between sizes."""
    rng = np.random.default_rng(1)
    shared, gain = rng.normal(size=4), np.array([0.1, 0.2, 0.15, 0.12])
    terms = [Term(0.5, shared + gain, 100), Term(-0.5, shared, 100),
             Term(0.5, 3 * shared + gain, 1000), Term(-0.5, 3 * shared, 1000)]  # fmt: skip
    found = contrast(terms)
    assert found.value == pytest.approx(gain.mean())
    assert found.error == pytest.approx(standard_error(gain, n_sigma=2) / 2)
    assert found.n_seeds == 4


@pytest.mark.parametrize(("n_many", "n_few", "of_few"), [(5, 2, 0.3), (5, 2, 1.0), (6, 3, 2.0)])
def test_sizes_of_different_seeds_are_covered(n_many, n_few, of_few):
    """Two of the error, 95 % of the time; Welch's freedom is approximate, and so is the bound."""
    rng = np.random.default_rng(n_many + n_few)
    covered = _covered(
        lambda: [
            Term(0.5, rng.normal(0, 1, n_many), 100),
            Term(0.5, rng.normal(0, of_few, n_few), 10_000),
        ]
    )
    assert 0.93 < covered < 0.985


def test_two_seeds_of_the_largest_size_do_not_spoil_the_others():
    """Their spread is small and little known; with their freedom alone, all would be unknown."""
    rng = np.random.default_rng(2)
    many, few = rng.normal(0, 1, 5), rng.normal(0, 0.1, 2)
    both = contrast([Term(0.5, many, 100), Term(0.5, few, 10_000)])
    alone = contrast([Term(0.5, many, 100)])
    assert both.error == pytest.approx(alone.error, rel=0.1)
    pairs = [Term(0.5, many[:2], 100), Term(0.5, few, 10_000)]
    assert both.error < contrast(pairs).error / 2


def test_pretrainings_that_differ_are_seen_where_their_seeds_agree():
    """Two pre-trainings half a point apart, from which the seeds start in turn."""
    apart = np.array([0.80, 0.85, 0.80, 0.85, 0.80])
    terms = [Term(1, apart, 100, n_pretrainings=2)]
    assert contrast(terms).error == pytest.approx(0.05 / 2)
    assert contrast([Term(1, apart, 100)]).error < 0.02


def test_the_spread_of_pretrainings_is_shared_by_all_sizes():
    rng = np.random.default_rng(3)

    def draw(n_pretrainings):
        shift = rng.normal(0, 1, 2)
        return [
            Term(0.5, shift[np.arange(6) % 2] + rng.normal(0, 0.1, 6), size, n_pretrainings)
            for size in (100, 10_000)
        ]

    with_, without = _covered(lambda: draw(2)), _covered(lambda: draw(1))
    assert with_ > 0.67  # of two, plain standard errors: 70 % is all that can be had
    assert with_ > without + 0.1


def test_a_size_with_too_few_seeds_does_not_hide_the_spread_of_pretrainings():
    """Three pre-trainings, of which the largest size has met two."""
    apart = np.array([0.80, 0.85, 0.90, 0.80, 0.85, 0.90])
    terms = [Term(0.5, apart, 100, 3), Term(0.5, np.array([0.9, 0.9]), 10_000, 3)]
    assert contrast(terms).error == pytest.approx(0.5 * 0.05 / 3**0.5)
    few = contrast([Term(1.0, apart[:2], 10_000, 3)])
    assert few.error == pytest.approx(standard_error(apart[:2], n_sigma=2) / 2)
