"""A profile's figures, captions and claims, put together for readers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat

from jetfm import ledger
from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.figures.captions import LATER
from jetfm.ledger.claims import CLAIMS
from jetfm.ledger.verdicts import VERDICTS
from jetfm.notebooks import numbered
from jetfm.results.record import RECORD
from jetfm.storage.files import read_json
from jetfm.storage.paths import figures_folder

#: Our figures that show a claim, by its id.
FIGURES_OF = {claim.id: claim.figures for claim in CLAIMS}


@dataclass(frozen=True)
class ShownFigure:
    """A figure with what stands beside it.

    Attributes
    ----------
    claims : rows of the ledger that it shows
    """

    name: str
    caption: str
    claims: list[dict]


@dataclass(frozen=True)
class Chapter:
    """A notebook and its figures."""

    notebook: Path
    title: str
    figures: list[ShownFigure]


@dataclass(frozen=True)
class Results:
    """All that a profile's run has to show; `folder` need not have the profile's name."""

    profile: str
    folder: Path
    run: dict
    entries: list[dict]
    chapters: list[Chapter]

    @property
    def figures(self) -> list[ShownFigure]:
        """All figures in order."""
        return [figure for chapter in self.chapters for figure in chapter.figures]

    @property
    def counts(self) -> dict[str, int]:
        """Claims by verdict, those that occur."""
        found = Counter(row["verdict"] for row in self.entries)
        return {verdict: found[verdict] for verdict in VERDICTS if found[verdict]}


def load_results(profile: str) -> Results:
    """What a finished run of a profile, or drawing it again, has left in a folder of figures.

    Raises
    ------
    JetfmError
        A figure or the ledger is missing.
    """
    folder = figures_folder(profile)
    figures = there(CAPTIONS, folder, ".png")
    names = [*(f"{figure}.png" for figure in figures), "ledger.json", RECORD]
    check_complete(folder, names, f"a finished run: make paper-figures PROFILE={profile}")
    entries = ledger.load(folder / "ledger.json")
    chapters = []
    for notebook in numbered():
        names = [name for name in figures if name[3:5] == notebook.name[:2]]
        chapters.append(Chapter(notebook, title_of(notebook), [_shown(n, entries) for n in names]))
    run = read_json(folder / RECORD)
    return Results(run["profile"], folder, run, entries, chapters)


def there(names: Iterable[str], folder: Path, suffix: str) -> list[str]:
    """Names of figures without those of `LATER` that a folder has not."""
    return [name for name in names if name not in LATER or (folder / f"{name}{suffix}").exists()]


def check_complete(folder: Path, names: Sequence[str], expected: str) -> None:
    """A JetfmError where a folder lacks some of these files."""
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        found = f"no {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else "")
        raise JetfmError(folder, found, expected)


def _shown(name: str, entries: list[dict]) -> ShownFigure:
    claims = [row for row in entries if name in FIGURES_OF.get(row["id"], ())]
    return ShownFigure(name, CAPTIONS[name], claims)


def title_of(notebook: Path) -> str:
    """A notebook's first heading."""
    first = nbformat.read(notebook, as_version=4).cells[0].source
    return first.partition("\n")[0].lstrip("# ")


# As text -----------------------------------------------------------------------------------------


def statement(row: dict) -> str:
    """What is claimed, with proper arrows and primes."""
    return row["claim"].replace("->", "→").replace("qq'", "qq′")


def papers_number(row: dict) -> str:
    """The paper's value with its unit; '> 0' of a direction."""
    if row["paper_value"] is None:
        return "> 0"
    return f"{row['paper_value']:g} {row['unit']}".strip()


def our_number(row: dict) -> str:
    """What was measured with its uncertainty, rounded to two digits of that; '' if nothing was."""
    if row["measured"] is None:
        return ""
    value, sigma = row["measured"], row["uncertainty"]
    digits = max(1 - math.floor(math.log10(sigma)), 0) if sigma > 0 else 4
    text = f"{value:.{digits}f} ± {sigma:.{digits}f} {row['unit']}".strip()
    return text.replace("-", "−", 1) if value < 0 else text


def facts(results: Results) -> list[str]:
    """Where the results come from, a line each: commit, date, time, versions."""
    run = results.run
    commits = ", ".join(run["commits"]) or "unknown"
    minutes = sum(run["notebook_seconds"].values()) / 60
    versions = {"Python": run["python"]} | (run["packages"] or {})
    known = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    return [
        f"Profile {results.profile}, jetfm {run['jetfm']}, commit {commits}.",
        f"Finished {run['finished']} UTC." if run["finished"] else "No notebook has run.",
        f"{run['n_stages']} stages took {run['stage_seconds'] / 60:.0f} minutes, those that ran"
        f" side by side added up; the notebooks took {minutes:.0f} minutes when they last ran.",
        *([f"{known}."] if known else []),
    ]
