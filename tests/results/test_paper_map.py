"""The map from the papers to the code says what the code says."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetfm.figures import CAPTIONS, PAPER_FIGURES
from jetfm.ledger.claims import CLAIMS
from jetfm.results.alone import figures_named
from jetfm.results.paper_map import map_as_text

COMMITTED = Path(__file__).parents[2] / "docs" / "paper_map.md"


@pytest.fixture(scope="module")
def text():
    return map_as_text()


def test_the_committed_map_is_the_one_that_the_code_writes(text):
    assert COMMITTED.read_text(encoding="utf-8") == text, "run: python -m jetfm paper-map"


def test_it_has_every_figure_and_every_claim_of_both_papers(text):
    rows = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines()]
    for paper in {one.paper for one in PAPER_FIGURES}:
        part = text.partition(f"({paper.join(['[', ']'])}")[2].partition("\n## ")[0]
        for one in PAPER_FIGURES:
            if one.paper == paper:
                number = f"figure {one.number}" if one.number.isdigit() else one.number
                line = next(x for x in part.splitlines() if x.startswith(f"| {number} |"))
                assert (one.name or one.reason) in line
        for claim in CLAIMS:
            if claim.paper == paper:
                assert f"\n| `{claim.id}` |" in part
    named = {row[0].strip("|` ") for row in rows} | {row[1].strip("` ") for row in rows if row[1:]}
    assert set(CAPTIONS) <= named


def test_its_commands_name_figures(text):
    for line in text.splitlines():
        if "--only" in line:
            names = line.rpartition("--only ")[2].rstrip("` |").split()
            assert names and sorted(figures_named(names)) == sorted(names)
