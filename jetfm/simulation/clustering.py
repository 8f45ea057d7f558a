"""Jets from candidates: anti-kT clustering and truth matching."""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import fastjet
import numpy as np

from jetfm.physics.observables import wrap
from jetfm.physics.substructure import RADIUS, momenta
from jetfm.simulation.detector import Candidates
from jetfm.simulation.event_record import Truth

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
