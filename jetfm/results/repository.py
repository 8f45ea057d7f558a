"""``docs/RESULTS.md``: a profile's pictures and ledger for readers of the repository."""

from __future__ import annotations

from pathlib import Path

from PIL.Image import Dither, Quantize, Resampling
from PIL.Image import open as opened

from jetfm import ledger
from jetfm.errors import JetfmError
from jetfm.results.page import SIGNS
from jetfm.results.shown import (
    FIGURES_OF,
    Results,
    facts,
    load_results,
    our_number,
    papers_number,
    statement,
)
from jetfm.storage.files import naming, replacing, write_text
from jetfm.storage.paths import project_folder

TEXT = "RESULTS.md"
RESULTS = project_folder() / "results"  # kept numbers, by profile
_WIDTH = 1000  # pixels of the copies

#: The claims that a reader asks for first, for the table in ``README.md``.
HEADLINES = (
    "mass-resolution-512", "mass-resolution-8192", "generation-auc", "joint-generates",
    "finetune-100", "finetune-1000", "gain-up-to", "labels-100", "input-landscape",
    "mpm-beats-ntp", "joint-beats-ntp", "joint-rejection", "fewer-labels-larger-gain",
)  # fmt: skip
BEGIN, END = "<!-- headlines: written by `jetfm results --readme` -->", "<!-- end -->"


def write_results(profile: str, out: Path) -> Path:
    """Write ``RESULTS.md`` and, in ``results/<profile>/``, small copies of its pictures, and the
    numbers behind each, from which `jetfm.results.redrawn` makes all of it again.

    The same figures give the same bytes; copies of figures that are no more are removed.

    Raises
    ------
    JetfmError
        A figure or the ledger is missing.
    """
    results = load_results(profile)
    pictures = out / "results" / profile
    for figure in results.figures:
        _small_copy(results.folder / f"{figure.name}.png", pictures / f"{figure.name}.png")
    for path in set(pictures.glob("fig*.png")) - {
        pictures / f"{figure.name}.png" for figure in results.figures
    }:
        path.unlink()
    return write_text(out / TEXT, "\n".join(_lines(results)) + "\n")


def write_headlines(kept: Path, readme: Path) -> Path:
    """Write the table of `HEADLINES` between two marks of a Markdown file; the rest stays.

    Parameters
    ----------
    kept : results of a profile, as `jetfm.results.redrawn.keep_results` writes them

    Raises
    ------
    JetfmError
        The ledger is missing, or the file's marks.
    """
    with naming(readme):
        text = readme.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise JetfmError(readme, "no place for the claims", f"a line {BEGIN}, and {END} after it")
    rows = ledger.load(kept / "ledger.json")
    by_id = {row["id"]: row for row in rows}
    lines = [
        f"Profile `{kept.name}`: {ledger.summary(rows)}. Those that readers ask for first:",
        "",
    ]
    lines += _table([by_id[name] for name in HEADLINES])
    return write_text(readme, "\n".join([before + begin, *lines, end + after]))


def _small_copy(picture: Path, copy: Path) -> None:
    """A copy of fewer pixels and 256 colours, spread so that no two lines get the same one."""
    with opened(picture) as pixels:
        small = pixels.convert("RGB")
        if small.width > _WIDTH:
            height = round(small.height * _WIDTH / small.width)
            small = small.resize((_WIDTH, height), Resampling.LANCZOS)
        with replacing(copy) as aside:
            few = small.quantize(256, method=Quantize.MAXCOVERAGE, dither=Dither.NONE)
            few.save(aside, format="png", optimize=True)


def _lines(results: Results) -> list[str]:
    lines = [
        "# Results",
        "",
        f"Every figure of profile `{results.profile}` with the claims that it shows, then the whole"
        " ledger. Written by",
        f"`python -m jetfm results --profile {results.profile}` from what"
        f" `make paper-figures PROFILE={results.profile}` has made; `figures/{results.profile}/"
        "index.html` shows the same",
        "with a table that sorts, and the executed notebooks. The rules of the verdicts:"
        " `jetfm/ledger/verdicts.py`.",
        "",
        *(f"- {line}" for line in facts(results)),
        "",
        f"**{ledger.summary(results.entries)}.**",
    ]
    for chapter in results.chapters:
        notebook = f"../notebooks/{chapter.notebook.name}"
        lines += ["", f"## {chapter.title}", "", f"Notebook [{chapter.notebook.stem}]({notebook})."]
        for figure in chapter.figures:
            lines += [
                "",
                f"### {figure.name}",
                "",
                f"![{figure.name}](results/{results.profile}/{figure.name}.png)",
                "",
                figure.caption,
            ]
            if figure.claims:
                lines += ["", *_table(figure.claims)]
    lines += ["", "## The ledger", "", *_table(results.entries, whole=True)]
    return lines


def _table(entries: list[dict], whole: bool = False) -> list[str]:
    """Rows of the ledger; the whole of it says where each claim stands and what to note."""
    head = ["claim", "what the paper says", "paper", "here", "verdict"]
    head += ["where", "figures", "note"] if whole else []
    lines = [_row(head), _row(["---"] * len(head))]
    for row in entries:
        cells = [
            f"`{row['id']}`",
            statement(row),
            papers_number(row),
            our_number(row),
            f"{SIGNS[row['verdict']]} {row['verdict']}",
        ]
        if whole:
            figures = (f"[{name}](#{name})" for name in FIGURES_OF.get(row["id"], ()))
            cells += [f"{row['paper']}, {row['where']}", ", ".join(figures), row["note"]]
        lines.append(_row(cells))
    return lines


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
