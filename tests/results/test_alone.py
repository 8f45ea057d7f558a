"""A figure alone: the cells that it needs, and how it is named."""

from __future__ import annotations

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.results.alone import figures_named
from jetfm.results.cells import makers, needed, run, statements


def notebook(folder, *cells):
    path = folder / f"{abs(hash(cells))}.ipynb"
    code = [nbformat.v4.new_code_cell(text) for text in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=code), path)
    return path


def executed(path, name, **given_names):
    """What the statement with a string saw, without the rest of its notebook."""
    target = [one for one in statements(path) if name in one.strings]
    seen = []
    run(needed(target, given_names), {"draw": lambda *it: seen.append(it), **given_names})
    return seen


def test_only_what_a_cell_needs_is_executed(tmp_path):
    path = notebook(
        tmp_path,
        "import math\nfrom os import sep as slash\nraise ValueError('not this one')",
        "a = math.floor(2.5)\nb = 1 / 0",
        "panels = [a]\npanels += [slash]\ndraw('fig1', panels)",
        "panels = [a + 1]\nfor x in panels: draw('fig2', x)",
        "a = 'another'\ndraw('fig3', [y for y in panels], a)",
    )
    assert executed(path, "fig1") == [("fig1", [2, "/"])]
    assert executed(path, "fig2") == [("fig2", 3)]
    assert executed(path, "fig3") == [("fig3", [3], "another")]


def test_names_that_are_given_are_not_made(tmp_path):
    path = notebook(tmp_path, "pipeline = 1 / 0", "draw('fig1', pipeline)")
    assert executed(path, "fig1", pipeline=7) == [("fig1", 7)]
    with pytest.raises(ZeroDivisionError):
        executed(path, "fig1")


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("abcd")), max_size=8))
def test_a_slice_sees_what_the_whole_notebook_would(tmp_path_factory, assignments):
    """Chains of assignments: the value at the end is that of executing every line."""
    lines = ["a, b, c, d = 1, 2, 3, 4"]
    lines += [f"{left} = {right} * 10 + {left}" for left, right in assignments]
    whole = {}
    exec("\n".join(lines), whole)
    path = notebook(tmp_path_factory.mktemp("slice"), *lines, "draw('fig1', a)")
    assert executed(path, "fig1") == [("fig1", whole["a"])]


@pytest.mark.parametrize("name", CAPTIONS)
def test_every_figure_can_be_drawn_without_its_notebook(name):
    """All names that the chosen statements use are bound by them, but for the pipeline."""
    maker = makers(name)[0]
    assert maker.notebook.name[:2] == name[3:5]
    program, known = needed([maker], ["pipeline"]), {"pipeline"}
    for one in program:
        assert one.uses <= known, (name, one.uses - known)
        known |= one.defines
    assert program[-1] == maker and len(program) <= 7


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["fig05_finetuning"], ["fig05_finetuning"]),
        (["fig01"], ["fig01_tokenizer"]),
        (["fig04_qcd", "fig00_c*"], ["fig00_calibration", "fig00_classes", "fig04_qcd"]),
        (["2403.05618:7"], ["fig05_finetuning"]),
        (["2512.04149:5", "2512.04149:5"], ["fig05_strategies"]),
        (["fig07"], ["fig05_finetuning"]),
        (["fig18"], ["fig04_rivals"]),
        (["fig04_qcd", "fig04_q*"], ["fig04_qcd"]),
        (["fig01_tokenizer", "fig01"], ["fig01_tokenizer"]),
    ],
)
def test_figures_go_by_name_beginning_pattern_or_number_in_a_paper(patterns, expected):
    assert figures_named(patterns) == expected


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("fig99", "fig05_finetuning"),
        ("fig", "fig05_finetuning"),
        ("2403.05618:99", "fig05_finetuning"),
        ("2512.04149:7", "unknown"),
        ("2403.05618:1", "sketch"),
    ],
)
def test_other_names_are_refused_with_what_there_is(pattern, said):
    with pytest.raises(JetfmError, match=rf"--only: found '{pattern}'.*{said}"):
        figures_named([pattern])
