"""Classification by number of labelled jets, model and training strategy; how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from jetfm.figures.style import COLORS
from jetfm.schema import class_by_name
from jetfm.settings import BASELINES

_COLORS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_BASELINE_COLORS = dict(zip(BASELINES, ("#999999", "#666666", "#000000", "#7A3EB1"), strict=True))
_BASELINE_MARKERS = dict(zip(BASELINES, "xxxD", strict=True))
_LINES = {
    "finetuned": "-",
    "fixed": "--",
    "scratch": ":",
    "beside": (0, (9, 2)),
    "linear": (0, (5, 1.5, 1, 1.5)),
    "neighbours": (0, (1, 3)),
}
_MARKERS = {
    "finetuned": "o", "fixed": "s", "scratch": "^", "beside": "P", "linear": "D", "neighbours": "v",
}  # fmt: skip
_METRICS = {
    "accuracy": "Accuracy",
    "auc": "AUC",
    "rejection30": r"Background rejection $1/\epsilon_B$ at $\epsilon_S = 30\,\%$",
    "rejection50": r"Background rejection $1/\epsilon_B$ at $\epsilon_S = 50\,\%$",
}
_JETS = {
    "jetclass": "JetClass-like jets",
    "toplandscape": "Top-Landscape-like jets",
    "landscape": "Top-Landscape-like jets",  # in results of before
}


def learning_curves(panels: Sequence[Mapping]) -> Figure:
    """Metrics against the number of labelled training jets, a panel each.

    After figure 7 of arXiv 2403.05618, and figures 4 and 5 of arXiv 2512.04149.

    Parameters
    ----------
    panels : of `jetfm.finetuning.Finetuning.panel`; one without a line is left out. Bands are the
        standard deviation over seeds, bars the uncertainty from the test jets. A point is hollow
        where a limit of steps ended a fit, or a rejection rests on few background jets; an arrow
        starts at a lower limit. Grey lines, of the same dashes, are what a paper's figure shows.
    """
    panels = [panel for panel in panels if panel["lines"]] or list(panels[:1])
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.9 * columns, 4.1 * rows), squeeze=False)
    colors = _colors([line for panel in panels for line in panel["lines"]])
    handles: dict[str, object] = {}
    for axis, panel in zip(axes.flat, panels, strict=False):
        for line in panel["lines"]:
            drawn = _line(axis, line, colors[line["model"], line["weights"]])
            handles.setdefault(line["text"], drawn)
        _describe(axis, panel)
        handles |= _published(axis, panel)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_visible(False)
    figure.legend(
        handles.values(), handles, loc="outside upper center", ncols=min(len(handles), columns + 1)
    )
    return figure


def _line(axis: plt.Axes, line: Mapping, color: str):
    sizes = np.array(line["sizes"], float)
    mean, spread, jets = (
        np.array([np.nan if x is None else x for x in line[key]], float)
        for key in ("mean", "spread", "jets")
    )
    weights = line["weights"]
    style = {"color": color, "ls": _LINES[weights], "marker": _MARKERS[weights], "markersize": 4}
    if line["model"] in BASELINES:
        style |= {"ls": "-.", "marker": _BASELINE_MARKERS[line["model"]]}
    drawn = axis.errorbar(sizes, mean, np.nan_to_num(jets), lw=1.4, elinewidth=0.8, **style)
    axis.fill_between(sizes, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    weak = np.array(line["cut"]) | np.array(line.get("limited", False))
    hollow = {"ls": "", "marker": style["marker"], "markersize": 4, "mec": color, "zorder": 3}
    axis.plot(sizes[weak], mean[weak], mfc="white", **hollow)
    if "limited" in line:
        low = np.array([np.nan if x is None else x for x in line["low"]], float)
        none = np.isnan(mean)  # nothing passed in some seed: a lower limit
        axis.plot(sizes[none], low[none], ls="", marker=r"$\uparrow$", color=color, markersize=9)
    return drawn


def _published(axis: plt.Axes, panel: Mapping) -> dict[str, object]:
    """A paper's own curves, thin and grey, as far as ours go; what the legend says of them."""
    low, high = axis.get_xlim()
    drawn = {}
    for line in panel["published"]:
        sizes, mean = np.array(line["sizes"], float), np.array(line["mean"], float)
        inside = (sizes > low) & (sizes < high)
        inside[1:] |= inside[:-1]  # and on towards the first one beyond
        (curve,) = axis.plot(
            sizes[inside], mean[inside], color="0.6", lw=0.8, ls=_LINES[line["weights"]], zorder=0
        )
        drawn.setdefault("the paper's, read off by a third party", curve)
    axis.set_xlim(low, high)
    return drawn


def _describe(axis: plt.Axes, panel: Mapping) -> None:
    about = f"{_JETS[panel['jets']]}, {panel['n_test']:,} test jets"
    axis.set_title(f"{_task(panel)}, {about}", fontsize=10)
    sizes = [size for line in panel["lines"] for size in line["sizes"]]
    axis.set_xscale("log")
    if sizes:
        low, high = min(sizes) / 1.6, max(sizes) * 1.6
        axis.set_xlim(low, high)
        if 10 ** np.floor(np.log10(high)) < low:  # no power of ten is in sight
            axis.set_xticks(sorted(set(sizes)), [f"{size:,}" for size in sorted(set(sizes))])
    axis.xaxis.set_minor_formatter(NullFormatter())
    if panel["metric"].startswith("rejection"):
        axis.set_yscale("log")
        axis.set_ylim(bottom=1)  # no classifier is worse; a band may reach below zero
    axis.set_xlabel("Number of labelled training jets")
    axis.set_ylabel(_METRICS[panel["metric"]])
    missing = ["; ".join(panel["missing_contenders"])]
    missing += [", ".join(f"{n:,}" for n in panel["missing_sizes"])]
    text = "\n".join(fill(f"not at this scale: {one}", 68) for one in missing if one)
    axis.text(0.97, 0.02, text, transform=axis.transAxes, ha="right", fontsize=6.5, color="0.4")


def _colors(lines: Sequence[Mapping]) -> dict[tuple[str, str], str]:
    """By model and weights: one a model, or where there is one model, one for each start."""
    models = list(dict.fromkeys(line["model"] for line in lines))
    models = [model for model in models if model not in BASELINES]
    colors = {}
    for line in lines:
        model, weights = line["model"], line["weights"]
        if model in BASELINES:
            color = _BASELINE_COLORS[model]
        elif len(models) == 1:
            color = COLORS.get(weights) or _COLORS[2 + list(_LINES).index(weights) % 4]
        else:
            color = _COLORS[models.index(model) % len(_COLORS)]
        colors[model, weights] = color
    return colors


_RANGES = {
    "jet_pt": r"${:g} \leq p_\mathrm{{T}}^\mathrm{{jet}} < {:g}$ GeV",
    "jet_abs_eta": r"${:g} \leq |\eta^\mathrm{{jet}}| < {:g}$",
}


def out_of_range(panels: Sequence[Mapping]) -> Figure:
    """Accuracy where a classifier was trained, and elsewhere, by number of labelled jets.

    Parameters
    ----------
    panels : of `jetfm.finetuning.Finetuning.out_of_range`, a row each: test jets inside the ranges
        of the training jets, outside, and the difference of both fit by fit. Bands and bars as of
        `learning_curves`
    """
    if not panels:
        figure, axis = plt.subplots(figsize=(4.9, 1.2))
        axis.axis("off")
        axis.text(0.5, 0.5, "not at this scale: no task is trained on a range", ha="center")
        return figure
    figure, axes = plt.subplots(
        len(panels), 3, figsize=(12.6, 3.9 * len(panels)), squeeze=False, sharex="row"
    )
    colors = _colors([line for panel in panels for line in panel["inside"]])
    handles: dict[str, object] = {}
    for row, panel in zip(axes, panels, strict=True):
        ranges = ", ".join(_RANGES[name].format(low, high) for name, low, high in panel["ranges"])
        titles = {
            "inside": f"tested inside: {panel['n_inside']:,} jets",
            "outside": f"tested outside: {panel['n_outside']:,} jets",
            "fall": "inside minus outside",
        }
        row[1].sharey(row[0])
        for axis, (name, title) in zip(row, titles.items(), strict=True):
            for line in panel[name]:
                drawn = _line(axis, line, colors[line["model"], line["weights"]])
                handles.setdefault(line["text"], drawn)
            none = {"metric": "accuracy", "missing_contenders": [], "missing_sizes": []}
            described = {"classes": panel["classes"], "jets": panel["jets"], "n_test": 0}
            _describe(axis, none | described | {"lines": panel[name]})
            axis.set_title(f"trained at {ranges}\n{title}", fontsize=9)
        row[2].axhline(0, color="0.6", lw=0.8)
        row[2].set_ylabel("Difference of accuracies")
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=min(len(handles), 4))
    return figure


def reliability(panels: Sequence[Mapping]) -> Figure:
    """Whether classifiers know how sure they are: accuracy by confidence in the predicted class.

    Parameters
    ----------
    panels : 'title' and 'lines': 'text', and of all seeds together 'confidence', 'accuracy' and 'n'
        by bin; 'error', mean and standard deviation over seeds of the expected calibration error
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.2), squeeze=False)
    for axis, panel in zip(axes[0], panels, strict=True):
        axis.plot([0, 1], [0, 1], color="0.6", lw=0.8)
        lowest = 1.0
        for line, color in zip(panel["lines"], _COLORS, strict=False):
            confidence, right = (
                np.array([np.nan if x is None else x for x in line[key]], float)
                for key in ("confidence", "accuracy")
            )
            n = np.maximum(np.array(line["n"], float), 1)
            shown = n >= 10  # fewer say nothing
            errors = np.sqrt(right * (1 - right) / n)
            mean, spread = line["error"]
            text = f"{line['text']}\n  error {mean:.3f} $\\pm$ {spread:.3f}"
            axis.errorbar(
                confidence[shown], right[shown], errors[shown], color=color, marker="o",
                markersize=3.5, lw=1.2, elinewidth=0.8, label=text,
            )  # fmt: skip
            if shown.any():
                lowest = min(lowest, np.nanmin(confidence[shown]), np.nanmin(right[shown]))
        axis.set_xlim(max(lowest - 0.05, 0), 1)
        axis.set_ylim(max(lowest - 0.05, 0), 1)
        axis.set_title(panel["title"], fontsize=10)
        axis.set_xlabel("Mean probability of the predicted class")
        axis.set_ylabel("Share of jets of that class (accuracy)")
        axis.legend(fontsize=8, loc="upper left")
    return figure


def pretraining_jets(lines: Sequence[Mapping], n_test: int, classes: Sequence[str]) -> Figure:
    """Accuracy after fine-tuning by number of jets in pre-training.

    Parameters
    ----------
    lines : 'size' of the labelled training jets, 'n_pretraining', 'mean', 'spread' and 'jets'; and
        'scratch', mean and spread without pre-training, empty where it did not run
    """
    figure, axis = plt.subplots(figsize=(5.4, 4.2))
    _against(axis, lines, "n_pretraining")
    if any(line["n_pretraining"] for line in lines):  # a profile may fine-tune none of them
        axis.set_xscale("log")
    axis.set_xlabel("Number of jets in pre-training")
    axis.set_ylabel("Accuracy after fine-tuning")
    title = f"{len(classes)} classes, {n_test:,} test jets; dotted: from scratch"
    figure.legend(loc="outside upper center", ncols=min(len(lines), 3), title=title)
    return figure


def mask_fractions(panels: Sequence[Mapping]) -> Figure:
    """Accuracy after fine-tuning by the share of masked particles in pre-training, a panel a task.

    Parameters
    ----------
    panels : 'jets', 'classes', 'n_test' and 'lines' as for `pretraining_jets`, with
        'mask_fraction' instead of numbers of jets; those without a line are left out
    """
    panels = [panel for panel in panels if panel["lines"]]
    columns = max(len(panels), 1)
    figure, axes = plt.subplots(1, columns, figsize=(4.9 * columns, 4.2), squeeze=False)
    if not panels:
        axes[0, 0].text(0.5, 0.5, "not at this scale", ha="center", color="0.4")
    for axis, panel in zip(axes[0], panels, strict=False):
        lines = [{**one, "percent": 100 * np.array(one["mask_fraction"])} for one in panel["lines"]]
        _against(axis, lines, "percent")
        axis.margins(x=0.1)
        axis.set_title(
            f"{_task(panel)}, {_JETS[panel['jets']]}, {panel['n_test']:,} test jets", fontsize=10
        )
        axis.set_xlabel("Masked constituents in pre-training [%]")
        axis.set_ylabel("Accuracy after fine-tuning")
    handles, texts = axes[0, 0].get_legend_handles_labels()
    if handles:
        title = "dotted: from scratch"
        figure.legend(handles, texts, loc="outside upper center", ncols=len(texts), title=title)
    return figure


def _against(axis: plt.Axes, lines: Sequence[Mapping], what: str) -> None:
    """Lines of `jetfm.finetuning.results.TaskResults.against`."""
    for line, color in zip(lines, _COLORS, strict=False):
        x, mean, spread, jets = (
            np.array(line[key], float) for key in (what, "mean", "spread", "jets")
        )
        text = f"{line['size']:,} labelled jets"
        axis.errorbar(x, mean, jets, color=color, marker="o", markersize=4, label=text, lw=1.4)
        axis.fill_between(x, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
        if line["scratch"]:
            axis.axhline(line["scratch"][0], color=color, ls=":", lw=1.2)


def _task(panel: Mapping) -> str:
    classes = panel["classes"]
    if len(classes) != 2:
        return f"{len(classes)} classes"
    background, signal = (class_by_name(name).latex for name in classes)
    return f"{signal} vs {background}"
