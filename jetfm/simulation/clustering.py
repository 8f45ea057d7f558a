"""Jets from candidates: anti-kT clustering, truth matching, soft drop and N-subjettiness."""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import fastjet
import numpy as np

from jetfm.physics.observables import wrap
from jetfm.simulation.detector import Candidates
from jetfm.simulation.event_record import Truth

RADIUS = 0.8  # of jets, soft drop and N-subjettiness; delphes_card.tcl, FatJetFinder
SOFT_DROP_BETA, SOFT_DROP_CUT = 0.0, 0.1  # ibid.
UNMATCHED_QCD = 50  # aux_truth_match of jets without resonance; makeNtuples.C


@dataclass
class Jets:
    """Clustered jets of a batch.

    Attributes
    ----------
    event : (jets,) index of the event
    pt, eta, phi, energy : (jets,) of the vector sum
    constituents : (jets, var) indices into the candidates
    """

    event: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    energy: np.ndarray
    constituents: ak.Array

    def __len__(self) -> int:
        return len(self.event)

    def select(self, mask: np.ndarray) -> Jets:
        """The jets at a mask."""
        return Jets(
            self.event[mask],
            self.pt[mask],
            self.eta[mask],
            self.phi[mask],
            self.energy[mask],
            self.constituents[mask],
        )


def momenta(px, py, pz, energy, counts) -> ak.Array:
    """Four-momenta of (lists of) particles as FastJet's awkward interface reads them."""
    flat = ak.zip({"px": px, "py": py, "pz": pz, "E": energy}, with_name="Momentum4D")
    return ak.unflatten(flat, counts)


def cluster(candidates: Candidates, n_events: int, pt_min: float) -> Jets:
    """Anti-kT jets (R = 0.8, E scheme) of all events.

    Parameters
    ----------
    candidates : sorted by event
    n_events : number of events
    pt_min : smallest transverse momentum of a jet, GeV

    Returns
    -------
    Jets
        Sorted by event, and by falling transverse momentum within it.
    """
    counts = np.bincount(candidates.event, minlength=n_events)
    filled = np.flatnonzero(counts)
    particles = momenta(
        candidates.px, candidates.py, candidates.pz, candidates.energy, counts[filled]
    )
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    index = fastjet.ClusterSequence(particles, definition).constituent_index(pt_min)
    first = np.cumsum(counts[filled]) - counts[filled]
    per_event = ak.to_numpy(ak.num(index))
    event = np.repeat(np.arange(len(filled)), per_event)
    constituents = ak.flatten(index, axis=1) + first[event]

    flat, sizes = ak.to_numpy(ak.flatten(constituents)), ak.to_numpy(ak.num(constituents))
    jet_of = np.repeat(np.arange(len(sizes)), sizes)
    px, py, pz, energy = (
        np.bincount(jet_of, getattr(candidates, n)[flat], len(sizes))
        for n in ("px", "py", "pz", "energy")
    )
    pt = np.hypot(px, py)
    jets = Jets(filled[event], pt, np.arcsinh(pz / pt), np.arctan2(py, px), energy, constituents)
    order = np.lexsort((-pt, jets.event))
    return jets.select(order)


def match(jets: Jets, truth: Truth, is_qcd: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find the resonance whose whole decay lies in each jet.

    A resonance matches when every one of its products (and the resonance itself, where the campaign
    asks for it) lies within ``RADIUS`` of the jet's axis; the first that matches is taken.

    Parameters
    ----------
    jets : (jets,)
    truth : resonances of the events
    is_qcd : keep every jet, without matching

    Returns
    -------
    kept : (jets,) bool
    slot : (jets,) index of the matched resonance in its event; -1 where there is none
    """
    none = np.full(len(jets), -1)
    if is_qcd:
        return np.ones(len(jets), dtype=bool), none
    if truth.code.shape[1] == 0:
        return np.zeros(len(jets), dtype=bool), none
    eta, phi = truth.product_eta[jets.event], truth.product_phi[jets.event]  # (jets, R, 4)
    distance = np.hypot(eta - jets.eta[:, None, None], wrap(phi - jets.phi[:, None, None]))
    inside = (np.isnan(distance) | (distance < RADIUS)).all(axis=2)
    inside &= truth.code[jets.event] > 0
    kept = inside.any(axis=1)
    return kept, np.where(kept, inside.argmax(axis=1), -1)


def substructure(particles: ak.Array) -> dict[str, np.ndarray]:
    """Soft-drop mass and N-subjettiness of jets.

    Soft drop with beta = 0 and z_cut = 0.1 on a Cambridge/Aachen tree; tau_N with beta = 1,
    normalised, one-pass kT axes (delphes_card.tcl, FatJetFinder).

    Parameters
    ----------
    particles : (jets, var) four-momenta of the constituents

    Returns
    -------
    dict
        ``sdmass`` [GeV], ``tau1`` to ``tau4``, each (jets,).
    """
    # The algorithm of this sequence only matters for soft drop, which starts from its tree; the
    # radius is large enough to hold all constituents of an anti-kT jet in one tree.
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, 10 * RADIUS)
    sequence = fastjet.ClusterSequence(particles, definition)
    groomed = sequence.exclusive_jets_softdrop_grooming(
        1, SOFT_DROP_BETA, SOFT_DROP_CUT, "scalar_z", RADIUS
    )
    taus = ak.to_numpy(sequence.njettiness())
    result = {"sdmass": np.asarray(groomed.msoftdrop, dtype=float).ravel()}
    return result | {f"tau{n + 1}": taus[:, n] for n in range(4)}
