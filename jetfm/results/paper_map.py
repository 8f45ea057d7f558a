"""``docs/paper_map.md``: from each figure, table and claim of the papers to what makes it here.

Put together from the index of figures, the notebooks' cells, the pipeline's stages and the claims;
the table of stages is that of one profile, and others differ in names of tokenizers and models.
"""

from __future__ import annotations

from pathlib import Path

from jetfm.figures import CAPTIONS, PAPER_FIGURES
from jetfm.figures.index import HYBRID, OMNIJET
from jetfm.ledger.claims import CLAIMS
from jetfm.pipeline import Pipeline
from jetfm.pipeline.stage import silent
from jetfm.results.cells import makers
from jetfm.results.shown import statement
from jetfm.settings.profiles import load_profile
from jetfm.storage.files import write_text

#: Whose stages the map names: it has a tokenizer and a model for every figure.
PROFILE = "paper"

TITLES = {
    OMNIJET: "OmniJet-α",
    HYBRID: "Hybrid next-token and masked-particle pre-training",
}


def write_map(path: Path) -> Path:
    """Write the map."""
    return write_text(path, map_as_text())


def map_as_text() -> str:
    """The map as Markdown."""
    pipeline = Pipeline(load_profile(PROFILE), progress=False, say=silent)
    lines = [
        "# From the papers to the code",
        "",
        "Written by `python -m jetfm paper-map`, and held to the code by `make test`; `python` is",
        "that of `.venv`. A figure's command makes the stages that it reads, and what those need,",
        "then draws it; what is done is found. `--profile` chooses the settings, `laptop` by",
        "default; PDF, PNG and JSON, with the numbers, land in `figures/<profile>/`. The stages",
        f"named here are those of profile `{PROFILE}`, their number where a figure reads several",
        "of a kind; `python -m jetfm stages` shows what they need in turn.",
    ]
    for paper, title in TITLES.items():
        lines += ["", f"## {title} ([{paper}](https://arxiv.org/abs/{paper}))", ""]
        lines += _figures_of(paper, pipeline)
        lines += ["", f"### Claims of {paper}", "", *_claims_of(paper)]
    followed = {one.name for one in PAPER_FIGURES}
    lines += ["", "## Figures of our own", "", *_head("figure")]
    lines += [
        _row([f"`{name}`", *_made(name, pipeline)]) for name in CAPTIONS if name not in followed
    ]
    return "\n".join(lines) + "\n"


def _head(*titles: str) -> list[str]:
    head = [*titles, "notebook cell", "stages", "JSON", "claims", "command"]
    return [_row(head), _row(["---"] * len(head))]


def _figures_of(paper: str, pipeline: Pipeline) -> list[str]:
    lines = _head("paper", "figure")
    for one in PAPER_FIGURES:
        if one.paper == paper:
            number = f"figure {one.number}" if one.number.isdigit() else one.number
            cells = [f"`{one.name}`", *_made(one.name, pipeline)] if one.name else []
            lines.append(_row([number, *(cells or [f"none: {one.reason}", *[""] * 5])]))
    return lines


def _claims_of(paper: str) -> list[str]:
    """A line a claim: every one also appears in the ledger, with its verdict."""
    head = ["claim", "where", "statement", "figures", "command"]
    lines = [_row(head), _row(["---"] * len(head))]
    for claim in CLAIMS:
        if claim.paper == paper:
            figures = ", ".join(f"`{name}`" for name in claim.figures)
            text = statement({"claim": claim.claim})
            command = _command(*claim.figures)
            lines.append(_row([f"`{claim.id}`", claim.where, text, figures, command]))
    return lines


def _made(name: str, pipeline: Pipeline) -> list[str]:
    """Cell, stages, JSON, claims and command of a figure."""
    maker = makers(name)[0]
    path = f"../notebooks/{maker.notebook.name}"
    stages = ", ".join(f"`{key}`" for key in _stages(name, pipeline)) or "none: jets that ship"
    claims = ", ".join(f"`{claim.id}`" for claim in CLAIMS if name in claim.figures)
    cell = f"[{maker.notebook.stem}]({path}), cell {maker.number} (`{maker.cell}`)"
    return [cell, stages, f"`{name}.json`", claims, _command(name)]


def _stages(name: str, pipeline: Pipeline) -> list[str]:
    """Stages that a figure reads, by name: how many where several, else which if that is short."""
    by_name: dict[str, list[str]] = {}
    for stage in pipeline.read_by(name):
        by_name.setdefault(stage.name, []).append(stage.variant)
    found = []
    for stage, variants in by_name.items():
        short = variants[0] if len(variants[0]) < 40 else ""
        found.append(f"{stage} ({len(variants)})" if variants[1:] else f"{stage} {short}".strip())
    return found


def _command(*names: str) -> str:
    return f"`python -m jetfm figures --only {' '.join(names)}`"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
