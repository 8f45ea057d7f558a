"""Rows of a pre-trained model: its fits on the benchmark's jets, by the profile's settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from jetfm.benchmark.collected import commit_of, points_of, size_of, tuned
from jetfm.benchmark.format import About, Row
from jetfm.data.labelled import LabelledJets
from jetfm.errors import JetfmError
from jetfm.finetuning.contenders import STARTS, Contender
from jetfm.finetuning.results import Finetuning
from jetfm.finetuning.study import Jets, Runner, run_shared
from jetfm.models.jet_model import JetModel, load_backbone
from jetfm.pipeline import Pipeline
from jetfm.pipeline.finetuning import FITS_VERSION
from jetfm.pipeline.stage import Stage
from jetfm.schema import SPLITS
from jetfm.settings import FinetuningSettings
from jetfm.storage.artifacts import fingerprint
from jetfm.storage.files import read_json
from jetfm.storage.kept import FITS
from jetfm.storage.paths import weights_folder, work_folder
from jetfm.tokenizers import Tokenizer, load_tokenizer
from jetfm.tokenizers.encoding import tokenize
from jetfm.tokenizers.interface import NAME as TOKENIZER

#: Starts of a pre-trained model: all but random weights, which know nothing of it, and masked
#: particles beside, which need its tokens of the labelled jets.
OF_A_MODEL = tuple(start for start in STARTS if start not in ("scratch", "beside"))
#: Those that it is fitted with where none is named.
USUAL = ("fixed", "linear", "finetuned")


def tokenizer_of(model: Path) -> Path:
    """Folder of the tokenizer that a pre-trained model belongs to, by its hash: among those that
    came with the repository, beside the model, and in the work folder.

    Raises
    ------
    JetfmError
        No such model, or its tokenizer is in none of these places.
    """
    record = read_json(model / f"{JetModel.kind}.json")
    wanted = record.get("config", {}).get("tokenizer_hash") if isinstance(record, dict) else None
    places = (
        model.resolve().parents[1] / "tokenizers",
        weights_folder() / "tokenizers",
        work_folder(),
    )
    for path in (path for place in places for path in sorted(place.glob(f"*/{TOKENIZER}.json"))):
        if wanted and read_json(path).get("hash") == wanted:
            return path.parent
    found = f"no tokenizer {str(wanted)[:12]} in {', '.join(map(str, places))}"
    raise JetfmError(model, found, "--tokenizer with its folder")


@dataclass(frozen=True)
class OwnModel:
    """The fits of a pre-trained model.

    Parameters
    ----------
    folder, tokenizer : of model and tokenizer
    starts : some of `OF_A_MODEL`
    sizes : numbers of labelled jets, by task
    """

    pipeline: Pipeline
    folder: Path
    tokenizer: Path
    starts: tuple[str, ...]
    sizes: Mapping[str, Sequence[int]]

    def rows(self, name: str, about: About) -> list[Row]:
        """A row a start, trained now where its fits are not there."""
        stage, settings = self._fitted(), self._settings
        artifact = stage.artifact
        tasks = Finetuning(artifact.folder).tasks
        runners = {runner.contender.weights: runner for runner in self._runners()}
        rows = []
        for start, runner in runners.items():
            known = {
                "n_parameters": size_of(runner, settings, self._known),
                "pretraining": self._pretraining(),
                "commit": commit_of(artifact),
                "n_configurations": 1,  # the profile's: nothing is chosen for this model
                **tuned(self.pipeline.profile.name, start),
            }
            known |= about.model_dump(exclude_defaults=True)
            points = points_of(tasks, self._model, start)
            text = f"{name}, {STARTS[start]}"
            row = Row(text=text, start=start, model=self._hash, about=About(**known), points=points)
            rows.append(row)
        return rows

    @cached_property
    def _hash(self) -> str:
        return JetModel.load(self.folder).hash

    @cached_property
    def _known(self) -> Tokenizer:
        return load_tokenizer(self.tokenizer)

    @property
    def _model(self) -> str:
        """What files of fits call it: they do not depend on the name that it goes by."""
        return f"model-{self._hash[:12]}"

    def _pretraining(self) -> str:
        """What the model's file says of its jets; those that ship say it."""
        profile = read_json(self.folder / f"{JetModel.kind}.json").get("profile")
        return f"training jets of profile {profile}" if profile else ""

    @property
    def _settings(self) -> FinetuningSettings:
        settings = self.pipeline.profile.finetuning
        tasks = {
            name: settings.tasks[name].model_copy(update={"sizes": tuple(some)})
            for name, some in self.sizes.items()
        }
        return settings.model_copy(update={"tasks": tasks})

    def _question(self, task: str) -> dict:
        """What a task asks, without who answers."""
        return self._settings.tasks[task].model_dump(mode="json", exclude={"contenders", "sizes"})

    def _fitted(self) -> Stage:
        campaigns = {task.jets for task in self._settings.tasks.values()}
        stored = {
            f"{campaign} {split}": self.pipeline.jets.stored(split, campaign)
            for campaign in sorted(campaigns)
            for split in SPLITS
        }
        request = {
            "finetuning": {
                **self._settings.model_dump(mode="json"),
                "tasks": {task: self._question(task) for task in self.sizes},
            },
            "sizes": self.sizes,
            "starts": self.starts,
            "max_constituents": self.pipeline.profile.data.max_constituents,
            "model": self._hash,
            "tokenizer": self._known.hash,
        }
        return self.pipeline.run.stage(
            "benchmark",
            self._fit,
            variant=fingerprint(request),
            settings=request,
            inputs=stored,
            version=FITS_VERSION,
        )

    def _fit(self, folder: Path) -> dict:
        """All fits; they are kept apart, too, for other choices of tasks and sizes."""
        runners = list(self._runners())
        kept = [work_folder() / FITS / self._of_fits(runner) for runner in runners]
        seed, shown = self.pipeline.profile.seed, self.pipeline.run.progress
        return run_shared(runners, kept, self._settings, folder, seed, shown)

    def _of_fits(self, runner: Runner) -> str:
        """Hash of all that decides the fits of one task and start."""
        settings, task = self.pipeline.profile.finetuning, self._settings.tasks[runner.task]
        stores = [self.pipeline.jets.store(split, task.jets) for split in SPLITS]
        return fingerprint(
            {
                "benchmark": FITS_VERSION,
                "seed": self.pipeline.profile.seed,
                "settings": settings.model_dump(mode="json", exclude={"tasks", "sizes", "n_seeds"}),
                "task": self._question(runner.task),
                "max_constituents": self.pipeline.profile.data.max_constituents,
                "contender": runner.contender.name,
                "tokenizer": self._known.hash,
                "jets": [store.hash_of_arrays() for store in stores],
            }
        )

    def _runners(self) -> Iterator[Runner]:
        known = self._known
        backbone = load_backbone(self.folder, known.hash)
        for task in self.sizes:
            plain = self.pipeline.finetuning.runner(task, "deepsets", "scratch").jets
            campaign = self.pipeline.profile.finetuning.tasks[task].jets

            def side(split: str, plain: Jets = plain, campaign: str = campaign) -> LabelledJets:
                tokens = self._tokens(split, campaign).folder if backbone.reads_ids else None
                own = {"preprocessing": known.preprocessing, "tokens": tokens}
                return replace(getattr(plain, split), **own)

            jets = Jets(**{split: side(split) for split in SPLITS})
            for start in self.starts:
                yield Runner(task, Contender(self._model, start, folder=self.folder), jets)

    def _tokens(self, split: str, campaign: str) -> Stage:
        """Tokens of a split, for a model that reads ids; as those of the profile's tokenizers."""
        known, stored = self._known, self.pipeline.jets.stored(split, campaign)
        limit = self.pipeline.profile.data.max_constituents
        seed = (self.pipeline.profile.seed, SPLITS.index(split))

        def make(folder: Path) -> dict:
            store = self.pipeline.jets.store(split, campaign)
            shown = self.pipeline.run.progress
            return {"n_jets": len(tokenize(known, store, folder, seed, limit, progress=shown))}

        return self.pipeline.run.stage(
            f"benchmark-tokens-{split}",
            make,
            variant=f"{known.hash[:12]} {campaign}",
            settings={"max_constituents": limit, "tokenizer": known.hash},
            inputs={"store": stored},
        )
