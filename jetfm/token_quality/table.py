"""Token quality as text: one row per tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

#: Columns of residuals: heading, quantity, which number of its fit, decimals.
_KINEMATICS = (
    ("mass [GeV]: sigma", "jet_mass", "sigma", 2),
    ("mass: mean", "jet_mass", "mean", 2),
    ("pt [GeV]: sigma", "jet_pt", "sigma", 2),
    ("pt: mean", "jet_pt", "mean", 2),
)
_SUBSTRUCTURE = (
    ("tau32: sigma", "tau32", "sigma", 4),
    ("tau32: mean", "tau32", "mean", 4),
    ("tau32: bias", "tau32", "bias", 4),
    ("tau21: sigma", "tau21", "sigma", 4),
    ("tau21: mean", "tau21", "mean", 4),
)


def quality_table(
    tokenizers: Sequence[Mapping],
    results: Mapping[str, Mapping],
    out_of_range: Mapping[str, Mapping[str, float]],
    signal: str,
    scaled: Mapping[str, Mapping] | None = None,
) -> str:
    """Fits of the residuals, use of the codes and range of several tokenizers.

    Parameters
    ----------
    tokenizers : descriptors, in order
    results, out_of_range : by tokenizer's name, as in `jetfm.token_quality.study`
    signal : class of the fits
    scaled : by name, of `jetfm.token_quality.jet_scale.compare_scaled`; a block of their own

    Notes
    -----
    A fit that found no peak is shown as '-'. The bias is the mean of all residuals, peak or not.
    """
    labels = [tokenizer["label"] for tokenizer in tokenizers]
    found = [results[tokenizer["name"]] for tokenizer in tokenizers]
    shares = [out_of_range[tokenizer["name"]] for tokenizer in tokenizers]
    title = f"{signal}, {found[0]['n_signal_jets']:,} jets, reconstructed - original"
    parts = []
    for block in (_KINEMATICS, _SUBSTRUCTURE):
        columns = {
            heading: [_measured(result["fits"][quantity], *what) for result in found]
            for heading, quantity, *what in block
        }
        parts.append(aligned(title, labels, columns))
    if some := [t for t in tokenizers if t["name"] in (scaled or {})]:
        found_scaled = [scaled[t["name"]] for t in some]
        columns = {
            f"{name} x": [f"{result['scale'][name]:.4f}" for result in found_scaled]
            for name in ("pt", "angle")
        } | {
            heading: [_measured(result["fits"][quantity], *what) for result in found_scaled]
            for heading, quantity, *what in _KINEMATICS
        }
        title = f"{signal}, decoded jets brought to the pt and width of validation jets"
        parts.append(aligned(title, [t["label"] for t in some], columns))
    codes = {
        "codes used": [f"{result['n_used']:,} of {result['n_codes']:,}" for result in found],
        "perplexity": [f"{result['perplexity']:,.0f}" for result in found],
        "removed by cuts": [_removed(result) for result in found],
        "constituents out of range": [_percent(share["constituents"]) for share in shares],
        "jets with one": [_percent(share["jets"]) for share in shares],
    }
    parts.append(aligned(f"All classes, {found[0]['n_jets']:,} jets", labels, codes))
    return "\n\n".join(parts)


def aligned(title: str, labels: Sequence[str], columns: Mapping[str, Sequence[str]]) -> str:
    """Title line, headings, and a row per label; columns, by heading, are flush right."""
    width = max(map(len, labels))
    lines = [" " * width, *(f"{label:{width}}" for label in labels)]
    for heading, cells in columns.items():
        column = [heading, *cells]
        width = max(map(len, column))
        lines = [f"{line}  {cell:>{width}}" for line, cell in zip(lines, column, strict=True)]
    return "\n".join([title, *lines])


def _measured(fit: Mapping, key: str, decimals: int) -> str:
    if fit[key] is None:
        return "-"
    return f"{fit[key]:.{decimals}f} +- {fit[f'{key}_error']:.{decimals}f}"


def _removed(result: Mapping) -> str:
    """Share of the constituents that the cuts leave without a token, '-' where none was counted."""
    found = result["out_of_range"].get("removed")
    return "-" if found is None else _percent(found["constituents"])


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
