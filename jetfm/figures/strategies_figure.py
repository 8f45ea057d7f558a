"""Pre-training strategies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jetfm.figures.style import LABELS

OBJECTIVES = {"ntp": "Next token", "mpm": "Masked particles"}
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
FEW_TOKENS = 50  # bins with fewer are not drawn


def strategies(rows: Sequence[Mapping]) -> Figure:
    """Validation loss by step, and accuracy by position and by pt, for every strategy.

    Parameters
    ----------
    rows : ``label``, ``objective`` ('ntp' or 'mpm'), ``step`` and ``loss`` [nats] of the
        validations; ``by_position`` and ``by_pt``: ``edges``, ``loss``, ``accuracy`` and ``n`` per
        bin, of which those of fewer than `FEW_TOKENS` tokens are not drawn
    """
    figure, axes = plt.subplots(2, 3, figsize=(12.4, 7.0))
    for line, (objective, title) in zip(axes, OBJECTIVES.items(), strict=True):
        for row, style in _of_objective(rows, objective):
            line[0].plot(row["step"], row["loss"], **style)
        line[0].set_xlabel("Training step")
        line[0].set_ylabel("Validation loss [nats per token]")
        line[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        line[0].set_title(title, fontsize=11)
        _binned_panels(line[1:], rows, objective, "accuracy", "Token accuracy")
        for axis in line[1:]:
            axis.set_ylim(bottom=0)
    _legend(figure, axes, rows)
    return figure


def strategy_losses(rows: Sequence[Mapping]) -> Figure:
    """Loss by position and by pt, for every strategy; `rows` as for `strategies`."""
    figure, axes = plt.subplots(2, 2, figsize=(8.6, 7.0))
    for line, (objective, title) in zip(axes, OBJECTIVES.items(), strict=True):
        _binned_panels(line, rows, objective, "loss", "Loss [nats per token]")
        line[0].set_title(title, fontsize=11)
    _legend(figure, axes, rows)
    return figure


def _of_objective(rows: Sequence[Mapping], objective: str):
    """Rows of an objective, each with the style of its strategy."""
    labels = _labels(rows)
    for row in rows:
        if row["objective"] == objective:
            index = labels.index(row["label"])
            yield (
                row,
                {
                    "color": _COLORS[index % len(_COLORS)],
                    "marker": _MARKERS[index % len(_MARKERS)],
                    "markersize": 3.5,
                    "label": row["label"],
                },
            )


def _labels(rows: Sequence[Mapping]) -> list[str]:
    return list(dict.fromkeys(row["label"] for row in rows))


def _binned_panels(axes, rows, objective: str, key: str, label: str) -> None:
    """'accuracy' or 'loss' by position and by pt, on two axes."""
    for row, style in _of_objective(rows, objective):
        for axis, variable in zip(axes, ("by_position", "by_pt"), strict=True):
            edges = np.array(row[variable]["edges"])
            centres = (edges[1:] + edges[:-1]) / 2
            if variable == "by_pt":
                centres = np.sqrt(edges[1:] * edges[:-1])
            n_tokens = np.array(row[variable]["n"])
            values = np.array(row[variable][key], float)  # None, an empty bin, is nan
            values[n_tokens < FEW_TOKENS] = np.nan
            if key == "accuracy":
                error = np.sqrt(values * (1 - values) / np.maximum(n_tokens, 1))
                axis.errorbar(centres, values, error, lw=1.2, capsize=1.5, **style)
            else:
                axis.plot(centres, values, lw=1.2, **style)
    axes[0].set_xlabel("Position of the predicted constituent")
    axes[1].set_xlabel(LABELS["pt"])
    axes[1].set_xscale("log")
    for axis in axes:
        axis.set_ylabel(label)


def _legend(figure: Figure, axes: np.ndarray, rows: Sequence[Mapping]) -> None:
    handles = {}
    for axis in axes[:, 0]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    labels = [label for label in _labels(rows) if label in handles]
    figure.legend(
        [handles[label] for label in labels], labels,
        loc="outside upper center", ncols=min(len(labels), len(axes[0]) + 1),
    )  # fmt: skip
