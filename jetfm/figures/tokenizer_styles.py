"""One colour, line style and marker per tokenizer, the same in every figure of token quality.

A tokenizer is described by a dictionary: ``name``, ``label`` (legend text), ``family`` (a key of
`FAMILIES`), ``n_codes`` and, where it has more than the kinematics, ``n_features``. The style
depends on these only, never on which other tokenizers a figure shows: the family decides the hue,
the codebook how dark it is, and more features make it pale, with hollow markers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import to_hex, to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from jetfm.errors import JetfmError
from jetfm.figures.style import COLORS


class Family(NamedTuple):
    """How one kind of tokenizer looks: colours of a small and of a large codebook, line, marker."""

    label: str
    small: str
    large: str
    line: str | tuple
    marker: str


#: Colours by search: with any two of 512 and 8192 codes at least 10 apart in CIE Lab, also for
#: readers with protanopia, deuteranopia or tritanopia; the closest pairs differ in their lines.
FAMILIES = {
    "conditional": Family("Conditional", "#86A2FF", "#0E149D", "-", "o"),
    "linear": Family("Conditional (no logarithm)", "#FF9D9D", "#A30E2C", (0, (4, 1, 1, 1)), "X"),
    "causal": Family("Conditional (causal)", "#47DE91", "#0B5D39", (0, (6, 1.5)), "s"),
    "unconditional": Family("Unconditional", "#EE8F3C", "#5A2600", (0, (1, 1)), "^"),
    "binned": Family("Binned", "#EBCB28", "#645902", (0, (3, 1, 1, 1)), "D"),
    "fsq": Family("FSQ", "#C77FC4", "#8B1181", (0, (2.5, 1.5)), "v"),
    "residual": Family("Residual VQ", "#B4B8B4", "#56645A", (0, (5, 1, 1, 1, 1, 1)), "P"),
}

#: Codebook sizes where a family's colour is lightest and darkest.
_SIZES = (256, 8192)
_BINNED_SIZES = (256, 64_000)  # grids need more cells
_PALE = 0.5  # share of white


def family_of(tokenizer: Mapping) -> Family:
    """Look of the tokenizer's family.

    Raises
    ------
    JetfmError
        A family that has no look.
    """
    name = tokenizer["family"]
    if name not in FAMILIES:
        where = f"family of tokenizer {tokenizer['name']}"
        raise JetfmError(where, repr(name), f"one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def color_of(tokenizer: Mapping) -> str:
    """Hue by family, the darker the larger the codebook, pale with more than the kinematics."""
    sizes = _BINNED_SIZES if tokenizer["family"] == "binned" else _SIZES
    color = _mixed(family_of(tokenizer), tokenizer["n_codes"], sizes)
    return _paled(color) if "n_features" in tokenizer else color


def kind_of(tokenizer: Mapping) -> tuple[str, int | None]:
    """What is joined in figures against the codebook's size: family, and features if more."""
    return tokenizer["family"], tokenizer.get("n_features")


def kind_style(kind: tuple[str, int | None]) -> dict:
    """Line and marker of a kind as a whole, and its label: the colour is that of a codebook
    halfway between small and large."""
    family, n_features = kind
    look = FAMILIES[family]
    color = _mixed(look, np.sqrt(np.prod(_SIZES)))
    return {
        "color": _paled(color) if n_features else color,
        "ls": look.line,
        "marker": look.marker,
        "mfc": "none" if n_features else color,
        "label": look.label + (f", {n_features} features" if n_features else ""),
    }


def marker_of(tokenizer: Mapping) -> dict:
    """Marker by family, hollow with more than the kinematics."""
    hollow = "n_features" in tokenizer
    face = {"markerfacecolor": "none"} if hollow else {}
    return {"marker": family_of(tokenizer).marker} | face


def _paled(color: str) -> str:
    return to_hex((1 - _PALE) * np.array(to_rgb(color)) + _PALE)


def _mixed(family: Family, n_codes: float, sizes: tuple = _SIZES) -> str:
    smallest, largest = np.log(sizes)
    share = np.clip((np.log(n_codes) - smallest) / (largest - smallest), 0, 1)
    small, large = np.array(to_rgb(family.small)), np.array(to_rgb(family.large))
    return to_hex(small + share * (large - small))


def line_of(tokenizer: Mapping) -> str | tuple:
    """Line style by family."""
    return family_of(tokenizer).line


def handles(tokenizers: Sequence[Mapping], markers: bool = False) -> list[Line2D]:
    """Legend handles with the tokenizers' labels: their lines, or lines with markers."""
    return [
        Line2D(
            [], [], color=color_of(tokenizer), ls=line_of(tokenizer), label=tokenizer["label"],
            markersize=4, **(marker_of(tokenizer) if markers else {}),
        )
        for tokenizer in tokenizers
    ]  # fmt: skip


def original_handle() -> Artist:
    """Legend handle of the jets before tokenisation, filled as by `style.with_ratio`."""
    return Patch(color=COLORS["truth"], alpha=0.22, lw=0, label="Original")
