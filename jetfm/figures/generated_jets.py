"""Generated jets beside the tokenised ones that the generator has learned from."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from jetfm.plotting import COLORS, LABELS, ratio_panels, with_ratio


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
