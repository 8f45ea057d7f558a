"""Keep what a profile has finished for another machine: `jetfm.storage.kept`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from jetfm.pipeline import Pipeline
from jetfm.storage.files import copy_file, write_npy
from jetfm.storage.kept import FITS, keep

# Large and soon made, or collected from fits; observables are those of these very jets.
_MADE_AGAIN = ("jets", "store", "tokens", "observables", "finetuning")


def keep_finished(
    pipeline: Pipeline, out: Path, largest: int, say: Callable[[str], None] = print
) -> Path:
    """Write the finished stages and fits of a profile, but for jets and what is soon made of them.

    What is kept already, in ``weights/`` or elsewhere, is left out.

    Parameters
    ----------
    out : a folder; what it holds already stays
    largest : bytes; larger files are left out, and named
    """
    n_stages = 0
    for stage in pipeline.stages().stages:
        artifact = stage.find()
        if artifact is None or stage.is_kept or stage.name.partition("-")[0] in _MADE_AGAIN:
            continue
        left_out = keep(artifact, stage.recipe, out / f"{stage.name}-{stage.recipe[:10]}", largest)
        if left_out:
            say(f"{stage.key}: without {', '.join(left_out)}, too large")
        n_stages += 1
    n_fits = sum(
        _keep_fits(folder, out / FITS / folder.name) for folder in pipeline.finetuning.fits()
    )
    say(f"{n_stages} stages and {n_fits} fits more")
    return out


def _keep_fits(folder: Path, out: Path) -> int:
    """Copy the fits of a contender, scores in half precision; how many were not there."""
    n_fits = 0
    for path in sorted(folder.glob("*.json")):
        there = out / path.name
        if not there.exists():
            scores = np.load(path.with_suffix(".npy"), allow_pickle=False)
            write_npy(there.with_suffix(".npy"), scores.astype(np.float16))
            copy_file(path, there)
            n_fits += 1
    return n_fits
