"""Single jets in the (eta, phi) plane, and what a classifier says of them.

A *panel* is a dictionary with 'title' and 'constituents', (n, 3) pt [GeV], eta_rel, phi_rel; and,
where there is more to show, 'kinds', (n,) places in `KINDS`; 'numbers', the jet's observables by
name; 'origins', (n, 2) angles from which constituents have moved; 'ids', (n,) tokens; 'removed',
(n,) bool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle

from jetfm.figures.jets import CLASS_COLORS
from jetfm.figures.style import COLORS, LABELS
from jetfm.schema import class_by_name

#: Name and colour of each kind of constituents, in the order of the schema's flags.
KINDS = (
    ("charged hadron", "#D55E00"),
    ("neutral hadron", "#0072B2"),
    ("photon", "#E69F00"),
    ("electron", "#009E73"),
    ("muon", "#CC79A7"),
)
UNKNOWN = ("constituent", "#56789A")

_REACH = 0.9  # of both angles that is drawn
_RADIUS = 0.8  # of the jets
_TICKS = (-0.8, -0.4, 0.0, 0.4, 0.8)
_AREA = 4.0  # square points a GeV
_NAMED_TOKENS, _APART = 6, 0.12  # of leading constituents, so far from each other in either angle
_NAMED_CLASSES = 5
_COLORS = CLASS_COLORS | {
    "Hcc": "#56B4E9",
    "Hgg": "#E69F00",
    "H4q": "#882255",
    "Hqql": "#44AA99",
    "Zqq": "#999933",
}


def event_display(panels: Sequence[Mapping]) -> Figure:
    """Jets side by side; the area of a constituent is proportional to its pt."""
    columns = min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    figure, axes = _placed(rows, columns, (3.7 * columns, 4.2 * rows + 0.4), bottom=0.95, top=0.8)
    for axis, panel in zip(axes.flat, panels, strict=False):
        draw_jet(axis, panel)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis in axes[:, 1:].flat:
        axis.set_ylabel("")
    _draw_legend(figure, panels)
    return figure


def removal(
    panel: Mapping,
    kept: Sequence[int],
    pt: Sequence[float],
    probabilities: Sequence[Sequence[float]],
    classes: Sequence[str],
    truth: str,
    n_kept: int,
) -> Figure:
    """A jet of which some constituents are gone, and class scores against the number kept.

    Parameters
    ----------
    panel : the jet, with 'removed'
    kept, pt, probabilities : as of `jetfm.explore.removal.Removal`; pt [GeV]
    classes : of the columns of `probabilities`
    truth : the jet's class; empty where it is not known or not one of `classes`
    n_kept : of the jet as it is drawn
    """
    figure, axes = _placed(1, 2, (10.8, 5.2), bottom=0.95, top=0.8, right=1.5)
    left, right = axes[0]
    draw_jet(left, panel)
    scores = np.asarray(probabilities)
    highest = np.argsort(-scores.max(0), kind="stable")
    named = {classes[place] for place in highest[:_NAMED_CLASSES]} | {truth}
    style = {"marker": ".", "ms": 3} if len(kept) < 40 else {}
    for place, name in enumerate(classes):
        color, text = _COLORS[name], class_by_name(name).latex
        if name not in named:
            color, text = "0.85", None
        right.plot(
            kept, scores[:, place], color=color, label=text, lw=2.6 if name == truth else 1.3,
            zorder=3 if name in named else 1, **style,
        )  # fmt: skip
    share = np.asarray(pt) / max(pt[-1], np.finfo(float).tiny)
    right.plot(kept, share, color=COLORS["truth"], ls=":", lw=1.2, label=r"share of $p_\mathrm{T}$")
    right.axvline(n_kept, color="0.4", lw=0.8)
    right.minorticks_off()
    right.set_xlim(0, max(kept[-1], 1) + 0.5)
    right.set_ylim(0, 1.02)
    right.set_xlabel("Constituents kept", fontsize=10)
    right.set_ylabel("Class score", fontsize=10)
    right.legend(
        title=f"truth: {class_by_name(truth).latex}" if truth else None,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    _draw_legend(figure, [panel])
    return figure


def draw_jet(axis: plt.Axes, panel: Mapping) -> None:
    """One panel; what lies beyond the frame is counted below."""
    x = np.asarray(panel["constituents"], float).reshape(-1, 3)
    kinds = panel.get("kinds")
    looks = [UNKNOWN] * len(x) if kinds is None else [(*KINDS, UNKNOWN)[kind] for kind in kinds]
    colors = np.array([color for _, color in looks], dtype=object)
    removed = np.asarray(panel.get("removed", np.zeros(len(x))), bool)
    axis.add_patch(Circle((0, 0), _RADIUS, fill=False, ls="--", lw=0.8, color="0.6"))
    if panel.get("origins") is not None:
        ways = np.stack([np.asarray(panel["origins"], float).reshape(-1, 2), x[:, 1:]], axis=1)
        axis.add_collection(LineCollection(ways, colors=list(colors), lw=0.7, alpha=0.6))
    for gone, look in ((True, {"c": "none", "edgecolors": "0.8"}), (False, {"alpha": 0.55})):
        some = removed == gone
        if not gone:
            look = look | {"c": list(colors[some])}
        axis.scatter(x[some, 1], x[some, 2], s=_AREA * x[some, 0], lw=0.7, zorder=2, **look)
    if panel.get("ids") is not None:
        for place in _apart(x):
            axis.annotate(
                str(panel["ids"][place]), x[place, 1:], xytext=(4, 4), textcoords="offset points",
                fontsize=7,
            )  # fmt: skip
    axis.set_xlim(-_REACH, _REACH)
    axis.set_ylim(-_REACH, _REACH)
    axis.set_aspect("equal")
    for one in (axis.xaxis, axis.yaxis):
        one.set_ticks(_TICKS)
    axis.minorticks_off()
    axis.set_xlabel(LABELS["eta_rel"], fontsize=10)
    axis.set_ylabel(LABELS["phi_rel"], fontsize=10)
    outside = int((np.abs(x[:, 1:]) > _REACH).any(1).sum())
    if outside:
        axis.text(0.03, 0.03, f"{outside} outside", transform=axis.transAxes, fontsize=7)
    axis.set_title("\n".join([panel["title"], *_numbers(panel)]), loc="left", fontsize=9.5)


def _apart(x: np.ndarray) -> list[int]:
    """The leading constituents whose names do not hide each other."""
    chosen: list[int] = []
    for place in np.argsort(-x[:, 0], kind="stable"):
        away = np.abs(x[chosen, 1:] - x[place, 1:]).max(1, initial=0)
        if len(chosen) < _NAMED_TOKENS and (away > _APART).all():
            chosen.append(int(place))
    return chosen


def _placed(
    rows: int,
    columns: int,
    size: tuple[float, float],
    bottom: float,
    top: float,
    right: float = 0.1,
) -> tuple[Figure, np.ndarray]:
    """Panels with margins in inches: to compute a layout would take longer than to draw."""
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="none")
    width, height = size
    figure.subplots_adjust(
        left=0.75 / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height,
        wspace=0.28, hspace=0.55,
    )  # fmt: skip
    return figure, axes


def _numbers(panel: Mapping) -> list[str]:
    """Two lines of observables, or none."""
    numbers = panel.get("numbers")
    if numbers is None:
        return []
    pt, mass = (_number(numbers[name], 1) for name in ("jet_pt", "jet_mass"))
    return [
        rf"{numbers['n_constituents']:.0f} constituents, $p_\mathrm{{T}}$ = {pt} GeV",
        rf"$m$ = {mass} GeV, $\tau_{{32}}$ = {_number(numbers['tau32'], 2)}",
    ]


def _number(value: float, digits: int) -> str:
    return "?" if math.isnan(value) else f"{value:.{digits}f}"


def _draw_legend(figure: Figure, panels: Sequence[Mapping]) -> None:
    """Kinds that occur, and three sizes, below all panels."""
    some = [set(panel["kinds"]) for panel in panels if panel.get("kinds") is not None]
    places = sorted(place for place in set().union(*some) if place >= 0)
    point = {"marker": "o", "ls": ""}
    handles = [
        Line2D([], [], color=color, label=name, ms=6, alpha=0.55, **point)
        for name, color in (KINDS[place] for place in places)
    ]
    handles += [
        Line2D([], [], mec="0.4", mfc="none", ms=math.sqrt(_AREA * pt), label=f"{pt} GeV", **point)
        for pt in (1, 10, 50)
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), handletextpad=0.1,
        columnspacing=1.0, fontsize=8.5,
    )  # fmt: skip
