"""Detector response: stable particles in, particle-flow candidates out, for a batch of events.

The chain of the Delphes cards: propagation in the solenoid, tracking efficiency, momentum and
impact-parameter smearing, calorimeter towers, energy flow. A card (``jetfm/simulation/cards``) has
the constants, and says which of Delphes' two ways of smearing and of energy flow it takes.
Electrons and photons shower in the ECAL, hadrons in the HCAL, K0S and Lambda that reach it in both;
muons pass.

Tracks whose momentum the energy flow sets to zero stay, as in Delphes: without a direction they
lie at (eta, phi) = (0, 0), and enter the jets there with their mass as energy. They are among no
jet's constituents in a file, but in its energy and soft-drop mass.

Where this differs from Delphes, by our choice: the point of closest approach is the nearest one,
not the nearest modulo half a turn; stable particles beyond |eta| = 3.2 are left out from the start.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from jetfm.simulation.calorimeter import (
    Towers,
    cell_of,
    energy_flow,
    energy_flow_2015,
    log_normal,
)
from jetfm.simulation.detector_card import DetectorCard
from jetfm.simulation.propagation import Arrival, Particles, inside, propagate

PHOTON, NEUTRAL_HADRON = 22, 0  # PID of the neutral candidates, as Delphes gives them


@dataclass
class Candidates:
    """Particle-flow candidates of several events as flat arrays of equal length.

    Attributes
    ----------
    event : index of the event
    pid : PDG code of tracks; 22 for ECAL excess, 0 for HCAL excess
    px, py, pz, energy : momentum that jets are built from, GeV
    mass : GeV; zero for towers
    eta : pseudorapidity written to files; differs from that of the momentum where the card says so
    charge : in units of e
    d0, d0_error, dz, dz_error : impact parameters, mm; zero for towers
    """

    event: np.ndarray
    pid: np.ndarray
    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    energy: np.ndarray
    mass: np.ndarray
    eta: np.ndarray
    charge: np.ndarray
    d0: np.ndarray
    d0_error: np.ndarray
    dz: np.ndarray
    dz_error: np.ndarray

    def __len__(self) -> int:
        return len(self.event)

    def select(self, where: np.ndarray) -> Candidates:
        """The candidates at a mask or at indices."""
        return Candidates(**{f.name: getattr(self, f.name)[where] for f in fields(self)})


def detect(particles: Particles, card: DetectorCard, rng: np.random.Generator) -> Candidates:
    """Response of the detector to stable particles.

    Parameters
    ----------
    particles : stable particles of a batch of events; neutrinos leave no signal
    card : the detector
    rng : source of random numbers

    Returns
    -------
    Candidates
        Sorted by event. Tracks of no momentum, and of no energy where tracks are massless, are
        those whose energy the calorimeters did not see.
    """
    particles = particles.select(inside(particles, card.tracker))
    arrival = propagate(particles, card.tracker)
    cells = {
        "ecal": cell_of(arrival.eta, arrival.phi, card.ecal),
        "hcal": cell_of(arrival.eta, arrival.phi, card.hcal),
    }

    tracked, resolution, pt = _tracks(particles, arrival, card, rng)
    tracked_cells = (cells["ecal"][tracked] >= 0) & (cells["hcal"][tracked] >= 0)
    tracked, resolution, pt = tracked[tracked_cells], resolution[tracked_cells], pt[tracked_cells]
    tracks = _track_candidates(particles.select(tracked), arrival, tracked, pt, card, rng)
    if card.exact_tracks:
        resolution = np.zeros_like(resolution)

    flow = _subtract if card.energy_flow == "subtraction" else _weigh
    factor, towers = flow(particles, cells, tracked, tracks.energy, resolution, card, rng)

    # The e-flow rescales transverse momentum at fixed direction and mass.
    factor = np.maximum(factor, 0.0)
    for name in ("px", "py", "pz"):
        setattr(tracks, name, getattr(tracks, name) * factor)
    tracks.energy = np.sqrt(tracks.px**2 + tracks.py**2 + tracks.pz**2 + tracks.mass**2)
    tracks = tracks.select(tracks.energy > 0)
    return _concatenate([tracks, *map(_tower_candidates, towers, (PHOTON, NEUTRAL_HADRON))])


def _tracks(particles: Particles, arrival: Arrival, card: DetectorCard, rng):
    """Indices of the tracked particles, their relative resolution and smeared pT [GeV]."""
    charged = np.flatnonzero(particles.charge != 0)
    pid = np.abs(particles.pid[charged])
    kinds = {"electron": pid == 11, "muon": pid == 13}
    kinds["hadron"] = ~(kinds["electron"] | kinds["muon"])
    pt = np.hypot(particles.px[charged], particles.py[charged])
    eta = arrival.eta[charged]
    efficiency, resolution = np.zeros(len(charged)), np.zeros(len(charged))
    for kind, mask in kinds.items():
        efficiency[mask] = getattr(card.efficiency, kind)(pt[mask], eta[mask])
        resolution[mask] = getattr(card.momentum_resolution, kind)(pt[mask], eta[mask])
    found = rng.random(len(charged)) < efficiency
    charged, pt, resolution = charged[found], pt[found], np.minimum(resolution[found], 1.0)
    if card.momentum_smearing == "log-normal":
        return charged, resolution, log_normal(pt, resolution * pt, rng)
    pt = pt * (1 + resolution * rng.standard_normal(len(pt)))
    return charged[pt > 0], resolution[pt > 0], pt[pt > 0]


def _track_candidates(particles, arrival, index, pt, card, rng) -> Candidates:
    """Candidates of the tracks before the energy flow."""
    true_pt = np.hypot(particles.px, particles.py)
    eta = np.arcsinh(particles.pz / true_pt)
    d0_error = card.impact_parameter.d0(pt, eta)
    dz_error = card.impact_parameter.dz(pt, eta)
    if card.exact_tracks:
        pt = true_pt
    phi = arrival.phi_track[index]
    mass = np.zeros_like(particles.mass) if card.massless_tracks else particles.mass
    return Candidates(
        event=particles.event,
        pid=particles.pid,
        px=pt * np.cos(phi),
        py=pt * np.sin(phi),
        pz=pt * np.sinh(eta),
        energy=np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2),
        mass=mass,
        eta=arrival.eta[index] if card.eta_at_calorimeter else eta,
        charge=particles.charge,
        d0=arrival.d0[index] + d0_error * rng.standard_normal(len(pt)),
        d0_error=d0_error,
        dz=arrival.dz[index] + dz_error * rng.standard_normal(len(pt)),
        dz_error=dz_error,
    )


def _weigh(particles, cells, tracked, energy, resolution, card: DetectorCard, rng):
    """Energy flow in one calorimeter after the other: factor of every track, neutral towers."""
    factor, found = np.ones(len(tracked)), []
    for name in ("ecal", "hcal"):
        calorimeter, cell = getattr(card, name), cells[name]
        fraction = calorimeter.fraction(particles.pid)
        hit = (fraction > 0) & (cell >= 0)
        position = np.cumsum(hit) - 1  # of a particle among those that leave energy
        here = hit[tracked]
        scale, towers = energy_flow(
            particles.event[hit],
            cell[hit],
            particles.energy[hit] * fraction[hit],
            position[tracked[here]],
            energy[here] * fraction[tracked[here]],
            resolution[here],
            calorimeter,
            rng,
        )
        factor[here] *= scale
        found.append(towers)
    return factor, found


def _subtract(particles, cells, tracked, energy, resolution, card: DetectorCard, rng):
    """Energy flow in towers of both calorimeters: factor of every track, neutral towers."""
    calorimeters = (card.ecal, card.hcal)
    fractions = [calorimeter.fraction(particles.pid) for calorimeter in calorimeters]
    hit = (sum(fractions) > 0) & (cells["ecal"] >= 0)
    position = np.cumsum(hit) - 1  # of a particle among those that leave energy
    here = hit[tracked]
    factor = np.ones(len(tracked))
    factor[here], found = energy_flow_2015(
        particles.event[hit],
        cells["ecal"][hit],
        [particles.energy[hit] * fraction[hit] for fraction in fractions],
        position[tracked[here]],
        [energy[here] * (fraction[tracked[here]] > 0) for fraction in fractions],
        resolution[here],
        calorimeters,
        rng,
    )
    return factor, found


def _tower_candidates(towers: Towers, pid: int) -> Candidates:
    pt, zero = towers.energy / np.cosh(towers.eta), np.zeros(len(towers.energy))
    return Candidates(
        event=towers.event,
        pid=np.full(len(pt), pid),
        px=pt * np.cos(towers.phi),
        py=pt * np.sin(towers.phi),
        pz=pt * np.sinh(towers.eta),
        energy=towers.energy,
        mass=zero,
        eta=towers.eta,
        charge=zero,
        d0=zero,
        d0_error=zero,
        dz=zero,
        dz_error=zero,
    )


def _concatenate(parts: list[Candidates]) -> Candidates:
    merged = Candidates(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Candidates)}
    )
    return merged.select(np.argsort(merged.event, kind="stable"))
