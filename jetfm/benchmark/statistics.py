"""Means over seeds, what they are uncertain by, and who is best within that.

A mean over seeds is uncertain by the seeds (Student's standard error), by the pre-trainings where a
model has several, which take turns over the seeds, and by the test jets, which are the same for all
seeds and rows. How these are put together is our choice: of seeds and pre-trainings the larger,
which covers the truth in 67 to 82 % of trials whichever of them dominates (where pre-trainings do,
seeds alone would in half of them); and the test jets in quadrature. Two rows share their test jets
and are compared as if they did not, so that ties are called too often rather than too seldom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jetfm.benchmark.format import REJECTIONS, Point
from jetfm.finetuning.scores import FEW_PASSED
from jetfm.physics.statistics import standard_error


@dataclass(frozen=True)
class Summary:
    """A metric of a point.

    Attributes
    ----------
    value : mean over seeds; of a rejection that is unbounded for some seed the mean lower end
    seeds : standard deviation over the seeds of a pre-training, None of a single one
    pretrainings : standard deviation of the means of several pre-trainings, which is partly that of
        the seeds; None of a single one
    jets : mean uncertainty from the test jets, None where it is not known
    error : of `value`
    cut : fits that a limit of steps ended: `value` is a lower limit
    unbounded : a rejection for which no background jet passed
    limited : a rejection behind which there are fewer than `FEW_PASSED` background jets
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


def summary(point: Point, metric: str) -> Summary | None:
    """A metric of a point, None where it has none."""
    values = getattr(point, metric)
    if values is None:
        return None
    is_rejection = metric in REJECTIONS
    unbounded = None in values
    if unbounded:
        values = getattr(point, f"{metric}_low")
    numbers = np.array(values, float)
    groups = [numbers[np.array(point.pretraining) == n] for n in dict.fromkeys(point.pretraining)]
    means = np.array([group.mean() for group in groups])
    n_within = len(numbers) - len(groups)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups)
    of_seeds = standard_error(numbers) if len(numbers) > 1 else 0.0
    of_means = float(means.std(ddof=1)) if len(groups) > 1 else None
    jets = _from_jets(point, metric)
    larger = max(of_seeds, standard_error(means) if len(groups) > 1 else 0.0)
    passed = getattr(point, f"{metric}_passed") if is_rejection else ()
    return Summary(
        value=float(numbers.mean()),
        seeds=math.sqrt(within / n_within) if n_within else None,
        pretrainings=of_means,
        jets=jets,
        error=math.hypot(larger, jets or 0.0),
        cut=sum(point.cut),
        unbounded=unbounded,
        limited=is_rejection and float(np.mean(passed)) < FEW_PASSED,
    )


def ranks(column: Sequence[Summary | None]) -> list[int | None]:
    """1 for the largest value, and so on; None for what is not there or not ranked."""
    order = [i for i, one in enumerate(column) if one is not None and one.ranked]
    order.sort(key=lambda i: -column[i].value)
    places = {i: 1 + sum(column[j].value > column[i].value for j in order) for i in order}
    return [places.get(i) for i in range(len(column))]


def best(column: Sequence[Summary | None]) -> list[bool]:
    """Which are the best within errors: the largest, and those that differ from it by no more than
    the two uncertainties in quadrature."""
    ranked = [one for one in column if one is not None and one.ranked]
    if not ranked:
        return [False] * len(column)
    first = max(ranked, key=lambda one: one.value)
    return [
        one is not None
        and one.ranked
        and (one is first or first.value - one.value <= math.hypot(first.error, one.error))
        for one in column
    ]


def _from_jets(point: Point, metric: str) -> float | None:
    """Mean uncertainty from the test jets: of a rejection half its interval, where that is
    bounded."""
    if metric in REJECTIONS:
        low, high = (np.array(getattr(point, f"{metric}_{end}"), float) for end in ("low", "high"))
        found = float((high - low).mean() / 2)
    else:
        found = float(np.array(getattr(point, f"{metric}_error"), float).mean())
    return found if math.isfinite(found) else None
