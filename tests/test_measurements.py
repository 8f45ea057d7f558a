"""The ledger's numbers: right differences, and uncertainties that hold what they promise."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.measurements import _over_seeds

N_TEST = 2000


def test_difference_of_differences():
    runs = [
        np.array([0.9, 0.8]),
        np.array([0.7, 0.7]),
        np.array([0.95, 0.95]),
        np.array([0.9, 0.9]),
    ]
    measured = _over_seeds(runs, N_TEST, "")
    assert measured.value == pytest.approx((0.85 - 0.7) - (0.95 - 0.9))
    assert measured.n_seeds == 2 and measured.n_jets == N_TEST


def test_equal_seeds_are_not_certainty():
    measured = _over_seeds([np.array([0.8, 0.8, 0.8])], N_TEST, "")
    assert measured.uncertainty == pytest.approx(np.sqrt(0.8 * 0.2 / N_TEST))


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_one_sigma_covers_68_per_cent_for_any_number_of_seeds(n_seeds):
    rng = np.random.default_rng(n_seeds)
    seeds = rng.normal(0.8, 0.03, (4000, n_seeds))
    measured = [_over_seeds([row], 10**9, "") for row in seeds]
    covered = np.mean([abs(m.value - 0.8) < m.uncertainty for m in measured])
    assert covered == pytest.approx(0.683, abs=3 * np.sqrt(0.683 * 0.317 / 4000))
