"""The energy mover's distance: by hand, against scipy's, and what it does not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance_nd

from jetfm.physics.energy_mover import energy_mover_distance

SIZES = st.integers(1, 12)


def jet_of(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, n])
    return np.column_stack([rng.exponential(20, n) + 0.5, rng.normal(0, 0.3, (n, 2))])


def rotated(jet: np.ndarray, angle: float) -> np.ndarray:
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return np.column_stack([jet[:, 0], jet[:, 1:] @ turn.T])


@settings(max_examples=40)
@given(SIZES, SIZES, st.integers(0, 99))
def test_it_is_scipys_distance_of_centred_jets(n, m, seed):
    jets = jet_of(n, seed), jet_of(m, seed + 1)
    points = [jet[:, 1:] - np.average(jet[:, 1:], axis=0, weights=jet[:, 0]) for jet in jets]
    expected = wasserstein_distance_nd(*points, jets[0][:, 0], jets[1][:, 0])
    assert energy_mover_distance(*jets) == pytest.approx(expected, abs=1e-9)
    assert energy_mover_distance(*jets[::-1]) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=40)
@given(SIZES, SIZES, st.integers(0, 99), st.floats(-2, 2), st.floats(0.1, 10))
def test_a_shift_and_a_factor_on_pt_are_not_seen(n, m, seed, shift, factor):
    jet, other = jet_of(n, seed), jet_of(m, seed + 1)
    moved = other * [factor, 1, 1] + [0, shift, -2 * shift]
    assert energy_mover_distance(jet, moved) == pytest.approx(
        energy_mover_distance(jet, other), abs=1e-9
    )
    assert energy_mover_distance(other, moved) == pytest.approx(0, abs=1e-9)


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.floats(0, math.pi / 2))
def test_two_prongs_by_hand(a, b, angle):
    """Two equal prongs a distance 2a apart, and 2b, turned: each goes to the nearer one."""
    first, second = (np.array([[10.0, r, 0], [10.0, -r, 0]]) for r in (a, b))
    expected = math.hypot(a - b, 2 * math.sqrt(a * b) * math.sin(angle / 2))
    assert energy_mover_distance(first, rotated(second, angle)) == pytest.approx(expected, abs=1e-9)


def test_a_jet_without_constituents_has_no_distance():
    empty, jet = np.zeros((0, 3)), jet_of(3, 1)
    assert all(map(math.isnan, (energy_mover_distance(*j) for j in ((empty, jet), (jet, empty)))))
