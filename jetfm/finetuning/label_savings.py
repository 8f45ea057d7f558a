"""How many labels pre-training saves: what a training from scratch needs to do as well.

A user of a foundation model asks it, and the papers leave it to the reader's eye. The number of
labels from scratch is interpolated on its learning curve, accuracy against the logarithm of the
number of labels, which is roughly straight; we make it monotonic first, since noise is not
learning.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jetfm.physics.statistics import standard_error

N_DRAWS = 2000


@dataclass(frozen=True)
class LabelSaving:
    """Labels needed from scratch, over labels used after pre-training.

    Attributes
    ----------
    ratio : median over draws
    low, high : central 68.3 % of the draws; where scratch never gets there, the largest ratio
        that its sizes can show
    is_limit : scratch does not get there with its most labels in more than half of the draws, and
        `ratio` is a lower limit
    is_upper_limit : scratch does as well with its fewest labels in more than half of the draws
    size : labels used after pre-training
    """

    ratio: float
    low: float
    high: float
    is_limit: bool
    is_upper_limit: bool
    size: int

    def as_text(self) -> str:
        """E.g. '7.2 (5.1 to 9.8)', '> 60', or '< 0.1'."""
        if self.is_limit or self.is_upper_limit:
            return f"{'>' if self.is_limit else '<'} {self.ratio:.3g}"
        return f"{self.ratio:.2g} ({self.low:.2g} to {self.high:.2g})"


def label_saving(
    sizes: Sequence[int],
    scratch: Sequence[np.ndarray],
    size: int,
    reached: np.ndarray,
    n_test: int,
    seed: int = 0,
) -> LabelSaving:
    """How many labels from scratch the accuracy of a pre-trained model is worth.

    Parameters
    ----------
    sizes : labels of the curve from scratch, ascending
    scratch : accuracies at each of them, one a seed
    size, reached : labels and accuracies of the pre-trained model
    n_test : test jets; their binomial error and that of the mean over seeds (Student) are drawn
        from, all independent normals. Too wide where they share the test jets.
    """
    rng = np.random.default_rng(seed)
    logs = np.log([float(n) for n in sizes])
    curve = np.array([_draws(rng, values, n_test) for values in scratch])  # (sizes, draws)
    curve = np.maximum.accumulate(curve, axis=0)
    wanted = _draws(rng, reached, n_test)
    needed = np.array([_crossing(logs, curve[:, i], wanted[i]) for i in range(N_DRAWS)])
    beyond, before = np.isinf(needed), needed == logs[0]
    ratios = np.exp(np.minimum(needed, logs[-1])) / size
    low, middle, high = np.quantile(ratios, [0.1587, 0.5, 0.8413])
    limits = (bool(side.mean() > 0.5) for side in (beyond, before))
    return LabelSaving(float(middle), float(low), float(high), *limits, size)


def _draws(rng: np.random.Generator, values: np.ndarray, n_test: int) -> np.ndarray:
    mean = float(np.mean(values))
    seeds = standard_error(values) if len(values) > 1 else 0.0
    jets = math.sqrt(mean * (1 - mean) / n_test)
    return rng.normal(mean, math.hypot(seeds, jets), N_DRAWS)


def _crossing(logs: np.ndarray, curve: np.ndarray, wanted: float) -> float:
    """Where a rising line through points first reaches `wanted`; its ends are not extrapolated."""
    if wanted > curve[-1]:
        return math.inf
    at = int(np.argmax(curve >= wanted))
    if at == 0:
        return float(logs[0])
    share = (wanted - curve[at - 1]) / (curve[at] - curve[at - 1])
    return float(logs[at - 1] + share * (logs[at] - logs[at - 1]))
