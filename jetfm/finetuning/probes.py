"""Classifiers without a network on a fixed backbone's jets: what its representation holds as it is.

The papers put a head with attention on a fixed backbone, which learns much itself. A *linear*
probe (multinomial logistic regression) shows which classes lie on either side of a plane, *nearest
neighbours* which lie close together. All that is decided here is our choice: what a jet's vector is
(`pooled`), that every component is standardised on the labelled training jets, and the grids, of
which the validation jets choose by what stops the other fits, too. Test jets are seen once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import numpy as np
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from jetfm.errors import JetfmError
from jetfm.finetuning.encoded_jets import EncodedJets
from jetfm.finetuning.scores import judged
from jetfm.settings import FinetuningSettings

# Of |w|^2 / 2 in a mean loss per jet, so that one grid fits any number of jets; strongest first.
PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4)
NEIGHBOURS = (300, 100, 30, 10, 3, 1)
CHOICES = {"linear": PENALTIES, "neighbours": NEIGHBOURS}
MAX_ITERATIONS = 1000  # of L-BFGS

_AT_ONCE = 500  # jets

LogProbabilities = Callable[[np.ndarray], np.ndarray]


def pooled(side: EncodedJets, indices: np.ndarray) -> np.ndarray:
    """A vector for each of some encoded jets, (n, 3 C) float32, the same in any order of theirs.

    The state of the start vector, and the mean and the maximum of the constituents' states, both
    zero for a jet without any: the mean is the usual summary, the maximum keeps what one hard
    constituent knows, and a start that attends to all of them sums up by itself. (In a causal
    backbone it has seen nothing, and is the same for all jets of a multiplicity.)
    """
    found = []
    for first in range(0, len(indices), _AT_ONCE):
        batch = side.batch(indices[first : first + _AT_ONCE])
        x, real = batch["x"].numpy(), batch["mask"].numpy()[..., None]
        start, x, real = x[:, 0], x[:, 1:], real[:, 1:]
        n = real.sum(1)
        mean = np.where(real, x, 0).sum(1) / np.maximum(n, 1)
        largest = np.where(real, x, -np.inf).max(1, initial=-np.inf)
        found.append(np.hstack([start, mean, np.where(n > 0, largest, 0)]))
    return np.concatenate(found)


def probe_and_test(
    probe: str,
    sides: Mapping[str, EncodedJets],
    indices: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
    n_classes: int,
    settings: FinetuningSettings,
) -> tuple[dict, np.ndarray]:
    """One fit of a probe.

    Parameters
    ----------
    probe : 'linear' or 'neighbours'
    sides, indices, labels : encoded jets, and which of them count with their classes 0 ... K-1, of
        'train', 'val' and 'test'

    Returns
    -------
    as `jetfm.finetuning.study.train_and_test`; 'chosen' is the penalty, or the number of
    neighbours, that the validation jets chose, 'cut' whether its fit did not converge

    Raises
    ------
    JetfmError
        A class without a training jet.
    """
    present = len(np.unique(labels["train"]))
    if present < n_classes:
        found = f"{len(labels['train'])} training jets of {present} classes"
        raise JetfmError(f"{probe} probe", found, f"a jet of each of the {n_classes}")
    train, val = (pooled(sides[split], indices[split]) for split in ("train", "val"))
    fit = _linear if probe == "linear" else _neighbours
    grid = [one for one in CHOICES[probe] if probe == "linear" or one <= len(train)]
    best, chosen, kept = np.inf, None, None
    with threadpool_limits(1):  # as everything beside it; the same bits on any number of cores
        for one in grid:
            log_p, n_steps = fit(train, labels["train"], one)
            scores = log_p(val)
            metric = (
                log_loss(labels["val"], np.exp(scores), labels=range(n_classes))
                if settings.monitor == "loss"
                else -np.mean(scores.argmax(1) == labels["val"])
            )
            if metric < best:  # of equals the simpler one
                best, chosen, kept = metric, one, (log_p, n_steps)
        log_p, n_steps = kept
        scores = log_p(pooled(sides["test"], indices["test"])).astype(np.float32)
    result = judged(labels["test"], scores, settings.n_bootstrap)
    result |= {"cut": n_steps >= MAX_ITERATIONS, "best_step": n_steps, "last_step": n_steps}
    return result | {"chosen": chosen, "history": []}, scores


def _linear(x: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[LogProbabilities, int]:
    """ln p of new vectors, and the iterations that the fit took."""
    model = make_pipeline(
        StandardScaler(),
        LogisticRegression(C=1 / (penalty * len(x)), tol=1e-6, max_iter=MAX_ITERATIONS),
    )
    with warnings.catch_warnings():  # 'cut' says it
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x.astype(np.float64), labels)

    def log_p(new: np.ndarray) -> np.ndarray:
        logits = model.decision_function(new.astype(np.float64))
        if logits.ndim == 1:  # of two classes
            logits = np.column_stack([np.zeros_like(logits), logits])
        return log_softmax(logits, axis=1)

    return log_p, int(model[-1].n_iter_.max())


def _neighbours(x: np.ndarray, labels: np.ndarray, n: int) -> tuple[LogProbabilities, int]:
    """ln p of new vectors by the classes of the n nearest ones, which takes no iteration.

    The nearer count more, by their inverse distance, which also decides between as many of several
    classes; one more neighbour, shared out evenly over the classes, keeps logarithms finite.
    """
    model = make_pipeline(StandardScaler(), KNeighborsClassifier(n, weights="distance"))
    model.fit(x.astype(np.float64), labels)

    def log_p(new: np.ndarray) -> np.ndarray:
        shares = model.predict_proba(new.astype(np.float64))
        return np.log((n * shares + 1 / shares.shape[1]) / (n + 1))

    return log_p, 0
