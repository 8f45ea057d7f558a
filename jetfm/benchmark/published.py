"""What papers reach with all labels: rows to look up at, never ranked among ours.

Other jets in other numbers: JetClass and the Top Landscape themselves, which ours imitate. Each
number is as its source tabulates it, where it compares taggers, by two independent transcriptions
that agree (of uncertainties there is one): the tables themselves were not seen. LorentzNet's public
record of one training (sdogsq/LorentzNet-release, ``logs/top/pretrained/test-result.json``) has
.9425, .9870, 534 and 2193, as the table's row would have it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from jetfm.finetuning.paper_curves import FIGURE_7

Value = tuple[float, float | None]  # and its uncertainty, where the source gives one


@dataclass(frozen=True)
class Published:
    """A row of a paper.

    Attributes
    ----------
    source : where the numbers stand
    jets : labelled ones that 'values' were reached with
    values : by metric
    few : accuracy by number of labelled jets, where the source has some of the benchmark's
    """

    text: str
    source: str
    jets: str
    values: dict[str, Value] = field(default_factory=dict)
    few: dict[int, float] = field(default_factory=dict)


LANDSCAPE_SOURCE = "arXiv 2512.17011, table 1, as transcribed by others"
JETCLASS_SOURCE = "arXiv 2608.02735, table 2, as transcribed by others"

#: Accuracy, AUC, rejection at 50 and at 30 % on the Top Landscape, some of the rows of the source.
_LANDSCAPE: tuple[tuple[str, float, float, Value | None, Value], ...] = (
    ("ParticleNet", 0.940, 0.9858, (397, 7), (1615, 93)),
    ("ParT", 0.940, 0.9858, (413, 16), (1602, 81)),
    ("Transformer", 0.9393, 0.9855, (389, 6), (1613, 118)),
    ("LorentzNet", 0.942, 0.9868, (498, 18), (2195, 173)),
    ("PELICAN", 0.9426, 0.9870, None, (2250, 75)),
    ("L-GATr", 0.9423, 0.9870, (540, 20), (2240, 70)),
    ("ParT, pre-trained with labels, fine-tuned", 0.944, 0.9877, (691, 15), (2766, 130)),
    ("L-GATr, pre-trained with labels, fine-tuned", 0.9446, 0.9879, (651, 11), (2894, 84)),
)

#: Accuracy and AUC on JetClass with all features, ten classes.
_JETCLASS = (
    ("Transformer, all features", 0.855, 0.9867),
    ("ParT, all features", 0.861, 0.9878),
    ("L-GATr, all features", 0.865, 0.9885),
)

_STARTS = {"finetuned": "fine-tuned", "fixed": "backbone fixed", "scratch": "from scratch"}


def published(task: str) -> tuple[Published, ...]:
    """Rows of papers for a task; none where there are none."""
    return _ROWS.get(task, ())


def _landscape() -> tuple[Published, ...]:
    return tuple(
        Published(
            text,
            LANDSCAPE_SOURCE,
            "1.2 million",
            {"accuracy": (share, None), "auc": (area, None), "rejection30": r30}
            | ({} if r50 is None else {"rejection50": r50}),
        )
        for text, share, area, r50, r30 in _LANDSCAPE
    )


def _jetclass() -> tuple[Published, ...]:
    values = [(text, {"accuracy": (a, None), "auc": (b, None)}) for text, a, b in _JETCLASS]
    return tuple(Published(text, JETCLASS_SOURCE, "100 million", some) for text, some in values)


def _tagging() -> tuple[Published, ...]:
    source = "arXiv 2403.05618, figure 7, read off by others"
    return tuple(
        Published(
            f"OmniJet-α on JetClass, {text}",
            source,
            "2 million",
            {"accuracy": (FIGURE_7[start][-1], None)},
            dict(zip(FIGURE_7["sizes"], FIGURE_7[start], strict=True)),
        )
        for start, text in _STARTS.items()
    )


_ROWS = {"tagging": _tagging(), "ten-classes": _jetclass(), "landscape": _landscape()}
