"""Pre-training strategies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jetfm.plotting import LABELS

OBJECTIVES = {"ntp": "Next token", "mpm": "Masked particles"}
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPX"
FEW_TOKENS = 50  # bins with fewer are not drawn


def strategies(rows: Sequence[Mapping]) -> Figure:
    """Validation loss by step, and accuracy by position and by pt, for every strategy.

    Parameters
    ----------
    rows : ``label``, ``objective`` ('ntp' or 'mpm'), ``step`` and ``loss`` [nats] of the
        validations; ``by_position`` and ``by_pt``: ``edges``, ``accuracy`` and ``n`` per bin, of
        which those of fewer than `FEW_TOKENS` tokens are not drawn
    """
    figure, axes = plt.subplots(2, 3, figsize=(12.4, 7.0))
    labels = list(dict.fromkeys(row["label"] for row in rows))
    for line, (objective, title) in zip(axes, OBJECTIVES.items(), strict=True):
        for row in rows:
            if row["objective"] != objective:
                continue
            index = labels.index(row["label"])
            style = {
                "color": _COLORS[index % len(_COLORS)],
                "marker": _MARKERS[index % len(_MARKERS)],
                "markersize": 3.5,
                "label": row["label"],
            }
            line[0].plot(row["step"], row["loss"], **style)
            for axis, key in ((line[1], "by_position"), (line[2], "by_pt")):
                edges = np.array(row[key]["edges"])
                centres = (edges[1:] + edges[:-1]) / 2
                if key == "by_pt":
                    centres = np.sqrt(edges[1:] * edges[:-1])
                n_tokens = np.array(row[key]["n"])
                share = np.array(row[key]["accuracy"], float)  # None, an empty bin, is nan
                share[n_tokens < FEW_TOKENS] = np.nan
                error = np.sqrt(share * (1 - share) / np.maximum(n_tokens, 1))
                axis.errorbar(centres, share, error, lw=1.2, capsize=1.5, **style)
        line[0].set_xlabel("Training step")
        line[0].set_ylabel("Validation loss [nats per token]")
        line[0].xaxis.set_major_locator(MaxNLocator(5, integer=True))
        line[0].set_title(title, fontsize=11)
        line[1].set_xlabel("Position of the predicted constituent")
        line[2].set_xlabel(LABELS["pt"])
        line[2].set_xscale("log")
        for axis in line[1:]:
            axis.set_ylabel("Token accuracy")
            axis.set_ylim(bottom=0)
    handles = {}
    for axis in axes[:, 0]:
        handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    figure.legend(
        [handles[label] for label in labels if label in handles],
        [label for label in labels if label in handles],
        loc="outside upper center", ncols=min(len(labels), 4),
    )  # fmt: skip
    return figure
