"""Sums and differences of fits' results over seeds, and how well they are known.

The fits of one training size are repeated with a few seeds, equal labelled jets for equal seeds, so
that contenders are subtracted seed by seed. Sizes may have different numbers of seeds: those with
as many belong together, seed by seed again, and different ones add like independent measurements.
The seeds may start from several pre-trainings in turn, whose own spread all sizes share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit


@dataclass(frozen=True)
class Term:
    """What one point adds.

    Attributes
    ----------
    factor : of its mean in the sum
    runs : (n_seeds,) a number a seed
    size : labelled jets, or whatever tells apart points that share seeds
    n_pretrainings : from which the seeds start in turn
    """

    factor: float
    runs: np.ndarray
    size: int = 0
    n_pretrainings: int = 1


@dataclass(frozen=True)
class Contrast:
    """A sum of terms: its value, half of what covers 95.4 % over seeds, the fewest seeds."""

    value: float
    error: float
    n_seeds: int


def contrast(terms: Sequence[Term]) -> Contrast:
    """The sum of terms.

    Its error is the two-sigma quantile of Student's t, with Welch and Satterthwaite's degrees of
    freedom, and no less than the plain standard error over pre-trainings (our choice: of two of
    them, Student's would leave nothing to judge).
    """
    parts = _by_seeds(terms)
    value = float(sum(part.mean() for part in parts))
    variances = np.array([part.var(ddof=1) / len(part) for part in parts])
    freedom = np.array([len(part) - 1 for part in parts])
    error = 0.0
    if variances.any():
        n_free = variances.sum() ** 2 / (variances**2 / freedom).sum()
        error = stdtrit(n_free, ndtr(2)) / 2 * math.sqrt(variances.sum())
    n_pretrainings = max(term.n_pretrainings for term in terms)
    error = max(float(error), _over_pretrainings(parts, n_pretrainings))
    return Contrast(value, error, min(map(len, parts)))


def n_common(terms: Iterable[Term]) -> int:
    """The fewest seeds that a size has of all its points."""
    return min(len(term.runs) for term in terms)


def _by_seeds(terms: Sequence[Term]) -> list[np.ndarray]:
    """Sums seed by seed, one for every number of seeds."""
    sizes: dict[int, list[Term]] = {}
    for term in terms:
        sizes.setdefault(term.size, []).append(term)
    sums: dict[int, np.ndarray] = {}
    for some in sizes.values():
        n_seeds = n_common(some)
        total = sum(term.factor * term.runs[:n_seeds] for term in some)
        sums[n_seeds] = sums.get(n_seeds, 0) + total
    return list(sums.values())


def _over_pretrainings(parts: Sequence[np.ndarray], n_pretrainings: int) -> float:
    """Standard error of the sum from the means of each pre-training's seeds, of the parts that have
    one of each."""
    parts = [part for part in parts if len(part) >= n_pretrainings]
    if n_pretrainings < 2 or not parts:
        return 0.0
    sums = [
        sum(part[first::n_pretrainings].mean() for part in parts) for first in range(n_pretrainings)
    ]
    return float(np.std(sums, ddof=1) / math.sqrt(n_pretrainings))
