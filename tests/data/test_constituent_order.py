"""Constituents change places within their jet alone: by falling pt, or at random."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jetfm.data.constituent_order import by_falling_pt, shuffled

COUNTS = st.lists(st.one_of(st.integers(0, 2), st.integers(3, 140)), max_size=8)


@given(counts=COUNTS, seed=st.integers(0, 2**31), ties=st.booleans())
def test_pt_falls_in_every_jet_as_if_each_were_sorted_alone(counts, seed, ties):
    counts = np.array(counts, int)
    pt = np.random.default_rng(seed).exponential(20.0, counts.sum())
    pt = pt.round(-1) if ties else pt
    order = by_falling_pt(pt, counts)
    ends = np.cumsum(counts)
    expected = [start + np.argsort(-pt[start:end], kind="stable")
                for start, end in zip(ends - counts, ends, strict=True)]  # fmt: skip
    expected = np.concatenate([*expected, np.zeros(0, int)])
    if order is None:
        np.testing.assert_array_equal(expected, np.arange(len(pt)))
    else:
        np.testing.assert_array_equal(order, expected)
        assert by_falling_pt(pt[order], counts) is None


def test_a_shuffle_keeps_padding_last():
    mask = np.arange(60) < np.array([0, 1, 60, 17])[:, None]
    order = shuffled(mask, np.random.default_rng(0))
    np.testing.assert_array_equal(np.take_along_axis(mask, order, axis=1), mask)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(60), (4, 1)))
    assert not np.array_equal(order[2], np.arange(60))


def test_a_shuffle_is_uniform():
    """All 24 orders of four constituents are equally likely: chi-square of 24 000 jets."""
    mask = np.arange(6) < np.full((24_000, 1), 4)
    order = shuffled(mask, np.random.default_rng(0))[:, :4]
    _, seen = np.unique(order, axis=0, return_counts=True)
    chi2 = ((seen - 1000) ** 2 / 1000).sum()
    assert len(seen) == 24 and 9.3 < chi2 < 49.7  # 0.5 % to 99.9 % for 23 degrees of freedom
