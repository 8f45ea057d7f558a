"""Generated jets in a file: JetClass-like ROOT, or the same columns as parquet.

Generated constituents have angles relative to a jet axis and nothing that says where that axis is.
Our choice: it lies at eta = phi = 0, so that eta = eta_rel and phi = phi_rel. What JetClass has
beside, in its own definitions:

- ``jet_pt``, ``jet_eta``, ``jet_phi``, ``jet_energy``: the vector sum of the constituents, to
  which ``part_deta`` and ``part_dphi`` refer; soft drop and N-subjettiness from the constituents;
- constituents without transverse momentum, with abs(pz) > 10 TeV or abs(eta) > 5 are left out,
  and so are jets left without any;
- ``part_energy`` from the mass where the tokenizer has it as a feature, else massless; likewise
  charge, particle flags (rounded) and impact parameters, else 0;
- no truth: every label and ``aux_*`` is 0, and the file says ``unlabelled``, upon which the reader
  gives the label -1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import awkward as ak
import numpy as np
from pyarrow import parquet

from jetfm.data.layout import FEATURE_BRANCHES
from jetfm.errors import JetfmError
from jetfm.generation.autoregressive import GeneratedJets
from jetfm.physics.features import Preprocessing
from jetfm.physics.jagged import segment_sum
from jetfm.physics.observables import wrap
from jetfm.physics.substructure import momenta, substructure
from jetfm.schema import BRANCHES, UNLABELLED, is_jagged
from jetfm.simulation.jetclass_file import ETA_MAX, PZ_MAX, write_jetclass_file
from jetfm.storage.files import replacing

SUFFIXES = (".root", ".parquet")
_CHUNK = 20_000  # jets clustered at once


class Written(NamedTuple):
    """Jets in a file, and what was generated but is not there: empty jets, constituents."""

    n_jets: int
    n_empty: int
    n_left_out: int


def check_suffix(path: str | Path) -> None:
    """Refuse a file name that `write_generated` has no format for."""
    if Path(path).suffix not in SUFFIXES:
        raise JetfmError(path, f"a file '{Path(path).suffix}'", f"one of {', '.join(SUFFIXES)}")


def write_generated(
    path: str | Path, jets: GeneratedJets, preprocessing: Preprocessing, info: dict | None = None
) -> Written:
    """Write jets to `path`, a ``.root`` or ``.parquet`` file that appears only when complete.

    Parameters
    ----------
    preprocessing : of the tokenizer
    info : how the jets were made, JSON values; in a ROOT file beside the tree, in a parquet file
        under the key 'jetfm' of its metadata

    Returns
    -------
    what was written, and what was left out

    Raises
    ------
    JetfmError
        Another suffix, no jet with constituents, or a file that cannot be written.
    """
    path = Path(path)
    check_suffix(path)
    physical = preprocessing.inverse(jets.decoded.astype(np.float64))
    columns = generated_columns(physical, jets.offsets, preprocessing.features)
    info = (info or {}) | {UNLABELLED: True}
    if path.suffix == ".root":
        write_jetclass_file(path, columns, info)
    else:
        table = ak.to_arrow_table(ak.Array(columns), extensionarray=False)
        metadata = (table.schema.metadata or {}) | {"jetfm": json.dumps(info)}
        with replacing(path) as aside:
            parquet.write_table(table.replace_schema_metadata(metadata), aside)
    n_jets, n_written = len(columns["jet_pt"]), int(columns["jet_nparticles"].sum())
    return Written(n_jets, len(jets.offsets) - 1 - n_jets, len(physical) - n_written)


def generated_columns(
    physical: np.ndarray, offsets: np.ndarray, features: tuple[str, ...]
) -> dict[str, np.ndarray | ak.Array]:
    """The branches of JetClass, see the module.

    Parameters
    ----------
    physical : (n_total, F), pt [GeV], eta_rel, phi_rel first
    offsets : (n_jets + 1,)
    features : names of the F columns

    Raises
    ------
    JetfmError
        No jet with constituents.
    """
    pt, eta, phi = physical[:, :3].T
    keep = (pt > 0) & (np.abs(eta) <= ETA_MAX)
    keep[keep] = np.abs(pt[keep] * np.sinh(eta[keep])) <= PZ_MAX
    physical = physical[keep]
    counts = np.diff(np.concatenate([[0], np.cumsum(keep)])[offsets])
    counts = counts[counts > 0]
    if not len(counts):
        raise JetfmError("generated jets", "no jet with constituents", "at least one to write")
    offsets = np.concatenate([[0], np.cumsum(counts)])
    order = np.lexsort((-physical[:, 0], np.repeat(np.arange(len(counts)), counts)))
    feature = dict(zip(features, physical[order].T, strict=True))

    pt, eta, phi = feature["pt"], feature["eta_rel"], feature["phi_rel"]
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(pt**2 + pz**2 + feature.get("mass", 0.0) ** 2)
    jet = _jets(px, py, pz, energy, offsets)
    jet_of = np.repeat(np.arange(len(counts)), counts)
    flip = np.where(jet["eta"] > 0, 1.0, -1.0)[jet_of]  # makeNtuples.C
    columns = {
        "part_px": px,
        "part_py": py,
        "part_pz": pz,
        "part_energy": energy,
        "part_deta": flip * (eta - jet["eta"][jet_of]),
        "part_dphi": wrap(phi - jet["phi"][jet_of]),
        "jet_nparticles": counts,
    }
    columns |= {f"jet_{name}": values for name, values in jet.items()}
    columns |= {
        branch: feature[name] for name, branch in FEATURE_BRANCHES.items() if name in feature
    }

    def typed(name: str, dtype: str):
        values = columns.get(name, np.zeros(len(pt) if is_jagged(name) else len(counts)))
        if is_jagged(name) and dtype == "i4":
            values = np.rint(np.clip(values, 0, 1))
        values = values.astype(dtype)
        return ak.unflatten(values, counts) if is_jagged(name) else values

    return {name: typed(name, dtype) for name, dtype in BRANCHES.items()}


def _jets(px, py, pz, energy, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Vector sum, soft-drop mass and N-subjettiness of every jet."""
    x, y, z, e = (segment_sum(component, offsets) for component in (px, py, pz, energy))
    parts = []
    for start in range(0, len(offsets) - 1, _CHUNK):
        bounds = offsets[start : start + _CHUNK + 1]
        some = [c[bounds[0] : bounds[-1]].copy() for c in (px, py, pz, energy)]
        parts.append(substructure(momenta(*some, np.diff(bounds))))
    shapes = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    pt = np.hypot(x, y)
    return {"pt": pt, "eta": np.arcsinh(z / pt), "phi": np.arctan2(y, x), "energy": e} | shapes
