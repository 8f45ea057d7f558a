"""Kept numbers give the same figures and page again."""

from __future__ import annotations

import ast
import json

import pytest

from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.figures.captions import LATER
from jetfm.figures.drawings import DRAWN_BY
from jetfm.results import redrawn
from jetfm.results.cells import makers
from jetfm.results.redrawn import keep_results, redraw
from jetfm.results.repository import RESULTS
from jetfm.storage.files import copy_file, read_json

KEPT = sorted(path for path in RESULTS.iterdir() if path.is_dir())
#: A figure of each notebook; all of them: `make redraw`.
SOME = sorted({name[:5]: name for name in reversed(DRAWN_BY)}.values())


def test_figures_are_drawn_by_the_functions_that_the_notebooks_call():
    for name, draw in DRAWN_BY.items():
        called = {
            node.attr
            for statement in makers(name)
            for node in ast.walk(statement.tree)
            if isinstance(node, ast.Attribute)
        }
        assert draw.__name__ in called, name


@pytest.mark.parametrize("kept", KEPT, ids=lambda path: path.name)
def test_kept_results_are_drawn_again(kept, tmp_path, monkeypatch):
    """Their numbers, bit for bit, and a page with their ledger."""
    monkeypatch.setenv("JETFM_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    some = {name: CAPTIONS[name] for name in SOME}
    for module in (redrawn, redrawn.shown):
        monkeypatch.setattr(module, "CAPTIONS", some)
    page = redraw(kept, say=lambda text: None, progress=False)
    assert page.parent == tmp_path / "figures" / f"{kept.name}-redrawn"
    for name in some:
        assert read_json(page.parent / f"{name}.json") == read_json(kept / f"{name}.json")
        assert (page.parent / f"{name}.png").stat().st_size > 1000
    text, ledger = page.read_text(), read_json(kept / "ledger.json")
    assert f"<strong>{kept.name}</strong>" in text and f"Profile {kept.name}, " in text
    assert all(row["id"] in text for row in ledger) and all(name in text for name in some)


def test_what_is_kept(finished, tmp_path):
    folder = keep_results("smoke", tmp_path / "kept")
    names = {path.name for path in folder.iterdir()}
    assert names == {*(f"{name}.json" for name in CAPTIONS), "ledger.json", "run.json"}
    assert json.loads((folder / "run.json").read_text())["profile"] == "smoke"
    (folder / "fig04_qcd.json").unlink()
    with pytest.raises(JetfmError, match="no fig04_qcd.json.*results that were kept"):
        redraw(folder)
    with pytest.raises(JetfmError, match="absent: found no such folder"):
        redraw(tmp_path / "absent")


def test_results_kept_before_a_younger_figure_are_drawn_without_it(tmp_path, monkeypatch):
    """Any other that lacks is still an error."""
    monkeypatch.setenv("JETFM_FIGURES", str(tmp_path / "figures"))
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    kept, some = tmp_path / "old", ("fig05_fixed", *LATER)
    kept.mkdir()
    for name in ("fig05_fixed.json", "ledger.json", "run.json"):
        copy_file(KEPT[0] / name, kept / name)
    for module in (redrawn, redrawn.shown):
        monkeypatch.setattr(module, "CAPTIONS", {name: CAPTIONS[name] for name in some})
    text = redraw(kept, say=lambda text: None, progress=False).read_text()
    assert "fig05_fixed.png" in text and not any(f"{name}.png" in text for name in LATER)
    (kept / "fig05_fixed.json").unlink()
    with pytest.raises(JetfmError, match=r"no fig05_fixed\.json"):
        redraw(kept, say=lambda text: None, progress=False)
