"""One stage: what it needs, how it is made, whether it is there; and the run that it belongs to.

A stage is declared with the stages that it reads, and made when its artifact is asked for: first
what it needs, then itself, or nothing where it is found done (`jetfm.storage.artifacts`). Its
inputs are artifacts, and the digest that names its folder follows from theirs. One that is kept
(`jetfm.storage.kept`), as those of ``weights/`` are, is used as it is, and nothing made for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jetfm.errors import JetfmError
from jetfm.runtime.cores import n_cores
from jetfm.runtime.device import DEVICE, computing_on, current_device, device_for
from jetfm.runtime.distributed import rank
from jetfm.runtime.parallel import run_fits
from jetfm.settings.profiles import Profile
from jetfm.storage.artifacts import Artifact, produce, request_of
from jetfm.storage.files import sha256
from jetfm.storage.kept import KeptStages, recipe_of
from jetfm.storage.paths import kept_folders, work_folder

_HASHED = 64 * 2**20  # bytes; larger source files are known by name, size and time


def silent(_: str) -> None:
    """Say nothing: for workers, whose words would tear the progress bar apart."""


@dataclass(eq=False)
class Stage:
    """Declared by `Run.stage`, which explains the fields.

    Attributes
    ----------
    key : tells a run's stages apart
    """

    run: Run
    name: str
    make: Callable[[Path], dict | None] = field(repr=False)
    variant: str = ""
    settings: Any = field(default=None, repr=False)
    inputs: Mapping[str, Stage] = field(default_factory=dict, repr=False)
    files: SourceFiles | None = field(default=None, repr=False)
    also: Sequence[Stage] = field(default=(), repr=False)
    version: int = 1
    together: bool = False
    elsewhere: Callable[[], None] | None = field(default=None, repr=False)
    _found: Artifact | None = field(default=None, init=False, repr=False)

    @property
    def key(self) -> str:
        return f"{self.name} {self.variant}".strip()

    @property
    def needs(self) -> list[Stage]:
        """The stages that it reads."""
        files = self.files.made_by if self.files else ()
        return [*self.inputs.values(), *files, *self.also]

    @property
    def artifact(self) -> Artifact:
        """The finished stage, made now with all that it needs if it is not there.

        Raises
        ------
        RuntimeError
            The run is restricted to others (`Run.restrict`).
        """
        if self._found is None and not self._in_work() and (kept := self._kept()):
            self.run.say(f"{self.key}: kept in {kept.folder}")
            self._found = kept
        if self._found is None:
            if not self.run.wants(self):
                raise RuntimeError(f"{self.key} is read by a figure that does not say so (read_by)")
            with computing_on(self.run.device):
                if self.elsewhere is not None and self.find() is None:
                    self.elsewhere()
                for stage in self.needs:
                    stage.artifact  # noqa: B018, made
                self._found = self._produce(self.make, self.run.say)
        return self._found

    @property
    def folder(self) -> Path:
        """Folder of the artifact, made if it is not there."""
        return self.artifact.folder

    def find(self) -> Artifact | None:
        """The finished stage; None, and nothing made, where it or what it needs is not there, nor
        itself kept."""
        if self._found is None:
            self._found = self._in_work() or self._kept()
        return self._found

    def _in_work(self) -> Artifact | None:
        if not all(stage.find() for stage in self.needs):
            return None
        try:
            if self.files:
                self.files.paths()
        except JetfmError:  # there are none; other faults are told
            return None
        return self._produce(None, silent)

    def _kept(self) -> Artifact | None:
        like = self.run.kept.like(self._request({}))
        try:
            recipe = self.recipe if like else ""
        except JetfmError:  # no files of jets that it could be of: told when they are needed
            return None
        return next((one for one in like if one.record["recipe"] == recipe and self._of(one)), None)

    def _of(self, kept: Artifact) -> bool:
        """Whether a kept stage read the kept stages that are found."""
        read = kept.record["inputs"]
        return all(
            stage.artifact.digest == read[name]
            for name, stage in self.inputs.items()
            if name in read and stage.find() and stage.is_kept
        )

    @property
    def is_kept(self) -> bool:
        """Whether it was found finished in a folder of kept stages, and not in ``work/``."""
        return self._found is not None and "recipe" in self._found.record

    @cached_property
    def recipe(self) -> str:
        """What it is, whoever made it: settings, seed, versions and the recipes of what it reads,
        not their bits."""
        inputs = {name: stage.recipe for name, stage in self.inputs.items()}
        if self.files and self.files.made_by:
            inputs |= {stage.key: stage.recipe for stage in self.files.made_by}
        elif self.files:
            inputs |= self.files.digests()
        return recipe_of(self._request({}), inputs)

    def _request(self, inputs: Mapping[str, str]) -> dict:
        return request_of(self.name, self.settings, inputs, self.run.profile.seed, self.version)

    def _produce(self, make: Callable | None, say: Callable[[str], None]) -> Artifact | None:
        digests = {name: stage.artifact.digest for name, stage in self.inputs.items()}
        return produce(
            self.name,
            make,
            work=work_folder(),
            settings=self.settings,
            inputs=digests | (self.files.digests() if self.files else {}),
            seed=self.run.profile.seed,
            version=self.version,
            together=self.together,
            say=say,
        )


@dataclass(frozen=True)
class SourceFiles:
    """Files that a stage reads: a user's, or single ones of an artifact.

    Parameters
    ----------
    paths : finds them; raises JetfmError where there are none
    made_by : stages whose artifacts hold them
    """

    paths: Callable[[], list[Path]]
    made_by: tuple[Stage, ...] = ()

    def digests(self) -> dict[str, str]:
        return {f"{path.parent.name}/{path.name}": _digest(path) for path in self.paths()}


def _digest(path: Path) -> str:
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@cache  # a stage is asked for several times
def _digest_of(path: Path, size: int, mtime_ns: int) -> str:
    return sha256(path) if size <= _HASHED else f"{path.name}:{size}:{mtime_ns}"


class Run:
    """One profile's run, and the stages declared in it so far.

    Parameters
    ----------
    profile : settings of all stages
    progress : show progress bars
    say : told which stage starts, ends, or is found done
    in_worker : ``in_worker(profile, keys)`` makes stages in a worker process

    Attributes
    ----------
    kept : finished stages that are not made again
    """

    def __init__(
        self,
        profile: Profile,
        progress: bool,
        say: Callable[[str], None],
        in_worker: Callable[[Profile, Sequence[str]], None],
    ) -> None:
        first = rank() == 0  # of several processes one talks
        self.profile = profile
        self.progress, self.say = progress and first, say if first else silent
        self.device = device_for(profile.n_parameters)
        if self.device != current_device():
            self.say(
                f"small networks: on {n_cores()} cores side by side, not on the GPU, which would"
                f" take longer ({DEVICE}=cuda has them there)"
            )
        self.stages: dict[str, Stage] = {}
        self.kept = KeptStages(kept_folders())
        self.only: dict[str, Stage] | None = None
        self._in_worker = in_worker

    def restrict(self, stages: Iterable[Stage]) -> None:
        """Make no other stages than these and what they need."""
        self.only, left = {}, list(stages)
        while left:
            stage = left.pop()
            if stage.key not in self.only:
                self.only[stage.key] = stage
                left += stage.needs

    def wants(self, stage: Stage) -> bool:
        """Whether a stage is to be made: all are, unless the run is restricted to some."""
        return self.only is None or stage.key in self.only

    def stage(
        self,
        name: str,
        make: Callable[[Path], dict | None],
        *,
        variant: str = "",
        settings: Any = None,
        inputs: Mapping[str, Stage] | None = None,
        files: SourceFiles | None = None,
        also: Sequence[Stage] = (),
        version: int = 1,
        together: bool = False,
        elsewhere: Callable[[], None] | None = None,
    ) -> Stage:
        """Declare a stage, or get the one that was declared under this name and variant.

        Parameters
        ----------
        name : first part of the folder's name
        make : fills the folder and returns metrics; may read the artifacts of `inputs`
        variant : tells apart those that run several times
        settings : all that decides the result, beside inputs, seed and version
        inputs : the stages that it reads, by the name under which their digests are recorded
        files : source files that it reads
        also : stages that it reads, whose digests follow from those of its inputs
        version : raise it when a change of the code changes the result
        together : all processes of a training make it together
        elsewhere : called first where the stage is not there; may make it in other processes
        """
        stage = Stage(
            self, name, make, variant, settings, inputs or {}, files, also, version, together,
            elsewhere,
        )  # fmt: skip
        return self.stages.setdefault(stage.key, stage)

    def side_by_side(self, title: str, groups: Iterable[Sequence[Stage]], unit: str) -> None:
        """Make groups of stages in worker processes, one core each, but for what is there or is not
        wanted.

        What several groups need is made before, here: two workers would wait for each other.
        """
        groups = [[one for one in group if self.wants(one) and not one.find()] for group in groups]
        groups = [group for group in groups if group]
        if not groups or rank() > 0:
            return
        needed = [{stage.key: stage for stage in _missing_below(group)} for group in groups]
        for position, stages in enumerate(needed):
            for key, stage in stages.items():
                if any(key in others for others in needed[position + 1 :]):
                    stage.artifact  # noqa: B018, made
        tasks = [(self.profile, [stage.key for stage in group]) for group in groups]
        with computing_on(self.device):
            run_fits(self._in_worker, tasks, 0, title, self.progress, unit)


def _missing_below(stages: Iterable[Stage]) -> Iterator[Stage]:
    """All that stages need, directly or through others, and that is not there."""
    for stage in stages:
        for below in stage.needs:
            if not below.find():
                yield from _missing_below([below])
                yield below
