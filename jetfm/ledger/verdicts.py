"""The papers' claims beside what was measured here, each with a verdict computed by a rule.

A claim is a *number* (the paper prints a value), an *equivalence* (the paper says that two things
are equal) or a *direction* (the paper says that one thing exceeds another). What was measured
carries an uncertainty, twice of which covers 95.4 % (two standard deviations; of few seeds the
quantile of Student's t). Below, the range is the measured value and twice its uncertainty to both
sides, and what agrees is within the tolerance of the paper's value; where the claim is a bound,
what is better agrees, too. The rules:

number
    ``reproduced`` when the value agrees, or the paper's is in the range, and the uncertainty is no
    larger than the tolerance (a vague measurement confirms nothing); else ``inconclusive`` when the
    range reaches what agrees; else ``same direction`` when the claim has a baseline and all of the
    range lies on the paper's side of it; else ``not reproduced``.
equivalence
    ``reproduced`` when all of the range agrees, ``inconclusive`` when some of it does, else
    ``not reproduced``.
direction
    Measured is the difference that the paper says is positive. ``reproduced`` when all of the range
    is positive, ``not reproduced`` when none is, else ``inconclusive``.

A mean over training sizes is one over those with three fits or more, if there are any; its note
names them.

A claim whose settings the profile does not include (a codebook of 8192, 10 000 training jets) is
``out of reach at this scale``; one whose stage has not run is ``not run``.

The tolerances of numbers are our choice: they are what we would accept as the same result from
another generator and detector, and stand with each claim.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from jetfm.ledger.claims import CLAIMS, Claim
from jetfm.storage.files import read_json, write_json

VERDICTS = (
    "reproduced", "same direction", "inconclusive", "not reproduced", "out of reach at this scale",
    "not run",
)  # fmt: skip


@dataclass(frozen=True)
class Measurement:
    """What was measured for a claim: value, half of what covers 95.4 %, and how it came about."""

    value: float
    uncertainty: float
    n_jets: int
    n_seeds: int = 1
    note: str = ""


@dataclass
class Ledger:
    """Measurements of one profile, judged claim by claim."""

    profile: str
    measured: dict[str, Measurement] = field(default_factory=dict)
    out_of_reach: dict[str, str] = field(default_factory=dict)

    def entries(self, claims: Iterable[Claim] = CLAIMS) -> list[dict]:
        """One row a claim, in the claims' order, with keys as the ledger file has them."""
        rows = []
        for claim in claims:
            measurement = self.measured.get(claim.id)
            row = {key: asdict(claim)[key] for key in ("id", "paper", "where", "claim")}
            row |= {
                "paper_value": claim.paper_value,
                "measured": measurement.value if measurement else None,
                "uncertainty": measurement.uncertainty if measurement else None,
                "unit": claim.unit,
                "verdict": self._verdict(claim),
                "profile": self.profile,
                "n_jets": measurement.n_jets if measurement else 0,
                "n_seeds": measurement.n_seeds if measurement else 0,
                "note": measurement.note if measurement else self.out_of_reach.get(claim.id, ""),
            }
            rows.append(row)
        return rows

    def _verdict(self, claim: Claim) -> str:
        if claim.id in self.measured:
            return judge(claim, self.measured[claim.id])
        return "out of reach at this scale" if claim.id in self.out_of_reach else "not run"

    def save(self, path: str | Path) -> Path:
        """Write ``ledger.json``."""
        return write_json(path, self.entries())


def judge(claim: Claim, measured: Measurement) -> str:
    """Verdict by the rules at the top of this module.

    Raises
    ------
    ValueError
        A measurement that is not finite, or a negative uncertainty: there is nothing to judge.
    """
    value, sigma = measured.value, measured.uncertainty
    if not (math.isfinite(value) and math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"{claim.id}: measured {value} +- {sigma} cannot be judged")
    low, high = value - 2 * sigma, value + 2 * sigma
    if claim.kind == "direction":
        if low > 0:
            return "reproduced"
        return "inconclusive" if high > 0 else "not reproduced"
    least, most = claim.agrees
    reaches = low <= most and high >= least
    if claim.kind == "equivalence":
        if least <= low and high <= most:
            return "reproduced"
        return "inconclusive" if reaches else "not reproduced"
    near = least <= value <= most or low <= claim.paper_value <= high
    if near and sigma <= claim.tolerance:
        return "reproduced"
    if reaches:
        return "inconclusive"
    if claim.baseline is not None:
        side = math.copysign(1.0, claim.paper_value - claim.baseline)
        if side * (value - claim.baseline) > 2 * sigma:
            return "same direction"
    return "not reproduced"


def summary(entries: list[dict]) -> str:
    """Verdict counts in one line."""
    counts = Counter(row["verdict"] for row in entries)
    parts = [f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict]]
    return f"{len(entries)} claims: " + ", ".join(parts)


def as_text(entries: list[dict]) -> str:
    """The ledger as a table for a terminal."""
    lines = [f"{'claim':26s} {'paper':>8s} {'measured':>19s}  verdict"]
    for row in entries:
        paper = "-" if row["paper_value"] is None else f"{row['paper_value']:g}"
        ours = "-"
        if row["measured"] is not None:
            ours = f"{row['measured']:.4g} +- {row['uncertainty']:.2g} {row['unit']}".strip()
        lines.append(f"{row['id']:26s} {paper:>8s} {ours:>19s}  {row['verdict']}")
    return "\n".join(lines)


def tolerances() -> dict[str, float]:
    """Tolerance of every claim that has a number, by id."""
    return {claim.id: claim.tolerance for claim in CLAIMS if claim.kind != "direction"}


def load(path: str | Path) -> list[dict]:
    """Rows of a ledger file."""
    return read_json(path)
