"""The papers' claims beside what was measured here, each with a verdict computed by a rule.

A claim is either a *number* (the paper prints a value) or a *direction* (the paper says that one
thing exceeds another). What was measured carries one standard deviation of uncertainty. The rules:

number
    ``reproduced`` when the measured value is within the claim's tolerance or two standard
    deviations of the paper's, and its standard deviation is no larger than the tolerance (a vague
    measurement confirms nothing); else ``same direction`` when the claim has a baseline and the
    value lies on the paper's side of it by more than two standard deviations; else
    ``not reproduced``.
direction
    Measured is the difference that the paper says is positive. ``reproduced`` above two standard
    deviations; ``same direction`` when positive but within two; else ``not reproduced``.

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
from typing import Literal

from jetfm.files import read_json, write_json

VERDICTS = (
    "reproduced", "same direction", "not reproduced", "out of reach at this scale", "not run",
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    Attributes
    ----------
    id : short name
    paper : arXiv number
    where : section, figure or table
    claim : the statement in our words
    kind : 'number' or 'direction'
    paper_value : the paper's number; None where it gives none
    unit : of the values
    tolerance : absolute; a number this close counts as the same
    baseline : a value that a number must beat to go in the same direction
    """

    id: str
    paper: str
    where: str
    claim: str
    kind: Literal["number", "direction"]
    paper_value: float | None = None
    unit: str = ""
    tolerance: float = 0.0
    baseline: float | None = None


@dataclass(frozen=True)
class Measurement:
    """What was measured for a claim: value, one standard deviation, and how it came about."""

    value: float
    uncertainty: float
    n_jets: int
    n_seeds: int = 1
    note: str = ""


OMNIJET, HYBRID = "2403.05618", "2512.04149"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "mass-resolution-512", OMNIJET, "III A, figure 4",
        "Conditional tokens, codebook of 512: width of the jet-mass residual of t->bqq' jets",
        "number", 8.3, "GeV", tolerance=1.0,
    ),
    Claim(
        "mass-resolution-8192", OMNIJET, "III A, figure 4",
        "Conditional tokens, codebook of 8192: width of the jet-mass residual of t->bqq' jets",
        "number", 4.0, "GeV", tolerance=0.5, baseline=8.3,
    ),
    Claim(
        "mass-centred", OMNIJET, "III A, figure 4",
        "Conditional tokens: the jet-mass residual is centred at zero, far below the 15 GeV shift "
        "of unconditional tokens",
        "number", 0.0, "GeV", tolerance=1.0,
    ),
    Claim(
        "tau32-bias", OMNIJET, "III A, figure 4",
        "Conditional tokens, codebook of 8192: tokenised jets have a smaller tau32 than the "
        "original ones (original minus reconstructed is positive)",
        "direction",
    ),
    Claim(
        "generation-auc", OMNIJET, "III B, appendix A 5",
        "A DeepSets classifier separates generated from reconstructed jets with this AUC",
        "number", 0.54, "", tolerance=0.01,
    ),
    Claim(
        "finetune-100", OMNIJET, "III C, figure 7",
        "Fine-tuned on 100 jets: accuracy of t->bqq' against q/g",
        "number", 0.85, "", tolerance=0.01,
    ),
    Claim(
        "finetune-1000", OMNIJET, "IV, figure 7",
        "Fine-tuned on 1000 jets: accuracy of t->bqq' against q/g",
        "number", 0.90, "", tolerance=0.01,
    ),
    Claim(
        "scratch-1000", OMNIJET, "IV, figure 7",
        "From scratch on 1000 jets: accuracy of t->bqq' against q/g",
        "number", 0.75, "", tolerance=0.02,
    ),
    Claim(
        "gain-100", OMNIJET, "III C, figure 7",
        "At 100 jets, fine-tuned accuracy exceeds that from scratch",
        "direction",
    ),
    Claim(
        "gain-1000", OMNIJET, "IV, figure 7",
        "At 1000 jets, fine-tuned accuracy exceeds that from scratch by 15 points",
        "number", 0.15, "", tolerance=0.02, baseline=0.0,
    ),
    Claim(
        "gain-largest", OMNIJET, "IV, figure 7",
        "At the largest training size, fine-tuned accuracy still exceeds that from scratch",
        "direction",
    ),
    Claim(
        "open-beats-fixed", OMNIJET, "III C, figure 7",
        "Fine-tuning all weights does slightly better than a fixed backbone (at 1000 jets)",
        "direction",
    ),
    Claim(
        "fewer-labels-larger-gain", HYBRID, "second-hand summary, key results",
        "The gain of pre-training over scratch is largest for few training jets (gain at 100 jets "
        "minus gain at the largest size)",
        "direction",
    ),
)  # fmt: skip


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
    if claim.kind == "direction":
        if value > 2 * sigma:
            return "reproduced"
        return "same direction" if value > 0 else "not reproduced"
    precise = sigma <= claim.tolerance
    if precise and abs(value - claim.paper_value) <= max(2 * sigma, claim.tolerance):
        return "reproduced"
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
    return {claim.id: claim.tolerance for claim in CLAIMS if claim.kind == "number"}


def load(path: str | Path) -> list[dict]:
    """Rows of a ledger file."""
    return read_json(path)
