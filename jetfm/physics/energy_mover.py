r"""The energy mover's distance of two jets: how far the momentum of one is from that of the other.

.. math:: \mathrm{EMD} = \min_{f \ge 0} \sum_{ij} f_{ij} \, \Delta R_{ij}, \qquad
          \sum_j f_{ij} = p_{T,i} / \sum_k p_{T,k}, \quad
          \sum_i f_{ij} = p'_{T,j} / \sum_k p'_{T,k}

Komiske, Metodiev and Thaler, arXiv 1902.02346, eq. 1, with each jet's transverse momentum
normalised to one, so that the term for a difference of the totals vanishes.
"""

from __future__ import annotations

import math

import numpy as np
import ot
from scipy.spatial.distance import cdist


def energy_mover_distance(jet: np.ndarray, other: np.ndarray) -> float:
    """Energy mover's distance of two jets about their own centres, in units of Delta R.

    Parameters
    ----------
    jet, other : (n, 3) pt > 0 [GeV], eta_rel, phi_rel

    Returns
    -------
    the distance that an average GeV travels; it does not see a shift of all angles, nor a factor
    on all pt, and sees a rotation. NaN where a jet has no constituents.
    """
    if not (len(jet) and len(other)):
        return math.nan
    weights, points = zip(*map(_normalised, (jet, other)), strict=True)
    return float(ot.emd2(*weights, cdist(*points)))


def _normalised(jet: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n,) shares of pt and (n, 2) angles about their mean with these weights."""
    jet = np.asarray(jet, np.float64)
    shares = jet[:, 0] / jet[:, 0].sum()
    return shares, jet[:, 1:] - shares @ jet[:, 1:]
