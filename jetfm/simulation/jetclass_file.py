"""Jets as JetClass stores them: the 41 branches from jets and candidates, and the ROOT file.

Formulas: ``makeNtuples.C`` and ``postprocessing/rename.py`` of jet-universe/jetclass_generation.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from jetfm.errors import JetfmError
from jetfm.physics.substructure import momenta, substructure
from jetfm.schema import (
    BRANCHES,
    CLASSES,
    SETTINGS_KEY,
    TREE_NAME,
    JetClassLabel,
    is_jagged,
)
from jetfm.simulation.clustering import UNMATCHED_QCD, Jets, wrap
from jetfm.simulation.detector import NEUTRAL_HADRON, PHOTON, Candidates
from jetfm.simulation.event_record import Truth
from jetfm.storage.files import replacing
from jetfm.storage.root_files import open_root

PZ_MAX, ETA_MAX = 10_000.0, 5.0  # GeV; constituents beyond are dropped (makeNtuples.C)

_FLAGS = {
    "part_isChargedHadron": (211, 321, 2212),
    "part_isNeutralHadron": (NEUTRAL_HADRON,),
    "part_isPhoton": (PHOTON,),
    "part_isElectron": (11,),
    "part_isMuon": (13,),
}


def branches(
    jets: Jets,
    candidates: Candidates,
    truth: Truth,
    slot: np.ndarray,
    jet_class: JetClassLabel,
    max_constituents: int | None = None,
) -> dict[str, np.ndarray | ak.Array]:
    """The 41 branches of selected jets.

    Parameters
    ----------
    jets : (jets,)
    candidates : of all events of the batch
    truth : resonances of the events
    slot : (jets,) index of the matched resonance in its event, -1 for none
    jet_class : label to write
    max_constituents : leading constituents to keep; None for all

    Returns
    -------
    dict
        (jets,) arrays, and (jets, var) arrays for the branches ``part_*``, with the types of
        ``BRANCHES``. Constituents fall in pT; those with pT = 0, abs(pz) > 10 TeV or abs(eta) > 5
        are dropped, after soft drop and N-subjettiness, which see them all.
    """
    sizes = ak.to_numpy(ak.num(jets.constituents))
    members = candidates.select(ak.to_numpy(ak.flatten(jets.constituents)))
    jet_of = np.repeat(np.arange(len(jets)), sizes)
    shapes = substructure(momenta(members.px, members.py, members.pz, members.energy, sizes))

    pt, phi = np.hypot(members.px, members.py), np.arctan2(members.py, members.px)
    pz = pt * np.sinh(members.eta)
    order = np.lexsort((-pt, jet_of))
    kept = order[((np.abs(pz) <= PZ_MAX) & (np.abs(members.eta) <= ETA_MAX) & (pt > 0))[order]]
    if max_constituents is not None:
        kept_sizes = np.bincount(jet_of[kept], minlength=len(jets))
        rank = np.arange(len(kept)) - (np.cumsum(kept_sizes) - kept_sizes)[jet_of[kept]]
        kept = kept[rank < max_constituents]
    members, jet_of, pt, phi, pz = (
        members.select(kept),
        jet_of[kept],
        pt[kept],
        phi[kept],
        pz[kept],
    )
    counts = np.bincount(jet_of, minlength=len(jets))
    flip = np.where(jets.eta > 0, 1.0, -1.0)[jet_of]

    columns = {
        "part_px": members.px,
        "part_py": members.py,
        "part_pz": pz,
        "part_energy": np.sqrt(pt**2 + pz**2 + members.mass**2),
        "part_deta": flip * (members.eta - jets.eta[jet_of]),
        "part_dphi": wrap(phi - jets.phi[jet_of]),
        "part_d0val": members.d0,
        "part_d0err": members.d0_error,
        "part_dzval": members.dz,
        "part_dzerr": members.dz_error,
        "part_charge": members.charge,
    }
    columns |= {name: np.isin(np.abs(members.pid), codes) for name, codes in _FLAGS.items()}
    columns |= {f"label_{c.name}": np.full(len(jets), c == jet_class) for c in CLASSES}
    columns |= {f"jet_{name}": getattr(jets, name) for name in ("pt", "eta", "phi", "energy")}
    columns |= {"jet_nparticles": counts}
    columns |= {f"jet_{name}": values for name, values in shapes.items()}
    columns |= _truth_columns(jets, truth, slot)

    def typed(name: str, dtype: str):
        values = np.asarray(columns[name]).astype(dtype)
        return ak.unflatten(values, counts) if is_jagged(name) else values

    return {name: typed(name, dtype) for name, dtype in BRANCHES.items()}


def _truth_columns(jets: Jets, truth: Truth, slot: np.ndarray) -> dict[str, np.ndarray]:
    matched = slot >= 0
    result = {f"aux_genpart_{n}": np.zeros(len(jets)) for n in ("eta", "phi", "pid", "pt")}
    result["aux_truth_match"] = np.full(len(jets), float(UNMATCHED_QCD))
    where = (jets.event[matched], slot[matched])
    for name in ("eta", "phi", "pid", "pt"):
        result[f"aux_genpart_{name}"][matched] = getattr(truth, name)[where]
    result["aux_truth_match"][matched] = truth.code[where]
    return result


def rounded(columns: dict[str, np.ndarray | ak.Array], mantissa_bits: int) -> dict:
    """The same jets with constituents of fewer bits, which compress to half the size.

    Every float of a constituent is rounded to the nearest with that many explicit bits of mantissa,
    at 12 within 1.2e-4: finer than any detector resolves. Its energy follows, in full, from the
    rounded momentum and its mass as it was: rounded too, it would give each constituent of 100 GeV
    a mass of 1.5 GeV. What the jet has stays as it is.

    Parameters
    ----------
    columns : the 41 branches
    mantissa_bits : 1 to 23 bits, of float32's 23
    """
    names = [n for n, dtype in BRANCHES.items() if n.startswith("part_") and dtype == "f4"]
    sizes = ak.num(columns["part_px"])
    flat = {name: ak.to_numpy(ak.flatten(columns[name])) for name in names}
    fewer = {name: _rounded(values, mantissa_bits) for name, values in flat.items()}

    def momentum2(of: dict[str, np.ndarray]) -> np.ndarray:
        return sum(of[f"part_p{axis}"].astype("f8") ** 2 for axis in "xyz")

    mass2 = flat["part_energy"].astype("f8") ** 2 - momentum2(flat)
    fewer["part_energy"] = np.sqrt(np.maximum(momentum2(fewer) + mass2, 0)).astype("f4")
    return columns | {name: ak.unflatten(values, sizes) for name, values in fewer.items()}


def _rounded(values: np.ndarray, mantissa_bits: int) -> np.ndarray:
    """To the nearest, ties to even; one bit of a mantissa is not written."""
    mantissa, exponent = np.frexp(values)
    scale = mantissa_bits + 1
    return np.ldexp(np.rint(np.ldexp(mantissa, scale)), exponent - scale).astype("f4")


class _OpenBuffer(io.BytesIO):
    """Memory that survives being closed by uproot."""

    def close(self) -> None:
        pass


def write_jetclass_file(
    path: str | Path,
    columns: dict[str, np.ndarray | ak.Array],
    settings: dict,
    compression: uproot.compression.Compression | None = None,
) -> None:
    """Write jets to a ROOT file of JetClass's form; it appears only when complete.

    JetClass stores ``std::vector<float>``; uproot can only write jagged branches with a counter, so
    the tree has one more branch, ``npart``, shared by all. Readers that ask for branches by name
    see no difference.

    Parameters
    ----------
    path : final name of the file
    columns : the 41 branches
    settings : how the jets were made; stored as JSON text under the key ``jetfm``
    compression : LZ4, level 4, as in JetClass, if not given

    Raises
    ------
    JetfmError
        The file cannot be written, e.g. a full disk; nothing is left under the final name.
    """
    path = Path(path)
    particles = {n.removeprefix("part_"): v for n, v in columns.items() if is_jagged(n)}
    tree = {"part": ak.zip(particles)} | {n: v for n, v in columns.items() if not is_jagged(n)}
    # Built in memory, so that a failing disk meets one plain write.
    buffer = _OpenBuffer()
    with uproot.recreate(buffer, compression=compression or uproot.LZ4(4)) as file:
        # Before the tree: uproot would otherwise leave a gap of 20 kB in the file.
        file[SETTINGS_KEY] = json.dumps(settings, sort_keys=True)
        file.mktree(
            TREE_NAME,
            {
                name: value.type.content if name == "part" else value.dtype
                for name, value in tree.items()
            },
            counter_name=lambda counted: f"n{counted}",
            field_name=lambda outer, inner: f"{outer}_{inner}",
        )
        file[TREE_NAME].extend(tree)
    with replacing(path) as aside:
        aside.write_bytes(buffer.getbuffer())


def read_settings(path: str | Path) -> dict:
    """Settings stored by ``write_jetclass_file``; empty for a file of another origin.

    Raises
    ------
    JetfmError
        Not a readable ROOT file, or only a part of one.
    """
    try:
        with open_root(path) as file:
            complete = file.file.fEND == os.path.getsize(path)
            settings = json.loads(str(file[SETTINGS_KEY])) if SETTINGS_KEY in file else {}
    except Exception as error:  # uproot raises many kinds for a damaged file
        complete, found = False, f"an unreadable file ({type(error).__name__})"
    else:
        found = "a truncated file"
    if not complete:
        raise JetfmError(path, found, "a complete ROOT file; delete it to make it anew")
    return settings
