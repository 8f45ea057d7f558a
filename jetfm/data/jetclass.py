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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from jetfm.data.jet_columns import Source, jets_of, labels_in
from jetfm.data.layout import FEATURE_BRANCHES, JETCLASS, LABELS, Layout
from jetfm.errors import JetfmError
from jetfm.schema import (
    BRANCHES,
    CONSTITUENT_FEATURES,
    SETTINGS_KEY,
    TREE_NAME,
    UNLABELLED,
    is_jagged,
)
from jetfm.storage.files import naming
from jetfm.storage.root_files import open_root

JET_PT_RANGE = (500.0, 1000.0)  # GeV, JetClass's selection (jetclass_generation, mergeTrees.C)

_LABELS_AT_ONCE = 1_000_000  # jets
_COLLECT_AFTER = 5_000  # jets, some 0.1 GB: looking for cycles takes as long as reading a few jets
_MOST_BYTES, _SLACK = 2000, 2**25  # a branch: 500 constituents a jet on average, and 32 MB

_MOMENTA = ("part_px", "part_py", "part_pz", "part_energy")
_JET_BRANCHES = ("pt", "eta", "phi", "energy", "nparticles", "sdmass", *map("tau{}".format, "1234"))


def iterate(
    paths: str | Path | Sequence[str | Path],
    step: int = 20_000,
    features: Sequence[str] = CONSTITUENT_FEATURES,
    pt_range: tuple[float, float] | None = JET_PT_RANGE,
    rows: tuple[int, int] | None = None,
    layout: Layout = JETCLASS,
) -> Iterator[ak.Array]:
    """Yield the jets of JetClass files in chunks of at most `step`, file by file, in order.

    Parameters
    ----------
    paths : one file or several
    step : jets in memory at a time; 20 000 with all features take about 0.5 GB
    features : constituent features to have; only their branches are read
    pt_range : GeV; the median jet pt of a chunk must lie within, which tells MeV from GeV.
        That of `layout` comes first; None skips this check.
    rows : first jet and the one after the last, of each file; all by default
    layout : what other files call these branches, and which of their jets make which class

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
    branches = [*_MOMENTA, *extra, *LABELS, *(f"jet_{name}" for name in _JET_BRANCHES)]
    n_since = 0
    for path in map(Path, paths):
        opened = open_tree(path, (), layout.tree)
        with opened as tree:
            applied = layout.of_file(opened.found, path)
            if applied.is_jetclass:
                some = any(name in opened.found for name in LABELS)
                needed = [name for name in branches if some or name not in LABELS]
                opened.require(needed)
                names = {name: name for name in needed}
            else:
                names = applied.columns(opened.found, features, opened.place)
                names |= applied.columns_of_classes()
            source, labelled = Source(path, "branch", names), not opened.settings.get(UNLABELLED)
            unit = None if pt_range is None else applied.pt_range or pt_range
            first, end = rows or (0, tree.num_entries)
            for start in range(first, min(end, tree.num_entries), step):
                columns = _columns(path, tree, names, start, min(step, end - start))
                if applied.is_jetclass:
                    _check_stated(path, columns, start)
                labels = labels_in(source, applied, columns, start, labelled)
                n_since += len(labels)
                yield jets_of(source, columns, start, unit, labels, filled=applied.is_jetclass)
                del columns
                if n_since >= max(step, _COLLECT_AFTER):
                    # uproot leaves cycles that hold arrays (uproot5#1528)
                    gc.collect()
                    n_since = 0


def read(path: str | Path, start: int = 0, stop: int | None = None, **options) -> ak.Array:
    """Jets `start` to `stop` of one file, in memory at once; options as for `iterate`."""
    n_jets = count_jets(path, options.get("layout", JETCLASS))
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


def count_jets(path: str | Path, layout: Layout = JETCLASS) -> int:
    """Number of jets in a file, at least one, without reading any."""
    with open_tree(Path(path), (), layout.tree) as tree:
        return tree.num_entries


def count_classes(
    path: str | Path, rows: tuple[int, int] | None = None, layout: Layout = JETCLASS
) -> np.ndarray:
    """(classes + 1,) int64, jets of each class of a file or of a range; the last: of none."""
    found = np.zeros(len(layout.class_names) + 1, np.int64)
    opened = open_tree(Path(path), (), layout.tree)
    with opened as tree:
        applied = layout.of_file(opened.found, path)
        first, end = rows or (0, tree.num_entries)
        end = min(end, tree.num_entries)
        names = {name: applied.name(name) for name in LABELS if applied.name(name) in opened.found}
        if applied.classes:
            names = applied.columns_of_classes()
        elif names and applied.is_jetclass:
            opened.require(LABELS)
        if not names or (opened.settings.get(UNLABELLED) and not applied.classes):
            found[-1] = end - first
            return found
        source = Source(Path(path), "branch", names)
        for start in range(first, end, _LABELS_AT_ONCE):
            columns = _columns(path, tree, names, start, min(_LABELS_AT_ONCE, end - start))
            labels = labels_in(source, applied, columns, start)
            found += np.bincount(labels % len(found), minlength=len(found))
    return found


def features_in(path: str | Path, layout: Layout = JETCLASS) -> tuple[str, ...]:
    """Constituent features that a file has."""
    opened = open_tree(Path(path), (), layout.tree)
    with opened:
        return layout.of_file(opened.found, path).features(opened.found)


class open_tree:
    """Context manager: the tree of a JetClass file, with its branches checked.

    Parameters
    ----------
    branches : that are needed
    tree : its name; a file without such a tree is one of JetClass's

    Attributes
    ----------
    found : names of the branches
    settings : what jetfm wrote about a file of its own, else empty
    """

    def __init__(
        self, path: Path, branches: Sequence[str] = tuple(BRANCHES), tree: str = TREE_NAME
    ):
        self.path, self.branches, self.name = Path(path), branches, tree

    def __enter__(self) -> uproot.TTree:
        check_root_file(self.path)
        try:
            self._file = open_root(self.path)
            classes = self._file.classnames(cycle=False)
            if self.name not in classes:
                self.name = TREE_NAME
            tree = self._file[self.name] if self.name in classes else None
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

    @property
    def place(self) -> str:
        """Where an error is."""
        return f"{self.path}: tree '{self.name}'"

    def require(self, branches: Sequence[str]) -> None:
        """Refuse a tree that lacks one of these."""
        missing = [name for name in branches if name not in self.found]
        if missing:
            expected = f"also {_listed(missing, 'branch', 'branches')}"
            raise JetfmError(self.place, f"{', '.join(self.found) or 'no branches'}", expected)

    def _check(self, tree, classes: dict[str, str]) -> None:
        if tree is None or not hasattr(tree, "num_entries"):
            found = ", ".join(f"{name} ({kind})" for name, kind in classes.items()) or "nothing"
            raise JetfmError(self.path, found, f"a tree named '{TREE_NAME}'")
        self.found = tree.keys(recursive=False)
        self.require(self.branches)
        if tree.num_entries == 0:
            raise JetfmError(self.path, "zero jets", f"at least one entry in '{self.name}'")
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


def _columns(path: Path, tree, names: Mapping, start: int, step: int) -> dict:
    """Read branches, given as names of ours and the tree's; jagged ones as (flat values, counts),
    all checked for length and type."""
    stop = min(start + step, tree.num_entries)
    branches = list(dict.fromkeys(names.values()))
    try:
        _check_announced(path, tree, branches, start, stop)
        arrays = tree.arrays(branches, entry_start=start, entry_stop=stop, library="ak", how=dict)
    except Exception as error:  # truncated baskets, bad compression, wrong checksums ...
        raise _damaged(path, error) from error
    columns = {}
    for key, name in names.items():
        array, where = arrays[name], f"{path}: branch '{name}'"
        jagged = isinstance(key, str) and is_jagged(key)
        if array.ndim != 1 + jagged:
            kinds = ("one value per jet", "one value per constituent")
            raise JetfmError(where, f"type {array.type.content}", kinds[jagged])
        if len(array) != stop - start:
            found = f"{len(array)} entries from {start} on"
            raise JetfmError(where, found, f"{stop - start}, as the tree has")
        if jagged:
            columns["counts", key] = ak.to_numpy(ak.num(array)).astype(np.int64)
            array = ak.flatten(array)
        columns[key] = ak.to_numpy(array)
        if columns[key].dtype.kind not in "biuf":
            raise JetfmError(where, f"type {arrays[name].type.content}", "numbers")
    return columns


def _check_stated(path: Path, columns: dict, start: int) -> None:
    counts, stated = columns["counts", "part_px"], columns["jet_nparticles"]
    if not np.array_equal(stated, counts):
        jet = int(np.flatnonzero(stated != counts)[0])
        found = f"{counts[jet]} constituents in jet {start + jet}"
        raise JetfmError(path, found, f"{stated[jet]:g}, as 'jet_nparticles' says")


def _damaged(path: Path, error: Exception) -> JetfmError:
    if isinstance(error, JetfmError):
        return error
    cause = " ".join(str(error).split())[:120]
    found = f"unreadable bytes ({type(error).__name__}: {cause})"
    return JetfmError(path, found, "a complete ROOT file; truncated or damaged?")


def _listed(names: Sequence[str], one: str, many: str) -> str:
    return f"{one if len(names) == 1 else many} {', '.join(names)}"
