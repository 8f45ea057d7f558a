"""Claims know the figures that show what they are about."""

from __future__ import annotations

import re

import pytest

from jetfm.figures import CAPTIONS, PAPER_FIGURES
from jetfm.ledger.claims import CLAIMS

OURS = {(one.paper, one.number): one.name for one in PAPER_FIGURES}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.id)
def test_they_are_ours_and_follow_those_of_the_papers_where_the_claim_stands(claim):
    assert claim.figures and set(claim.figures) <= set(CAPTIONS)
    named = re.search(r"figures? (\d+)[ab]?(?: and (\d+))?", claim.where)
    for number in filter(None, named.groups() if named else ()):
        assert OURS[claim.paper, number] in claim.figures
