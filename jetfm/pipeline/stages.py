"""What all stages share: the profile, where work and figures are kept."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from matplotlib.figure import Figure

from jetfm.figures import style
from jetfm.runtime.distributed import rank
from jetfm.settings.profiles import Profile, load_profile
from jetfm.storage.artifacts import Artifact, as_json, produce
from jetfm.storage.paths import figures_folder, work_folder


def silent(_: str) -> None:
    """Say nothing: for workers, whose words would tear the progress bar apart."""


class NotMade(Exception):
    """A stage that is not there yet, met while only looking."""


class Stages:
    """One profile and the stages found or made so far.

    Parameters
    ----------
    profile : name of a shipped profile, path of a YAML file, or a Profile
    progress : show progress bars
    say : told which stage starts, ends, or is found done
    """

    def __init__(
        self,
        profile: str | Path | Profile = "smoke",
        progress: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        first = rank() == 0  # of several processes one talks
        self.progress, self.say = progress and first, say if first else silent
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        style.use_style()
        self._found: dict[str, Artifact] = {}
        self._only_look = False

    def _stage(
        self, name: str, make: Callable[[Path], dict | None], variant: str = "", **request
    ) -> Artifact:
        """The artifact of a stage; `variant` tells apart those that run several times."""
        key = f"{name} {variant}".strip()
        if key not in self._found:
            request = {"work": work_folder(), "seed": self.profile.seed} | request
            say = silent if self._only_look else self.say
            artifact = produce(name, None if self._only_look else make, say=say, **request)
            if artifact is None:
                raise NotMade(key)
            self._found[key] = artifact
        return self._found[key]

    def is_made(self, stage: Callable[[], object]) -> bool:
        """Whether calling a stage would find it, and all that it needs, done before."""
        self._only_look = True
        try:
            stage()
        except NotMade:
            return False
        finally:
            self._only_look = False
        return True

    @cached_property
    def figures(self) -> Path:
        """Folder of this profile's figures."""
        return figures_folder(self.profile.name)

    def figure(self, name: str, draw: Callable[..., Figure], **data) -> Figure:
        """Draw a figure and save it as PDF, PNG and JSON; the JSON holds `data`."""
        data = as_json(data)
        figure = draw(**data)
        style.save(figure, data, name, self.figures)
        return figure
