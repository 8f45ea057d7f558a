"""Finished stages kept apart from the machine that made them, and found there instead of made.

In ``work/`` a stage is known by the bits of what it read. Another machine has none of the large
files that lie between, and need not make them: a kept stage is known by its *recipe*, its own
settings, seed and versions and the recipes of what it reads. It is used where it lies. What it read
of other kept stages must be those that are found, so that nothing of two runs is mixed.

Fits of the fine-tuning study, which other studies share, are known by the bits of their jets and
models: scores belong to jets.

``weights/`` is such a folder: a profile whose models ship begins with them. ``jetfm keep`` writes
others, of everything that is small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from jetfm.storage.artifacts import RECORD, SCRATCH, Artifact, fingerprint
from jetfm.storage.files import copy_file, read_json, write_json

FITS = "fits"  # folder of single fits
_OWN = ("stage", "version", "jetfm", "seed", "settings")


class KeptStages:
    """What folders of kept stages hold.

    Parameters
    ----------
    folders : searched in this order, at any depth
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)

    @cached_property
    def _records(self) -> dict[str, list[Artifact]]:
        """By what a stage is without its inputs."""
        found: dict[str, list[Artifact]] = {}
        for folder in self.folders:
            for path in sorted(folder.rglob(RECORD)):
                record = read_json(path)
                if "recipe" in record:  # others are a machine's own work
                    found.setdefault(_own(record), []).append(Artifact(path.parent, record))
        return found

    def like(self, request: Mapping) -> list[Artifact]:
        """Kept stages that agree with a request but, maybe, for what they read."""
        return self._records.get(_own(request), [])

    def fits(self, name: str) -> list[Path]:
        """Folders of fits of this name."""
        return [there for folder in self.folders for there in folder.rglob(f"{FITS}/{name}")]


def recipe_of(request: Mapping, inputs: Mapping[str, str]) -> str:
    """Hash of a stage's request with the recipes of its inputs for their digests."""
    return fingerprint({key: request[key] for key in _OWN} | {"inputs": dict(inputs)}, length=64)


def keep(artifact: Artifact, recipe: str, folder: Path, largest: int) -> list[str]:
    """Copy a finished stage into ``folder``; its record, and files up to `largest` bytes.

    Returns
    -------
    names of larger files, which are left out: what reads them cannot be made there
    """
    left_out = []
    measured = artifact.folder.glob(f"{SCRATCH}/*.json")  # times, which no digest counts
    for name in (*artifact.record["files"], *(f"{SCRATCH}/{path.name}" for path in measured)):
        if (artifact / name).stat().st_size <= largest:
            copy_file(artifact / name, folder / name)
        else:
            left_out.append(name)
    write_kept_record(artifact, recipe, folder)
    return left_out


def write_kept_record(artifact: Artifact, recipe: str, folder: Path) -> None:
    """What makes a folder with a stage's files a kept stage; written last.

    Its digest stays that of the stage as it was made, also where weights have lost half their
    digits on the way: what was made from it goes on to belong to it.
    """
    write_json(folder / RECORD, artifact.record | {"recipe": recipe})


def _own(request: Mapping) -> str:
    return fingerprint({key: request[key] for key in _OWN})
