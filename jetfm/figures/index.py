"""Which figure of the papers is which of ours, in the papers' order."""

from __future__ import annotations

from dataclasses import dataclass

OMNIJET, HYBRID = "2403.05618", "2512.04149"


@dataclass(frozen=True)
class PaperFigure:
    """A figure or table of a paper.

    Attributes
    ----------
    paper : arXiv number
    number : as the paper counts
    name : our figure, '' where there is none
    reason : why there is none
    """

    paper: str
    number: str
    name: str = ""
    reason: str = ""


_BY_CLASS = ("jet_mass", "jet_pt", "tau21", "tau32")
_SKETCH = "a sketch of the method, without data"
_UNKNOWN = "content unknown to us: not imitated"

PAPER_FIGURES: tuple[PaperFigure, ...] = (
    PaperFigure(OMNIJET, "1", reason=_SKETCH),
    PaperFigure(OMNIJET, "2", reason=_SKETCH),
    PaperFigure(OMNIJET, "3", "fig02_token_map"),
    PaperFigure(OMNIJET, "4", "fig02_token_quality"),
    PaperFigure(OMNIJET, "5", "fig02_classifiers"),
    PaperFigure(OMNIJET, "6", "fig04_combined"),
    PaperFigure(OMNIJET, "7", "fig05_finetuning"),
    *(
        PaperFigure(OMNIJET, str(8 + i), f"fig02_class_{name}")
        for i, name in enumerate(f"{q}{kind}" for q in _BY_CLASS for kind in ("", "_residual"))
    ),
    PaperFigure(OMNIJET, "16", "fig04_qcd"),
    PaperFigure(OMNIJET, "17", "fig04_tbqq"),
    PaperFigure(OMNIJET, "18", "fig04_rivals"),
    PaperFigure(HYBRID, "1", reason=_SKETCH),
    PaperFigure(HYBRID, "2", reason=_SKETCH),
    PaperFigure(HYBRID, "3", "fig04_inputs"),
    PaperFigure(HYBRID, "4", "fig05_inputs"),
    PaperFigure(HYBRID, "5", "fig05_strategies"),
    *(PaperFigure(HYBRID, str(number), reason=_UNKNOWN) for number in range(6, 13)),
    PaperFigure(HYBRID, "tables 1 and 2", reason=_UNKNOWN),
)


def index_as_text() -> str:
    """A line for every figure of both papers."""
    return "\n".join(
        f"{one.paper}  {one.number:14s}  {one.name or one.reason}" for one in PAPER_FIGURES
    )
