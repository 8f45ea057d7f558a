"""The ledger of claims as one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from jetfm.figures.style import COLORS

#: Colours of the ledger's verdicts.
VERDICT_COLORS = {
    "reproduced": "#009E73",
    "same direction": "#E69F00",
    "inconclusive": "#7F7F7F",
    "not reproduced": "#D55E00",
}


def ledger(entries: Sequence[Mapping], tolerances: Mapping[str, float]) -> Figure:
    """The ledger as one picture: how far each measured claim is from what the paper says.

    Parameters
    ----------
    entries : rows of the ledger
    tolerances : by claim id, of the claims with a number
    """
    judged = [row for row in entries if row["measured"] is not None][::-1]
    others = [row for row in entries if row["measured"] is None]
    figure, axes = plt.subplots(
        1, 2, figsize=(12, 1.6 + 0.36 * max(len(judged), 3)), sharey=True, width_ratios=(1.2, 1)
    )
    for y, row in enumerate(judged):
        color = VERDICT_COLORS[row["verdict"]]
        if row["id"] in tolerances:
            scale = tolerances[row["id"]]
            x, error = (row["measured"] - row["paper_value"]) / scale, row["uncertainty"] / scale
            axes[0].errorbar(x, y, xerr=error, fmt="o", color=color, capsize=2)
        else:
            sigma = max(row["uncertainty"], 1e-12)
            axes[1].errorbar(row["measured"] / sigma, y, xerr=1, fmt="s", color=color, capsize=2)
    axes[0].axvspan(-1, 1, color=COLORS["published"], alpha=0.25, lw=0)
    axes[0].set_xscale("symlog", linthresh=2)
    axes[0].set_xlabel("(measured $-$ paper) / tolerance")
    axes[1].axvspan(-2, 2, color=COLORS["published"], alpha=0.25, lw=0)
    axes[1].set_xscale("symlog", linthresh=3)
    axes[1].set_xlabel("measured difference / its uncertainty")
    axes[0].set_yticks(range(len(judged)), [row["id"] for row in judged])
    axes[0].set_ylim(-0.7, len(judged) - 0.3)
    for axis in axes:
        axis.axvline(0, color="0.6", lw=0.8)
        axis.grid(axis="y", color="0.92")
        axis.tick_params(axis="y", which="minor", left=False, right=False)
    handles = [plt.Line2D([], [], marker="o", ls="", color=c) for c in VERDICT_COLORS.values()]
    figure.legend(handles, VERDICT_COLORS, loc="outside upper center", ncols=4)
    if others:
        text = "Not shown: " + ", ".join(f"{row['id']} ({row['verdict']})" for row in others)
        figure.text(0.01, -0.02, text, fontsize=7.5, color="0.35", va="top", wrap=True)
    return figure
