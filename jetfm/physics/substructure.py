"""Soft-drop mass and N-subjettiness as JetClass stores them, by FastJet.

The observables of the papers' figures, with taus of other axes: `jetfm.physics.observables`.
"""

from __future__ import annotations

import awkward as ak
import fastjet
import numpy as np

RADIUS = 0.8  # of jets, soft drop and N-subjettiness; delphes_card.tcl, FatJetFinder
SOFT_DROP_BETA, SOFT_DROP_CUT = 0.0, 0.1  # ibid.


def momenta(px, py, pz, energy, counts) -> ak.Array:
    """Four-momenta of (lists of) particles as FastJet's awkward interface reads them."""
    flat = ak.zip({"px": px, "py": py, "pz": pz, "E": energy}, with_name="Momentum4D")
    return ak.unflatten(flat, counts)


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
