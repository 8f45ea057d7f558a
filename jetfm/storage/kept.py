"""Finished stages kept apart from the machine that made them, and found there instead of made.

In ``work/`` a stage is known by the bits of what it read. Another machine may make the same jets
with other bits, and has none of the large files that lie between. A kept stage is therefore known
by its *recipe*: its own settings, seed and versions, and the recipes of what it reads. It is used
where it lies, and nothing that it was made from is made for it.

``weights/`` is such a folder: a profile whose models ship begins with them. ``jetfm keep`` writes
others, of everything that is small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from jetfm.storage.artifacts import RECORD, SCRATCH, Artifact, fingerprint
from jetfm.storage.files import copy_file, read_json, write_json

FITS = "fits"  # folder of single fits, which studies share, by recipe
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
                found.setdefault(_own(record), []).append(Artifact(path.parent, record))
        return found

    def find(self, request: Mapping, recipe: Callable[[], str]) -> Artifact | None:
        """The kept stage of a request; its recipe is asked for only where the rest agrees."""
        same = self._records.get(_own(request), [])
        wanted = recipe() if same else None
        return next((one for one in same if one.record["recipe"] == wanted), None)

    def fits(self, recipe: str) -> list[Path]:
        """Folders with fits of this recipe."""
        return [there for folder in self.folders if (there := folder / FITS / recipe).is_dir()]


def recipe_of(request: Mapping, inputs: Mapping[str, str]) -> str:
    """Hash of a stage's request with the recipes of its inputs for their digests."""
    return fingerprint({key: request[key] for key in _OWN} | {"inputs": dict(inputs)}, length=64)


def keep(artifact: Artifact, recipe: str, folder: Path, largest: int) -> int:
    """Copy a finished stage into ``folder``; its record, and files up to `largest` bytes.

    Returns
    -------
    bytes copied
    """
    total = 0
    measured = artifact.folder.glob(f"{SCRATCH}/*.json")  # times, which no digest counts
    for name in (*artifact.record["files"], *(f"{SCRATCH}/{path.name}" for path in measured)):
        size = (artifact / name).stat().st_size
        if size <= largest:
            copy_file(artifact / name, folder / name)
            total += size
    write_kept_record(artifact, recipe, folder)
    return total


def write_kept_record(artifact: Artifact, recipe: str, folder: Path) -> None:
    """What makes a folder with a stage's files a kept stage."""
    write_json(folder / RECORD, artifact.record | {"recipe": recipe})


def _own(request: Mapping) -> str:
    return fingerprint({key: request[key] for key in _OWN})
