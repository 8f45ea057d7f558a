"""Results that are kept as numbers, and all their figures and the page drawn from them again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.figures.drawings import DRAWN_BY
from jetfm.pipeline import draw_in_worker
from jetfm.results import shown
from jetfm.results.page import write_page
from jetfm.results.record import RECORD
from jetfm.runtime.cores import n_cores
from jetfm.runtime.parallel import run_fits
from jetfm.storage.files import copy_file, make_folder, read_json
from jetfm.storage.paths import figures_folder

_BESIDE = ("ledger.json", RECORD)


def keep_results(profile: str, out: Path) -> Path:
    """The numbers behind a finished run's figures, its ledger and its record, in a folder.

    Raises
    ------
    JetfmError
        A figure or the ledger is missing.
    """
    results, out = shown.load_results(profile), make_folder(out)
    for name in (*(f"{figure.name}.json" for figure in results.figures), *_BESIDE):
        copy_file(results.folder / name, out / name)
    return out


def redraw(source: Path, say: Callable[[str], None] = print, progress: bool = True) -> Path:
    """Draw kept results: every figure, and the page, in ``figures/<name>-redrawn``.

    No stage is made, and no notebook run.

    Parameters
    ----------
    source : of `keep_results`

    Raises
    ------
    JetfmError
        No results there, or some missing.
    """
    if not source.is_dir():
        raise JetfmError(source, "no such folder", "results that `jetfm results` has kept")
    figures = shown.there(CAPTIONS, source, ".json")
    names = [*(f"{name}.json" for name in figures), *_BESIDE]
    shown.check_complete(source, names, "results that were kept, e.g. results/laptop")
    profile = f"{source.name}-redrawn"
    folder = figures_folder(profile)
    tasks = [(DRAWN_BY[name], name, read_json(source / f"{name}.json"), folder) for name in figures]
    run_fits(draw_in_worker, tasks, n_cores(), "figures", progress, "figure")
    for name in _BESIDE:
        copy_file(source / name, folder / name)
    return write_page(profile, say)
