"""Every figure: a function from the saved numbers to a matplotlib figure.

The functions take plain dictionaries, as the stages save them and as ``figNN_*.json`` keeps them,
and return a figure; they read no files and run no model. Where a panel follows a figure of a
paper, its docstring says which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jetfm.data.schema import CLASSES
from jetfm.plotting import COLORS, LABELS, normalised, ratio_panels, with_ratio

_LATEX = {jet_class.name: jet_class.latex for jet_class in CLASSES}

#: Legend text of the three fine-tuning strategies, in plotting order.
STRATEGIES = {
    "scratch": "From scratch",
    "fixed": "Fine-tuned (backbone fixed)",
    "finetuned": "Fine-tuned",
}

#: Colours of the classes that are drawn together.
CLASS_COLORS = {
    "QCD": "#000000",
    "Hbb": "#0072B2",
    "Wqq": "#009E73",
    "Tbqq": "#D55E00",
    "Tbl": "#CC79A7",
}

_TAUS = ("tau1", "tau2", "tau3", "tau4")

#: Caption of every figure of notebooks 00 to 05, by file name, in order.
CAPTIONS = {
    "fig00_calibration": "Mean multiplicity and jet pT by class, and the share of each kind of "
    "constituent: simulated jets (points) and published JetClass values (bars). Bands: the "
    "tolerances we hold ourselves to.",
    "fig00_widths": "The same comparison for quantities without a tolerance: widths by class, "
    "constituents of all classes mixed, and substructure of q/g and t→bqq′ jets.",
    "fig00_classes": "Soft-drop mass, multiplicity and tau32 of five of the ten classes.",
    "fig01_tokenizer": "Training of the conditional VQ-VAE.",
    "fig02_token_quality": "What tokenisation loses (after figure 4 of arXiv 2403.05618): jet mass "
    "of all classes before and after, and the residuals of mass and tau32 of t→bqq′ jets.",
    "fig03_pretraining": "Next-token prediction: loss and accuracy per predicted token.",
    "fig04_generation": "Generated jets against tokenised and decoded ones (after figure 6 of "
    "arXiv 2403.05618 and figure 3 of arXiv 2512.04149).",
    "fig05_finetuning": "Top tagging by number of labelled jets (after figure 7 of arXiv "
    "2403.05618): from scratch, with the pre-trained backbone fixed, and fine-tuned.",
}

#: Colours of the ledger's verdicts.
VERDICT_COLORS = {
    "reproduced": "#009E73",
    "same direction": "#E69F00",
    "not reproduced": "#D55E00",
}


def calibration(rows: Sequence[Mapping]) -> Figure:
    """Simulated jets beside the published statistics of JetClass.

    Parameters
    ----------
    rows : of the calibration table (`jetfm.data.calibration.Comparison`) as dictionaries
    """
    figure, axes = plt.subplots(
        2, 3, figsize=(12, 5.6), sharex="col", height_ratios=(2.2, 1), width_ratios=(10, 10, 6)
    )
    panels = (
        ("n_constituents_mean", "Mean number of constituents"),
        ("pt_mean", r"Mean jet $p_\mathrm{T}$ [GeV]"),
        ("_fraction", "Share of constituents"),
    )
    for (main, ratio), (quantity, label) in zip(axes.T, panels, strict=True):
        chosen = [row for row in rows if row["quantity"].endswith(quantity)]
        by_class = quantity != "_fraction"
        ticks = [
            _LATEX[row["class_name"]] if by_class else _kind(row["quantity"]) for row in chosen
        ]
        x = np.arange(len(chosen))
        published = np.array([row["published"] for row in chosen])
        measured = np.array([row["measured"] for row in chosen])
        error = np.array([row["uncertainty"] for row in chosen])
        tolerance = chosen[0]["tolerance"]
        main.bar(x, published, width=0.7, color=COLORS["published"], alpha=0.5, label="JetClass")
        style = {"fmt": "o", "color": COLORS["generated"], "markersize": 4, "capsize": 2}
        main.errorbar(x, measured, error, label="jetfm simulation", **style)
        main.set_ylabel(label)
        if by_class:
            main.set_ylim(0, 1.35 * published.max())
        else:
            main.set_yscale("log")
            main.set_ylim(0.5 * published.min(), 4)
        main.legend(loc="upper right")
        ratio.axhspan(1 - tolerance, 1 + tolerance, color=COLORS["published"], alpha=0.25, lw=0)
        ratio.axhline(1, color="0.5", lw=0.8)
        ratio.errorbar(x, measured / published, error / published, **style)
        reach = max(2 * tolerance, 1.15 * np.abs(measured / published - 1).max())
        ratio.set_ylim(1 - reach, 1 + reach)
        ratio.set_ylabel("Simulated /\npublished")
        ratio.set_xticks(x, ticks, rotation=60, ha="right", rotation_mode="anchor")
        for axis in (main, ratio):
            axis.set_xlim(-0.6, len(chosen) - 0.4)
            axis.tick_params(axis="x", which="both", top=False)
            axis.tick_params(axis="x", which="minor", bottom=False)
    return figure


def calibration_widths(rows: Sequence[Mapping]) -> Figure:
    """What has no tolerance of ours, as ratios: widths, displacements, substructure.

    Parameters
    ----------
    rows : as for `calibration`
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True, width_ratios=(10, 9, 10))
    rows = [row for row in rows if row["tolerance"] is None]
    widths = {
        "n_constituents_sd": ("multiplicity", "o", COLORS["generated"]),
        "pt_sd": (r"jet $p_\mathrm{T}$", "s", COLORS["reconstructed"]),
        "eta_sd": (r"jet $\eta$", "^", COLORS["scratch"]),
    }
    names = [name for name in _LATEX if any(row["class_name"] == name for row in rows)]
    for shift, (quantity, (label, marker, color)) in zip(
        (-0.2, 0, 0.2), widths.items(), strict=True
    ):
        chosen = [row for row in rows if row["quantity"] == quantity]
        x = [names.index(row["class_name"]) + shift for row in chosen]
        _ratios(axes[0], x, chosen, label=label, fmt=marker, color=color)
    axes[0].set_xticks(range(len(names)), [_LATEX[name] for name in names])
    axes[0].legend(title="Standard deviation of", ncols=3, columnspacing=1, handletextpad=0.2)
    chosen = [row for row in rows if row["class_name"] == "all" and row["published"] > 1e-3]
    _ratios(axes[1], range(len(chosen)), chosen, label="all classes", fmt="o", color="black")
    axes[1].set_xticks(range(len(chosen)), [_statistic(row["quantity"]) for row in chosen])
    axes[1].legend(title="Constituents")
    shapes = [f"{name}_{kind}" for name in ("sdmass", *_TAUS) for kind in ("mean", "sd")]
    for shift, name, marker in ((-0.12, "QCD", "o"), (0.12, "Tbqq", "s")):
        chosen = [r for r in rows if r["class_name"] == name and r["quantity"] in shapes]
        x = [shapes.index(row["quantity"]) + shift for row in chosen]
        _ratios(axes[2], x, chosen, label=_LATEX[name], fmt=marker, color=CLASS_COLORS[name])
    axes[2].set_xticks(range(len(shapes)), [_statistic(shape) for shape in shapes])
    axes[2].legend(title="Substructure")
    axes[0].set_ylabel("Simulated / published")
    axes[0].set_ylim(0.6, 1.6)
    for axis in axes:
        axis.set_xlim(-0.7, len(axis.get_xticks()) - 0.3)
        axis.axhline(1, color="0.5", lw=0.8)
        plt.setp(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="x", which="both", top=False)
        axis.tick_params(axis="x", which="minor", bottom=False)
    return figure


def _ratios(axis: plt.Axes, x, rows: Sequence[Mapping], **style) -> None:
    ratios = [row["ratio"] for row in rows]
    errors = [row["uncertainty"] / abs(row["published"]) for row in rows]
    axis.errorbar(list(x), ratios, errors, markersize=4, capsize=2, ls="", **style)


def _statistic(quantity: str) -> str:
    name, kind = quantity.rsplit("_", 1)
    symbols = {
        "deta": r"$\Delta\eta$", "dphi": r"$\Delta\phi$", "charge": "charge",
        "pt_ratio": r"$p_\mathrm{T}/p_\mathrm{T}^\mathrm{jet}$", "sdmass": r"$m_\mathrm{SD}$",
        "d0val": r"$d_0$", "d0err": r"$\sigma(d_0)$", "dzval": r"$d_z$", "dzerr": r"$\sigma(d_z)$",
    } | {tau: rf"$\tau_{tau[-1]}$" for tau in _TAUS}  # fmt: skip
    return f"{symbols[name]} {kind}"


def _kind(quantity: str) -> str:
    return quantity.removesuffix("_fraction").replace("_", " ")


def jet_classes(data: Mapping) -> Figure:
    """Soft-drop mass, multiplicity and tau32 by class.

    Parameters
    ----------
    data : histogram data by quantity (``sdmass``, ``n_constituents``, ``tau32``), then by class
    """
    labels = {
        "sdmass": "Soft-drop mass [GeV]",
        "n_constituents": LABELS["n_constituents"],
        "tau32": r"$\tau_{32}$",
    }
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8))
    for axis, (quantity, classes) in zip(axes, data.items(), strict=True):
        for name, entry in classes.items():
            density, _ = normalised(entry)
            axis.stairs(density, entry["edges"], label=_LATEX[name], color=CLASS_COLORS[name])
        axis.set_xlabel(labels[quantity])
        axis.set_ylabel("Normalised entries")
        axis.set_xlim(entry["edges"][0], entry["edges"][-1])
        axis.set_ylim(bottom=0)
    axes[0].legend(loc="upper right")
    return figure


#: Metrics whose learning curves are drawn on a logarithmic axis.
LOGARITHMIC = ("reconstruction", "commitment")


def training(history: Mapping, panels: Sequence[tuple[str, str]], best_step: int) -> Figure:
    """Learning curves.

    Parameters
    ----------
    history : by split ('train', 'val'): columns ``step`` and one per metric
    panels : (metric, axis label) pairs, one panel each
    best_step : validation step whose weights were kept
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
        axis.set_xlabel("Training step")
        axis.set_ylabel(label)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axis.legend()
    return figure


def token_quality(data: Mapping) -> Figure:
    """Jet mass of all classes, and mass and tau32 residuals of t->bqq' jets.

    After figure 4 of arXiv 2403.05618, for one tokenizer.

    Parameters
    ----------
    data : ``mass`` (histogram data of 'original' and 'reconstructed'), ``residuals`` (histogram
        data of 'jet_mass' and 'tau32'), ``fits`` (mean, sigma, their uncertainties), ``n_codes``,
        ``n_jets``, ``n_signal_jets``
    """
    figure = plt.figure(figsize=(12.4, 3.9))
    grid = figure.add_gridspec(1, 3)
    inner = grid[0].subgridspec(2, 1, height_ratios=(3, 1), hspace=0.06)
    main = figure.add_subplot(inner[0])
    ratio = figure.add_subplot(inner[1], sharex=main)
    entries = {"Original": data["mass"]["original"], "Tokenised": data["mass"]["reconstructed"]}
    colors = {"Original": COLORS["truth"], "Tokenised": COLORS["reconstructed"]}
    with_ratio((main, ratio), entries, "Original", LABELS["jet_mass"], colors)
    main.legend(title=f"All classes, {data['n_jets']:,} jets", title_fontsize=9.5)
    for cell, quantity, label, unit in (
        (grid[1], "jet_mass", r"$m^\mathrm{reco} - m^\mathrm{orig}$ [GeV]", " GeV"),
        (grid[2], "tau32", r"$\tau_{32}^\mathrm{reco} - \tau_{32}^\mathrm{orig}$", ""),
    ):
        axis = figure.add_subplot(cell)
        entry, fit = data["residuals"][quantity], data["fits"][quantity]
        density, _ = normalised(entry)
        axis.stairs(density, entry["edges"], color=COLORS["reconstructed"], label="Tokenised")
        x = np.linspace(entry["edges"][0], entry["edges"][-1], 400)
        curve = np.exp(-0.5 * ((x - fit["mean"]) / fit["sigma"]) ** 2)
        text = (
            f"Gaussian fit\n$\\mu$ = {fit['mean']:.2g} $\\pm$ {fit['mean_error']:.1g}{unit}\n"
            f"$\\sigma$ = {fit['sigma']:.3g} $\\pm$ {fit['sigma_error']:.1g}{unit}"
        )
        axis.plot(x, fit["height"] * curve, color="0.3", lw=1.1, ls="--", label=text)
        axis.axvline(0, color="0.7", lw=0.8)
        axis.set_xlim(entry["edges"][0], entry["edges"][-1])
        axis.set_xlabel(label)
        axis.set_ylabel("Normalised entries")
        axis.set_ylim(0, 1.75 * density.max())
        title = f"{_LATEX['Tbqq']}, {data['n_signal_jets']:,} jets, {data['n_codes']} codes"
        axis.legend(title=title, title_fontsize=9.5, loc="upper right")
    return figure


def generation(data: Mapping) -> Figure:
    """Generated jets against tokenised and decoded ones, jet and constituent level.

    After figure 6 of arXiv 2403.05618 and figure 3 of arXiv 2512.04149: the target of the
    generator is the *decoded* jet, since it learns tokens and nothing finer.

    Parameters
    ----------
    data : ``histograms`` by quantity, each with 'reconstructed' and 'generated'; ``n_jets`` of both
    """
    histograms = data["histograms"]
    figure, pairs = ratio_panels(columns=4, rows=2, width=3.5, height=3.5)
    reference = f"Tokenised ({data['n_jets']['reconstructed']:,} jets)"
    ours = f"Generated ({data['n_jets']['generated']:,} jets)"
    colors = {reference: COLORS["truth"], ours: COLORS["generated"]}
    for pair, (quantity, entry) in zip(pairs, histograms.items(), strict=True):
        entries = {reference: entry["reconstructed"], ours: entry["generated"]}
        with_ratio(pair, entries, reference, LABELS[quantity], colors, log=quantity == "pt")
    figure.legend(*pairs[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


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
            spread = np.array([_spread(row[metric]) for row in chosen])
            color = COLORS[strategy]
            axis.plot(sizes, mean, marker="o", markersize=4, color=color, label=text)
            axis.fill_between(sizes, mean - spread, mean + spread, color=color, alpha=0.2, lw=0)
        axis.set_xscale("log")
        axis.set_xlabel("Number of training jets")
        axis.set_ylabel(label)
    n_seeds = max(len(row["auc"]) for row in rows)
    title = (
        f"{_LATEX['Tbqq']} vs {_LATEX['QCD']}, {n_test:,} test jets\n"
        f"mean $\\pm$ sd of {n_seeds} seeds"
    )
    axes[1].legend(title=title, title_fontsize=9.5, loc="lower right")
    if missing_sizes:
        text = "not at this scale: " + ", ".join(f"{size:,}" for size in missing_sizes) + " jets"
        axes[0].text(
            0.97, 0.03, text, transform=axes[0].transAxes, ha="right", fontsize=7.5, color="0.4"
        )
    return figure


def _spread(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


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
    figure.legend(handles, VERDICT_COLORS, loc="outside upper center", ncols=3)
    if others:
        text = "Not shown: " + ", ".join(f"{row['id']} ({row['verdict']})" for row in others)
        figure.text(0.01, -0.02, text, fontsize=7.5, color="0.35", va="top", wrap=True)
    return figure
