"""Where jetfm reads and writes: the clone itself, unless an environment variable says otherwise.

``JETFM_WORK`` moves the folder of artifacts, ``JETFM_FIGURES`` that of the figures.
"""

from __future__ import annotations

import os
from pathlib import Path

from jetfm.storage.files import make_folder


def project_folder() -> Path:
    """The clone that holds the package; the current folder where jetfm was installed without it."""
    clone = Path(__file__).resolve().parents[2]
    return clone if (clone / "notebooks").is_dir() else Path.cwd()


def work_folder() -> Path:
    """Folder of all artifacts, ``work/`` in the clone by default."""
    return make_folder(project_folder() / os.environ.get("JETFM_WORK", "work"))


def figures_folder(profile: str) -> Path:
    """Folder of one profile's figures, ``figures/<profile>/`` in the clone by default."""
    return make_folder(project_folder() / os.environ.get("JETFM_FIGURES", "figures") / profile)


def sample_folder() -> Path:
    """The simulated sample that ships with the repository."""
    return project_folder() / "data" / "sample"


def shipped_folder() -> Path:
    """The laptop profile's jets, which ship with the repository, by campaign and split."""
    return project_folder() / "data" / "jets"
