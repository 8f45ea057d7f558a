"""Classification by number of labelled jets and by training strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from jetfm.data.schema import class_by_name
from jetfm.plotting import COLORS, seed_spread

#: Legend text of the three fine-tuning strategies, in plotting order.
STRATEGIES = {
    "scratch": "From scratch",
    "fixed": "Fine-tuned (backbone fixed)",
    "finetuned": "Fine-tuned",
}


def finetuning(rows: Sequence[Mapping], n_test: int, missing_sizes: Sequence[int] = ()) -> Figure:
    """AUC and accuracy of t->bqq' against q/g by training size and strategy.

    After figure 7 of arXiv 2403.05618.

    Parameters
    ----------
    rows : strategy, size, ``auc`` and ``accuracy`` (lists over seeds)
    n_test : jets in the test set
    missing_sizes : training sizes of the paper's figure that this profile leaves out
    """
    figure, axes = plt.subplots(1, 2, figsize=(9.6, 4.0))
    labels = {"auc": "AUC", "accuracy": "Accuracy"}
    for axis, (metric, label) in zip(axes, labels.items(), strict=True):
        for strategy, text in STRATEGIES.items():
            chosen = sorted((r for r in rows if r["strategy"] == strategy), key=lambda r: r["size"])
            sizes = [row["size"] for row in chosen]
            mean = np.array([np.mean(row[metric]) for row in chosen])
            spread = np.array([seed_spread(row[metric]) for row in chosen])
            color = COLORS[strategy]
            axis.plot(sizes, mean, marker="o", markersize=4, color=color, label=text)
            axis.fill_between(sizes, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)
        axis.set_xscale("log")
        axis.set_xlabel("Number of training jets")
        axis.set_ylabel(label)
    n_seeds = max(len(row["auc"]) for row in rows)
    title = (
        f"{class_by_name('Tbqq').latex} vs {class_by_name('QCD').latex}, {n_test:,} test jets\n"
        f"mean $\\pm$ sd of {n_seeds} seeds"
    )
    axes[1].legend(title=title, title_fontsize=9.5, loc="lower right")
    if missing_sizes:
        text = "not at this scale: " + ", ".join(f"{size:,}" for size in missing_sizes) + " jets"
        axes[0].text(
            0.97, 0.03, text, transform=axes[0].transAxes, ha="right", fontsize=7.5, color="0.4"
        )
    return figure
