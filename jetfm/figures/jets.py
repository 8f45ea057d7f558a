"""Simulated jets beside published ones, and the jet classes beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from jetfm.figures.style import COLORS, LABELS, arrows, normalised
from jetfm.schema import CLASSES

_LATEX = {jet_class.name: jet_class.latex for jet_class in CLASSES}

_TAUS = ("tau1", "tau2", "tau3", "tau4")

_QUANTILE_RATIOS = (0.7, 1.3)  # drawn; what lies outside becomes a triangle

#: Colours of the classes that are drawn together.
CLASS_COLORS = {
    "QCD": "#000000",
    "Hbb": "#0072B2",
    "Wqq": "#009E73",
    "Tbqq": "#D55E00",
    "Tbl": "#CC79A7",
}


def calibration(rows: Sequence[Mapping]) -> Figure:
    """Simulated jets beside the published statistics of JetClass.

    Parameters
    ----------
    rows : of the calibration table (`jetfm.simulation.calibration.Comparison`) as dictionaries
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


def calibration_quantiles(rows: Sequence[Mapping]) -> Figure:
    """Distributions of the stored columns, quantile by quantile, as ratios.

    Parameters
    ----------
    rows : as for `calibration`
    """
    quantities = {
        "n_constituents": "Multiplicity", "pt": r"Jet $p_\mathrm{T}$", "energy": "Jet energy",
        "sdmass": r"$m_\mathrm{SD}$",
    } | {tau: rf"$\tau_{tau[-1]}$" for tau in _TAUS}  # fmt: skip
    shares = ("q05", "q25", "q50", "q75", "q95")
    figure, axes = plt.subplots(2, 4, figsize=(14, 6), sharex=True, sharey=True)
    colors = plt.get_cmap("viridis")(np.linspace(0, 0.9, len(shares)))
    for axis, (quantity, label) in zip(axes.flat, quantities.items(), strict=True):
        for number, (share, color) in enumerate(zip(shares, colors, strict=True)):
            chosen = [row for row in rows if row["quantity"] == f"{quantity}_{share}"]
            x = [list(_LATEX).index(row["class_name"]) + 0.16 * (number - 2) for row in chosen]
            text = f"{int(share[1:])} % quantile"
            _ratios(axis, x, chosen, label=text, fmt="o", color=color, elinewidth=1)
            arrows(axis, x, [row["ratio"] for row in chosen], color, _QUANTILE_RATIOS)
        axis.axhline(1, color="0.5", lw=0.8)
        axis.set_title(label, loc="left")
        axis.set_xlim(-0.7, len(_LATEX) - 0.3)
        axis.set_ylim(_QUANTILE_RATIOS)
        axis.set_xticks(range(len(_LATEX)), list(_LATEX.values()))
        plt.setp(axis.get_xticklabels(), rotation=60, ha="right", rotation_mode="anchor")
        axis.tick_params(axis="x", which="both", top=False)
        axis.tick_params(axis="x", which="minor", bottom=False)
    for axis in axes[:, 0]:
        axis.set_ylabel("Simulated / published")
    axes[0, 0].legend(ncols=2, fontsize=8, handletextpad=0.2, columnspacing=0.8)
    return figure


def _ratios(axis: plt.Axes, x, rows: Sequence[Mapping], **style) -> None:
    ratios = [row["ratio"] for row in rows]
    errors = [row["uncertainty"] / abs(row["published"]) for row in rows]
    axis.errorbar(list(x), ratios, errors, markersize=4, capsize=2, ls="", **style)


def soft_constituents(data: Mapping) -> Figure:
    """Evidence of multi-parton interactions in the Top Landscape.

    Parameters
    ----------
    data : by class, of 'real', 'with' and 'without': numbers of
        `jetfm.simulation.soft_constituents`
    """
    soft = next(iter(data.values()))["real"]["soft_below"]
    labels = {
        "n_constituents": (LABELS["n_constituents"], "Share of jets per unit"),
        "pt": (r"Constituent $p_\mathrm{T}$ [GeV]", r"Constituents of a jet [GeV$^{-1}$]"),
        "delta_r": (
            r"$\Delta R$ from the jet's axis",
            f"Constituents below {soft} GeV\nof a jet, per unit area",
        ),
    }
    lines = {
        "with": ("with multi-parton interactions", COLORS["generated"], "-"),
        "without": ("without, as described", COLORS["reconstructed"], "--"),
    }
    figure, axes = plt.subplots(len(data), 3, figsize=(12, 3.6 * len(data)), sharex="col")
    for row, (name, kinds) in zip(axes, data.items(), strict=True):
        for axis, (quantity, (x_label, y_label)) in zip(row, labels.items(), strict=True):
            real = kinds["real"][quantity]
            edges = np.array(real["edges"])
            for kind, (label, color, style) in lines.items():
                values, errors = (np.array(kinds[kind][quantity][k]) for k in ("values", "errors"))
                axis.stairs(values, edges, color=color, ls=style, lw=1.6, label=label)
                axis.stairs(
                    values + errors, edges, baseline=values - errors, fill=True, color=color,
                    alpha=0.25, lw=0,
                )  # fmt: skip
            middle = (edges[1:] + edges[:-1]) / 2
            if quantity == "pt":
                middle = np.sqrt(edges[1:] * edges[:-1])
            axis.errorbar(
                middle, real["values"], real["errors"], fmt="o", color="black", markersize=4,
                capsize=2, label=f"{kinds['real']['n_jets']} real jets",
            )  # fmt: skip
            axis.set_ylabel(y_label)
            axis.set_xlim(edges[0], edges[-1])
            if axis in axes[-1]:
                axis.set_xlabel(x_label)
        row[0].set_ylim(0, 1.6 * row[0].get_ylim()[1])
        row[0].legend(title=_LATEX[name], loc="upper right")
        row[1].loglog()
        row[2].set_ylim(bottom=0)
    return figure


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
