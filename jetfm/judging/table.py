"""Generated jets judged, as text: a row per generator and one for the floor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from jetfm.errors import JetfmError
from jetfm.judging.metrics import CONSTITUENT_QUANTITIES, JET_QUANTITIES
from jetfm.token_quality.table import aligned

FLOOR = "floor (truth)"

_COPIES = {
    "distance_ratio": "distance to training",
    "close": "close",
    "copied": "copied",
    "copied_sequence": "copied in order",
    "repeated": "repeated",
    "repeated_sequence": "repeated in order",
}
_VIOLATIONS = {
    "not_finite": "not finite",
    "no_momentum": "pt <= 0",
    "outside": "outside acceptance",
    "jets_with_any": "jets with any",
    "empty_jets": "empty jets",
    "undefined_ratios": "jets without tau32",
    "other_multiplicity": "other multiplicity",
}


def as_text(
    results: Mapping[str, Mapping],
    jet_class: str | None = None,
    of: str = "all classes",
    speed: Mapping[str, float] | None = None,
) -> str:
    """Tables of several generators' results, all jets together or one class.

    Parameters
    ----------
    results : by generator's name, what `evaluate_sample` returned
    jet_class : a class of the results; generators without it have no row
    of : what the jets of all classes together are called
    speed : seconds per 1000 jets, by generator's name

    Raises
    ------
    JetfmError
        No results, or none of this class.

    Notes
    -----
    Floors depend on the sizes of the samples: where these differ between generators, the highest
    is shown. A '*' marks a divergence whose value rests on the pseudo-count of missed bins, '-'
    what was not measured.
    """
    if jet_class is None:
        entries = {name: result["combined"] for name, result in results.items()}
    else:
        entries = {
            name: result["classes"][jet_class]
            for name, result in results.items()
            if jet_class in result["classes"]
        }
    if not entries:
        raise JetfmError("table", f"no results of {jet_class or 'generators'}", "at least one")
    of = of if jet_class is None else jet_class
    tables = [
        aligned(f"{title}, {of}", [*entries, FLOOR], columns)
        for title, columns in _tables(list(entries.values()))
    ]
    if speed is not None:
        columns = {"seconds per 1000 jets": [f"{speed[name]:.2g}" for name in entries]}
        tables.append(aligned("Sampling (on a CPU: one core)", list(entries), columns))
    return "\n\n".join(tables)


def violations_as_text(
    counts: Mapping[str, Mapping], unfinished: Sequence[int | None] | None = None
) -> str:
    """What of each sample is not physical.

    Parameters
    ----------
    counts : by generator, `jetfm.judging.jet_sample.Violations` as dictionary
    unfinished : jets of each that were cut at the largest length, None where that cannot be
    """
    columns = {"jets": [f"{found['n_jets']:,}" for found in counts.values()]}
    columns["constituents"] = [f"{found['n_constituents']:,}" for found in counts.values()]
    for key, heading in _VIOLATIONS.items():
        columns[heading] = [_count(found[key]) for found in counts.values()]
    if unfinished is not None:
        columns["unfinished"] = [_count(n) for n in unfinished]
    return aligned("Counts of what is not physical", list(counts), columns)


def _count(n: int | None) -> str:
    return "-" if n is None else f"{n:,}"


def _tables(entries: Sequence[Mapping]) -> Iterator[tuple[str, dict[str, list[str]]]]:
    """Title, and columns by heading; the last cell of a column is the floor's."""
    groups = {"jets": JET_QUANTITIES, "constituents": CONSTITUENT_QUANTITIES}
    for of, quantities in groups.items():
        columns = {
            f"{quantity} [{unit}]" if unit else quantity: _column(
                entries, lambda e, quantity=quantity: e["wasserstein"][quantity]
            )
            for quantity, unit in quantities.items()
        }
        yield f"Wasserstein-1 distance of {of}", columns
    for of, quantities in groups.items():
        columns = {
            quantity: _column(entries, lambda e, quantity=quantity: e["kl"][quantity])
            for quantity in quantities
        }
        yield f"Kullback-Leibler divergence of {of} [nat]", columns
    frechet = {"Frechet distance": _column(entries, lambda e: e["frechet"])}
    yield "Energy-flow polynomials", frechet
    columns = {
        heading: _column(entries, lambda e, key=key: (e["memorisation"] or {}).get(key))
        for key, heading in _COPIES.items()
    }
    columns = {heading: cells for heading, cells in columns.items() if set(cells) != {"-"}}
    yield (
        "Copies and coverage",
        columns | {"coverage": _column(entries, lambda e: e["coverage"])},
    )
    networks = list(dict.fromkeys(name for e in entries for name in e["classifiers"]))
    if networks:
        tests = {n: [_auc(e["classifiers"].get(n)) for e in entries] + ["0.5"] for n in networks}
        yield "AUC of the classifier test", tests
    counts = {"jets": [f"{e['n_jets']['sample']:,}" for e in entries]}
    counts["jets"].append(f"{max(e['n_jets']['truth'] for e in entries):,}")
    for key, heading in _VIOLATIONS.items():
        found = [e["violations"]["sample"][key] for e in entries]
        of_truth = [e["violations"]["truth"][key] for e in entries]
        found.append(max((n for n in of_truth if n is not None), default=None))
        counts[heading] = [_count(n) for n in found]
    yield "Counts of what is not physical", counts


def _column(entries: Sequence[Mapping], measured: Callable) -> list[str]:
    found = [measured(entry) for entry in entries]
    floors = [one["floor"] for one in found if one and one["floor"]["value"] is not None]
    highest = max(floors, key=lambda floor: floor["value"], default=None)
    return [_cell(one) for one in (*found, highest)]


def _cell(one: Mapping | None) -> str:
    if one is None or one["value"] is None:
        return "-"
    star = "*" if one.get("n_missed") else ""
    return _rounded(one["value"], one["uncertainty"]) + star


def _auc(test: Mapping | None) -> str:
    return "-" if test is None else _rounded(test["auc"], test["auc_error"])


def _rounded(value: float, uncertainty: float | None) -> str:
    """To two digits of the uncertainty."""
    if not uncertainty:
        return f"{value:.3g}"
    decimals = max(1 - math.floor(math.log10(uncertainty)), 0)
    return f"{value:.{decimals}f} +- {uncertainty:.{decimals}f}"
