r"""Decoded jets brought back to the energy and the width that they had: two numbers a tokenizer.

A decoder that minimises a squared error answers with the mean of all that a token may stand for.
Means lie closer together than what they stand for, and the exponential of a mean logarithm is less
than the mean: decoded jets are a little too narrow, too soft, and so too light. As a calorimeter's
jet energy scale is, this is mended by a factor for every pt and one for every angle from the jet's
axis, which close on average:

.. math::

    s_{p_T} = \frac{\sum_i p_{T,i}}{\sum_i \hat{p}_{T,i}}, \qquad
    s_r^2 = \frac{\sum_i p_{T,i} r_i^2 / \sum_i p_{T,i}}
                 {\sum_i \hat{p}_{T,i} \hat{r}_i^2 / \sum_i \hat{p}_{T,i}}, \qquad
    r^2 = \eta_\mathrm{rel}^2 + \phi_\mathrm{rel}^2

over the constituents of all classes of jets, hats are decoded. Our choice; neither paper does it,
so every verdict is on jets as they are decoded. Ratios of N-subjettiness do not see either factor.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing
from jetfm.physics.observables import wrap
from jetfm.schema import class_by_name
from jetfm.token_quality.measurement import (
    chunks,
    decoded_jets,
    fit_residuals,
    observables,
    original_jets,
)

#: What a jet's scale changes.
SCALED = ("jet_mass", "jet_pt")


@dataclass(frozen=True)
class JetScale:
    """Factors on the pt of constituents and on their angles from the jet's axis."""

    pt: float
    angle: float

    def apply(self, constituents: np.ndarray) -> np.ndarray:
        """(..., 3) pt [GeV], eta_rel, phi_rel -> the same, scaled."""
        return constituents * (self.pt, self.angle, self.angle)


def measure_scale(store: JetStore, tokens: TokenStore, preprocessing: Preprocessing) -> JetScale:
    """The two factors, from jets and their tokens; `preprocessing` is the tokenizer's.

    Raises
    ------
    JetfmError
        No constituent with an angle, before or after.
    """
    sums = np.zeros((2, 2))  # of pt and of pt r^2; before, after
    for jets, rows in chunks(tokens):
        before = original_jets(store, tokens, jets)
        sums += [_sums(before), _sums(decoded_jets(tokens, preprocessing, rows))]
    if not (sums > 0).all():
        raise JetfmError(tokens.folder, "no constituents beside the axes", "some, for a scale")
    (pt, pt_r2), (decoded_pt, decoded_pt_r2) = sums
    angle = np.sqrt(pt_r2 / pt * decoded_pt / decoded_pt_r2)
    return JetScale(float(pt / decoded_pt), float(angle))


def compare_scaled(
    tokens: TokenStore,
    preprocessing: Preprocessing,
    scale: JetScale,
    original: str | Path,
    signal: str = "Tbqq",
) -> dict:
    """Residuals of the signal's jets once they are scaled, fitted as `compare` fits them.

    Parameters
    ----------
    tokens : others than those that the scale was measured on
    preprocessing : the tokenizer's
    original : folder of `original_observables` of the same jets, with the tokenizer's cuts
    signal : class whose residuals are fitted

    Returns
    -------
    'scale' : the factors; 'fits' : `fit_residuals` by observable of `SCALED`
    """
    label = class_by_name(signal).index
    parts = []
    for jets, rows in chunks(tokens):
        lengths = tokens.n_constituents[jets]
        chosen = tokens.labels[jets] == label
        decoded = decoded_jets(tokens, preprocessing, rows)[np.repeat(chosen, lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths[chosen])])
        parts.append(observables(scale.apply(decoded), offsets))
    chosen = np.load(Path(original) / "labels.npy") == label
    fits = {}
    for name in SCALED:
        after = np.concatenate([part[name] for part in parts])
        fits[name] = fit_residuals(after - np.load(Path(original) / f"{name}.npy")[chosen])
    return {"scale": asdict(scale), "fits": fits}


def _sums(constituents: np.ndarray) -> np.ndarray:
    """Of pt [GeV], and of pt times the squared distance from the axis."""
    pt, eta, phi = constituents.T
    return np.array([pt.sum(), (pt * (eta**2 + wrap(phi) ** 2)).sum()])
