"""From the scores of one classifier on test jets to its metrics, each with its uncertainty."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from jetfm.physics.statistics import accuracy, pairwise_auc, rejection, roc_auc

#: Signal efficiencies of background rejection: paper 2's, and the other one the field quotes.
EFFICIENCIES = (0.3, 0.5)
FEW_PASSED = 10  # background jets behind a rejection that is worth quoting; our choice
CONFIDENCE_BINS = 15  # of calibration; our choice, the usual one


def judged(labels: np.ndarray, scores: np.ndarray, n_bootstrap: int) -> dict:
    """Metrics of one classifier.

    Parameters
    ----------
    labels : (n,) classes 0 ... K-1; of two, 1 is the signal
    scores : (n, K) logarithms of probabilities

    Returns
    -------
    'accuracy', 'auc', 'calibration_error', each with an '_error' from the test jets (binomial;
    bootstrap over jets, of more than two classes DeLong's; bootstrap). The AUC of more classes is
    the mean over pairs of classes (Hand and Till). Of two classes 'rejection30' and 'rejection50',
    None where no background jet passed, with '_low' and '_high' (Clopper-Pearson, 68.3 %; None is
    unbounded) and '_passed', the number of background jets. 'reliability', see `reliability`
    """
    share = accuracy(labels, scores.argmax(1))
    found: dict = {"accuracy": share.value, "accuracy_error": share.uncertainty}
    probabilities = np.exp(scores.astype(np.float64))
    if scores.shape[1] == 2:
        odds = scores[:, 1].astype(np.float64) - scores[:, 0]
        area = roc_auc(labels, odds, n_bootstrap)
        found |= {"auc": area.value, "auc_error": area.uncertainty}
        for efficiency in EFFICIENCIES:
            one, name = rejection(labels, odds, efficiency), f"rejection{100 * efficiency:.0f}"
            found[name] = _finite(one.value)
            found[f"{name}_low"], found[f"{name}_high"] = _finite(one.low), _finite(one.high)
            found[f"{name}_passed"] = one.n_passed
    else:
        area = pairwise_auc(labels, probabilities)
        found |= {"auc": area.value, "auc_error": _finite(area.uncertainty)}
    error, spread = calibration_error(labels, probabilities, n_bootstrap)
    found |= {"calibration_error": error, "calibration_error_error": spread}
    return found | {"reliability": reliability(labels, probabilities)}


def reliability(labels: np.ndarray, probabilities: np.ndarray) -> dict:
    """Confidence in the predicted class against how often it is right, in `CONFIDENCE_BINS`.

    Returns
    -------
    'edges' (bins + 1,), 'n', 'confidence' and 'accuracy' (bins,), means; None where a bin is empty
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    edges = np.linspace(1 / probabilities.shape[1], 1, CONFIDENCE_BINS + 1)
    bins = np.clip(np.digitize(confidence, edges) - 1, 0, CONFIDENCE_BINS - 1)
    n = np.bincount(bins, minlength=CONFIDENCE_BINS)
    sums = (np.bincount(bins, values, CONFIDENCE_BINS) for values in (confidence, right))
    means = ([s / k if k else None for s, k in zip(total, n, strict=True)] for total in sums)
    return dict(zip(("edges", "n", "confidence", "accuracy"), (edges, n, *means), strict=True))


def calibration_error(
    labels: np.ndarray, probabilities: np.ndarray, n_bootstrap: int, seed: int = 0
) -> tuple[float, float]:
    """Expected calibration error, and its uncertainty by bootstrap over jets.

    The mean over jets of |accuracy - confidence| of their bin, in bins of equal numbers of jets
    (equal widths leave most of them empty). A perfectly calibrated classifier scores above zero,
    too: by at most 0.4 sqrt(bins / jets), which is the noise within bins.
    """
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    gap = np.asarray(right, float) - confidence
    order = np.argsort(confidence, kind="stable")

    def error(gaps: np.ndarray) -> float:
        edges = np.linspace(0, len(gaps), CONFIDENCE_BINS + 1).astype(int)
        sums = [abs(gaps[low:high].sum()) for low, high in pairwise(edges)]
        return float(np.sum(sums) / len(gaps))

    rng, gap = np.random.default_rng(seed), gap[order]
    resampled = [
        error(gap[np.sort(rng.integers(0, len(gap), len(gap)))]) for _ in range(n_bootstrap)
    ]
    return error(gap), float(np.std(resampled, ddof=1))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
