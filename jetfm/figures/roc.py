"""The receiver operating characteristic of a classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from jetfm.figures.jets import CLASS_COLORS
from jetfm.schema import latex_of


def roc(curves: Sequence[Mapping], classes: Sequence[str], n_test: int, text: str) -> Figure:
    """Background rejection against signal efficiency.

    Parameters
    ----------
    curves : 'class' and the efficiencies 'signal' and 'background', ascending
    classes : of the task; of more than two, each is told from all others
    n_test : test jets
    text : the classifier
    """
    figure, axis = plt.subplots(figsize=(5.6, 4.6))
    for curve in curves:
        signal, background = (np.asarray(curve[key]) for key in ("signal", "background"))
        passed = background > 0
        name = latex_of(curve["class"])
        others = latex_of(classes[0]) if len(classes) == 2 else "others"
        axis.plot(
            signal[passed], 1 / background[passed], color=CLASS_COLORS.get(curve["class"]),
            label=f"{name} vs {others}",
        )  # fmt: skip
    diagonal = np.linspace(0.01, 1, 100)
    axis.plot(diagonal, 1 / diagonal, color="0.6", ls=":", lw=1, label="guessing")
    axis.set_yscale("log")
    axis.set_xlim(0, 1)
    axis.set_ylim(bottom=1)
    axis.set_xlabel(r"Signal efficiency $\epsilon_S$")
    axis.set_ylabel(r"Background rejection $1/\epsilon_B$")
    axis.legend(title=f"{text}\n{n_test:,} test jets", title_fontsize=9)
    return figure
