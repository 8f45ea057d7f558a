"""Keep what a profile has finished for another machine: `jetfm.storage.kept`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jetfm.pipeline import Pipeline
from jetfm.storage.files import copy_file, write_npy
from jetfm.storage.kept import FITS, keep

_MADE_AGAIN = (
    "jets",
    "store",
    "tokens",
    "finetuning",
)  # large and soon made; or collected from fits


def keep_finished(
    pipeline: Pipeline, out: Path, largest: int, say: Callable[[str], None] = print
) -> Path:
    """Write the finished stages and fits of a profile, but for jets and tokens.

    What is kept already, in ``weights/`` or elsewhere, is left out.

    Parameters
    ----------
    out : a folder; what it holds already stays
    largest : bytes; larger files are left out, and a stage that needs them cannot be made there
    """
    n_stages = 0
    for stage in pipeline.stages().stages:
        artifact = stage.find()
        if artifact is None or stage.name.partition("-")[0] in _MADE_AGAIN or stage.is_kept:
            continue
        keep(artifact, stage.recipe, out / f"{stage.name}-{stage.recipe[:10]}", largest)
        n_stages += 1
    n_fits = sum(_keep_fits(*fits, out) for fits in pipeline.finetuning.fits())
    say(f"{n_stages} stages and {n_fits} fits more")
    return out


def _keep_fits(folder: Path, recipe: str, out: Path) -> int:
    """Copy the fits of a contender, scores in half precision; how many were not there."""
    n_fits = 0
    for path in sorted(folder.glob("*.json")):
        there = out / FITS / recipe / path.name
        if not there.exists():
            scores = np.load(path.with_suffix(".npy"), allow_pickle=False)
            write_npy(there.with_suffix(".npy"), scores.astype(np.float16))
            copy_file(path, there)
            n_fits += 1
    return n_fits
