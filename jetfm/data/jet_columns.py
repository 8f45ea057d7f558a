"""Columns of a file become a chunk of jets: what readers of JetClass's columns check and compute.

Columns are a dictionary: by our name a flat array, jagged ones (``part_*``) jet after jet with
``("counts", name)``, (jets,), beside them. Its momenta are px, py, pz or pt, eta, phi, with an
energy, a mass, or, of massless constituents, neither. `jetfm.data.jetclass` says what a chunk is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import vector

from jetfm.data.class_expressions import labels_of
from jetfm.data.constituent_order import by_falling_pt
from jetfm.data.layout import (
    CARTESIAN,
    ENERGIES,
    FEATURE_BRANCHES,
    JET_ENERGIES,
    JET_MOMENTUM,
    JET_SHAPES,
    LABELS,
    POLAR,
    Layout,
)
from jetfm.errors import JetfmError
from jetfm.physics.jagged import segment_sum
from jetfm.schema import is_jagged

vector.register_awkward()

MOST_CONSTITUENTS = 10_000  # our choice, far above any jet's
_FULL_TURN = 2 * math.pi * (1 + 1e-6)  # in single precision, too


@dataclass(frozen=True)
class Source:
    """The file that columns come from, to name them as it does.

    Parameters
    ----------
    word : what such files call a column
    names : of columns in the file, where they are not ours
    """

    path: Path
    word: str = "branch"
    names: Mapping[str, str] = field(default_factory=dict)

    def place(self, name: str) -> str:
        """Where an error is."""
        return f"{self.path}: {self.word} '{self.names.get(name, name)}'"


def jets_of(
    source: Source,
    columns: dict,
    start: int,
    pt_range: tuple[float, float] | None,
    labels: np.ndarray,
    filled: bool = True,
) -> ak.Array:
    """Columns as a chunk of jets, checked.

    Parameters
    ----------
    start : place of the first jet in the file
    pt_range : GeV, see `check_unit`; None skips it
    labels : (jets,) int
    filled : every jet has constituents and every slot is one, as in JetClass's own files; else
        slots whose momentum is zero altogether are padding, and jets may be without constituents

    Raises
    ------
    JetfmError
        Columns of different length, values that are not finite, azimuths in degrees, a constituent
        without transverse momentum, a jet without constituents where there are none, momenta in the
        wrong unit.
    """
    counts = _checked_counts(source, columns, start, filled)
    jet_index = np.repeat(np.arange(len(counts)), counts)
    for name in columns:
        if isinstance(name, str) and (is_jagged(name) or name in JET_MOMENTUM):
            _check_finite(source, name, columns[name], jet_index, start)
    for name, used in ((POLAR[2], slice(None)), (JET_MOMENTUM[2], counts > 0)):
        if name in columns:
            check_radians(source.place(name), columns[name][used])
    if not filled:
        columns, counts = _without_padding(columns, counts, jet_index)
        jet_index = np.repeat(np.arange(len(counts)), counts)
    momenta, pt = _momenta(columns)
    if not (pt > 0).all():
        jet = start + jet_index[np.argmin(pt > 0)]
        text = f"a constituent without transverse momentum in jet {jet}"
        raise JetfmError(source.path, text, "pt > 0")
    if not filled:
        _check_bounds(source, momenta, jet_index, start)
    order = by_falling_pt(pt, counts)
    if order is not None:  # real files are sorted, up to rounding
        columns |= {name: columns[name][order] for name in columns if str(name).startswith("part_")}
        momenta = [component[order] for component in momenta]

    constituents, axis = about_axis(*momenta, counts)
    jet = _jet_momentum(columns, axis)
    some = counts > 0
    if pt_range is not None and some.any():
        if JET_MOMENTUM[0] in columns:
            check_unit(source.path, "jet_pt", ak.to_numpy(jet.pt)[some], pt_range)
        summed = ak.to_numpy(axis.pt)[some]
        check_unit(source.path, "summed constituent pt", summed, pt_range, slack=2.0)

    for feature, branch in FEATURE_BRANCHES.items():
        if branch in columns:
            constituents[feature] = columns[branch]
    constituents = ak.unflatten(constituents, counts)
    fields = {"constituents": constituents, "jet": jet, "axis": axis, "label": labels}
    unknown = np.full(len(counts), np.nan)
    fields |= {name.removeprefix("jet_"): columns.get(name, unknown) for name in JET_SHAPES}
    return ak.zip(fields, depth_limit=1)


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


def check_radians(where: object, phi: np.ndarray) -> None:
    """Refuse azimuths beyond a full turn to either side of 0: degrees, mostly.

    Parameters
    ----------
    where : what the error names
    phi : of any shape, finite
    """
    largest = float(np.abs(phi).max(initial=0.0))
    if largest > _FULL_TURN:
        found = f"an azimuth of size {largest:.6g}"
        raise JetfmError(where, found, "radians, at most 2 pi; degrees times pi / 180")


def labels_in(
    source: Source, layout: Layout, columns: dict, start: int, labelled: bool = True
) -> np.ndarray:
    """(jets,) int64 labels: by the layout's expressions, by label columns, or -1 without either.

    Parameters
    ----------
    columns : those that expressions name (`Layout.columns_of_classes`) are taken out
    labelled : False where label columns are known to say nothing

    Raises
    ------
    JetfmError
        Label columns that are not one-hot, or a jet that is of two classes.
    """
    if layout.classes:
        values = {key[1]: columns.pop(key) for key in layout.columns_of_classes()}
        values = {n: v if isinstance(v, pa.Array) else pa.array(v) for n, v in values.items()}
        return labels_of(layout.expressions, values, layout.class_names, source.path, start)
    if labelled and any(name in columns for name in LABELS):
        return _class_index(source, columns, start)
    counts = next(values for key, values in columns.items() if isinstance(key, tuple))
    return np.full(len(counts), -1)


def _class_index(source: Source, columns: dict, start: int) -> np.ndarray:
    """(jets,) int64 class index of one-hot label columns, of all ten or of some."""
    names = [name for name in LABELS if name in columns]
    labels = np.stack([columns[name].astype(np.float32) for name in names], axis=1)
    wrong = ((labels != 0) & (labels != 1)).any(axis=1) | (labels.sum(axis=1) != 1)
    if wrong.any():
        jet = int(np.argmax(wrong))
        set_ = ", ".join(f"{n}={v:g}" for n, v in zip(names, labels[jet], strict=True) if v != 0)
        found = f"{set_ or 'no label set'} in jet {start + jet}"
        raise JetfmError(source.path, found, "exactly one label of 1, the others 0")
    return np.array([LABELS.index(name) for name in names])[labels.argmax(axis=1)]


def _checked_counts(source: Source, columns: dict, start: int, filled: bool) -> np.ndarray:
    (first, counts), *others = [
        (key[1], some) for key, some in columns.items() if isinstance(key, tuple)
    ]
    for name, other in others:
        if not np.array_equal(other, counts):
            jet = int(np.flatnonzero(other != counts)[0])
            found = f"{other[jet]} values in jet {start + jet}"
            expected = f"{counts[jet]}, as many as in '{source.names.get(first, first)}'"
            raise JetfmError(source.place(name), found, expected)
    if counts.max(initial=0) > MOST_CONSTITUENTS:
        found = f"{counts.max()} constituents in jet {start + int(np.argmax(counts))}"
        raise JetfmError(source.path, found, f"at most {MOST_CONSTITUENTS}; damaged?")
    if filled and not counts.all():
        jet = start + int(np.argmin(counts))
        raise JetfmError(source.path, f"no constituents in jet {jet}", "at least one in every jet")
    return counts


def _check_finite(source: Source, name: str, values, jet_index, start: int) -> None:
    if not np.isfinite(values).all():
        at = int(np.flatnonzero(~np.isfinite(values))[0])
        jet = start + int(jet_index[at] if is_jagged(name) else at)
        raise JetfmError(source.place(name), f"{values[at]} in jet {jet}", "finite values")


def _without_padding(columns: dict, counts: np.ndarray, jet_index: np.ndarray):
    """The same without the slots whose momentum is zero in all its columns."""
    momenta = [name for name in (*CARTESIAN, *POLAR, *ENERGIES) if name in columns]
    used = np.any([columns[name] != 0 for name in momenta], axis=0)
    if used.all():
        return columns, counts
    kept = {n: values[used] if str(n).startswith("part_") else values for n, values in
            columns.items()}  # fmt: skip
    return kept, np.bincount(jet_index[used], minlength=len(counts))


def _momenta(columns: Mapping) -> tuple[list[np.ndarray], np.ndarray]:
    """px, py, pz, energy and pt, each (n,) in float64: eta and sums lose digits in float32."""
    form = CARTESIAN if CARTESIAN[0] in columns else POLAR
    first, second, third = (columns[name].astype(np.float64) for name in form)
    if form == CARTESIAN:
        px, py, pz, pt = first, second, third, np.hypot(first, second)
    else:
        with np.errstate(over="ignore", invalid="ignore"):  # of absurd eta: seen by the caller
            px, py, pz, pt = (
                first * np.cos(third), first * np.sin(third), first * np.sinh(second), first,
            )  # fmt: skip
    if "part_energy" in columns:
        energy = columns["part_energy"].astype(np.float64)
    else:
        mass = columns["part_mass"].astype(np.float64) if "part_mass" in columns else 0.0
        energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    return [px, py, pz, energy], pt


def _check_bounds(source: Source, momenta: list, jet_index: np.ndarray, start: int) -> None:
    """What became of pt, eta and phi: an eta of 800 has no momentum."""
    finite = np.isfinite(momenta[2]) & np.isfinite(momenta[3])
    if not finite.all():
        jet = start + int(jet_index[np.argmin(finite)])
        raise JetfmError(source.path, f"a momentum beyond all bounds in jet {jet}", "finite values")


def _jet_momentum(columns: Mapping, axis: ak.Array) -> ak.Array:
    """The jet's own momentum as the file has it, else the sum of its constituents."""
    if JET_MOMENTUM[0] not in columns:
        return axis
    momentum = {name.removeprefix("jet_"): columns[name] for name in JET_MOMENTUM}
    energy = next((name for name in JET_ENERGIES if name in columns), None)
    momentum["energy"] = ak.to_numpy(axis.energy) if energy is None else columns[energy]
    if energy == "jet_mass":
        del momentum["energy"]
        momentum["mass"] = columns[energy]
    return vector.zip(momentum)
