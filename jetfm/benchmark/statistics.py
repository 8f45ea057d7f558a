"""Means over seeds, what they are uncertain by, and who is best within that.

A mean over seeds is uncertain by the seeds (Student's standard error), by the pre-trainings where a
model has several, which take turns over the seeds, and by the test jets, which are the same for all
seeds and rows. How these are put together is our choice: of seeds and pre-trainings the larger,
which covers the truth in 67 to 82 % of trials whichever of them dominates (where pre-trainings do,
seeds alone would in half of them); and the test jets in quadrature. Seeds whose labelled jets are
partly the same differ by less than they would from others': see `_of_seeds`.

Rows share labelled and test jets, so that two are compared by their differences, seed by seed
(`best`): what a lucky draw does to both is in neither's favour.

A background rejection is the inverse of a share; shares are averaged and compared, so that one
lucky seed does not decide, and a seed for which nothing passed counts.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jetfm.benchmark.format import REJECTIONS, Point
from jetfm.finetuning.scores import FEW_PASSED
from jetfm.physics.statistics import standard_error


@dataclass(frozen=True)
class Summary:
    """A metric of a point.

    Of a rejection `seeds`, `pretrainings`, `jets` and `error` are those of the share of the
    background that passes.

    Attributes
    ----------
    value : mean over seeds; of a rejection the inverse of the mean share of the background, where
        nothing passed for any seed its lower end
    low, high : of its interval; of a rejection `high` may be infinite
    seeds : standard deviation over the seeds of a pre-training, None of a single one
    pretrainings : standard deviation of the means of several pre-trainings, which is partly that of
        the seeds, and where `seeds` is None as much that as the other; None of a single one
    jets : mean uncertainty from the test jets, None where it is not known
    error : of the mean
    by_seed : what was averaged
    turns : which pre-training each seed starts from
    overlap : share of labelled jets that two seeds have in common
    cut : fits that a limit of steps ended: `value` is a lower limit
    unbounded : a rejection for which no background jet passed, with any seed
    limited : a rejection behind which there are fewer than `FEW_PASSED` background jets a seed
    supervised : the pre-training had labels of these classes: not from few labels
    """

    value: float
    low: float
    high: float
    seeds: float | None
    pretrainings: float | None
    jets: float | None
    error: float
    by_seed: tuple[float, ...]
    turns: tuple[int, ...]
    overlap: float = 0.0
    cut: int = 0
    unbounded: bool = False
    limited: bool = False
    supervised: bool = False

    @property
    def ranked(self) -> bool:
        """Not ranked are lower limits, for what they would have reached is not known, and what has
        seen more than few labels."""
        return not (self.cut or self.unbounded or self.supervised)


def summary(
    point: Point, metric: str, overlap: float = 0.0, supervised: bool = False
) -> Summary | None:
    """A metric of a point, None where it has none.

    Parameters
    ----------
    overlap : share of labelled jets that two seeds have in common
    supervised : whether the pre-training had labels of these classes
    """
    if getattr(point, metric) is None:
        return None
    is_rejection = metric in REJECTIONS
    numbers, jets = _shares(point, metric) if is_rejection else _plain(point, metric)
    groups = _by_turn(numbers, point.pretraining)
    n_within = len(numbers) - len(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    means = [group.mean() for group in groups]
    mean = float(numbers.mean())
    error = math.hypot(_of_fits(numbers, point.pretraining, overlap), jets or 0.0)
    found = Summary(
        value=mean,
        low=mean - error,
        high=mean + error,
        seeds=math.sqrt(within / n_within) if n_within else None,
        pretrainings=float(np.std(means, ddof=1)) if len(means) > 1 else None,
        jets=jets,
        error=error,
        by_seed=tuple(numbers.tolist()),
        turns=point.pretraining,
        overlap=overlap,
        cut=sum(point.cut),
        supervised=supervised,
    )
    if not is_rejection:
        return found
    passed = getattr(point, f"{metric}_passed")
    found = replace(found, limited=float(np.mean(passed)) < FEW_PASSED)
    if not any(passed):
        low = float(1 / np.mean([1 / low for low in getattr(point, f"{metric}_low")]))
        return replace(found, value=low, low=low, high=math.inf, unbounded=True)
    high = 1 / (mean - error) if mean > error else math.inf
    return replace(found, value=1 / mean, low=1 / (mean + error), high=high)


def ranks(column: Sequence[Summary | None]) -> list[int | None]:
    """1 for the largest value, and so on; None for what is not there or not ranked."""
    order = [i for i, one in enumerate(column) if one is not None and one.ranked]
    order.sort(key=lambda i: -column[i].value)
    places = {i: 1 + sum(column[j].value > column[i].value for j in order) for i in order}
    return [places.get(i) for i in range(len(column))]


def best(column: Sequence[Summary | None]) -> list[bool]:
    """Which may be the best: the largest, and those that differ from it by no more than two
    standard deviations of the difference. Of many equal rows the largest is so by luck: with one
    standard deviation half of the others would not be among them.

    The difference is taken seed by seed. Test jets are the same, too, but rows do not say how often
    two are right about the same ones: their uncertainties are taken as if they were others, which
    is too much, so that bold is generous.
    """
    ranked = [one for one in column if one is not None and one.ranked]
    if not ranked:
        return [False] * len(column)
    first = max(ranked, key=lambda one: one.value)
    return [one is not None and one.ranked and _may_equal(one, first) for one in column]


def _may_equal(one: Summary, first: Summary) -> bool:
    differences = np.subtract(first.by_seed, one.by_seed)
    turns = tuple(zip(first.turns, one.turns, strict=True))
    of_fits = _of_fits(differences, turns, one.overlap)
    error = math.hypot(of_fits, first.jets or 0.0, one.jets or 0.0)
    return one is first or abs(float(differences.mean())) <= 2 * error


def _by_turn(numbers: np.ndarray, turns: Sequence[Hashable]) -> list[np.ndarray]:
    """The numbers of each pre-training, or pair of them."""
    return [numbers[[turn == which for turn in turns]] for which in dict.fromkeys(turns)]


def _of_fits(numbers: np.ndarray, turns: Sequence[Hashable], overlap: float) -> float:
    """Uncertainty of a mean over seeds, of which each started from one of some pre-trainings."""
    means = np.array([group.mean() for group in _by_turn(numbers, turns)])
    of_pretrainings = standard_error(means) if len(means) > 1 else 0.0
    return max(_of_seeds(numbers, overlap), of_pretrainings)


def _of_seeds(numbers: np.ndarray, overlap: float) -> float:
    """Student's standard error of a mean over seeds whose labelled jets are partly the same.

    What the choice of jets does to two seeds is correlated by the share that they have in common,
    so that their spread shows 1 - overlap of its variance and the mean keeps the rest. Taken for
    all of the spread, which is too much where initial weights are behind it.
    """
    n = len(numbers)
    if n == 1:
        return 0.0
    if overlap >= 1:
        return math.inf
    return standard_error(numbers) * math.sqrt((1 + (n - 1) * overlap) / (1 - overlap))


def _plain(point: Point, metric: str) -> tuple[np.ndarray, float | None]:
    """Values by seed, and the mean uncertainty from the test jets."""
    errors = float(np.array(getattr(point, f"{metric}_error"), float).mean())
    return np.array(getattr(point, metric), float), errors if math.isfinite(errors) else None


def _shares(point: Point, metric: str) -> tuple[np.ndarray, float]:
    """Of the background that passes, by seed, and half the mean interval from the test jets."""

    def share(end: str) -> np.ndarray:
        values = getattr(point, f"{metric}{end}")
        return np.array([0.0 if value is None else 1 / value for value in values])

    return share(""), float((share("_low") - share("_high")).mean() / 2)
