"""Means over seeds, what they are uncertain by, and who is best within that.

A mean over seeds is uncertain by the seeds (Student's standard error), by the pre-trainings where a
model has several, which take turns over the seeds, and by the test jets, which are the same for all
seeds and rows. How these are put together is our choice: of seeds and pre-trainings the larger,
which covers the truth in 67 to 82 % of trials whichever of them dominates (where pre-trainings do,
seeds alone would in half of them); and the test jets in quadrature. Seeds whose labelled jets are
partly the same differ by less than they would from others': see `_of_seeds`.

A background rejection is the inverse of a share; shares are averaged, so that one lucky seed does
not decide, and a seed for which nothing passed counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jetfm.benchmark.format import REJECTIONS, Point
from jetfm.finetuning.scores import FEW_PASSED
from jetfm.physics.statistics import standard_error


@dataclass(frozen=True)
class Summary:
    """A metric of a point.

    Attributes
    ----------
    value : mean over seeds; of a rejection the inverse of the mean share of the background, where
        nothing passed for any seed its lower end
    seeds : standard deviation over the seeds of a pre-training, None of a single one
    pretrainings : standard deviation of the means of several pre-trainings, which is partly that of
        the seeds, and where `seeds` is None as much that as the other; None of a single one
    jets : mean uncertainty from the test jets, None where it is not known
    error : of `value`
    cut : fits that a limit of steps ended: `value` is a lower limit
    unbounded : a rejection for which no background jet passed, with any seed
    limited : a rejection behind which there are fewer than `FEW_PASSED` background jets a seed
    """

    value: float
    seeds: float | None
    pretrainings: float | None
    jets: float | None
    error: float
    cut: int = 0
    unbounded: bool = False
    limited: bool = False

    @property
    def ranked(self) -> bool:
        """Lower limits are not ranked: what they would have reached is not known."""
        return not self.cut and not self.unbounded


def summary(point: Point, metric: str, overlap: float = 0.0) -> Summary | None:
    """A metric of a point, None where it has none.

    Parameters
    ----------
    overlap : share of labelled jets that two seeds have in common
    """
    if getattr(point, metric) is None:
        return None
    is_rejection = metric in REJECTIONS
    numbers, jets = _shares(point, metric) if is_rejection else _plain(point, metric)
    groups = [numbers[np.array(point.pretraining) == n] for n in dict.fromkeys(point.pretraining)]
    means = np.array([group.mean() for group in groups])
    n_within = len(numbers) - len(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    several = len(groups) > 1
    larger = max(_of_seeds(numbers, overlap), standard_error(means) if several else 0.0)
    found = Summary(
        value=float(numbers.mean()),
        seeds=math.sqrt(within / n_within) if n_within else None,
        pretrainings=float(means.std(ddof=1)) if several else None,
        jets=jets,
        error=math.hypot(larger, jets or 0.0),
        cut=sum(point.cut),
    )
    if not is_rejection:
        return found
    passed = getattr(point, f"{metric}_passed")
    limited = float(np.mean(passed)) < FEW_PASSED
    if not any(passed):
        highest = np.mean([1 / low for low in getattr(point, f"{metric}_low")])
        return replace(found, value=float(1 / highest), unbounded=True, limited=limited)
    return replace(_inverse(found), limited=limited)


def ranks(column: Sequence[Summary | None]) -> list[int | None]:
    """1 for the largest value, and so on; None for what is not there or not ranked."""
    order = [i for i, one in enumerate(column) if one is not None and one.ranked]
    order.sort(key=lambda i: -column[i].value)
    places = {i: 1 + sum(column[j].value > column[i].value for j in order) for i in order}
    return [places.get(i) for i in range(len(column))]


def best(column: Sequence[Summary | None]) -> list[bool]:
    """Which may be the best: the largest, and those that differ from it by no more than two
    standard deviations of the difference. Of many equal rows the largest is so by luck: with one
    standard deviation half of the others would not be among them."""
    ranked = [one for one in column if one is not None and one.ranked]
    if not ranked:
        return [False] * len(column)
    first = max(ranked, key=lambda one: one.value)
    return [
        one is not None
        and one.ranked
        and (one is first or first.value - one.value <= 2 * math.hypot(first.error, one.error))
        for one in column
    ]


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


def _inverse(found: Summary) -> Summary:
    """Of a share, to first order in its uncertainties."""
    scale = found.value**-2
    parts = ("seeds", "pretrainings", "jets", "error")
    scaled = {name: value and value * scale for name in parts for value in [getattr(found, name)]}
    return replace(found, value=1 / found.value, **scaled)
