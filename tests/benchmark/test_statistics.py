"""Uncertainties that cover, ranks that agree with scipy, and no place for lower limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata

from jetfm.benchmark.format import Point
from jetfm.benchmark.statistics import Summary, best, ranks, summary


def point(accuracy, pretraining=None, error=0.0, cut=False, **more) -> Point:
    n = len(accuracy)
    values = {"auc": accuracy, "accuracy_error": [error] * n, "auc_error": [error] * n}
    turns = [0] * n if pretraining is None else pretraining
    return Point(task="tagging", size=100, accuracy=accuracy, cut=[cut] * n, pretraining=turns,
                 **values, **more)  # fmt: skip


def shown(value, error=0.01, **more) -> Summary:
    return Summary(value, None, None, None, error, **more)


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


@pytest.mark.parametrize(
    ("n_pretrainings", "of_pretrainings", "of_seeds"),
    [(1, 0, 0.01), *((n, *spreads) for n in (2, 3) for spreads in _SPREADS)],
)
def test_the_error_covers_the_truth(n_pretrainings, of_pretrainings, of_seeds):
    """By construction in 68 % or more of trials, whether seeds or pre-trainings dominate."""
    rng, turns = np.random.default_rng(3), np.arange(6) % n_pretrainings
    hits = []
    for _ in range(700):
        shift = rng.normal(0, of_pretrainings, n_pretrainings)
        values = 0.8 + shift[turns] + rng.normal(0, of_seeds, 6)
        one = summary(point(values.tolist(), turns.tolist()), "accuracy")
        hits.append(abs(one.value - 0.8) < one.error)
    assert 0.63 < np.mean(hits) < 0.88  # .683 has a standard deviation of .018


def test_rejections_take_half_the_interval_and_have_limits():
    ends = {"rejection30_low": [8, 6], "rejection30_high": [12, 14], "rejection30_passed": [40, 50]}
    others = {name.replace("30", "50"): values for name, values in ends.items()}
    fine = point([0.8, 0.8], rejection30=[10, 10], rejection50=[10, 10], **ends, **others)
    one = summary(fine, "rejection30")
    assert (one.value, one.jets, one.error) == (10, 3, 3) and one.ranked and not one.limited
    none = fine.model_copy(
        update={"rejection30": (None, 10.0), "rejection30_high": (None, 14.0),
                "rejection30_passed": (0, 50)}
    )  # fmt: skip
    one = summary(none, "rejection30")
    assert one.unbounded and not one.ranked and one.value == 7  # the mean lower end
    few = summary(fine.model_copy(update={"rejection30_passed": (3, 4)}), "rejection30")
    assert few.limited and few.ranked
    assert summary(point([0.8]), "rejection30") is None


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
    column = [shown(0.900, 0.003), shown(0.896, 0.004), shown(0.890, 0.004), shown(0.89, 0.02)]
    assert best(column) == [True, True, False, True]
    assert best([shown(0.95, cut=1), *column]) == [False, True, True, False, True]
    assert ranks([shown(0.95, cut=2), shown(0.99, unbounded=True), *column])[:3] == [None, None, 1]
    assert best([None, shown(0.9, cut=1)]) == [False, False]
