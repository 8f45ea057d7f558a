"""Where jetfm reads and writes: the clone itself, unless an environment variable says otherwise.

``JETFM_WORK`` moves the folder of artifacts, ``JETFM_FIGURES`` that of the figures, ``JETFM_KEPT``
names folders of kept stages in place of ``weights/``; empty, they do nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.storage.files import make_folder


def project_folder() -> Path:
    """The clone that holds the package; the current folder where jetfm was installed without it."""
    clone = Path(__file__).resolve().parents[2]
    return clone if (clone / "notebooks").is_dir() else Path.cwd()


def expanded(path: str | Path) -> Path:
    """A path with its ``~``, which shells leave alone in ``--out=~/jets`` and settings.

    Raises
    ------
    JetfmError
        A home folder that nobody knows.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise JetfmError(path, "a home folder that is not known", "a path without ~") from None


def work_folder() -> Path:
    """Folder of all artifacts, ``work/`` in the clone by default.

    Made by what writes into it: to look at it takes no permission to write.
    """
    return _named_by("JETFM_WORK", "work")


def figures_folder(profile: str) -> Path:
    """Folder of one profile's figures, ``figures/<profile>/`` in the clone by default."""
    return make_folder(_named_by("JETFM_FIGURES", "figures") / profile)


def _named_by(variable: str, otherwise: str) -> Path:
    return project_folder() / expanded(os.environ.get(variable, "").strip() or otherwise)


def sample_folder() -> Path:
    """The simulated sample that ships with the repository."""
    return project_folder() / "data" / "sample"


def weights_folder() -> Path:
    """The pre-trained models that ship with the repository."""
    return project_folder() / "weights"


def kept_folders() -> list[Path]:
    """Where finished stages are looked for before they are made (`jetfm.storage.kept`).

    ``weights/`` by default; ``JETFM_KEPT`` names others, as `PATH` names folders, or ``none``.

    Raises
    ------
    JetfmError
        A named folder that is not there.
    """
    named = os.environ.get("JETFM_KEPT", "").strip()
    if not named:
        return [weights_folder()]
    if named == "none":
        return []
    folders = [project_folder() / expanded(name) for name in named.split(os.pathsep) if name]
    for folder in folders:
        if not folder.is_dir():
            raise JetfmError(f"JETFM_KEPT={named}", f"no folder {folder}", "folders of kept stages")
    return folders


def shipped_folder() -> Path:
    """The laptop profile's jets, which ship with the repository, by campaign and split."""
    return project_folder() / "data" / "jets"
