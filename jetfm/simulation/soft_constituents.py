"""What multi-parton interactions leave in a jet: soft constituents, evenly over its area.

The description of the Top Landscape (DOI 10.5281/zenodo.2603256) says that multiple interactions
are ignored. These statistics of its jets, `reference.yaml` has those of a thousand, say that they
are not: hold them against simulations with and without, as notebook 00 does.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from jetfm.schema import TREE_NAME
from jetfm.simulation.calibration import reference

SOFT = 1.5  # GeV: constituents below are counted over the jet's area (our choice)

EDGES = {
    "n_constituents": np.arange(0, 130, 10.0),
    "pt": np.array([0.3, 0.5, 0.7, 1, 1.5, 2, 3, 5, 8, 12, 20, 40, 80, 300]),  # GeV
    "delta_r": np.arange(0, 0.85, 0.1),
}


def soft_constituents(pt: ak.Array, delta_r: ak.Array) -> dict[str, dict]:
    """Means over jets, and their standard errors.

    Parameters
    ----------
    pt : (jets, var) of the constituents, GeV
    delta_r : (jets, var) distance from the jet's axis

    Returns
    -------
    dict
        'n_constituents': jets in each bin, per unit; 'pt': constituents of a jet in each bin, per
        GeV; 'delta_r': those below ``SOFT`` in each ring, per unit area; each with ``values``,
        ``errors`` and the ``edges`` of its bins. 'n_soft': those below ``SOFT`` in a jet, one
        value. 'n_jets': their number, 'soft_below': that limit, GeV.
    """
    counts = ak.to_numpy(ak.num(pt))
    jet = np.repeat(np.arange(len(pt)), counts)
    pt, delta_r = (ak.to_numpy(ak.flatten(values)) for values in (pt, delta_r))
    soft, jets = pt < SOFT, np.arange(len(counts) + 1)

    def averaged(name: str, of_jet: np.ndarray, values: np.ndarray, widths: np.ndarray) -> dict:
        rows = np.histogram2d(of_jet, values, (jets, EDGES[name]))[0] / widths
        return {"edges": EDGES[name].tolist()} | _averaged(rows)

    rings = np.pi * np.diff(EDGES["delta_r"] ** 2)
    return {
        "n_jets": len(counts),
        "soft_below": SOFT,
        "n_soft": _averaged(np.bincount(jet[soft], minlength=len(counts))[:, None]),
        "n_constituents": averaged(
            "n_constituents", jets[:-1], counts, np.diff(EDGES["n_constituents"])
        ),
        "pt": averaged("pt", jet, pt, np.diff(EDGES["pt"])),
        "delta_r": averaged("delta_r", jet[soft], delta_r[soft], rings),
    }


def _averaged(rows: np.ndarray) -> dict[str, list[float]]:
    error = rows.std(axis=0) / np.sqrt(len(rows))
    return {"values": rows.mean(axis=0).tolist(), "errors": error.tolist()}


def soft_constituents_of(files: Iterable[Path]) -> dict[str, dict]:
    """`soft_constituents` of the jets in JetClass ROOT files."""
    names = ["part_px", "part_py", "part_deta", "part_dphi"]
    jets = uproot.concatenate([f"{path}:{TREE_NAME}" for path in files], names)
    return soft_constituents(
        np.hypot(jets.part_px, jets.part_py), np.hypot(jets.part_deta, jets.part_dphi)
    )


def published() -> dict[str, dict]:
    """The same of real jets of the Top Landscape, by class."""
    return {
        name: {"soft_below": SOFT}
        | {key: _with_edges(key, value) for key, value in statistics.items()}
        for name, statistics in reference()["toplandscape"].items()
    }


def _with_edges(name: str, value):
    return {"edges": EDGES[name].tolist()} | value if name in EDGES else value
