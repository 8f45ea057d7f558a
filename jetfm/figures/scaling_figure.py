"""Loss against compute: small trainings, the law through them, and what it foretells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLORS = ("#56B4E9", "#0072B2", "#009E73", "#CC79A7", "#E69F00")


def scaling(lines: Sequence[Mapping], target: Mapping, reached: Sequence[float]) -> Figure:
    """Validation loss by training compute.

    Parameters
    ----------
    lines : a network each: ``label``, ``compute`` [operations] and ``loss`` [nats] of its
        trainings, ``law_compute`` and ``law_loss`` of the law
    target : ``compute`` of the training that was foretold, ``loss`` and ``uncertainty`` foretold
    reached : losses of its trainings
    """
    figure, axis = plt.subplots(figsize=(6.4, 4.6))
    for index, line in enumerate(lines):
        color = _COLORS[index % len(_COLORS)]
        axis.plot(line["law_compute"], line["law_loss"], color=color, lw=1.0, alpha=0.7)
        axis.plot(line["compute"], line["loss"], "o", color=color, ms=5, label=line["label"])
    axis.errorbar(
        target["compute"], target["loss"], target["uncertainty"], fmt="s", color="0.3", ms=7,
        mfc="none", capsize=4, label="Main model, foretold",
    )  # fmt: skip
    axis.plot(
        [target["compute"]] * len(reached), reached, "*", color="#D55E00", ms=11,
        label="Main model, reached",
    )  # fmt: skip
    axis.set_xscale("log")
    axis.set_xlabel("Training compute: 6 × parameters × predicted tokens [operations]")
    axis.set_ylabel("Validation loss [nats per token]")
    axis.yaxis.set_major_locator(MaxNLocator(6))
    axis.margins(y=0.12)
    axis.legend(fontsize=8.5)
    return figure
