r"""Jet observables from massless constituents: pt, mass, N-subjettiness, D2.

Input is physical (pt, eta_rel, phi_rel). Relative coordinates suffice: a common shift of eta is
a boost along the beam, a common shift of phi a rotation, and every observable here is invariant
under both when constituents are massless.

N-subjettiness (Thaler and Van Tilburg, arXiv:1011.2268, eq. 2.2, and 1108.2701) with beta = 1 and
jet radius :math:`R_0 = 0.8`:

.. math:: \tau_N = \frac{1}{R_0 \sum_i p_{T,i}} \sum_i p_{T,i} \min_{k \le N} \Delta R_{ik}

It depends on how the N axes are found. ``axes='onepass'`` starts from exclusive kt axes and
minimises once: the definition of JetClass's ``jet_tau*`` branches. ``axes='kt'`` takes exclusive
kt axes (R = 0.8, E scheme) as they are and measures distances in pseudorapidity: the definition
in the official code of both papers. The two differ by a few per cent; compare like with like.

Soft drop, and the taus that JetClass stores: `jetfm.physics.substructure`.
"""

from __future__ import annotations

import warnings
from typing import Literal

import awkward as ak
import fastjet
import numpy as np
import vector

from jetfm.errors import JetfmError
from jetfm.physics.jagged import segment_sum

R0 = 0.8  # jet radius: JetClass's anti-kt jets, and the official code of paper 1
MIN_CONSTITUENTS = 3  # the papers' code refuses jets with fewer

vector.register_awkward()


def jet_observables(
    physical: np.ndarray,
    offsets: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    axes: Literal["onepass", "kt"] = "onepass",
    d2: bool = False,
    chunk: int = 20_000,
) -> dict[str, np.ndarray]:
    """Observables of many jets.

    Parameters
    ----------
    physical : pt [GeV], eta_rel, phi_rel of massless constituents: (n_total, 3) with `offsets`,
        or (B, T, 3) with `mask`. Constituents with pt = 0 are left out.
    offsets : (n_jets + 1,) int
    mask : (B, T) bool, true for real constituents
    axes : see the module
    d2 : whether to compute D2 as well
    chunk : jets per call of fastjet, which bounds memory

    Returns
    -------
    dict of (n_jets,) float64: n_constituents, pt [GeV], mass [GeV], tau1, tau2, tau3, tau21,
    tau32 and, if asked for, d2. NaN where undefined: all but n_constituents for a jet without
    constituents; with fewer than three, the ratios, and in 'kt' tau1 to tau3 as well (as in the
    papers' code); d2 where its denominator vanishes. `count_undefined` counts them.

    Raises
    ------
    JetfmError
        Values that are not finite, negative pt, or shapes that do not fit.
    """
    if axes not in ("onepass", "kt"):
        raise JetfmError("axes", repr(axes), "'onepass' or 'kt'")
    physical, offsets = _flat(physical, offsets, mask)
    parts = [
        _observables(physical, offsets[start : start + chunk + 1], axes, d2)
        for start in range(0, max(len(offsets) - 1, 1), chunk)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def count_undefined(observables: dict[str, np.ndarray]) -> dict[str, int]:
    """Jets with NaN, per observable: those with too few constituents."""
    return {name: int(np.isnan(values).sum()) for name, values in observables.items()}


def four_momenta(physical: np.ndarray) -> np.ndarray:
    """(..., 3) pt, eta, phi of massless particles -> (..., 4) px, py, pz, E, float64."""
    pt, eta, phi = np.moveaxis(np.asarray(physical, np.float64), -1, 0)
    components = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))
    return np.stack(components, axis=-1)


def energy_correlation_d2(physical: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    r"""D2 with beta = 1 (Larkoski, Moult, Neill, arXiv:1409.6298, eqs. 1.1 and 1.2).

    With :math:`M_{ij} = p_{T,i} \Delta R_{ij}` the three-point function, a sum over triples, is
    :math:`\mathrm{tr}(M^3)/6`: two matrix products instead of a triple loop. The diagonal is
    zero, so repeated particles drop out.

    Returns
    -------
    (n_jets,) float64, dimensionless; NaN where the two-point function vanishes
    """
    counts = np.diff(offsets)
    result = np.full(len(counts), np.nan)
    by_length = np.argsort(counts, kind="stable")
    for some in np.array_split(by_length, max(1, len(counts) // 64)):  # similar lengths together
        some = some[counts[some] >= MIN_CONSTITUENTS]
        if not len(some):
            continue
        slots = np.arange(counts[some].max())
        real = slots < counts[some][:, None]  # (B, T)
        rows = np.minimum(offsets[some][:, None] + slots, len(physical) - 1)
        pt, eta, phi = np.moveaxis(physical[rows], -1, 0)
        pt = np.where(real, pt, 0.0)
        eta, phi = (angle[:, :, None] - angle[:, None, :] for angle in (eta, phi))
        m = pt[:, :, None] * np.hypot(eta, wrap(phi))  # (B, T, T)
        ecf1 = pt.sum(axis=1)
        ecf2 = np.einsum("bij,bj->b", m, pt) / 2
        ecf3 = np.einsum("bij,bji->b", m @ m, m) / 6
        with np.errstate(divide="ignore", invalid="ignore"):
            value = ecf3 * ecf1**3 / ecf2**3
        result[some] = np.where(ecf2 > 0, value, np.nan)
    return result


def _observables(physical, offsets, axes: str, d2: bool) -> dict[str, np.ndarray]:
    """One chunk; `offsets` need not start at zero."""
    physical, offsets = physical[offsets[0] : offsets[-1]], offsets - offsets[0]
    if not (physical[:, 0] > 0).all():
        keep = physical[:, 0] > 0
        offsets = np.concatenate([[0], np.cumsum(keep)])[offsets]
        physical = physical[keep]
    counts = np.diff(offsets)
    momenta = four_momenta(physical)
    px, py, pz, energy = segment_sum(momenta, offsets).T
    empty = counts == 0
    result = {
        "n_constituents": counts.astype(np.float64),
        "pt": np.where(empty, np.nan, np.hypot(px, py)),
        # rounding makes the square of a light jet slightly negative
        "mass": np.where(
            empty, np.nan, np.sqrt(np.maximum(energy**2 - px**2 - py**2 - pz**2, 0.0))
        ),
    }
    enough = counts >= (MIN_CONSTITUENTS if axes == "kt" else 1)
    taus = np.full((len(counts), 3), np.nan)
    if enough.any():
        of_enough = np.repeat(enough, counts)
        sequence = _cluster(momenta[of_enough], counts[enough])
        if axes == "onepass":
            taus[enough] = ak.to_numpy(sequence.njettiness(njets=[1, 2, 3], R0=R0))
        else:
            taus[enough] = _kt_taus(sequence, physical[of_enough], counts[enough])
    few = counts < MIN_CONSTITUENTS
    result |= {f"tau{n}": taus[:, n - 1] for n in (1, 2, 3)}
    for name, n in (("tau21", 2), ("tau32", 3)):
        below = taus[:, n - 2]
        undefined = few | ~(below > 0)
        result[name] = np.divide(
            taus[:, n - 1], below, out=np.full(len(counts), np.nan), where=~undefined
        )
    if d2:
        result["d2"] = energy_correlation_d2(physical, offsets)
    return result


def _cluster(momenta: np.ndarray, counts: np.ndarray) -> fastjet.ClusterSequence:
    """Cluster every jet's constituents with kt, R = 0.8, E scheme; fresh contiguous arrays."""
    components = [np.ascontiguousarray(column) for column in momenta.T]
    particles = ak.zip(
        dict(zip(("px", "py", "pz", "E"), components, strict=True)), with_name="Momentum4D"
    )
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, R0)
    return fastjet.ClusterSequence(ak.unflatten(particles, counts), definition)


def _kt_taus(sequence, physical: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """tau1 to tau3 about exclusive kt jets, (n_jets, 3); needs three constituents or more."""
    jet_index = np.repeat(np.arange(len(counts)), counts)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pt, eta, phi = physical.T
    total = R0 * segment_sum(pt, offsets)
    taus = np.empty((len(counts), 3))
    for n in (1, 2, 3):
        subjets = _exclusive(sequence, n)
        x, y, z = (subjets[name] for name in ("px", "py", "pz"))  # (n_jets, n)
        d_eta = eta[:, None] - np.arcsinh(z / np.hypot(x, y))[jet_index]
        d_phi = wrap(phi[:, None] - np.arctan2(y, x)[jet_index])
        nearest = np.hypot(d_eta, d_phi).min(axis=1)
        taus[:, n - 1] = segment_sum(pt * nearest, offsets) / total
    return taus


def _exclusive(sequence, n: int) -> np.ndarray:
    """Exactly n exclusive jets of every event, as a (n_jets, n) structured array."""
    formatter = warnings.formatwarning
    try:  # the interface warns of "other than kt" for kt as well, and replaces the formatter
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            subjets = sequence.exclusive_jets(n_jets=n)
    finally:
        warnings.formatwarning = formatter
    return ak.to_numpy(ak.to_regular(subjets, axis=1))


def wrap(phi: np.ndarray) -> np.ndarray:
    """Angle wrapped to [-pi, pi)."""
    return (phi + np.pi) % (2 * np.pi) - np.pi


def _flat(physical, offsets, mask) -> tuple[np.ndarray, np.ndarray]:
    physical = np.asarray(physical, np.float64)
    if (offsets is None) == (mask is None):
        raise JetfmError("observables", "both or neither", "either offsets or a mask")
    if mask is not None:
        mask = np.asarray(mask, bool)
        if physical.shape != (*mask.shape, 3):
            found = f"physical {physical.shape} and mask {mask.shape}"
            raise JetfmError("observables", found, "(B, T, 3) and (B, T)")
        physical = physical[mask]
        offsets = np.concatenate([[0], np.cumsum(mask.sum(axis=1))])
    offsets = np.asarray(offsets, np.int64)
    if physical.ndim != 2 or physical.shape[1] != 3 or offsets[-1] > len(physical):
        found = f"physical {physical.shape} and offsets up to {offsets[-1]}"
        raise JetfmError("observables", found, "(n_total, 3) and offsets up to n_total")
    used = physical[offsets[0] : offsets[-1]]
    bad = ~np.isfinite(used).all(axis=1) | (used[:, 0] < 0)
    if bad.any():
        row = int(np.argmax(bad))
        jet = int(np.searchsorted(offsets, offsets[0] + row, side="right") - 1)
        found = f"pt, eta_rel, phi_rel = {used[row]} in jet {jet}"
        raise JetfmError("observables", found, "finite values and pt >= 0")
    return physical, offsets
