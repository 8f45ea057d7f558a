"""Calorimeter towers and the energy flow that merges them with tracks, vectorised over a batch.

There are two ways, as Delphes had them: `energy_flow` is that of its SimpleCalorimeter since June
2016 (release 3.5.0 here), one calorimeter at a time; `energy_flow_2015` that of its Calorimeter up
to release 3.3.2, whose towers hold an electromagnetic and a hadronic energy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jetfm.simulation.detector_card import Calorimeter

_EXACT = 1e-100  # GeV; a track measured better than this has zero resolution


@dataclass
class Towers:
    """Neutral excess of the towers of a batch: one e-flow candidate each.

    Attributes
    ----------
    event : index of the event
    energy : GeV
    eta, phi : direction, drawn uniformly within the cell
    """

    event: np.ndarray
    energy: np.ndarray
    eta: np.ndarray
    phi: np.ndarray


def log_normal(mean: np.ndarray, sigma: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-normal numbers of given mean and standard deviation; zero where the mean is zero."""
    positive = mean > 0
    ratio = np.divide(sigma, mean, out=np.zeros_like(mean), where=positive)
    width2 = np.log1p(ratio**2)
    factor = np.exp(np.sqrt(width2) * rng.standard_normal(len(mean)) - 0.5 * width2)
    return np.where(positive, mean * factor, 0.0)


def cell_of(eta: np.ndarray, phi: np.ndarray, calorimeter: Calorimeter) -> np.ndarray:
    """Index of the cell that holds a direction; -1 outside the calorimeter.

    A cell includes its upper edges.
    """
    edges, n_phi, first = calorimeter.grid
    ring = np.searchsorted(edges, eta, side="left") - 1
    outside = (ring < 0) | (ring >= len(n_phi))
    ring = np.where(outside, 0, ring)
    column = np.ceil((phi + np.pi) / (2 * np.pi) * n_phi[ring]).astype(np.int64) - 1
    return np.where(outside, -1, first[ring] + np.clip(column, 0, n_phi[ring] - 1))


def cell_bounds(cell: np.ndarray, calorimeter: Calorimeter) -> tuple[np.ndarray, ...]:
    """Lower eta, upper eta, lower phi and upper phi of cells."""
    edges, n_phi, first = calorimeter.grid
    ring = np.searchsorted(first, cell, side="right") - 1
    width = 2 * np.pi / n_phi[ring]
    phi = -np.pi + (cell - first[ring]) * width
    return edges[ring], edges[ring + 1], phi, phi + width


def energy_flow(
    event: np.ndarray,
    cell: np.ndarray,
    deposit: np.ndarray,
    track: np.ndarray,
    track_energy: np.ndarray,
    track_resolution: np.ndarray,
    calorimeter: Calorimeter,
    rng: np.random.Generator,
) -> tuple[np.ndarray, Towers]:
    """Build towers, smear them, and split them into tracks and a neutral excess.

    A tower takes the deposits of charged and neutral particles together, is smeared once, and drops
    to zero below threshold or significance. Where its energy exceeds that of its tracks
    significantly, the excess becomes a neutral candidate and the tracks stay as they are; elsewhere
    the tracks are rescaled to the mean of the two measurements, weighted by the inverse variances,
    and no neutral candidate arises. Nothing is counted twice.

    Tracks of zero resolution have zero weight, not infinite weight, exactly as in Delphes: with
    them a tower without excess hands its *smeared* energy to its tracks, and tracks of a tower that
    fell below threshold vanish (factor zero).

    Parameters
    ----------
    event, cell, deposit : (particles,) event index, cell (>= 0) and energy [GeV] of each deposit
    track : (tracks,) indices into the deposits: the particle that a track belongs to
    track_energy : (tracks,) GeV
    track_resolution : (tracks,) relative
    calorimeter : thresholds, cells and resolution
    rng : source of random numbers

    Returns
    -------
    factor : (tracks,) by which to multiply the track's momentum
    towers : the neutral candidates
    """
    key = event * calorimeter.n_cells + cell
    keys, tower = np.unique(key, return_inverse=True)
    n = len(keys)
    tower_event, tower_cell = np.divmod(keys, calorimeter.n_cells)
    eta_low, eta_high, phi_low, phi_high = cell_bounds(tower_cell, calorimeter)
    centre = 0.5 * (eta_low + eta_high)

    true = _sums(tower, deposit, n)
    measured = log_normal(true, calorimeter.sigma(true, centre), rng)
    sigma = calorimeter.sigma(measured, centre)
    seen = (measured >= calorimeter.threshold) & (measured >= calorimeter.significance * sigma)
    measured = np.where(seen, measured, 0.0)

    tower_of_track = tower[track]
    charged = _sums(tower_of_track, track_energy, n)
    # A track measured better than the calorimeter contributes by its share of energy, which is all
    # of it here: e-flow fractions of tracks are zero or one.
    track_variance = _sums(tower_of_track, (track_resolution * track_energy) ** 2, n)

    excess = np.maximum(measured - charged, 0.0)
    spread = np.sqrt(track_variance + sigma**2)
    neutral = (excess > calorimeter.threshold) & (excess > calorimeter.significance * spread)

    resolved = track_variance > _EXACT**2
    weight_track = np.divide(1.0, track_variance, out=np.zeros(n), where=resolved)
    weight_tower = np.divide(1.0, sigma**2, out=np.zeros(n), where=sigma > 0)
    weight = weight_track + weight_tower
    weighted = weight_track * charged + weight_tower * measured
    combined = np.divide(weighted, weight, out=measured.copy(), where=weight > 0)
    rescale = np.divide(combined, charged, out=np.ones(n), where=charged > 0)
    factor = np.where(neutral, 1.0, rescale)[tower_of_track]

    chosen = np.flatnonzero(neutral)
    eta = rng.uniform(eta_low[chosen], eta_high[chosen])
    phi = rng.uniform(phi_low[chosen], phi_high[chosen])
    return factor, Towers(tower_event[chosen], excess[chosen], eta, phi)


def energy_flow_2015(
    event: np.ndarray,
    cell: np.ndarray,
    deposits: Sequence[np.ndarray],
    track: np.ndarray,
    track_energies: Sequence[np.ndarray],
    track_resolution: np.ndarray,
    calorimeters: Sequence[Calorimeter],
    rng: np.random.Generator,
) -> tuple[np.ndarray, list[Towers]]:
    """Build towers of two energies, and subtract from each what its tracks account for.

    A tower's electromagnetic and hadronic energy are each smeared, and drop to zero below threshold
    or significance. Tracks that are measured better than the calorimeter would measure them stay as
    they are, and their energy is subtracted. The others share what is left in proportion to their
    own energies, with nothing over for neutrals; a factor that is not positive says that there was
    nothing left for them. Where there are none of those, what is left becomes a neutral candidate
    if it passes the thresholds again. There is no weighted mean of the two measurements.

    Source: ``Calorimeter.cc`` of Delphes 3.3.2 (facts, no code).

    Parameters
    ----------
    event, cell : (particles,) event index and cell (>= 0)
    deposits : for each of the calorimeters, (particles,) energies [GeV]
    track : (tracks,) indices into the particles
    track_energies : for each of the calorimeters, (tracks,) GeV; 0 for a track that leaves nothing
    track_resolution : (tracks,) relative
    calorimeters : electromagnetic and hadronic, with the same cells
    rng : source of random numbers

    Returns
    -------
    factor : (tracks,) by which to multiply the track's momentum
    towers : for each of the calorimeters, the neutral candidates; those of one tower at one point
    """
    geometry = calorimeters[0]
    keys, tower = np.unique(event * geometry.n_cells + cell, return_inverse=True)
    n, tower_of_track = len(keys), tower[track]
    tower_event, tower_cell = np.divmod(keys, geometry.n_cells)
    eta_low, eta_high, phi_low, phi_high = cell_bounds(tower_cell, geometry)
    centre = 0.5 * (eta_low + eta_high)
    eta, phi = rng.uniform(eta_low, eta_high), rng.uniform(phi_low, phi_high)

    factor, towers = np.ones(len(track)), []
    for calorimeter, deposit, energy in zip(calorimeters, deposits, track_energies, strict=True):

        def seen(values, calorimeter=calorimeter):
            sigma = calorimeter.sigma(values, centre)
            above = values >= np.maximum(calorimeter.threshold, calorimeter.significance * sigma)
            return np.where(above, values, 0.0)

        true = _sums(tower, deposit, n)
        left = seen(log_normal(true, calorimeter.sigma(true, centre), rng))
        here = energy > 0
        sigma = calorimeter.sigma(energy, centre[tower_of_track])
        worse = here & (sigma < track_resolution * energy)  # than the calorimeter
        better = here & ~worse
        left = left - _sums(tower_of_track[better], energy[better], n)
        sharing = _sums(tower_of_track[worse], energy[worse], n)
        share = np.divide(left, sharing, out=np.ones(n), where=sharing > 0)
        factor[worse] *= share[tower_of_track[worse]]
        left = seen(np.where(sharing > 0, 0.0, np.maximum(left, 0.0)))
        chosen = np.flatnonzero(left)
        towers.append(Towers(tower_event[chosen], left[chosen], eta[chosen], phi[chosen]))
    return factor, towers


def _sums(index: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    # numpy's bincount returns integers for empty input, weights or not
    return np.bincount(index, values, n).astype(float)
