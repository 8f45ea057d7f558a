"""One style for every figure, histograms with ratio panels, and figures saved with their data.

A figure is saved three times: ``NAME.pdf`` for the paper, ``NAME.png`` for the talk and
``NAME.json`` with the numbers behind it, so that any figure can be checked, or drawn again in
another style, without running a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import hist
import matplotlib.pyplot as plt
import mplhep
import numpy as np
from matplotlib.figure import Figure

from jetfm.storage.files import replacing, write_json

#: One colour per role, the same in every figure (Okabe-Ito: safe for colour-blind readers).
COLORS = {
    "truth": "#000000",
    "reconstructed": "#0072B2",
    "generated": "#D55E00",
    "scratch": "#009E73",
    "finetuned": "#D55E00",
    "fixed": "#0072B2",
    "published": "#999999",
    "train": "#56B4E9",
    "val": "#E69F00",
}

#: Axis labels with units, by quantity.
LABELS = {
    "pt": r"Constituent $p_\mathrm{T}$ [GeV]",
    "eta_rel": r"Constituent $\eta^\mathrm{rel}$",
    "phi_rel": r"Constituent $\phi^\mathrm{rel}$ [rad]",
    "n_constituents": "Number of constituents",
    "jet_mass": r"Jet mass [GeV]",
    "jet_pt": r"Jet $p_\mathrm{T}$ [GeV]",
    "tau21": r"$\tau_{21}$",
    "tau32": r"$\tau_{32}$",
}

#: Bin edges of each quantity, in the units of its label; values outside are in the flow bins.
BINS = {
    "pt": np.geomspace(0.3, 800, 33),
    "eta_rel": np.linspace(-0.8, 0.8, 33),
    "phi_rel": np.linspace(-0.8, 0.8, 33),
    "n_constituents": np.arange(0.5, 121, 4),
    "jet_mass": np.linspace(0, 250, 36),
    "jet_pt": np.linspace(450, 1050, 31),
    "tau21": np.linspace(0, 1.2, 31),
    "tau32": np.linspace(0, 1.2, 31),
}


#: Of every ratio panel; what lies outside is drawn as a triangle at the edge.
RATIO_RANGE = (0.5, 1.5)


def use_style() -> None:
    """Switch to jetfm's style: mplhep's, sized for a page, sans serif, ticks inside.

    A user's ``matplotlibrc`` has no say: figures are the same on every machine.
    """
    plt.rcdefaults()
    mplhep.style.use("ATLAS")
    plt.rcParams.update(
        {
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans"],
            "mathtext.fontset": "dejavusans",
            "font.size": 11,
            "axes.labelsize": 12,
            "axes.titlesize": 12,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 9.5,
            "legend.frameon": False,
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "lines.linewidth": 1.6,
        }
    )


def histogram(values: np.ndarray, edges: np.ndarray) -> hist.Hist:
    """Fill a histogram that keeps under- and overflow; NaN values are left out.

    Parameters
    ----------
    values : any shape, in the unit of `edges`
    """
    values = np.asarray(values, dtype=float).ravel()
    filled = hist.Hist(hist.axis.Variable(edges), storage=hist.storage.Double())
    filled.fill(values[~np.isnan(values)])
    return filled


def to_data(histogram: hist.Hist) -> dict:
    """Numbers of a histogram for a figure's JSON: edges, counts, flow bins."""
    counts = histogram.values(flow=True)
    return {
        "edges": histogram.axes[0].edges.tolist(),
        "counts": counts[1:-1].tolist(),
        "underflow": counts[0],
        "overflow": counts[-1],
    }


def normalised(data: Mapping) -> tuple[np.ndarray, np.ndarray]:
    """Density per unit of the axis and its Poisson uncertainty; flow bins count in the norm."""
    counts = np.asarray(data["counts"], dtype=float)
    widths = np.diff(data["edges"])
    total = max(counts.sum() + data["underflow"] + data["overflow"], 1.0)
    return counts / total / widths, np.sqrt(counts) / total / widths


def with_ratio(
    axes: Sequence[plt.Axes],
    entries: Mapping[str, Mapping],
    reference: str | Mapping[str, str],
    label: str,
    colors: Mapping[str, str],
    log: bool = False,
    lines: Mapping[str, str | tuple] | None = None,
    ratio_steps: bool = False,
) -> None:
    """Draw normalised histograms above, and their ratio to `reference` below.

    Parameters
    ----------
    axes : (main, ratio)
    entries : histogram data (`to_data`) by legend text, all with the same edges
    reference : the entry that the others are divided by, or the one of each entry
    label : of the horizontal axis, with its unit
    colors : by legend text
    log : logarithmic vertical axis
    lines : line styles by legend text, solid if not given
    ratio_steps : ratios as steps without error bars, for more entries than points can tell apart;
        bins with fewer than ten reference entries, mere noise, are left out

    Bands and bars are Poisson, one standard deviation. Where the reference has an empty bin and an
    entry does not, the ratio is infinite: a triangle at the upper edge. The share of entries
    outside the range is written into the panel when it exceeds one in a thousand, so that nothing
    is cut unnoticed.
    """
    main, ratio = axes
    lines = lines or {}
    references = dict.fromkeys(entries, reference) if isinstance(reference, str) else reference
    bases = list(dict.fromkeys(references.values()))
    edges = np.asarray(entries[bases[0]]["edges"])
    for text, data in entries.items():
        density, error = normalised(data)
        base, base_error = normalised(entries[references[text]])
        safe = np.where(base > 0, base, np.nan)
        ratios = np.where((base == 0) & (density > 0), np.inf, density / safe)
        line = lines.get(text, "-")
        if text in bases:
            first = text == bases[0]  # filled; a second one would hide it
            style = (
                {"histtype": "fill", "alpha": 0.22} if first else {"histtype": "step", "ls": "--"}
            )
            mplhep.histplot(density, edges, ax=main, color=colors[text], label=text, **style)
            ratio.stairs(
                1 + base_error / safe, edges, baseline=1 - base_error / safe, fill=True,
                color=colors[text], alpha=0.22,
            )  # fmt: skip
        else:
            mplhep.histplot(
                density, edges, ax=main, histtype="step", color=colors[text], ls=line, label=text
            )
            if ratio_steps:
                enough = np.asarray(entries[references[text]]["counts"]) >= 10
                _ratio_steps(ratio, edges, np.where(enough, ratios, np.nan), colors[text], line)
            else:
                _ratio_points(ratio, edges, ratios, error / safe, colors[text])
    note_outside(main, entries, colors)
    if edges[0] > 0 and np.allclose(np.diff(np.log(edges)), np.log(edges[1] / edges[0])):
        main.set_xscale("log")
    if log:
        main.set_yscale("log")
    else:
        top = max(normalised(data)[0].max() for data in entries.values())
        main.set_ylim(0, 1.5 * top)
    main.set_ylabel("Normalised entries")
    main.tick_params(labelbottom=False)
    ratio.axhline(1, color="0.5", linewidth=0.8)
    ratio.set_xlim(edges[0], edges[-1])
    ratio.set_ylim(*RATIO_RANGE)
    ratio.set_ylabel("Ratio")
    ratio.set_xlabel(label)


def note_outside(axis: plt.Axes, entries: Mapping[str, Mapping], colors: Mapping[str, str]) -> None:
    """Write the shares in the flow bins into a panel, those above one in a thousand.

    Parameters
    ----------
    entries : histogram data (`to_data`) by legend text
    colors : by legend text

    More than two share one note, which gives the smallest and the largest.
    """
    shares = {}
    for text, data in entries.items():
        lost = data["underflow"] + data["overflow"]
        shares[text] = lost / max(lost + sum(data["counts"]), 1)
    notes = [(share, colors[text]) for text, share in shares.items() if share > 1e-3]
    if len(notes) > 2:
        low, high = min(notes)[0], max(notes)[0]
        texts = [(f"{low:.1%} to {high:.1%} outside", "0.3")]
    else:
        texts = [(f"{share:.1%} outside", color) for share, color in notes]
    for line, (text, color) in enumerate(texts):
        y = 0.96 - 0.08 * line
        axis.text(0.1, y, text, transform=axis.transAxes, va="top", fontsize=7, color=color)


def _ratio_steps(axis: plt.Axes, edges, values, color: str, line) -> None:
    """Steps within the panel; bins outside it become triangles at its edge."""
    low, high = RATIO_RANGE
    inside = np.where((values >= low) & (values <= high), values, np.nan)
    axis.stairs(inside, edges, baseline=None, color=color, ls=line, lw=1.2)
    arrows(axis, (edges[:-1] + edges[1:]) / 2, values, color, RATIO_RANGE)


def _ratio_points(axis: plt.Axes, edges, values, errors, color: str) -> None:
    """Points with error bars; those outside the panel become triangles at its edge."""
    centres = (edges[:-1] + edges[1:]) / 2
    low, high = RATIO_RANGE
    inside = (values >= low) & (values <= high)
    axis.errorbar(
        centres[inside], values[inside], errors[inside], fmt="o", color=color, markersize=3, lw=1.2
    )
    arrows(axis, centres, values, color, RATIO_RANGE)


def arrows(axis: plt.Axes, x, values, color, shown: tuple[float, float]) -> None:
    """Triangles at the edge of a panel for what lies outside the values shown."""
    (low, high), x, values = shown, np.asarray(x), np.asarray(values)
    margin = 0.04 * (high - low)
    for outside, y, marker in (
        (values > high, high - margin, "^"), (values < low, low + margin, "v")
    ):  # fmt: skip
        at = np.full(outside.sum(), y)
        axis.plot(x[outside], at, marker, color=color, markersize=3.5, ls="", mfc="none")


def ratio_panels(
    columns: int, rows: int = 1, width: float = 3.9, height: float = 3.9, aligned: bool = False
):
    """Figure with `rows` x `columns` pairs of a main and a ratio panel, sharing their x axis.

    Parameters
    ----------
    aligned : all panels of equal size, also where only some carry axis labels; for many small ones,
        which look calmer, and are drawn in half the time, without minor ticks

    Returns
    -------
    figure, list of (main, ratio), row by row
    """
    figure = plt.figure(figsize=(width * columns, height * rows))
    if aligned:
        # One flat grid: the layout keeps sizes equal within a grid, not across nested ones.
        figure.set_layout_engine("constrained", h_pad=0.03, hspace=0.0)
        axes = figure.subplots(2 * rows, columns, height_ratios=(3, 1) * rows, squeeze=False)
        pairs = list(zip(axes[::2].flat, axes[1::2].flat, strict=True))
        for main, ratio in pairs:
            ratio.sharex(main)
            main.minorticks_off()
            ratio.minorticks_off()
        return figure, pairs
    outer = figure.add_gridspec(rows, columns)
    pairs = []
    for cell in outer:
        inner = cell.subgridspec(2, 1, height_ratios=(3, 1), hspace=0.06)
        main = figure.add_subplot(inner[0])
        pairs.append((main, figure.add_subplot(inner[1], sharex=main)))
    return figure, pairs


def save(figure: Figure, data: Mapping, name: str, folder: str | Path) -> Path:
    """Write ``NAME.pdf``, ``NAME.png`` and ``NAME.json`` into `folder`; return the PNG's path.

    The files carry no date, so that the same numbers give the same bytes. The layout is computed
    once for both, and stays: left to itself, matplotlib would do so four times.
    """
    folder = Path(folder)
    engine = figure.get_layout_engine()
    with plt.rc_context({"figure.constrained_layout.use": False}), _ticks_placed_once(figure):
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)
        box = figure.get_tightbbox().padded(plt.rcParams["savefig.pad_inches"])
        for suffix, metadata in ((".pdf", {"CreationDate": None}), (".png", {"Software": None})):
            with replacing(folder / f"{name}{suffix}") as aside:
                figure.savefig(aside, format=suffix[1:], metadata=metadata, bbox_inches=box)
    write_json(folder / f"{name}.json", data)
    return folder / f"{name}.png"


@contextmanager
def _ticks_placed_once(figure: Figure) -> Iterator[None]:
    """Place an axis's ticks again only where its limits or its place have changed.

    matplotlib does so whenever it measures or draws anything near them, some 35 times an axis and
    figure, which takes 40 % of the time of figures with many panels.
    """
    patched = [axis for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]

    def remembering(axis):
        place, known = axis._update_ticks, {}

        def once():
            at = (*axis.axes.viewLim.bounds, *axis.axes.bbox.bounds, axis.figure.dpi)
            if at not in known:
                known.clear()  # ticks are the same objects, moved
                known[at] = place()
            return known[at]

        return once

    for axis in patched:
        axis._update_ticks = remembering(axis)
    try:
        yield
    finally:
        for axis in patched:
            del axis._update_ticks


def show(picture: Path, figure: Figure | None = None) -> None:
    """In a notebook: a saved picture, and not its figure, which the inline backend would draw."""
    if "inline" in plt.get_backend():
        from IPython.display import Image, display  # there, and there alone
        from PIL.Image import open as opened

        with opened(picture) as pixels:
            width = pixels.width * plt.rcParams["figure.dpi"] / plt.rcParams["savefig.dpi"]
        display(Image(picture, width=int(width)))
        if figure is not None:
            plt.close(figure)


def seed_spread(values: Sequence[float]) -> float:
    """Standard deviation over seeds; 0 for a single one, which has no spread to show."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
