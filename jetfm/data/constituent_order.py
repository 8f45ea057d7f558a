"""Order of a jet's constituents: falling pt as read and stored, random where paper 2 asks for it.

Paper 1 feeds jets in falling pt; paper 2 in random order (arXiv 2512.04149, figure 2 and official
code). `jetfm.settings.TokenizerSettings.order` says which, and `jetfm.tokenizers.encoding` does it.
"""

from __future__ import annotations

import numpy as np


def by_falling_pt(pt: np.ndarray, n_constituents: np.ndarray) -> np.ndarray | None:
    """Stable order of constituents, jet after jet; None where they are in it, as files mostly are.

    Parameters
    ----------
    pt : (n,)
    n_constituents : (jets,) int with sum n, zero allowed

    Returns
    -------
    (n,) int64 permutation that leaves every constituent in its jet, or None
    """
    falls = pt[1:] <= pt[:-1]
    falls[np.cumsum(n_constituents[n_constituents > 0])[:-1] - 1] = True  # between jets
    if falls.all():
        return None
    return np.lexsort((-pt, np.repeat(np.arange(len(n_constituents)), n_constituents)))


def shuffled(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random order of the constituents of a padded batch: (B, T) int64, padding stays last.

    Apply as ``np.take_along_axis(x, order[..., None], axis=1)``; the mask stays as it is.
    """
    return np.argsort(np.where(mask, rng.random(mask.shape), 2.0), axis=1)
