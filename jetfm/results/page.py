"""``index.html`` of a profile's figures: captions, claims and verdicts, the ledger, the notebooks.

One file beside the figures, with styles and script inside, and a page for each executed notebook.
Nothing is loaded from elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL.Image import open as opened

from jetfm import ledger
from jetfm.ledger.verdicts import VERDICTS
from jetfm.results import shown
from jetfm.results.notebook_pages import CODE_STYLE, cells_as_html
from jetfm.results.record import record_run
from jetfm.results.state import PAGE, TEMPLATES, executed, state_of
from jetfm.settings.profiles import Profile
from jetfm.storage.files import write_text
from jetfm.storage.locks import exclusive
from jetfm.storage.paths import figures_folder

_DPI = 110  # on the page: figures of 12 inches fill it

#: A sign for each verdict, so that none depends on its colour.
SIGNS = dict(zip(VERDICTS, "✓↗?✗–·", strict=True))


def make_page(profile: Profile, say: Callable[[str], None] = print) -> Path:
    """Write the page of a finished run, and one for each executed notebook.

    Raises
    ------
    JetfmError
        A figure or the ledger is missing.
    """
    with exclusive(figures_folder(profile.name), say):
        record_run(profile)
    return write_page(profile.name, say)


def write_page(profile: str, say: Callable[[str], None] = print) -> Path:
    """The same of figures that say themselves where they come from (``run.json``)."""
    folder = figures_folder(profile)
    with exclusive(folder, say):
        results, notebooks = shown.load_results(profile), executed(profile)
        environment = _environment()
        for name, path in notebooks.items():
            text = environment.get_template("notebook.html.jinja").render(
                title=shown.title_of(path),
                name=name,
                cells=cells_as_html(path, folder),
                profile=results.profile,
                code_style=CODE_STYLE,
            )
            write_text(folder / f"{name}.html", text)
        text = environment.get_template("index.html.jinja").render(
            results=results,
            notebooks=notebooks,
            summary=ledger.summary(results.entries),
            facts=shown.facts(results),
            size_of=lambda name: _size(folder / f"{name}.png"),
            state=state_of(profile),
        )
        page = write_text(folder / PAGE, text)
        say(f"{page}: {len(results.figures)} figures, {len(results.entries)} claims")
        return page


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "statement": shown.statement,
        "papers_number": shown.papers_number,
        "our_number": shown.our_number,
        "slug": lambda verdict: verdict.replace(" ", "-"),
        "sign": SIGNS.__getitem__,
        "rank": VERDICTS.index,
    }
    environment.globals["figures_of"] = shown.FIGURES_OF
    return environment


def _size(picture: Path) -> tuple[int, int]:
    """Width and height on the page, as in a notebook, in CSS pixels."""
    with opened(picture) as pixels:
        scale = _DPI / pixels.info.get("dpi", (_DPI,))[0]
        return tuple(round(length * scale) for length in pixels.size)
