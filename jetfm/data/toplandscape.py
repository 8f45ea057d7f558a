"""Reader of the Top Landscape (DOI 10.5281/zenodo.2603256), in ranges of rows, and its jets store.

``train.h5``, ``val.h5`` and ``test.h5`` hold a pandas table ``table`` with one jet a row: momenta
``E_i, PX_i, PY_i, PZ_i`` [GeV] of its leading 200 constituents, zero where there are fewer, the
truth momentum of the top quark (``truthE`` ...), ``ttv`` (which split) and ``is_signal_new``.
The first and the last are all that is read.

Chunks have the form of `jetfm.data.jetclass`, so the same store, features and batches serve, with
the conventions of our JetClass: angles relative to the vector sum of the constituents, eta not
flipped, falling pt. Signal is ``Tbqq``, background ``QCD``; without the column of labels all are of
unknown class. The files know nothing of the jet but
its constituents, so ``jets.jet`` is their sum too, and soft-drop mass and N-subjettiness are
computed from them, in JetClass's definitions. A jet without constituents is kept; all its momenta
are 0 and its substructure is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import awkward as ak
import numpy as np

from jetfm.data.constituent_order import by_falling_pt
from jetfm.data.jet_columns import about_axis, check_unit
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.pandas_table import PandasTable
from jetfm.data.store import JetStore, build_store
from jetfm.errors import JetfmError
from jetfm.physics.substructure import momenta, substructure
from jetfm.schema import CLASSES, KINEMATICS, class_by_name

JET_PT_RANGE = (550.0, 650.0)  # GeV, the selection (dataset card)
N_SLOTS = 200
CLASS_NAMES = ("QCD", "Tbqq")  # of is_signal_new = 0 and 1

_MOMENTA = [[f"{name}_{i}" for i in range(N_SLOTS)] for name in ("PX", "PY", "PZ", "E")]
_INDICES = np.array([class_by_name(name).index for name in CLASS_NAMES])
_LABEL = "is_signal_new"
_LABELS_AT_ONCE = 50_000  # rows, which are read whole
_SHAPES = ("sdmass", "tau1", "tau2", "tau3", "tau4")


def iterate(
    paths: str | Path | Sequence[str | Path],
    step: int = 20_000,
    features: Sequence[str] = KINEMATICS,
    pt_range: tuple[float, float] | None = JET_PT_RANGE,
    with_substructure: bool = True,
    rows: tuple[int, int] | None = None,
    layout: Layout = JETCLASS,
) -> Iterator[ak.Array]:
    """Yield the jets of Top Landscape files in chunks of at most `step`, file by file, in order.

    Parameters
    ----------
    paths : one file or several
    step : jets in memory at a time; 20 000 take about 0.3 GB
    features : for `build_store`; the files have the kinematic ones only
    pt_range : GeV; the median summed pt of a chunk must lie near, which tells MeV from GeV. None
        skips this check.
    with_substructure : compute soft-drop mass and tau_N, 1 ms a jet; else they are NaN
    rows : first jet and the one after the last, of each file; all by default
    layout : one of other files, which these are not

    Raises
    ------
    JetfmError
        A file that `PandasTable` refuses, a missing momentum, no jets, values that are not finite,
        a constituent with energy but no transverse momentum, a label other than 0 and 1, momenta
        in the wrong unit. The message names the file and the cause.
    """
    unknown = [name for name in features if name not in KINEMATICS]
    if unknown:
        expected = f"some of {', '.join(KINEMATICS)}, all that the Top Landscape has"
        raise JetfmError("features", ", ".join(map(repr, unknown)), expected)
    if step < 1:
        raise JetfmError("step", str(step), "a positive number of jets")
    paths = [paths] if isinstance(paths, (str, Path)) else list(paths)
    for path in map(Path, paths):
        layout.of_file((), path)
        with PandasTable(path) as table:
            if not len(table):
                raise JetfmError(path, "zero jets", "at least one row in 'table'")
            first, end = rows or (0, len(table))
            end = min(end, len(table))
            for start in range(first, end, step):
                stop = min(start + step, end)
                labelled = _LABEL in table.columns
                groups = [*_MOMENTA, [_LABEL]] if labelled else _MOMENTA
                components = table.read(start, stop, groups)
                labels = components.pop()[:, 0] if labelled else None
                yield _jets(path, components, labels, start, pt_range, with_substructure)
                del components, labels


def count_jets(path: str | Path, layout: Layout = JETCLASS) -> int:
    """Number of jets in a file, without reading any."""
    with PandasTable(path) as table:
        return len(table)


def count_classes(
    path: str | Path, rows: tuple[int, int] | None = None, layout: Layout = JETCLASS
) -> np.ndarray:
    """(classes + 1,) int64, jets of each class of a file or of a range; as for JetClass."""
    layout.of_file((), path)
    found = np.zeros(len(layout.class_names) + 1, np.int64)
    with PandasTable(path) as table:
        first, end = rows or (0, len(table))
        if _LABEL not in table.columns:
            found[-1] = min(end, len(table)) - first
            return found
        for start in range(first, min(end, len(table)), _LABELS_AT_ONCE):
            stop = min(start + _LABELS_AT_ONCE, end, len(table))
            (labels,) = table.read(start, stop, [[_LABEL]])
            found += np.bincount(_class_index(path, labels[:, 0], start), minlength=len(found))
    return found


def features_in(path: str | Path, layout: Layout = JETCLASS) -> tuple[str, ...]:
    """Constituent features that a file has."""
    return KINEMATICS


def build_toplandscape_store(
    paths: Iterable[str | Path],
    folder: str | Path,
    progress: bool = True,
    step: int = 20_000,
    jets_per_class: int | None = None,
    pt_range: tuple[float, float] | None = JET_PT_RANGE,
) -> JetStore:
    """Convert Top Landscape files to a jets store; see `build_store`. Every row becomes a jet.

    Features are ``pt``, ``eta_rel`` and ``phi_rel``. Their substructure makes the 1.2 million jets
    of ``train.h5`` take some 20 minutes; with `jets_per_class`, reading ends with the last of them.
    """
    n_read = np.zeros(len(CLASSES), np.int64)

    def until_enough(path: Path, step: int, features: Sequence[str]) -> Iterator[ak.Array]:
        for jets in iterate(path, step, features, pt_range):
            yield jets
            known = ak.to_numpy(jets.label[jets.label >= 0])
            n_read[:] += np.bincount(known, minlength=len(CLASSES))
            if jets_per_class is not None and (n_read[_INDICES] >= jets_per_class).all():
                return

    return build_store(paths, folder, progress, KINEMATICS, step, jets_per_class, until_enough)


def _jets(
    path: Path,
    components: Sequence[np.ndarray],
    labels: np.ndarray | None,
    start: int,
    pt_range: tuple[float, float] | None,
    with_substructure: bool,
) -> ak.Array:
    """Jets from four (B, 200) arrays px, py, pz, energy and (B,) labels, or None without."""
    used = np.any([component != 0 for component in components], axis=0)  # true for NaN, too
    counts = used.sum(axis=1)
    jet_index = np.repeat(np.arange(len(counts)), counts)
    # float64: eta and the sum's mass lose digits in float32
    px, py, pz, energy = (component[used].astype(np.float64) for component in components)
    _check_momenta(path, np.stack([px, py, pz, energy]), start + jet_index)
    order = by_falling_pt(np.hypot(px, py), counts)
    if order is not None:
        px, py, pz, energy = px[order], py[order], pz[order], energy[order]

    constituents, axis = about_axis(px, py, pz, energy, counts)
    filled = counts > 0
    if pt_range is not None and filled.any():
        summed = ak.to_numpy(axis.pt)[filled]
        check_unit(path, "summed constituent pt", summed, pt_range, slack=2.0)
    shapes = {name: np.full(len(counts), np.nan) for name in _SHAPES}
    if with_substructure and filled.any():
        computed = substructure(momenta(px, py, pz, energy, counts[filled]))
        for name in _SHAPES:
            shapes[name][filled] = computed[name]
    fields = {
        "constituents": ak.unflatten(constituents, counts),
        "jet": axis,
        "axis": axis,
        "label": np.full(len(counts), -1) if labels is None else _class_index(path, labels, start),
    }
    return ak.zip(fields | shapes, depth_limit=1)


def _check_momenta(path: Path, components: np.ndarray, jet_of: np.ndarray) -> None:
    """Finite, and transverse to the beam: (4, n) px, py, pz, energy."""
    finite = np.isfinite(components).all(axis=0)
    if not finite.all():
        at = int(np.argmin(finite))
        found = f"a momentum {components[:, at].tolist()} in jet {jet_of[at]}"
        raise JetfmError(path, found, "finite values")
    if len(jet_of) and not (pt := np.hypot(components[0], components[1])).all():
        jet = jet_of[np.argmin(pt)]
        raise JetfmError(path, f"a constituent without transverse momentum in jet {jet}", "pt > 0")


def _class_index(path: Path, labels: np.ndarray, start: int) -> np.ndarray:
    wrong = (labels != 0) & (labels != 1)
    if wrong.any():
        jet = int(np.argmax(wrong))
        found = f"{labels[jet]} in jet {start + jet}"
        raise JetfmError(f"{path}: column '{_LABEL}'", found, "0 (q/g) or 1 (top)")
    return _INDICES[labels.astype(np.int64)]
