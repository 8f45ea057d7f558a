"""What a classifier says of a jet while its constituents are taken away, one by one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.finetuning.classifier import Classifier

#: Which constituents go first.
ORDERS = ("softest", "hardest")


@dataclass(frozen=True)
class Removal:
    """Class scores against what is left of a jet.

    Parameters
    ----------
    kept : (m,) int, rising to the number of constituents; from one on, of an empty jet zero alone
    pt : (m,) sum of the pt of those kept [GeV]
    probabilities : (m, K)
    """

    kept: np.ndarray
    pt: np.ndarray
    probabilities: np.ndarray


def kept_rows(n_constituents: int, n_kept: int, first: str) -> slice:
    """Which of a jet's constituents, falling in pt, are left."""
    if first not in ORDERS:
        raise JetfmError("constituents to remove first", repr(first), " or ".join(ORDERS))
    start = 0 if first == "softest" else n_constituents - n_kept
    return slice(start, start + n_kept)


def removal(classifier: Classifier, store: JetStore, index: int, first: str = "softest") -> Removal:
    """Score what is left of a jet, for every number of constituents kept.

    The classifier sees a jet that never had the others, and is told so where it is told their
    number; angles stay those about the axis of the whole jet. With all constituents, the score is
    that of the whole jet.

    Parameters
    ----------
    classifier : of constituents
    first : 'softest' or 'hardest', which constituents go first

    Raises
    ------
    JetfmError
        Another order, a store without the classifier's features, or a classifier of tokens.
    """
    if classifier.tokenizer is not None:  # without a constituent, all tokens may be others
        expected = "one that reads constituents, to take some away"
        raise JetfmError("classifier", "one that reads tokens", expected)
    jet = store.dense([index], classifier.max_constituents, classifier.preprocessing.features)[0][0]
    n = len(jet)
    kept = np.arange(min(n, 1), n + 1)
    physical, mask = np.zeros((len(kept), *jet.shape), jet.dtype), np.arange(n) < kept[:, None]
    for row, n_kept in zip(physical, kept, strict=True):
        row[:n_kept] = jet[kept_rows(n, n_kept, first)]
    numbers = store.n_constituents[index] - n + kept
    probabilities = _scores(classifier, physical, mask, numbers)
    return Removal(kept, physical[..., 0].sum(1, dtype=np.float64), probabilities)


@torch.no_grad()
def _scores(
    classifier: Classifier, physical: np.ndarray, mask: np.ndarray, n_constituents: np.ndarray
) -> np.ndarray:
    """(B, K) float64 of constituents (B, T, F), their mask and number, on the CPU."""
    x = torch.as_tensor(classifier.preprocessing.forward(physical, mask), dtype=torch.float32)
    batch = {"x": x, "mask": torch.as_tensor(mask)}
    batch["n_constituents"] = torch.as_tensor(n_constituents)
    return classifier.network(batch).double().softmax(1).numpy()
