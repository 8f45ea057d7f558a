"""Learning curves of any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jetfm.figures.style import COLORS

#: Metrics whose learning curves are drawn on a logarithmic axis.
LOGARITHMIC = ("reconstruction", "commitment")


def training(
    history: Mapping, panels: Sequence[tuple[str, str]], best_step: int, note: str = ""
) -> Figure:
    """Learning curves.

    Parameters
    ----------
    history : by split ('train', 'val'): columns ``step`` and one per metric
    panels : (metric, axis label) pairs, one panel each
    best_step : validation step whose weights were kept
    note : whose curves they are, below the panels
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 3.7), squeeze=False)
    names = {"train": "Training", "val": "Validation"}
    for axis, (metric, label) in zip(axes[0], panels, strict=True):
        for split, columns in history.items():
            if metric in columns:
                marker = {"marker": "o", "markersize": 3.5} if split == "val" else {}
                x, y = columns["step"], columns[metric]
                axis.plot(x, y, color=COLORS[split], label=names[split], **marker)
        axis.axvline(best_step, color="0.6", lw=0.9, ls="--", label="Kept")
        if metric in LOGARITHMIC:
            axis.set_yscale("log")
        else:
            axis.margins(y=0.15)
        axis.margins(x=0.02)
        axis.set_xlabel("Training step")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.legend()
    if note:
        figure.supxlabel(note, fontsize="small", color="0.35")
    return figure
