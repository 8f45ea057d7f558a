"""Uncertainties that cover, ranks that agree with scipy, and no place for lower limits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, rankdata

from jetfm.benchmark.format import Point
from jetfm.benchmark.statistics import Summary, best, ranks, summary


def point(accuracy, pretraining=None, error=0.0, cut=False, **more) -> Point:
    n = len(accuracy)
    values = {"auc": accuracy, "accuracy_error": [error] * n, "auc_error": [error] * n}
    turns = [0] * n if pretraining is None else pretraining
    return Point(task="tagging", size=100, accuracy=accuracy, cut=[cut] * n, pretraining=turns,
                 **values, **more)  # fmt: skip


def shown(value, error=0.01, **more) -> Summary:
    """Of one seed, known to some uncertainty from the test jets."""
    return replace(summary(point([value], error=error), "accuracy"), **more)


def test_parts_of_the_uncertainty_by_hand():
    one = summary(point([0.80, 0.90, 0.84, 0.92, 0.82], [0, 1, 0, 1, 0], error=0.03), "accuracy")
    assert one.value == pytest.approx(0.856)
    # about .82 and .91: squares .0008 and .0002 over 5 - 2
    assert one.seeds == pytest.approx(np.sqrt(0.001 / 3))
    assert one.pretrainings == pytest.approx(0.09 / np.sqrt(2))
    assert one.jets == pytest.approx(0.03)
    # Student's quantile of one standard deviation with one degree of freedom is 1.837
    assert one.error == pytest.approx(np.hypot(0.03, 1.8373 * 0.045), rel=1e-4)
    alone = summary(point([0.8], error=0.03), "accuracy")
    assert (alone.seeds, alone.pretrainings, alone.error) == (None, None, pytest.approx(0.03))


_SPREADS = [(0, 0.01), (0.01, 0.01), (0.01, 0.001)]


_FITS = [(6, 1), (6, 2), (6, 3), (5, 2), (2, 2), (2, 1)]  # overnight has 5 and 2


@pytest.mark.parametrize(
    ("n_seeds", "n_pretrainings", "of_pretrainings", "of_seeds"),
    [(*fits, *spreads) for fits in _FITS for spreads in _SPREADS if fits[1] > 1 or not spreads[0]],
)
def test_the_error_covers_the_truth(n_seeds, n_pretrainings, of_pretrainings, of_seeds):
    """By construction in 68 % or more of trials, whether seeds or pre-trainings dominate."""
    rng, turns = np.random.default_rng(3), np.arange(n_seeds) % n_pretrainings
    hits = []
    for _ in range(700):
        shift = rng.normal(0, of_pretrainings, n_pretrainings)
        values = 0.8 + shift[turns] + rng.normal(0, of_seeds, n_seeds)
        one = summary(point(values.tolist(), turns.tolist()), "accuracy")
        hits.append(abs(one.value - 0.8) < one.error)
    assert 0.63 < np.mean(hits) < 0.88  # .683 has a standard deviation of .018


@pytest.mark.parametrize("n_seeds", [2, 5])
@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.833])
def test_seeds_that_share_labelled_jets_say_less(n_seeds, overlap):
    """Each seed's accuracy is a mean over what its jets, some of them common to all, teach."""
    rng, hits = np.random.default_rng(5), []
    n_common = round(overlap * 1000)
    for _ in range(400):
        common = rng.normal(0, 1, n_common).sum()
        own = rng.normal(0, 1, (n_seeds, 1000 - n_common)).sum(1)
        values = (0.8 + 0.01 * (common + own) / 1000**0.5).tolist()
        one = summary(point(values), "accuracy", overlap)
        hits.append(abs(one.value - 0.8) < one.error)
    assert 0.61 < np.mean(hits) < 0.76  # .683 has a standard deviation of .023
    plain = summary(point(values), "accuracy")
    assert one.error > plain.error and one.value == plain.value
    assert np.isinf(summary(point(values), "accuracy", 1.0).error)


def rejected(passed: list[int], n_background: int = 3000) -> Point:
    """What `judged` says where so many background jets pass."""
    found = {"": [], "_low": [], "_high": [], "_passed": passed}
    for n in passed:
        interval = binomtest(n, n_background).proportion_ci(0.683, "exact")
        found[""].append(n_background / n if n else None)
        found["_low"].append(1 / interval.high)
        found["_high"].append(1 / interval.low if interval.low else None)
    columns = {f"rejection{e}{end}": values for e in (30, 50) for end, values in found.items()}
    return point([0.8] * len(passed), **columns)


def test_a_rejection_is_the_inverse_of_the_mean_share():
    one = summary(rejected([40, 60]), "rejection30")
    assert one.value == pytest.approx(3000 / 50) and one.ranked and not one.limited
    # sqrt(50) of 50 passed, and Student's 1.837 times 10
    # Clopper and Pearson's interval is wider than Poisson's
    assert one.jets * one.value == pytest.approx(1 / np.sqrt(50), rel=0.08)
    relative = np.hypot(one.jets * one.value, 1.8373 * 10 / 50)
    assert one.value / one.low == pytest.approx(1 + relative, rel=1e-4)
    assert one.value / one.high == pytest.approx(1 - relative, rel=1e-4)
    assert np.isinf(summary(rejected([5, 95]), "rejection30").high)  # it may be that none passes
    lucky, steady, better = ([1, 20, 20, 20, 20], [10] * 5, [5, 5, 5, 5, 0])
    column = [summary(rejected(passed), "rejection30") for passed in (lucky, steady, better)]
    assert ranks(column) == [3, 2, 1]  # by what passes in all, a seed without any, too
    none = summary(rejected([0, 0]), "rejection30")
    assert none.unbounded and not none.ranked and none.limited
    assert none.value == pytest.approx(1 / binomtest(0, 3000).proportion_ci(0.683, "exact").high)
    assert summary(rejected([3, 4]), "rejection30").limited
    assert summary(point([0.8]), "rejection30") is None


def test_of_equal_rows_nearly_all_may_be_the_best():
    rng, shares = np.random.default_rng(0), []
    for n_seeds in (2, 5):
        for _ in range(60):
            values = 0.8 + rng.normal(0, 0.015, (12, n_seeds))
            column = [summary(point(row.tolist(), error=0.0045), "accuracy") for row in values]
            shares.append((sum(best(column)) - 1) / 11)  # of the others
    assert np.mean(shares) > 0.85


def test_luck_that_rows_share_is_in_no_ones_favour():
    """Draws that move all rows by .02 do not hide that one is better by .012 with each of them."""
    draws = np.random.default_rng(1).normal(0, 0.02, 5)
    better, worse = 0.85 + draws, 0.838 + draws + np.array([1, -1, 0, 1, -1]) * 1e-3
    column = [summary(point(x.tolist(), error=0.001), "accuracy") for x in (better, worse)]
    assert column[0].value - column[1].value < 2 * column[0].error
    assert best(column) == [True, False]
    other = summary(point(np.roll(better, 1).tolist(), error=0.001), "accuracy")
    assert best([other, column[1]]) == [True, True], "draws of one row and of another differ"


def test_the_best_are_found_by_what_passes():
    """Of rejections, too: 40 and 90 passed are told apart, 18 and 22 are not."""
    few, many = (summary(rejected([n] * 2), "rejection30") for n in (40, 90))
    assert best([few, many]) == [True, False]
    assert best([summary(rejected([n] * 2), "rejection30") for n in (18, 22)]) == [True, True]


def test_pretrainings_of_two_rows_are_compared_in_pairs():
    """Two seeds of each of two pre-trainings: which of them is lucky decides, not the seeds."""
    ours = [0.90, 0.87, 0.90, 0.87]
    column = [
        summary(point(ours, [0, 1, 0, 1], error=0.001), "accuracy"),
        summary(point([0.86] * 4, error=0.001), "accuracy"),
    ]
    assert best(column) == [True, True]  # .04 and .01: mean .025 +- 1.84 * .015
    assert best([replace(column[0], turns=(0,) * 4), column[1]]) == [True, False]
    steady = summary(point([0.88, 0.881, 0.879, 0.88], [0, 1, 0, 1], error=0.001), "accuracy")
    assert best([steady, column[1]]) == [True, False]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), max_size=12))
def test_ranks_are_scipys_without_lower_limits(values):
    column = [None if absent else shown(value, cut=int(cut)) for value, cut, absent in values]
    placed = ranks(column)
    judged = [i for i, one in enumerate(column) if one is not None and not one.cut]
    expected = rankdata([-column[i].value for i in judged], method="min") if judged else []
    assert [placed[i] for i in judged] == [int(rank) for rank in expected]
    assert all(placed[i] is None for i in range(len(column)) if i not in judged)
    bold = best(column)
    assert all(bold[i] for i in judged if placed[i] == 1)
    assert not any(bold[i] for i in range(len(column)) if i not in judged)


def test_the_best_are_those_within_the_two_errors():
    column = [shown(0.900, 0.003), shown(0.891, 0.004), shown(0.889, 0.004), shown(0.87, 0.02)]
    assert best(column) == [True, True, False, True]
    assert best([shown(0.95, cut=1), *column]) == [False, True, True, False, True]
    assert best([shown(0.95, supervised=True), column[0]]) == [False, True]
    assert ranks([shown(0.95, cut=2), shown(0.99, unbounded=True), *column])[:3] == [None, None, 1]
    assert best([None, shown(0.9, cut=1)]) == [False, False]
