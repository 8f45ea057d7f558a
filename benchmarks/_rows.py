"""A row of a benchmark, as ``make bench`` prints it."""

from __future__ import annotations


def row(
    name: str,
    value: float,
    unit: str,
    reference: float | None = None,
    digits: int = 2,
    less_is_better: bool = False,
) -> dict:
    """Value beside its reference; the ratio says how many times better the value is."""
    ratio = None
    if reference is not None:
        ratio = reference / value if less_is_better else value / reference
        reference, ratio = round(reference, digits), round(ratio, digits)
    return {
        "name": name,
        "value": round(value, digits),
        "unit": unit,
        "reference": reference,
        "ratio": ratio,
    }
