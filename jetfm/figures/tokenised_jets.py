"""What jets lose to tokenisation: masses, substructure, and what a classifier can still tell.

Tokenizers are described as in `jetfm.figures.tokenizer_styles`, histograms as
`jetfm.figures.style.to_data` returns them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from jetfm.figures.style import (
    COLORS,
    LABELS,
    normalised,
    note_outside,
    ratio_panels,
    seed_spread,
    with_ratio,
)
from jetfm.figures.tokenizer_styles import (
    FAMILIES,
    color_of,
    handles,
    kind_of,
    kind_style,
    line_of,
    original_handle,
)
from jetfm.schema import CLASSES, class_by_name

#: Legend text, colour and marker of the classifiers; the colours are those of the paper's figure.
CLASSIFIERS = {
    "deepsets": ("Deep Sets", "#762A83", "o"),
    "transformer": ("Transformer", "#1B7837", "s"),
}

#: Axis labels of the residuals, with units.
RESIDUAL_LABELS = {
    "jet_mass": r"$m^\mathrm{reco} - m^\mathrm{orig}$ [GeV]",
    "jet_pt": r"$p_\mathrm{T}^\mathrm{reco} - p_\mathrm{T}^\mathrm{orig}$ [GeV]",
    "tau21": r"$\tau_{21}^\mathrm{reco} - \tau_{21}^\mathrm{orig}$",
    "tau32": r"$\tau_{32}^\mathrm{reco} - \tau_{32}^\mathrm{orig}$",
}

_TABLE_ROW = 0.25  # inches

_PALE = {"alpha": 0.45, "ls": ":"}  # of jets brought to scale

#: Tips of the stars that mark published values, so that each value keeps its own.
_TIPS = (5, 4, 6, 8)


def token_quality(
    mass: Mapping[str, Mapping],
    residuals: Mapping[str, Mapping[str, Mapping]],
    fits: Mapping[str, Mapping[str, Mapping]],
    tokenizers: Sequence[Mapping],
    n_jets: int,
    n_signal_jets: int,
    signal: str = "Tbqq",
) -> Figure:
    """Jet mass of all classes, and mass and tau32 residuals of `signal`; below, their fits.

    After figure 4 of arXiv 2403.05618.

    Parameters
    ----------
    mass : histogram data of 'original' and by tokenizer's name
    residuals : of 'jet_mass' and 'tau32': histogram data by tokenizer's name
    fits : by tokenizer's name, then quantity: ``mean``, ``sigma`` and their ``_error``; None where
        the fit found no peak
    tokenizers : to draw, in legend order
    n_jets, n_signal_jets : of all classes, and of `signal`
    """
    table_height = _TABLE_ROW * (len(tokenizers) + 2)
    figure = plt.figure(figsize=(12.4, 3.8 + table_height))
    grid = figure.add_gridspec(2, 3, height_ratios=(3.6, table_height))
    inner = grid[0, 0].subgridspec(2, 1, height_ratios=(3, 1), hspace=0.06)
    main = figure.add_subplot(inner[0])
    ratio = figure.add_subplot(inner[1], sharex=main)
    _beside_original((main, ratio), mass, tokenizers, LABELS["jet_mass"])
    main.set_title(f"All classes, {n_jets:,} jets", fontsize=10)
    main.legend(handles=[original_handle()], loc="upper right")
    for cell, quantity in ((grid[0, 1], "jet_mass"), (grid[0, 2], "tau32")):
        axis = figure.add_subplot(cell)
        _residuals(axis, residuals[quantity], tokenizers, RESIDUAL_LABELS[quantity])
        axis.set_title(f"{class_by_name(signal).latex}, {n_signal_jets:,} jets", fontsize=10)
    _fit_table(figure.add_subplot(grid[1, :]), fits, tokenizers, class_by_name(signal).latex)
    return figure


def _beside_original(axes, histograms: Mapping, tokenizers: Sequence[Mapping], label: str) -> None:
    """Histograms of the tokenizers over the filled one of the original, with their ratios."""
    entries = {"original": histograms["original"]}
    entries |= {tokenizer["name"]: histograms[tokenizer["name"]] for tokenizer in tokenizers}
    colors = {"original": COLORS["truth"]} | {t["name"]: color_of(t) for t in tokenizers}
    lines = {tokenizer["name"]: line_of(tokenizer) for tokenizer in tokenizers}
    many = len(tokenizers) > 2
    with_ratio(axes, entries, "original", label, colors, lines=lines, ratio_steps=many)
    axes[0].ticklabel_format(axis="y", style="plain")  # a power of ten would run into the title


def _residuals(
    axis: plt.Axes, histograms: Mapping, tokenizers: Sequence[Mapping], label: str
) -> None:
    """Histograms of reconstructed minus original, with bins that suit the number of jets."""
    entries = {t["name"]: _rebinned(histograms[t["name"]]) for t in tokenizers}
    axis.axvline(0, color="0.7", lw=0.8)
    for tokenizer in tokenizers:
        data = entries[tokenizer["name"]]
        density, _ = normalised(data)
        axis.stairs(
            density, data["edges"], color=color_of(tokenizer), ls=line_of(tokenizer), lw=1.4
        )
    note_outside(axis, entries, {t["name"]: color_of(t) for t in tokenizers})
    axis.set_xlim(data["edges"][0], data["edges"][-1])
    axis.set_ylim(0, 1.2 * max(normalised(data)[0].max() for data in entries.values()))
    axis.ticklabel_format(axis="y", style="plain")
    axis.set_xlabel(label)
    axis.set_ylabel("Normalised entries")


def _rebinned(data: Mapping) -> dict:
    """The same histogram with neighbouring bins joined while jets are few."""
    counts, edges = np.array(data["counts"]), np.array(data["edges"])
    while counts.sum() < 15 * len(counts) and len(counts) % 2 == 0 and len(counts) > 20:
        counts, edges = counts.reshape(-1, 2).sum(1), edges[::2]
    return {**data, "counts": counts.tolist(), "edges": edges.tolist()}


def _fit_table(
    axis: plt.Axes, fits: Mapping, tokenizers: Sequence[Mapping], signal_latex: str
) -> None:
    """The figure's legend, as a table with mean and sigma of the residuals."""
    columns = {
        0.36: ("jet_mass", "mean", r"$\mu(m)$ [GeV]"),
        0.52: ("jet_mass", "sigma", r"$\sigma(m)$ [GeV]"),
        0.70: ("tau32", "mean", r"$\mu(\tau_{32})$"),
        0.86: ("tau32", "sigma", r"$\sigma(\tau_{32})$"),
    }
    style = {"va": "center", "fontsize": 10}
    axis.text(0.11, 0, f"Gaussian fits, {signal_latex}", **style)
    for x, (_, _, heading) in columns.items():
        axis.text(x, 0, heading, **style)
    axis.plot([0.06, 0.97], [0.55, 0.55], color="0.6", lw=0.8)
    for row, tokenizer in enumerate(tokenizers, start=1):
        color, line = color_of(tokenizer), line_of(tokenizer)
        axis.plot([0.06, 0.10], [row, row], color=color, ls=line)
        axis.text(0.11, row, tokenizer["label"], **style)
        for x, (quantity, kind, _) in columns.items():
            fit = fits[tokenizer["name"]][quantity]
            axis.text(x, row, _measured(fit[kind], fit[f"{kind}_error"]), **style)
    axis.set_xlim(0, 1)
    axis.set_ylim(len(tokenizers) + 0.7, -0.7)
    axis.set_axis_off()


def _measured(value: float | None, error: float | None) -> str:
    """Value and uncertainty to the digit that the uncertainty reaches: -0.12 +- 0.03."""
    if value is None or error is None:
        return "no peak"
    if not (np.isfinite(error) and error > 0):
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")
    leading = np.floor(np.log10(error))
    first_digit_is_one = error < 2 * 10**leading
    decimals = int(max(0, first_digit_is_one - leading))
    return f"{value:.{decimals}f} \N{PLUS-MINUS SIGN} {error:.{decimals}f}".replace(
        "-", "\N{MINUS SIGN}"
    )


def resolutions(rows: Sequence[Mapping], paper: Sequence[Mapping]) -> Figure:
    """Width and mean of the mass residuals, and the bias of tau32, by codebook size.

    Parameters
    ----------
    rows : ``tokenizer``; ``sigma`` and ``mean`` of the mass residuals [GeV], ``tau32_bias``, each
        with its ``_error``; None where a fit found no peak; ``scaled``, where there is one, the
        ``mean`` of the residuals of scaled jets (`jetfm.token_quality.jet_scale`), drawn pale
    paper : published values: ``quantity`` ('sigma' or 'mean', GeV), ``n_codes``, ``value``, and
        ``label`` for the legend
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.1))
    labels = {
        "sigma": r"$\sigma(m^\mathrm{reco} - m^\mathrm{orig})$ [GeV]",
        "mean": r"$\mu(m^\mathrm{reco} - m^\mathrm{orig})$ [GeV]",
        "tau32_bias": r"Mean of $\tau_{32}^\mathrm{reco} - \tau_{32}^\mathrm{orig}$",
    }
    found = dict.fromkeys(kind_of(row["tokenizer"]) for row in rows)
    kinds = sorted(found, key=lambda kind: (list(FAMILIES).index(kind[0]), kind[1] or 0))
    published = list(dict.fromkeys(entry["label"] for entry in paper))
    stars = {
        label: {"marker": (_TIPS[i % len(_TIPS)], 1, 0), "markersize": 11, "mfc": "none",
                "mec": "0.45", "mew": 1.1, "ls": "", "label": label}
        for i, label in enumerate(published)
    }  # fmt: skip
    for axis, (quantity, label) in zip(axes, labels.items(), strict=True):
        for kind in kinds:
            of_kind = [row for row in rows if kind_of(row["tokenizer"]) == kind]
            _by_codebook(axis, of_kind, quantity)
            if quantity == "mean":
                some = [row | row["scaled"] for row in of_kind if "scaled" in row]
                _by_codebook(axis, some, quantity, _PALE)
        for entry in paper:
            if entry["quantity"] == quantity:
                axis.plot(entry["n_codes"], entry["value"], zorder=4, **stars[entry["label"]])
        if quantity == "sigma":
            axis.set_ylim(bottom=0)
        else:
            axis.axhline(0, color="0.7", lw=0.8, zorder=0)
            axis.margins(y=0.12)
        axis.set_ylabel(label)
        sizes = [row["tokenizer"]["n_codes"] for row in rows]
        _codebook_axis(axis, [*sizes, *(entry["n_codes"] for entry in paper)])
    shown = [Line2D([], [], markersize=5, **kind_style(kind)) for kind in kinds]
    if any("scaled" in row for row in rows):
        label = "Pale: jets brought to scale"
        shown.append(Line2D([], [], color="0.2", marker="o", markersize=5, label=label, **_PALE))
    shown += [Line2D([], [], **star) for star in stars.values()]
    figure.legend(
        handles=shown, loc="outside upper center", ncols=min(len(shown), 5), handlelength=3
    )
    return figure


def _by_codebook(
    axis: plt.Axes, rows: Sequence[Mapping], quantity: str, look: Mapping | None = None
) -> None:
    """Points of one kind, joined."""
    if not rows:
        return
    rows = sorted(rows, key=lambda row: row["tokenizer"]["n_codes"])
    axis.errorbar(
        [row["tokenizer"]["n_codes"] for row in rows],
        np.array([row[quantity] for row in rows], dtype=float),  # None -> nan, not drawn
        np.array([row[f"{quantity}_error"] for row in rows], dtype=float),
        lw=1.3,
        markersize=5.5,
        capsize=2,
        **kind_style(kind_of(rows[0]["tokenizer"])) | (look or {}),
    )


def _codebook_axis(axis: plt.Axes, sizes: Sequence[int]) -> None:
    """Logarithmic axis of codebook sizes with ticks at powers of two, or of four if many."""
    low, high = min(sizes) / 1.4, max(sizes) * 1.4
    axis.set_xscale("log", base=2)
    axis.set_xlim(low, high)
    ticks = [2**n for n in range(1, 40) if low <= 2**n <= high]
    axis.set_xticks(ticks if len(ticks) <= 5 else ticks[::2])
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("Codebook size")


def by_class(
    quantity: str,
    histograms: Mapping[str, Mapping[str, Mapping]],
    tokenizers: Sequence[Mapping],
    n_jets: Mapping[str, int],
    residual: bool = False,
) -> Figure:
    """One quantity before and after tokenisation, or what it changes by, class by class.

    After figures 8 to 15 of arXiv 2403.05618.

    Parameters
    ----------
    quantity : jet_mass, jet_pt, tau21 or tau32
    histograms : by class, then by tokenizer's name; of distributions also the 'original'
    tokenizers : to draw, in legend order
    n_jets : by class
    residual : `histograms` hold reconstructed minus original
    """
    names = [jet_class.name for jet_class in CLASSES if jet_class.name in histograms]
    rows = -(-len(names) // 5)
    columns = -(-len(names) // rows)
    if residual:
        figure, axes = plt.subplots(rows, columns, figsize=(3.0 * columns, 0.5 + 2.7 * rows))
        cells = [(axis,) for axis in np.ravel(axes)]
    else:
        figure, cells = ratio_panels(columns, rows, width=3.0, height=3.4, aligned=True)
    for index, (name, cell) in enumerate(zip(names, cells, strict=False)):
        if residual:
            cell[0].minorticks_off()
            _residuals(cell[0], histograms[name], tokenizers, RESIDUAL_LABELS[quantity])
        else:
            _beside_original(cell, histograms[name], tokenizers, LABELS[quantity])
        cell[0].set_title(f"{class_by_name(name).latex}, {n_jets[name]:,} jets", fontsize=10)
        if index % columns:
            for axis in cell:
                axis.set_ylabel("")
    for cell in cells[len(names) :]:
        for axis in cell:
            axis.remove()
    shown = handles(tokenizers) if residual else [original_handle(), *handles(tokenizers)]
    figure.legend(handles=shown, loc="outside upper center", ncols=min(len(shown), 2 * columns, 5))
    return figure


def feature_classifiers(
    rows: Sequence[Mapping], tokenizers: Sequence[Mapping], n_train: int, n_test: int
) -> Figure:
    """Accuracy of ten-class classifiers on all 14 features, original and decoded by tokenizers.

    Parameters
    ----------
    rows : as for `token_classifiers`, of tokenizers of any kind; none are said to be none
    tokenizers : those that are among the rows' inputs, in the order of the figure
    n_train, n_test : jets
    """
    figure, axis = plt.subplots(figsize=(7.2, 1.6 + 0.45 * max(len(tokenizers) + 1, 3)))
    axis.set_xlabel("Accuracy, ten classes")
    axis.minorticks_off()
    if not rows:
        axis.set_yticks([])
        text = "this profile classifies no tokenizer of 14 features"
        axis.text(0.5, 0.5, text, transform=axis.transAxes, ha="center", color="0.4")
        return figure
    names = ["original", *(tokenizer["name"] for tokenizer in tokenizers)]
    for shift, (name, (label, color, marker)) in zip(
        (-0.12, 0.12), CLASSIFIERS.items(), strict=True
    ):
        found = {row["input"]: row["accuracy"] for row in rows if row["classifier"] == name}
        mean = [np.mean(found[one]) for one in names]
        jets = [np.sqrt(value * (1 - value) / n_test) for value in mean]
        width = [seed_spread(found[one]) for one in names]
        places = np.arange(len(names)) + shift
        axis.errorbar(mean, places, xerr=jets, color=color, marker=marker, ls="", label=label)
        axis.errorbar(mean, places, xerr=width, color=color, ls="", lw=5, alpha=0.25)
        axis.axvline(mean[0], color=color, ls="--", lw=1)
    axis.set_yticks(range(len(names)), ["original", *(one["label"] for one in tokenizers)])
    axis.set_ylim(len(names) - 0.5, -0.5)
    n_seeds = max(len(row["accuracy"]) for row in rows)
    seeds = f"pale: sd of {n_seeds} seeds" if n_seeds > 1 else "one seed"
    title = f"{n_train:,} training, {n_test:,} test jets; bars: test jets, {seeds}"
    figure.legend(
        *axis.get_legend_handles_labels(), title=title, title_fontsize=9.5,
        loc="outside upper center", ncols=2,
    )  # fmt: skip
    return figure


def token_classifiers(
    rows: Sequence[Mapping], n_train: int, n_test: int, missing: Sequence[int] = ()
) -> Figure:
    """Accuracy of ten-class classifiers on decoded tokens, by codebook size.

    After figure 5 of arXiv 2403.05618. Bands: one standard deviation over seeds.

    Parameters
    ----------
    rows : ``classifier`` (a key of `CLASSIFIERS`), ``input`` ('original' or a tokenizer's name;
        tokenizers of one family), ``n_codes`` (None for the original), ``accuracy`` by seed
    n_train, n_test : jets
    missing : codebook sizes of the paper's figure that this profile leaves out
    """
    figure, axis = plt.subplots(figsize=(8.2, 4.2))
    sizes = {row["n_codes"] for row in rows if row["input"] != "original"} | set(missing)
    for name, (label, color, marker) in CLASSIFIERS.items():
        chosen = [row for row in rows if row["classifier"] == name]
        tokens = sorted(
            (row for row in chosen if row["input"] != "original"), key=lambda r: r["n_codes"]
        )
        x = [row["n_codes"] for row in tokens]
        mean = np.array([np.mean(row["accuracy"]) for row in tokens])
        band = np.array([seed_spread(row["accuracy"]) for row in tokens])
        if tokens:
            axis.plot(x, mean, color=color, marker=marker, markersize=5, label=f"{label}, tokens")
            axis.fill_between(x, mean - band, mean + band, color=color, alpha=0.2, lw=0)
        for row in chosen:
            if row["input"] == "original":
                level, width = np.mean(row["accuracy"]), seed_spread(row["accuracy"])
                axis.axhline(level, color=color, ls="--", lw=1.2, label=f"{label}, original")
                axis.axhspan(level - width, level + width, color=color, alpha=0.12, lw=0)
    axis.set_ylabel("Accuracy, ten classes")
    _codebook_axis(axis, list(sizes) or [512, 8192])
    axis.margins(y=0.1)
    n_seeds = max(len(row["accuracy"]) for row in rows)
    seeds = f"mean \N{PLUS-MINUS SIGN} sd of {n_seeds} seeds" if n_seeds > 1 else "one seed"
    title = f"{n_train:,} training jets\n{n_test:,} test jets\n{seeds}"
    figure.legend(
        *axis.get_legend_handles_labels(), title=title, title_fontsize=9.5,
        loc="outside right center", alignment="left",
    )  # fmt: skip
    if missing:
        text = "not at this scale: " + ", ".join(f"{size:,}" for size in missing) + " codes"
        axis.set_title(text, fontsize=7.5, color="0.4", loc="right")
    return figure
