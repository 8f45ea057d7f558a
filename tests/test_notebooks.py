"""Notebooks are thin, clean and parametrised; nbval executes them beside these tests."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NAMES = (
    "00_data", "01_tokenizer", "02_token_quality", "03_pretraining", "04_generation",
    "05_finetuning", "06_figures",
)  # fmt: skip


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def test_every_notebook_is_there_and_no_other():
    assert sorted(path.stem for path in FOLDER.glob("*.ipynb")) == sorted(NAMES)


def test_it_is_valid_and_starts_with_prose(notebook):
    nbformat.validate(notebook)
    assert notebook.cells[0].cell_type == "markdown"


def test_one_parameters_cell_defaults_to_smoke(notebook):
    cells = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    values = {}
    exec(cells[0].source, values)
    assert {k: v for k, v in values.items() if k != "__builtins__"} == {"profile": "smoke"}


def test_it_defines_nothing_and_its_cells_are_short(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            tree = ast.parse(cell.source)
            kinds = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda)
            assert not any(isinstance(node, kinds) for node in ast.walk(tree))
            assert len(cell.source.splitlines()) <= 8


def test_outputs_are_stored_only_where_nbval_checks_them(notebook):
    checked = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            if cell.source.startswith("# NBVAL_CHECK_OUTPUT"):
                checked += 1
                assert [output.output_type for output in cell.outputs] == ["stream"]
            else:
                assert cell.outputs == [] and cell.execution_count is None
    assert checked >= 1
