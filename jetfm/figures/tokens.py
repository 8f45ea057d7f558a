"""What single tokens stand for: where they lie, how often they are used, what constituents lose.

Tokenizers are described as in `jetfm.figures.tokenizer_styles`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, MultipleLocator

from jetfm.figures.style import LABELS
from jetfm.figures.tokenizer_styles import color_of, handles, line_of, marker_of

_COLUMNS = 5  # of token maps side by side; more continue below

#: Multiples of it, modulo one, are spread evenly, and neighbouring tokens lie far apart.
_GOLDEN = 0.6180339887498949


def token_map(panels: Sequence[Mapping]) -> Figure:
    """Where in physical space the tokens are reconstructed: eta and phi above, eta and pt below.

    After figure 3 of arXiv 2403.05618. One column per tokenizer; more than five continue below.

    Parameters
    ----------
    panels : one per tokenizer: ``tokenizer``; by drawn point ``token``, ``pt`` [GeV], ``eta_rel``
        and ``phi_rel`` [rad]; ``n_tokens`` drawn, ``n_reconstructions`` of each token and
        ``n_drawn`` of them, ``n_conditioning`` random tokens beside it

    Notes
    -----
    The axes hold all but the outermost few per mille of the points of a usual panel; the share of a
    panel's points beyond them is written into it.
    """
    blocks = -(-len(panels) // _COLUMNS)
    columns = -(-len(panels) // blocks)
    figure, axes = plt.subplots(
        2 * blocks, columns, figsize=(0.6 + 2.45 * columns, 5.6 * blocks), squeeze=False
    )
    reach = np.median(
        [np.quantile(np.abs([p["eta_rel"], p["phi_rel"]]), 0.995) for p in panels]
    )  # of a usual tokenizer: one with stray tokens must not shrink the others
    reach = max(reach, 0.8)
    angles = (-1.08 * reach, 1.08 * reach)
    positive = [np.array(p["pt"])[np.array(p["pt"]) > 0] for p in panels]
    lowest = min(np.quantile(pt, 0.002) for pt in positive)
    highest = max(np.quantile(pt, 0.998) for pt in positive)
    for index, panel in enumerate(panels):
        block, column = divmod(index, columns)
        above, below = axes[2 * block : 2 * block + 2, column]
        _scatter(above, panel, "phi_rel", angles, angles)
        below.set_yscale("log")
        _scatter(below, panel, "pt", angles, (lowest / 1.6, highest * 1.6))
        above.tick_params(labelbottom=False)
        below.set_xlabel(LABELS["eta_rel"])
        if column == 0:
            above.set_ylabel(LABELS["phi_rel"])
            below.set_ylabel(LABELS["pt"])
        else:
            above.tick_params(labelleft=False)
            below.tick_params(labelleft=False)
        _describe(above, panel)
    for axis in axes.ravel("C")[_unused(len(panels), columns, blocks)]:
        axis.remove()
    return figure


def _unused(n_panels: int, columns: int, blocks: int) -> list[int]:
    """Flat indices of the axes left over in the last block, in both of its rows."""
    rows = (2 * blocks - 2, 2 * blocks - 1)
    used = n_panels - (blocks - 1) * columns
    return [row * columns + column for row in rows for column in range(used, columns)]


def _scatter(axis: plt.Axes, panel: Mapping, quantity: str, xlim: tuple, ylim: tuple) -> None:
    x, y, tokens = (np.array(panel[key]) for key in ("eta_rel", quantity, "token"))
    # viridis without its lightest end, which is lost on white paper.
    colors = plt.get_cmap("viridis")(0.93 * (tokens * _GOLDEN % 1))
    blobs = panel["n_reconstructions"] > 1
    size = 0.6 if blobs else np.clip(6000 / len(x), 1.2, 9)
    axis.scatter(x, y, s=size, c=colors, lw=0, rasterized=True)
    axis.set_xlim(xlim)
    axis.set_ylim(ylim)
    axis.xaxis.set_major_locator(MultipleLocator(0.5))
    inside = (x > xlim[0]) & (x < xlim[1]) & (y > ylim[0]) & (y < ylim[1])
    if not inside.all():
        share = 1 - inside.mean()
        text = f"{share:.1%} outside" if share >= 1e-3 else "< 0.1% outside"
        box = {"facecolor": "white", "alpha": 0.75, "lw": 0, "pad": 1}
        axis.text(
            0.97, 0.03, text, transform=axis.transAxes, ha="right", fontsize=7, color="0.3",
            bbox=box,
        )  # fmt: skip


def _describe(axis: plt.Axes, panel: Mapping) -> None:
    """Label of the tokenizer and, in small print below it, what was drawn of it."""
    text = f"{panel['n_tokens']:,} of {panel['tokenizer']['n_codes']:,} tokens, each"
    if panel["n_reconstructions"] > 1:
        text += (
            f" reconstructed\n{panel['n_reconstructions']:,} times ({panel['n_drawn']:,} drawn), "
            f"given\n{panel['n_conditioning']:,} random tokens"
        )
    else:
        text += " with\none reconstruction\n"
    label = panel["tokenizer"]["label"]
    if "n_features" in panel["tokenizer"]:
        label = "\n".join(label.rsplit(", ", 1))  # panels are narrow
    axis.set_title(label, fontsize=11, pad=36)
    axis.annotate(
        text, (0.5, 1), (0, 3), xycoords="axes fraction", textcoords="offset points", ha="center",
        va="bottom", fontsize=7.5, color="0.3",
    )  # fmt: skip


def codebook_usage(
    usage: Mapping[str, Mapping], tokenizers: Sequence[Mapping], n_constituents: int
) -> Figure:
    """How evenly the codes are used: share of constituents by rank, and two summaries of it.

    Parameters
    ----------
    usage : by tokenizer's name: ``share`` of constituents by code, descending, and its ``rank``
        over the number of codes (both may be thinned out), ``n_used`` codes, ``perplexity``
    tokenizers : to draw, in legend order
    n_constituents : that were tokenised
    """
    height = max(3.9, 2.0 + 0.34 * len(tokenizers))
    figure, (curves, bars) = plt.subplots(1, 2, figsize=(12, height), width_ratios=(1.15, 1))
    for y, tokenizer in enumerate(tokenizers):
        entry, color = usage[tokenizer["name"]], color_of(tokenizer)
        shares = np.array(entry["share"], dtype=float)
        shares[shares <= 0] = np.nan  # unused codes have no place on a logarithmic axis
        curves.plot(
            entry["rank"], shares, color=color, ls=line_of(tokenizer), label=tokenizer["label"]
        )
        used, even = (entry[key] / tokenizer["n_codes"] for key in ("n_used", "perplexity"))
        bars.barh(y, used, height=0.75, color=color, alpha=0.35, lw=0)
        bars.barh(y, even, height=0.4, color=color, lw=0)
        text = f"{entry['n_used']:,} used, perplexity {entry['perplexity']:,.0f}"
        bars.text(
            1.02, y, text, transform=bars.get_yaxis_transform(), va="center", fontsize=8.5,
            color="0.3",
        )  # fmt: skip
    curves.set_yscale("log")
    curves.set_xlim(0, 1)
    curves.set_xlabel("Rank of the code / codebook size")
    curves.set_ylabel("Share of constituents")
    curves.set_title(f"{n_constituents:,} constituents", fontsize=10)
    bars.set_xlim(0, 1)
    bars.set_xlabel("Share of the codebook")
    _name_rows(bars, tokenizers)
    kinds = [Patch(color="0.4", alpha=0.35, lw=0, label="used"), Patch(color="0.4", lw=0)]
    bars.legend(
        kinds, ["codes used", "perplexity / codebook size"], ncols=2, loc="lower left",
        bbox_to_anchor=(0, 1), borderaxespad=0.3,
    )  # fmt: skip
    figure.legend(
        handles=handles(tokenizers), loc="outside upper center", ncols=min(len(tokenizers), 5)
    )
    return figure


def constituent_errors(
    edges: Sequence[float],
    errors: Mapping[str, Mapping],
    tokenizers: Sequence[Mapping],
    out_of_range: Mapping[str, Mapping],
) -> Figure:
    """What tokenisation does to constituents, by their pt, and how many it cannot represent.

    Parameters
    ----------
    edges : of the pt bins, GeV
    errors : by tokenizer's name, then by quantity (``pt``, relative; ``eta_rel``; ``phi_rel``,
        rad): root mean square error by pt bin, None for an empty bin
    tokenizers : to draw, in legend order
    out_of_range : by tokenizer's name: share of ``constituents`` beyond what the tokenizer
        covers, and of ``jets`` with at least one of them
    """
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.2 + 0.1 * len(tokenizers)))
    labels = {
        "pt": r"RMS of $p_\mathrm{T}^\mathrm{reco} / p_\mathrm{T}^\mathrm{orig} - 1$",
        "eta_rel": r"RMS error of $\eta^\mathrm{rel}$",
        "phi_rel": r"RMS error of $\phi^\mathrm{rel}$ [rad]",
    }
    centres = np.sqrt(np.multiply(edges[:-1], edges[1:]))
    for axis, (quantity, label) in zip(axes.flat, labels.items(), strict=False):
        for tokenizer in tokenizers:
            values = np.array(errors[tokenizer["name"]][quantity], dtype=float)  # None -> nan
            values[values <= 0] = np.nan
            axis.plot(
                centres, values, color=color_of(tokenizer), ls=line_of(tokenizer), lw=1.3,
                markersize=3.5, label=tokenizer["label"], **marker_of(tokenizer),
            )  # fmt: skip
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlim(edges[0], edges[-1])
        axis.set_xlabel(LABELS["pt"])
        axis.set_ylabel(label)
    _draw_out_of_range(axes[1, 1], tokenizers, out_of_range)
    figure.legend(
        handles=handles(tokenizers, markers=True), loc="outside upper center",
        ncols=min(len(tokenizers), 4), handlelength=3,
    )  # fmt: skip
    return figure


def _draw_out_of_range(axis: plt.Axes, tokenizers: Sequence[Mapping], shares: Mapping) -> None:
    """Two bars a tokenizer, each with its number, so that zero can be told from tiny."""
    bars = {"jets": (-0.2, 0.4, "jets with at least one"), "constituents": (0.2, 1, "constituents")}
    values = [100 * shares[t["name"]][kind] for t in tokenizers for kind in bars]
    smallest = min((value for value in values if value > 0), default=1.0)
    highest = max(*values, smallest)
    for y, tokenizer in enumerate(tokenizers):
        for kind, (shift, alpha, _) in bars.items():
            value = 100 * shares[tokenizer["name"]][kind]
            axis.barh(y + shift, value, 0.36, color=color_of(tokenizer), alpha=alpha, lw=0)
            text = "0" if value == 0 else f"{float(f'{value:.2g}'):g}%"  # 100%, no 1e+02
            axis.annotate(
                text, (value, y + shift), (3, 0), textcoords="offset points", va="center",
                fontsize=7,
            )  # fmt: skip
    if highest > 30 * smallest:
        decade = 10.0 ** np.floor(np.log10(smallest))
        axis.set_xscale("symlog", linthresh=decade, linscale=0.5)
        axis.set_xlim(0, 8 * highest)  # the numbers stand right of the bars
    else:
        axis.set_xlim(0, 1.25 * highest)
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_xlabel("Share out of range [%]")
    _name_rows(axis, tokenizers)
    kinds = [Patch(color="0.4", alpha=alpha, lw=0, label=text) for _, alpha, text in bars.values()]
    axis.legend(handles=kinds, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.3)


def _name_rows(axis: plt.Axes, tokenizers: Sequence[Mapping]) -> None:
    """Tokenizers down the vertical axis, the first on top."""
    axis.set_yticks(range(len(tokenizers)), [tokenizer["label"] for tokenizer in tokenizers])
    axis.set_ylim(len(tokenizers) - 0.4, -0.6)
    axis.tick_params(axis="y", which="both", left=False, right=False)
