"""A small search for the learning rate of every start, on validation jets alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from jetfm.finetuning.study import Runner, run_study
from jetfm.settings import FinetuningSettings
from jetfm.settings.finetuning import Weights


def search_rates(
    runners: Sequence[Runner],
    settings: FinetuningSettings,
    rates: Sequence[float],
    folder: Path,
    seed: int,
    progress: bool = True,
) -> list[dict]:
    """Fit every runner at every size with every rate; finished fits are found and skipped.

    Test jets are not looked at: the validation jets, which end the fits, score them, too. That
    flatters every rate alike.

    Returns
    -------
    a row a task, contender, size and rate, with one 'accuracy' and 'cut' a seed
    """
    blind = [replace(runner, jets=replace(runner.jets, test=runner.jets.val)) for runner in runners]
    rows = []
    for rate in rates:
        chosen = settings.model_copy(update={"rates": dict.fromkeys(get_args(Weights), rate)})
        found = run_study(blind, chosen, folder / f"{rate:g}", seed, progress)
        keys = ("model", "weights", "size", "accuracy", "cut")
        rows += [
            {"task": task, "rate": rate} | {key: row[key] for key in keys}
            for task, result in found.items()
            for row in result["rows"]
        ]
    return rows


def as_text(rows: Sequence[dict]) -> str:
    """Mean accuracy by rate, a line a task, contender and size; the best rate has a star."""
    rates = sorted({row["rate"] for row in rows})
    lines = [f"{'':44s}{'jets':>7s}" + "".join(f"{rate:>10g}" for rate in rates)]
    groups: dict[tuple, dict] = {}
    for row in rows:
        key = row["task"], f"{row['model']} {row['weights']}", row["size"]
        groups.setdefault(key, {})[row["rate"]] = sum(row["accuracy"]) / len(row["accuracy"])
    for (task, contender, size), found in groups.items():
        best = max(found, key=found.get)
        cells = "".join(f"{found[r]:>9.3f}{'*' if r == best else ' '}" for r in rates)
        lines.append(f"{f'{task}, {contender}':44s}{size:>7,d}{cells}")
    return "\n".join(lines)
