"""Generated jets beside the jets that they should look like."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from jetfm.figures.style import COLORS, LABELS, ratio_panels, with_ratio

_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C564B")
_TRUTHS = (COLORS["truth"], "#777777")
_MARKERS = "osD^vPXp*"


def generation(
    histograms: Mapping[str, Mapping[str, Mapping]],
    truths: Mapping[str, int],
    generators: Sequence[Mapping],
    title: str,
    flow: bool = False,
) -> Figure:
    """Generators, each over its own truth: jets in the upper row, constituents in the lower.

    After figures 6, 16, 17 and 18 of arXiv 2403.05618 and figure 3 of arXiv 2512.04149. The truth
    of a generator of tokens is the *decoded* jet, since it learns tokens and nothing finer.

    Parameters
    ----------
    histograms : data (`jetfm.figures.style.to_data`) by quantity, then by name of truth or
        generator
    truths : number of jets of every truth
    generators : 'label', 'truth' and 'n_jets' of each
    title : which jets these are
    flow : draw under- and overflow as bins of their own, shaded, on sides where there is some
    """
    figure, pairs = ratio_panels(columns=4, rows=2, width=3.5, height=3.5, aligned=True)
    names = {truth: f"{truth} ({n:,} jets)" for truth, n in truths.items()}
    colors = {names[truth]: color for truth, color in zip(truths, _TRUTHS, strict=False)}
    references = {name: name for name in names.values()}
    for one, color in zip(generators, cycle(_COLORS), strict=False):
        names[one["label"]] = f"{one['label']} ({one['n_jets']:,} jets)"
        colors[names[one["label"]]] = color
        references[names[one["label"]]] = names[one["truth"]]
    for pair, (quantity, entry) in zip(pairs, histograms.items(), strict=True):
        entries = {text: entry[name] for name, text in names.items()}
        edges = np.asarray(entry[next(iter(truths))]["edges"])
        if flow:
            entries = _with_flow(entries)
            low, *_, high = next(iter(entries.values()))["edges"]
            spans = [(low, edges[0]), (edges[-1], high)]
        log = quantity == "pt"
        with_ratio(pair, entries, references, LABELS[quantity], colors, log=log)
        for axis in pair if flow else ():
            for start, end in spans:
                axis.axvspan(start, end, color="0.9", lw=0, zorder=-1)
    lines, texts = pairs[0][0].get_legend_handles_labels()
    figure.legend(lines, texts, loc="outside upper center", ncols=min(len(texts), 3), title=title)
    return figure


def _with_flow(entries: Mapping[str, Mapping]) -> dict[str, dict]:
    """Histograms with under- and overflow in more bins, as wide as their neighbours.

    On a side where no entry has any there is none: a mass is never below zero.
    """
    edges = np.asarray(next(iter(entries.values()))["edges"])
    low, high = _outer(edges)
    below = [low] if any(data["underflow"] for data in entries.values()) else []
    above = [high] if any(data["overflow"] for data in entries.values()) else []
    return {
        text: {
            "edges": [*below, *edges, *above],
            "counts": [data["underflow"]] * len(below)
            + list(data["counts"])
            + [data["overflow"]] * len(above),
            "underflow": 0.0,
            "overflow": 0.0,
        }
        for text, data in entries.items()
    }


def _outer(edges: np.ndarray) -> tuple[float, float]:
    """Where one more bin on either side would end; in a logarithmic scale if the edges are."""
    if _logarithmic(edges):
        return edges[0] ** 2 / edges[1], edges[-1] ** 2 / edges[-2]
    return 2 * edges[0] - edges[1], 2 * edges[-1] - edges[-2]


def _logarithmic(edges: np.ndarray) -> bool:
    return edges[0] > 0 and np.allclose(edges[1:] / edges[:-1], edges[1] / edges[0])


def generator_distances(rows: Mapping[str, Mapping], quantities: Sequence[str]) -> Figure:
    """Wasserstein distances to the own truth in units of what truth against truth scores.

    Parameters
    ----------
    rows : by generator's label and quantity: 'value' and 'error', both divided by the floor, None
        where no jet has the quantity
    quantities : from left to right
    """
    figure, axis = plt.subplots(figsize=(9.5, 4.2))
    x = np.arange(len(quantities))
    shifts = (np.arange(len(rows)) - (len(rows) - 1) / 2) * 0.7 / max(len(rows), 1)
    for (label, found), shift, color, marker in zip(
        rows.items(), shifts, cycle(_COLORS), cycle(_MARKERS), strict=False
    ):
        values, errors = (
            np.array([found[quantity][key] for quantity in quantities], float)  # None becomes nan
            for key in ("value", "error")
        )
        axis.errorbar(
            x + shift, values, errors, fmt=marker, color=color, ms=5, capsize=2, label=label
        )
    axis.axhline(1, color="0.5", lw=0.8)
    for position in x[1:] - 0.5:
        axis.axvline(position, color="0.9", lw=0.8)
    axis.set_yscale("log")
    axis.set_xlim(-0.5, len(quantities) - 0.5)
    names = [LABELS[quantity].split(" [")[0] for quantity in quantities]
    names = [name.replace("Constituent ", "Constituent\n") for name in names]
    axis.set_xticks(x, [name.replace("Number of ", "Number of\n") for name in names])
    axis.tick_params(axis="x", which="both", length=0)
    axis.set_ylabel("Wasserstein-1 / truth against truth")
    figure.legend(loc="outside upper center", ncols=3)
    return figure
