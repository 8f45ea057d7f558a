"""Verdicts follow from numbers by the written rule."""

from __future__ import annotations

import pytest

from jetfm.ledger.verdicts import (
    CLAIMS,
    VERDICTS,
    Claim,
    Ledger,
    Measurement,
    as_text,
    judge,
    summary,
)

NUMBER = Claim("n", "p", "w", "c", "number", 4.0, "GeV", tolerance=0.5, baseline=8.3)
BARE = Claim("b", "p", "w", "c", "number", 0.54, tolerance=0.01)
AT_MOST = Claim("m", "p", "w", "c", "number", 0.54, tolerance=0.01, bound="at most")
AT_LEAST = Claim("l", "p", "w", "c", "number", 0.85, tolerance=0.01, bound="at least")
EQUAL = Claim("e", "p", "w", "c", "equivalence", 0.0, tolerance=0.02)
FREE = Claim("f", "p", "w", "c", "equivalence", 0.0, tolerance=0.02, bound="at most")
DIRECTION = Claim("d", "p", "w", "c", "direction")


@pytest.mark.parametrize(
    ("claim", "value", "sigma", "verdict"),
    [
        (NUMBER, 4.4, 0.01, "reproduced"),
        (NUMBER, 4.9, 0.5, "reproduced"),
        (NUMBER, 4.9, 0.1, "same direction"),
        (NUMBER, 4.0, 3.0, "inconclusive"),  # right value, but far too vague
        (NUMBER, 6.0, 0.7, "same direction"),  # 4.6 to 7.4
        (NUMBER, 6.0, 0.8, "inconclusive"),  # 4.4 to 7.6, of which 4.5 agrees
        (NUMBER, 8.2, 0.1, "not reproduced"),
        (NUMBER, 9.0, 0.1, "not reproduced"),
        (BARE, 0.549, 0.001, "reproduced"),
        (BARE, 0.60, 0.001, "not reproduced"),
        (BARE, 0.50, 0.014, "not reproduced"),
        (BARE, 0.50, 0.016, "inconclusive"),
        (AT_MOST, 0.50, 0.005, "reproduced"),  # better than the paper's
        (AT_MOST, 0.56, 0.004, "not reproduced"),
        (AT_MOST, 0.56, 0.006, "inconclusive"),
        (AT_MOST, 0.50, 0.02, "inconclusive"),
        (AT_LEAST, 0.90, 0.005, "reproduced"),
        (AT_LEAST, 0.83, 0.004, "not reproduced"),
        (EQUAL, 0.0, 0.0099, "reproduced"),
        (EQUAL, 0.0, 0.0101, "inconclusive"),
        (EQUAL, -0.01, 0.004, "reproduced"),
        (EQUAL, -0.01, 0.006, "inconclusive"),
        (EQUAL, -0.03, 0.004, "not reproduced"),
        (EQUAL, 0.03, 0.004, "not reproduced"),
        (FREE, -0.5, 0.1, "reproduced"),  # the range ends below the tolerance
        (FREE, 0.01, 0.006, "inconclusive"),
        (FREE, 0.03, 0.004, "not reproduced"),
        (DIRECTION, 0.3, 0.1, "reproduced"),
        (DIRECTION, 0.3, 0.149, "reproduced"),
        (DIRECTION, 0.3, 0.151, "inconclusive"),
        (DIRECTION, -0.3, 0.2, "inconclusive"),
        (DIRECTION, -0.3, 0.1, "not reproduced"),
        (DIRECTION, 0.0, 0.0, "not reproduced"),
    ],
)
def test_rule(claim, value, sigma, verdict):
    assert judge(claim, Measurement(value, sigma, 100)) == verdict


@pytest.mark.parametrize(("value", "sigma"), [(float("nan"), 1), (1, float("inf")), (1, -1)])
def test_nothing_is_concluded_from_a_broken_number(value, sigma):
    with pytest.raises(ValueError, match="cannot be judged"):
        judge(BARE, Measurement(value, sigma, 1))


def test_claims_are_distinct_and_complete():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for claim in CLAIMS:
        assert claim.where and claim.claim
        assert (claim.paper_value is not None) == (claim.kind != "direction")
        assert claim.tolerance > 0 or claim.kind == "direction"


def test_entries_have_the_promised_keys_and_every_kind_of_verdict():
    ledger = Ledger("smoke")
    ledger.measured["gain-100"] = Measurement(0.1, 0.02, 200, 3)
    ledger.out_of_reach["mass-resolution-8192"] = "the codebook has 256 codes"
    rows = {row["id"]: row for row in ledger.entries()}
    assert list(rows["gain-100"]) == [
        "id", "paper", "where", "claim", "paper_value", "measured", "uncertainty", "unit",
        "verdict", "profile", "n_jets", "n_seeds", "note",
    ]  # fmt: skip
    assert rows["gain-100"]["verdict"] == "reproduced" and rows["gain-100"]["n_seeds"] == 3
    assert rows["mass-resolution-8192"]["verdict"] == "out of reach at this scale"
    assert rows["generation-auc"]["verdict"] == "not run"
    assert {row["verdict"] for row in rows.values()} <= set(VERDICTS)


def test_summary_counts_every_claim():
    entries = Ledger("smoke").entries()
    assert summary(entries) == f"{len(CLAIMS)} claims: {len(CLAIMS)} not run"
    assert as_text(entries).count("\n") == len(CLAIMS)
