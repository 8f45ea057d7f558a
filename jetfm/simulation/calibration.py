"""Simulated jets against the published statistics of JetClass.

``calibrate`` reads ROOT files and returns one row per quantity; ``reference.yaml`` holds the
published values, their sources and the tolerances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import awkward as ak
import numpy as np
import uproot
import yaml

from jetfm.errors import JetfmError
from jetfm.schema import CLASSES, TREE_NAME
from jetfm.storage.root_files import open_root

REFERENCE = Path(__file__).parent / "reference.yaml"
MAX_CONSTITUENTS, DETA_MAX = 128, 1.0  # selection of the published constituent statistics

_FLAGS = {
    "charged_hadron": "part_isChargedHadron",
    "neutral_hadron": "part_isNeutralHadron",
    "photon": "part_isPhoton",
    "electron": "part_isElectron",
    "muon": "part_isMuon",
}
_STORED = ("energy", "sdmass", "tau1", "tau2", "tau3", "tau4")
_JAGGED = (
    "part_px part_py part_deta part_dphi part_charge part_d0val part_d0err part_dzval part_dzerr"
).split()


@dataclass(frozen=True)
class Comparison:
    """One quantity, measured and published.

    Attributes
    ----------
    class_name : class, or 'all' for the ten classes mixed
    quantity : name, e.g. ``n_constituents_mean``
    measured, uncertainty : value and its statistical standard error
    published : value of JetClass
    ratio : measured / published
    tolerance : largest abs(ratio - 1); None where the row is for information
    ok : whether the ratio is within the tolerance; None without one
    """

    class_name: str
    quantity: str
    measured: float
    uncertainty: float
    published: float
    ratio: float
    tolerance: float | None
    ok: bool | None

    def within(self, n_sigma: float = 0.0) -> bool:
        """Whether the ratio is within the tolerance, widened by statistical errors."""
        slack = n_sigma * self.uncertainty / abs(self.published)
        return self.tolerance is None or abs(self.ratio - 1) <= self.tolerance + slack


@lru_cache
def reference() -> dict:
    """Published statistics, as in ``reference.yaml``."""
    return yaml.safe_load(REFERENCE.read_text(encoding="utf-8"))


def read_jets(files: Iterable[str | Path], say: Callable[[str], None] = print) -> ak.Array:
    """Branches that the comparison needs, from all files.

    Jets with stored values that are not finite are left out, and `say` is told how many.

    Raises
    ------
    JetfmError
        No files, or one without the tree or a branch.
    """
    names = [f"label_{c.name}" for c in CLASSES] + [f"jet_{n}" for n in _STORED]
    names += ["jet_pt", "jet_eta", *_JAGGED, *_FLAGS.values()]
    parts = []
    for path in files:
        try:
            with open_root(path) as file:
                parts.append(file[TREE_NAME].arrays(names))
        except (OSError, ValueError, KeyError, uproot.DeserializationError) as error:
            found = f"{type(error).__name__}: {error}".splitlines()[0]
            raise JetfmError(path, found, "a JetClass ROOT file") from None
    if not parts:
        raise JetfmError("calibration", "no files", "JetClass ROOT files")
    jets = ak.concatenate(parts)
    finite = {n: np.isfinite(ak.to_numpy(jets[f"jet_{n}"])) for n in (*_STORED, "pt", "eta")}
    good = np.logical_and.reduce(list(finite.values()))
    if not good.all():
        branches = ", ".join(f"jet_{name}" for name, where in finite.items() if not where.all())
        say(f"left out: {(~good).sum()} of {len(jets)} jets, with {branches} that is not finite")
    return jets[good]


def calibrate(files: Iterable[str | Path], say: Callable[[str], None] = print) -> list[Comparison]:
    """Compare the jets of ROOT files with the published statistics.

    Parameters
    ----------
    files : of JetClass's form, with any mixture of classes
    say : told what was left out

    Returns
    -------
    list of Comparison
        Per class with jets: multiplicity, pT, eta, and the stored energy, soft-drop mass and
        N-subjettiness, with quantiles; then the constituents of all classes mixed, if all ten are
        there. Classes with different numbers of jets are weighted to equal shares, as published.
    """
    jets = read_jets(files, say)
    labels = np.stack([ak.to_numpy(jets[f"label_{c.name}"]).astype(bool) for c in CLASSES])
    rows = []
    for jet_class, chosen in zip(CLASSES, labels, strict=True):
        if chosen.any():
            rows += _jet_rows(jet_class.name, jets[chosen])
    if labels.any(axis=1).all():
        rows += _constituent_rows(jets, labels)
    return rows


def as_records(rows: list[Comparison]) -> list[dict]:
    """Rows as plain dictionaries, e.g. for JSON or a data frame."""
    return [asdict(row) for row in rows]


def format_table(rows: list[Comparison]) -> str:
    """Text table, one line per row but quantiles, which `jetfm.figures` draws."""
    rows = [row for row in rows if not _is_quantile(row.quantity)]
    lines = [
        f"{'class':6s} {'quantity':24s} {'measured':>10s} {'+-':>8s} {'published':>10s} "
        f"{'ratio':>6s} {'allowed':>8s}"
    ]
    for row in rows:
        allowed = "" if row.tolerance is None else f"{100 * row.tolerance:.0f} %"
        verdict = {None: "", True: "ok", False: "OUTSIDE"}[row.ok]
        lines.append(
            f"{row.class_name:6s} {row.quantity:24s} {row.measured:10.4g} {row.uncertainty:8.2g} "
            f"{row.published:10.4g} {row.ratio:6.3f} {allowed:>8s} {verdict}"
        )
    return "\n".join(lines)


def _is_quantile(quantity: str) -> bool:
    return quantity.rpartition("_")[2][1:].isdigit()


def _row(class_name, quantity, measured, uncertainty, published, tolerance) -> Comparison:
    ratio = float(measured / published)
    ok = None if tolerance is None else bool(abs(ratio - 1) <= tolerance)
    return Comparison(
        class_name,
        quantity,
        float(measured),
        float(uncertainty),
        float(published),
        ratio,
        tolerance,
        ok,
    )


def _mean_and_sd(values: np.ndarray) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation with their standard errors.

    The error of the standard deviation uses the sample's fourth moment, since tails are long.
    """
    n, sd = len(values), values.std()
    fourth = np.mean((values - values.mean()) ** 4)
    sd_error = np.sqrt(max(fourth - sd**4, 0.0) / n) / (2 * sd) if sd > 0 else 0.0
    return {"mean": (values.mean(), sd / np.sqrt(n)), "sd": (sd, sd_error)}


def _jet_rows(name: str, jets: ak.Array) -> list[Comparison]:
    values = {
        "n_constituents": ak.num(jets.part_px),
        "pt": jets.jet_pt,
        "eta": jets.jet_eta,
    } | {name: jets[f"jet_{name}"] for name in _STORED}
    values = {key: ak.to_numpy(v).astype(float) for key, v in values.items()}
    found = {
        f"{key}_{kind}": pair for key, v in values.items() for kind, pair in _mean_and_sd(v).items()
    }
    table = reference()["jets"]
    tolerances = table["tolerance"]
    published = dict(zip(table["columns"], table[name], strict=True))
    stored = reference()["stored"]
    for key, numbers in stored[name].items():
        for column, number in zip(stored["columns"], numbers, strict=True):
            if number is None:
                continue
            published.setdefault(f"{key}_{column}", number)
            if column.startswith("q"):
                found[f"{key}_{column}"] = _quantile(values[key], int(column[1:]) / 100)
    return [
        _row(name, quantity, *found[quantity], number, tolerances.get(quantity))
        for quantity, number in published.items()
    ]


def _quantile(values: np.ndarray, share: float) -> tuple[float, float]:
    """A quantile, and half the distance of those one standard error of its rank below and above."""
    spread = np.sqrt(share * (1 - share) / len(values))
    low, middle, high = np.quantile(values, np.clip(share + spread * np.array([-1, 0, 1]), 0, 1))
    return middle, (high - low) / 2


def _constituent_rows(jets: ak.Array, labels: np.ndarray) -> list[Comparison]:
    """Statistics over constituents, with errors from 20 groups of jets (constituents correlate)."""
    weight = (labels / labels.sum(axis=1, keepdims=True)).sum(axis=0)  # equal class shares
    pt = np.hypot(jets.part_px, jets.part_py)
    columns = {
        "deta": jets.part_deta,
        "dphi": jets.part_dphi,
        "pt_ratio": pt / jets.jet_pt,
        "charge": jets.part_charge,
        "d0val": jets.part_d0val,
        "d0err": jets.part_d0err,
        "dzval": jets.part_dzval,
        "dzerr": jets.part_dzerr,
    } | {f"{flag}_fraction": jets[branch] for flag, branch in _FLAGS.items()}
    near = (ak.local_index(jets.part_deta) < MAX_CONSTITUENTS) & (abs(jets.part_deta) < DETA_MAX)
    weights = ak.to_numpy(ak.flatten(ak.broadcast_arrays(weight, near)[0][near]))
    group = np.arange(len(jets)) % 20
    groups = ak.to_numpy(ak.flatten(ak.broadcast_arrays(group, near)[0][near]))
    rows = []
    for quantity, entry in reference()["constituents"].items():
        fraction = quantity.endswith("_fraction")
        name, kind = (quantity, "mean") if fraction else quantity.rsplit("_", 1)
        values = ak.to_numpy(ak.flatten(columns[name][near])).astype(float)
        measured = _weighted(values, weights, kind)
        subsets = [_weighted(values[groups == g], weights[groups == g], kind) for g in range(20)]
        error = np.std(subsets, ddof=1) / np.sqrt(20)
        published, tolerance = entry["value"], entry.get("tolerance")
        rows.append(_row("all", quantity, measured, error, published, tolerance))
    return rows


def _weighted(values: np.ndarray, weights: np.ndarray, kind: str) -> float:
    mean = np.average(values, weights=weights)
    if kind == "mean":
        return mean
    return np.sqrt(np.average((values - mean) ** 2, weights=weights))
