"""Small JetClass files for tests: random jets in the 41-branch layout, written by uproot."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from jetfm.data.layout import FEATURE_BRANCHES
from jetfm.schema import BRANCHES, CLASSES, is_jagged

TYPES = {"f4": np.float32, "i4": np.int32, "bool": np.bool_}
FLAGS = [name for name in BRANCHES if name.startswith("part_is")]


def random_jets(counts, seed: int = 0) -> dict[str, ak.Array | np.ndarray]:
    """All 41 branches for jets with these constituent counts, with the files' own formulas.

    Constituents have mass; jets lie on both sides of eta = 0 and across the wrap of phi.
    """
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts, np.int64)
    n_jets, n = len(counts), int(counts.sum())
    of_jet = np.repeat(np.arange(n_jets), counts)
    centre = {"eta": rng.uniform(-2, 2, n_jets), "phi": rng.uniform(-np.pi, np.pi, n_jets)}
    pt = rng.exponential(1.0, n) + 0.02
    scale = rng.uniform(520, 980, n_jets) / np.bincount(of_jet, pt, n_jets).clip(1e-9)
    pt *= scale[of_jet]
    order = np.lexsort((-pt, of_jet))
    pt = pt[order]
    eta = centre["eta"][of_jet] + rng.normal(0, 0.2, n)
    phi = centre["phi"][of_jet] + rng.normal(0, 0.2, n)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    mass = rng.choice([0.0, 0.1396, 0.4977], n)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)

    def total(x):
        return np.bincount(of_jet, x, n_jets)

    x, y, z = total(px), total(py), total(pz)
    jet_pt = np.hypot(x, y)
    jet_eta, jet_phi = np.arcsinh(z / np.maximum(jet_pt, 1e-9)), np.arctan2(y, x)
    sign = np.where(jet_eta > 0, 1.0, -1.0)[of_jet]
    kind = rng.integers(0, 6, n)  # five flags; the sixth kind has none
    charged = np.isin(kind, [FLAGS.index(f"part_is{p}") for p in ("Electron", "Muon")]) | (
        kind == FLAGS.index("part_isChargedHadron")
    )
    columns = {
        "part_px": px, "part_py": py, "part_pz": pz, "part_energy": energy,
        "part_deta": sign * (eta - jet_eta[of_jet]),
        "part_dphi": (phi - jet_phi[of_jet] + np.pi) % (2 * np.pi) - np.pi,
        "part_d0val": rng.normal(0, 0.1, n) * charged, "part_d0err": 0.03 * charged,
        "part_dzval": rng.normal(0, 0.1, n) * charged, "part_dzerr": 0.08 * charged,
        "part_charge": rng.choice([-1, 1], n) * charged,
        **{flag: kind == i for i, flag in enumerate(FLAGS)},
        **{f"label_{c.name}": np.arange(n_jets) % 10 == c.index for c in CLASSES},
        "jet_pt": jet_pt, "jet_eta": jet_eta, "jet_phi": jet_phi, "jet_energy": total(energy),
        "jet_nparticles": counts, "jet_sdmass": rng.uniform(0, 200, n_jets),
        **{f"jet_tau{i}": rng.uniform(0, 0.3 / i, n_jets) for i in (1, 2, 3, 4)},
        **{name: np.zeros(n_jets) for name in BRANCHES if name.startswith("aux_")},
    }  # fmt: skip
    columns = {name: columns[name].astype(TYPES[dtype]) for name, dtype in BRANCHES.items()}
    return {k: ak.unflatten(v, counts) if is_jagged(k) else v for k, v in columns.items()}


def dense_arrays(columns: dict) -> dict[str, np.ndarray]:
    """What an analysis has of the constituents: (jets, constituents) float64, zero-padded.

    pt, eta, phi, mass, and the schema's further features by their names there.
    """
    dense = {}
    for branch, values in columns.items():
        if is_jagged(branch):
            values = ak.values_astype(values, np.float64)
            length = max(int(ak.max(ak.num(values))), 1)
            values = ak.to_numpy(ak.fill_none(ak.pad_none(values, length), 0.0))
            dense[branch.removeprefix("part_")] = values
    px, py, pz, energy = (dense.pop(name) for name in ("px", "py", "pz", "energy"))
    pt = np.hypot(px, py)
    found = {
        "pt": pt,
        "eta": np.arcsinh(pz / np.where(pt > 0, pt, 1)),
        "phi": np.arctan2(py, px),
        "mass": np.sqrt(np.maximum(energy**2 - pt**2 - pz**2, 0)),
    }
    for name, branch in FEATURE_BRANCHES.items():
        found[name] = dense[branch.removeprefix("part_")]
    return found


def write(path: Path, columns: dict, tree: str = "tree") -> Path:
    """Write branches as one tree; jagged ones may differ in length from each other."""
    types = {
        name: f"var * {ak.flatten(array).layout.dtype}" if is_jagged(name) else array.dtype
        for name, array in columns.items()
    }
    with uproot.recreate(path, compression=uproot.LZ4(4)) as file:
        file.mktree(tree, types)
        if len(next(iter(columns.values()))):
            file[tree].extend(columns)
    return path


def jetclass_file(path: Path, counts=(3, 40, 1, 2, 131, 17, 25, 60, 9, 33), seed=0, **changed):
    """Write a file of random jets with some branches replaced, or dropped where None."""
    columns = random_jets(counts, seed) | changed
    return write(path, {name: array for name, array in columns.items() if array is not None})
