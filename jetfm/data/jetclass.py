"""Reader of JetClass ROOT files, real or simulated: entry ranges of named branches, checked.

A chunk of jets is an awkward record array with vector's behaviours::

    jets.constituents     var * Momentum4D: px, py, pz, energy [GeV], eta_rel, phi_rel, charge,
                          is_charged_hadron ..., d0val, d0err, dzval, dzerr [mm]; falling pt
    jets.jet              Momentum4D of the file: pt, eta, phi, energy
    jets.axis             Momentum4D, the vector sum of the constituents
    jets.sdmass, tau1 ... tau4   of the file (not in jets.jet: vector's tau2 is a squared mass)
    jets.label            class index, 0 ... 9, or -1 in a file without labels

so ``jets.constituents.pt``, ``jets.axis.mass`` and the like work. Traps of the files:

- there is no ``part_pt``, ``part_eta`` or ``part_phi``: vector computes them from px, py, pz;
- ``part_deta`` is flipped to point away from the detector's centre (`file_deta`), our ``eta_rel``
  is not, and it refers to the constituents' sum, not to ``jet_eta`` (official code of arXiv
  2512.04149, and paper 1, 2403.05618);
- the ten label branches have three types; they become one index;
- the five particle flags of a constituent may all be zero (another charged hadron).

Source of the formulas: jet-universe/jetclass_generation, ``makeNtuples.C``.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import uproot
import vector

from jetfm.data.constituent_order import by_falling_pt
from jetfm.errors import JetfmError
from jetfm.physics.jagged import segment_sum
from jetfm.schema import (
    BRANCHES,
    CLASSES,
    CONSTITUENT_FEATURES,
    SETTINGS_KEY,
    TREE_NAME,
    UNLABELLED,
    is_jagged,
)
from jetfm.storage.files import naming
from jetfm.storage.root_files import open_root

vector.register_awkward()

MOST_CONSTITUENTS = 10_000  # our choice, far above any jet's
JET_PT_RANGE = (500.0, 1000.0)  # GeV, JetClass's selection (jetclass_generation, mergeTrees.C)

_LABELS_AT_ONCE = 1_000_000  # jets
_COLLECT_AFTER = 5_000  # jets, some 0.1 GB: looking for cycles takes as long as reading a few jets
_MOST_BYTES, _SLACK = 2000, 2**25  # a branch: 500 constituents a jet on average, and 32 MB

_MOMENTA = ("part_px", "part_py", "part_pz", "part_energy")
_JET_BRANCHES = ("pt", "eta", "phi", "energy", "nparticles", "sdmass", *map("tau{}".format, "1234"))
_LABELS = tuple(f"label_{c.name}" for c in CLASSES)
#: Constituent features that are a branch of the file.
FEATURE_BRANCHES = {
    "charge": "part_charge",
    "is_charged_hadron": "part_isChargedHadron",
    "is_neutral_hadron": "part_isNeutralHadron",
    "is_photon": "part_isPhoton",
    "is_electron": "part_isElectron",
    "is_muon": "part_isMuon",
    "d0val": "part_d0val",
    "d0err": "part_d0err",
    "dzval": "part_dzval",
    "dzerr": "part_dzerr",
}


def iterate(
    paths: str | Path | Sequence[str | Path],
    step: int = 20_000,
    features: Sequence[str] = CONSTITUENT_FEATURES,
    pt_range: tuple[float, float] | None = JET_PT_RANGE,
    rows: tuple[int, int] | None = None,
) -> Iterator[ak.Array]:
    """Yield the jets of JetClass files in chunks of at most `step`, file by file, in order.

    Parameters
    ----------
    paths : one file or several
    step : jets in memory at a time; 20 000 with all features take about 0.5 GB
    features : constituent features to have; only their branches are read
    pt_range : GeV; the median jet pt of a chunk must lie within, which tells MeV from GeV.
        None skips this check.
    rows : first jet and the one after the last, of each file; all by default

    Raises
    ------
    JetfmError
        Not a ROOT file, truncated or damaged, no tree ``tree``, a missing branch, no jets, a jet
        without constituents, branches of different length, values that are not finite, labels
        that are not one-hot, momenta in the wrong unit. The message names the file and the cause.
    """
    unknown = [name for name in features if name not in CONSTITUENT_FEATURES]
    if unknown:
        expected = f"some of {', '.join(CONSTITUENT_FEATURES)}"
        raise JetfmError("features", ", ".join(map(repr, unknown)), expected)
    if step < 1:
        raise JetfmError("step", str(step), "a positive number of jets")
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    extra = [FEATURE_BRANCHES[name] for name in features if name in FEATURE_BRANCHES]
    branches = [*_MOMENTA, *extra, *_LABELS, *(f"jet_{name}" for name in _JET_BRANCHES)]
    n_since = 0
    for path in map(Path, paths):
        opened = open_tree(path, branches)
        with opened as tree:
            wanted = [name for name in branches if opened.labelled or name not in _LABELS]
            first, end = rows or (0, tree.num_entries)
            for start in range(first, min(end, tree.num_entries), step):
                columns = _columns(path, tree, wanted, start, min(step, end - start))
                n_since += len(columns["jet_pt"])
                yield _jets(path, columns, start, pt_range, opened.labelled)
                del columns
                if n_since >= max(step, _COLLECT_AFTER):
                    # uproot leaves cycles that hold arrays (uproot5#1528)
                    gc.collect()
                    n_since = 0


def read(path: str | Path, start: int = 0, stop: int | None = None, **options) -> ak.Array:
    """Jets `start` to `stop` of one file, in memory at once; options as for `iterate`."""
    n_jets = count_jets(path)
    start, stop, _ = slice(start, stop).indices(n_jets)
    if stop <= start:
        raise JetfmError(path, f"no jets from {start} to {stop}", f"a range within 0 to {n_jets}")
    step, chunks, seen = 20_000, [], 0
    for chunk in iterate(path, step, **options):
        first, seen = seen, seen + len(chunk)
        if seen > start:
            chunks.append(chunk[max(start - first, 0) : stop - first])
        if seen >= stop:
            break
    return ak.concatenate(chunks) if len(chunks) > 1 else chunks[0]


def count_jets(path: str | Path) -> int:
    """Number of jets in a file, at least one, without reading any."""
    with open_tree(Path(path), ()) as tree:
        return tree.num_entries


def count_classes(path: str | Path, rows: tuple[int, int] | None = None) -> np.ndarray:
    """(11,) int64, jets of each class of a file or of a range of it; the last: unknown class."""
    found, opened = np.zeros(len(CLASSES) + 1, np.int64), open_tree(Path(path), _LABELS)
    with opened as tree:
        first, end = rows or (0, tree.num_entries)
        end = min(end, tree.num_entries)
        if not opened.labelled:
            found[-1] = end - first
            return found
        for start in range(first, end, _LABELS_AT_ONCE):
            columns = _columns(path, tree, _LABELS, start, min(_LABELS_AT_ONCE, end - start))
            found += np.bincount(_class_index(path, columns, start), minlength=len(found))
    return found


class open_tree:
    """Context manager: the tree of a JetClass file, with its branches checked.

    Attributes
    ----------
    settings : what jetfm wrote about a file of its own, else empty
    labelled : whether it has labels: no, if its settings say so, or if not one of their branches
        is there
    """

    def __init__(self, path: Path, branches: Sequence[str] = tuple(BRANCHES)):
        self.path, self.branches = Path(path), branches

    def __enter__(self) -> uproot.TTree:
        check_root_file(self.path)
        try:
            self._file = open_root(self.path)
            classes = self._file.classnames(cycle=False)
            tree = self._file[TREE_NAME] if TREE_NAME in classes else None
            text = str(self._file[SETTINGS_KEY]) if SETTINGS_KEY in classes else "{}"
            self.settings = json.loads(text)
            if not isinstance(self.settings, dict):
                raise ValueError(f"'{SETTINGS_KEY}' is {text:.40}")
        except Exception as error:  # uproot raises many kinds on damaged bytes
            raise _damaged(self.path, error) from error
        try:
            self._check(tree, classes)
        except BaseException:
            self._file.close()
            raise
        return tree

    def __exit__(self, *error) -> None:
        self._file.close()

    def _check(self, tree, classes: dict[str, str]) -> None:
        if tree is None or not hasattr(tree, "num_entries"):
            found = ", ".join(f"{name} ({kind})" for name, kind in classes.items()) or "nothing"
            raise JetfmError(self.path, found, f"a tree named '{TREE_NAME}'")
        found = tree.keys(recursive=False)
        has_labels = any(name in found for name in _LABELS)
        self.labelled = has_labels and not self.settings.get(UNLABELLED)
        needed = (name for name in self.branches if has_labels or name not in _LABELS)
        missing = [name for name in needed if name not in found]
        if missing:
            where = f"{self.path}: tree '{TREE_NAME}'"
            expected = f"also {_listed(missing, 'branch', 'branches')}"
            raise JetfmError(where, f"{', '.join(found) or 'no branches'}", expected)
        if tree.num_entries == 0:
            raise JetfmError(self.path, "zero jets", f"at least one entry in '{TREE_NAME}'")
        size = self.path.stat().st_size
        if tree.num_entries > size:
            found = f"{tree.num_entries} jets in {size} bytes"
            raise JetfmError(self.path, found, "at least a byte for each; damaged?")


def check_root_file(path: Path) -> None:
    """Check the first bytes and the recorded length of a ROOT file.

    A ROOT file starts with ``root``, then big-endian version, start of data, end of data: shorter
    than its own end means truncated. From version 1 000 000 on, the end takes eight bytes.
    """
    with naming(path), path.open("rb") as file:
        head = file.read(20)
        size = file.seek(0, 2)
    if head[:4] != b"root" or len(head) < 20:
        found = "an empty file" if size == 0 else f"first bytes {head[:4]!r}"
        raise JetfmError(path, found, "a ROOT file, which starts with b'root'")
    version = int.from_bytes(head[4:8], "big")
    end = int.from_bytes(head[12:20] if version >= 1_000_000 else head[12:16], "big")
    if size < end:
        raise JetfmError(path, f"a truncated ROOT file of {size} bytes", f"{end} bytes")


def features_of(
    jets: ak.Array, features: Sequence[str] = CONSTITUENT_FEATURES
) -> tuple[np.ndarray, np.ndarray]:
    """Constituents of a chunk as a flat table.

    Returns
    -------
    (n_constituents, F) float32 physical features, and (n_jets + 1,) int64 offsets
    """
    constituents = jets.constituents
    table = np.empty((int(ak.sum(ak.num(constituents))), len(features)), np.float32)
    for column, name in enumerate(features):
        values = ak.to_numpy(ak.flatten(getattr(constituents, name)))
        # rounding can make a massless particle's E^2 - p^2 negative; vector then returns -m
        table[:, column] = np.maximum(values, 0.0) if name == "mass" else values
    offsets = np.concatenate([[0], np.cumsum(ak.to_numpy(ak.num(constituents)))])
    return table, offsets.astype(np.int64)


def file_deta(jets: ak.Array) -> ak.Array:
    """``part_deta`` of the file: eta - eta_jet, with its sign flipped unless eta_jet > 0."""
    sign = ak.where(jets.jet.eta > 0, 1.0, -1.0)
    return sign * (jets.constituents.eta - jets.jet.eta)


def file_dphi(jets: ak.Array) -> ak.Array:
    """``part_dphi`` of the file: phi - phi_jet, wrapped to [-pi, pi)."""
    return jets.constituents.deltaphi(jets.jet)


def about_axis(px, py, pz, energy, counts: np.ndarray) -> tuple[ak.Array, ak.Array]:
    """Constituents with their angles relative to the vector sum of each jet, and that sum.

    Parameters
    ----------
    px, py, pz, energy : (n,) float64, GeV, jet after jet
    counts : (jets,) constituents of each; one without any has a sum of 0

    Returns
    -------
    (n,) Momentum4D with eta_rel and phi_rel (wrapped), and (jets,) Momentum4D
    """
    offsets = np.concatenate([[0], np.cumsum(counts)])
    momenta = {"px": px, "py": py, "pz": pz, "energy": energy}
    axis = vector.zip({name: segment_sum(values, offsets) for name, values in momenta.items()})
    constituents = vector.zip(momenta)
    of_axis = axis[np.repeat(np.arange(len(counts)), counts)]
    constituents["eta_rel"] = constituents.eta - of_axis.eta
    constituents["phi_rel"] = constituents.deltaphi(of_axis)
    return constituents, axis


def check_unit(
    path: Path, what: str, pt: np.ndarray, pt_range: tuple[float, float], slack: float = 1.0
) -> None:
    """Refuse jets whose median pt lies outside the selection: MeV instead of GeV, mostly.

    Parameters
    ----------
    what : the name of this pt
    pt : (jets,) GeV
    pt_range : of the selection; it applies to the detector's jet pt
    slack : factor by which another pt, e.g. the constituents' sum, may lie outside
    """
    low, high = pt_range
    median = float(np.median(pt))
    if not low / slack <= median <= high * slack:
        in_mev = low / slack <= median / 1000 <= high * slack
        hint = "; it looks like MeV, divide by 1000" if in_mev else "; --any-pt takes any other"
        expected = f"{low:g} to {high:g} GeV, the selection{hint}"
        raise JetfmError(path, f"a median {what} of {median:.6g}", expected)


def _check_announced(path: Path, tree, branches: Sequence[str], start: int, stop: int) -> None:
    """Refuse baskets that announce absurd lengths, before anything is made as large as they say."""
    for name in branches:
        branch = tree[name]
        if not hasattr(branch, "basket_uncompressed_bytes"):
            continue  # an RNTuple, whose pages know their size from their elements
        edges = np.asarray(branch.entry_offsets)
        touched = np.flatnonzero((edges[:-1] < stop) & (edges[1:] > start))
        if not len(touched):
            continue
        n_bytes = sum(branch.basket_uncompressed_bytes(basket) for basket in touched)
        n_entries = int(edges[touched[-1] + 1] - edges[touched[0]])
        most = _SLACK + n_entries * _MOST_BYTES
        if n_bytes > most:
            first = edges[touched[0]]
            found = f"{n_bytes / 1e6:.0f} MB announced for {n_entries} jets from {first}"
            expected = f"at most {most / 1e6:.0f} MB; damaged?"
            raise JetfmError(f"{path}: branch '{name}'", found, expected)


def _columns(path: Path, tree, branches: Sequence[str], start: int, step: int) -> dict:
    """Read branches; jagged ones as (flat values, counts), all checked for length and type."""
    stop = min(start + step, tree.num_entries)
    try:
        _check_announced(path, tree, branches, start, stop)
        arrays = tree.arrays(branches, entry_start=start, entry_stop=stop, library="ak", how=dict)
    except Exception as error:  # truncated baskets, bad compression, wrong checksums ...
        raise _damaged(path, error) from error
    columns = {}
    for name, array in arrays.items():
        where = f"{path}: branch '{name}'"
        if array.ndim != 1 + is_jagged(name):
            kinds = ("one value per jet", "one value per constituent")
            raise JetfmError(where, f"type {array.type.content}", kinds[is_jagged(name)])
        if len(array) != stop - start:
            found = f"{len(array)} entries from {start} on"
            raise JetfmError(where, found, f"{stop - start}, as the tree has")
        if is_jagged(name):
            columns["counts", name] = ak.to_numpy(ak.num(array)).astype(np.int64)
            array = ak.flatten(array)
        columns[name] = ak.to_numpy(array)
    return columns


def _jets(path: Path, columns: dict, start: int, pt_range, labelled: bool) -> ak.Array:
    counts = _checked_counts(path, columns, start)
    jet_index = np.repeat(np.arange(len(counts)), counts)
    for name in columns:
        if isinstance(name, str) and (is_jagged(name) or name in ("jet_pt", "jet_eta", "jet_phi")):
            _check_finite(path, name, columns[name], jet_index, start)
    label = _class_index(path, columns, start) if labelled else np.full(len(counts), -1)

    # float64: eta and the sum's mass lose digits in float32
    px, py, pz, energy = (columns[name].astype(np.float64) for name in _MOMENTA)
    pt = np.hypot(px, py)
    if not pt.all():
        jet = start + jet_index[np.argmin(pt)]
        raise JetfmError(path, f"a constituent without transverse momentum in jet {jet}", "pt > 0")
    order = by_falling_pt(pt, counts)
    if order is not None:  # real files are sorted, up to rounding
        columns |= {name: columns[name][order] for name in columns if str(name).startswith("part_")}
        px, py, pz, energy = px[order], py[order], pz[order], energy[order]

    constituents, axis = about_axis(px, py, pz, energy, counts)
    jet = vector.zip({name: columns[f"jet_{name}"] for name in ("pt", "eta", "phi", "energy")})
    if pt_range is not None:
        check_unit(path, "jet_pt", ak.to_numpy(jet.pt), pt_range)
        check_unit(path, "summed constituent pt", ak.to_numpy(axis.pt), pt_range, slack=2.0)

    for feature, branch in FEATURE_BRANCHES.items():
        if branch in columns:
            constituents[feature] = columns[branch]
    constituents = ak.unflatten(constituents, counts)
    fields = {"constituents": constituents, "jet": jet, "axis": axis, "label": label}
    fields |= {name: columns[f"jet_{name}"] for name in _JET_BRANCHES[5:]}
    return ak.zip(fields, depth_limit=1)


def _checked_counts(path: Path, columns: dict, start: int) -> np.ndarray:
    counts = columns["counts", "part_px"]
    for key, other in columns.items():
        if isinstance(key, tuple) and not np.array_equal(other, counts):
            jet = int(np.flatnonzero(other != counts)[0])
            found = f"{other[jet]} values in jet {start + jet}"
            expected = f"{counts[jet]}, as many as in 'part_px'"
            raise JetfmError(f"{path}: branch '{key[1]}'", found, expected)
    if counts.max(initial=0) > MOST_CONSTITUENTS:
        found = f"{counts.max()} constituents in jet {start + int(np.argmax(counts))}"
        raise JetfmError(path, found, f"at most {MOST_CONSTITUENTS}; damaged?")
    if not counts.all():
        jet = start + int(np.argmin(counts))
        raise JetfmError(path, f"no constituents in jet {jet}", "at least one in every jet")
    stated = columns["jet_nparticles"]
    if not np.array_equal(stated, counts):
        jet = int(np.flatnonzero(stated != counts)[0])
        found = f"{counts[jet]} constituents in jet {start + jet}"
        raise JetfmError(path, found, f"{stated[jet]:g}, as 'jet_nparticles' says")
    return counts


def _check_finite(path: Path, name: str, values, jet_index, start: int) -> None:
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        jet = start + int(jet_index[at] if is_jagged(name) else at)
        raise JetfmError(f"{path}: branch '{name}'", f"{values[at]} in jet {jet}", "finite values")


def _class_index(path: Path, columns: dict, start: int) -> np.ndarray:
    labels = np.stack([columns[name].astype(np.float32) for name in _LABELS], axis=1)  # (B, 10)
    wrong = ((labels != 0) & (labels != 1)).any(axis=1) | (labels.sum(axis=1) != 1)
    if wrong.any():
        jet = int(np.argmax(wrong))
        set_ = ", ".join(f"{n}={v:g}" for n, v in zip(_LABELS, labels[jet], strict=True) if v != 0)
        found = f"{set_ or 'no label set'} in jet {start + jet}"
        raise JetfmError(path, found, "exactly one label of 1, the others 0")
    return labels.argmax(axis=1)


def _damaged(path: Path, error: Exception) -> JetfmError:
    if isinstance(error, JetfmError):
        return error
    cause = " ".join(str(error).split())[:120]
    found = f"unreadable bytes ({type(error).__name__}: {cause})"
    return JetfmError(path, found, "a complete ROOT file; truncated or damaged?")


def _listed(names: Sequence[str], one: str, many: str) -> str:
    return f"{one if len(names) == 1 else many} {', '.join(names)}"
