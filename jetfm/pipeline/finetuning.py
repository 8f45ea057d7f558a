"""Notebook 05: the contenders of every task, on JetClass-like and on other jets.

A model that is fine-tuned is a pre-training of the profile, or one of paper 1's generators.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from jetfm.data.labelled import LabelledJets
from jetfm.finetuning import Contender, Finetuning, Jets, Runner
from jetfm.finetuning.study import run_shared, runs_folder
from jetfm.pipeline.generation import BY_TYPE, GenerationStages
from jetfm.pipeline.jets import JETCLASS, JetStages
from jetfm.pipeline.pretraining import PretrainingStages, kind_of
from jetfm.pipeline.stage import Run, Stage
from jetfm.pipeline.tokenizers import TokenizerStages
from jetfm.schema import SPLITS
from jetfm.settings import BASELINES, COMBINED, MAIN, PretrainingSettings
from jetfm.settings.finetuning import TaskSettings
from jetfm.settings.profiles import load_profile
from jetfm.storage.artifacts import fingerprint
from jetfm.storage.files import link_files
from jetfm.storage.kept import FITS
from jetfm.storage.paths import work_folder
from jetfm.version import __version__

FINETUNING = "finetuning"

# Raise it when a change of the code changes a fit: 1 had batches of one length, 2 validated large
# sets once, at the end, 3 padded all jets of a batch alike, 4 did not say which were cut short,
# 5 had no dropout in pre-trained backbones.
FITS_VERSION = 6

_BOTH = ("ten-classes", "landscape")
_STRATEGIES = ("main", "mpm", "mpm-causal", "joint")
_PROBED = ("linear", "neighbours", "fixed", "finetuned")
#: The contenders that each figure compares, as patterns of tasks and of 'model weights'.
SHOWN = {
    "fig05_finetuning": (("tagging",), (f"{COMBINED} *",)),
    "fig05_inputs": (
        _BOTH,
        ("main finetuned", "main scratch", "ntp-token-id finetuned", "ntp-token-id scratch"),
    ),
    "fig05_strategies": (_BOTH, (*(f"{name} finetuned" for name in _STRATEGIES), "main scratch")),
    "fig05_fixed": (_BOTH, ("* fixed",)),
    "fig05_probes": (
        _BOTH,
        (
            *(f"main {start}" for start in _PROBED),
            *(f"joint {start}" for start in (*_PROBED, "beside")),
            "main scratch",
        ),
    ),
    "fig05_features": (
        ("ten-classes",),
        ("ntp-full finetuned", "ntp-full scratch", "main finetuned", "main scratch"),
    ),
    "fig05_baselines": (
        _BOTH,
        ("joint finetuned", "mpm-pairs *", "main scratch", *(f"{name} *" for name in BASELINES)),
    ),
    "fig05_calibration": (("ten-classes",), ("main scratch", "joint fixed", "joint finetuned")),
}


def papers_labels() -> dict[str, str]:
    """What legends call the papers' models, for notes on what a profile lacks."""
    paper = load_profile("paper")
    return {
        name: kind_of(one, paper.tokenizers[one.tokenizer]) for name, one in paper.models.items()
    }


class FinetuningStages:
    """From pre-trained models to classifiers."""

    def __init__(
        self,
        run: Run,
        jets: JetStages,
        tokenizers: TokenizerStages,
        pretraining: PretrainingStages,
        generation: GenerationStages,
    ) -> None:
        self.run, self.profile = run, run.profile
        self.jets, self.tokenizers = jets, tokenizers
        self.pretraining, self.generation = pretraining, generation

    def stages(self) -> Iterator[Stage]:
        """All of the profile."""
        yield self.finetuned()

    def read_by(self, *figures: str) -> list[Stage]:
        """The stages that figures of the notebook read: the fits of the contenders shown."""
        like_main = ("main scratch", *(f"{name} finetuned" for name in self._like(MAIN).values()))
        masked = (
            "main scratch",
            *(f"{name} finetuned" for name in self._mask_fractions().values()),
        )
        every = SHOWN | {
            "fig05_pretraining_jets": (("ten-classes",), like_main),
            "fig05_mask_fraction": (_BOTH, masked),
        }
        ranged = tuple(name for name, task in self.profile.finetuning.tasks.items() if task.ranges)
        if ranged:
            every["fig05_out_of_range"] = (ranged, ("*",))
        shown = [every[figure] for figure in figures if figure in every]
        if not shown:
            return []
        wanted = [
            (task, model, weights)
            for task, model, weights in self._chosen()
            if any(
                task in tasks and any(fnmatchcase(f"{model} {weights}", text) for text in patterns)
                for tasks, patterns in shown
            )
        ]
        return [self.finetuned(wanted if wanted != self._chosen() else ())]

    # Declared ------------------------------------------------------------------------------------

    def finetuned(self, chosen: Sequence[tuple[str, str, str]] = ()) -> Stage:
        """All fits of the profile, or those of some contenders: task, model and weights."""
        names = ", ".join(" ".join(one) for one in chosen)
        tasks, chosen = self.profile.finetuning.tasks, chosen or self._chosen()
        models = dict.fromkeys(model for _, model, _ in chosen if model not in BASELINES)
        inputs = {
            f"model {name} {number}" if number > 1 else f"model {name}": stage
            for name in models
            for number, stage in enumerate(self._trainings(name), 1)
        }
        for campaign in {tasks[task].jets for task, *_ in chosen}:
            for split in SPLITS:
                inputs[f"{campaign} {split}"] = self.jets.stored(split, campaign)
        return self.run.stage(
            FINETUNING,
            partial(self._fit_all, chosen),
            variant=names,
            settings={
                "finetuning": self.profile.finetuning,
                "max_constituents": self.profile.data.max_constituents,
                "contenders": [(task, Contender(*one).name) for task, *one in chosen],
                # of those that no model stands for
                "preprocessing": self.tokenizers.preprocessing().to_dict(),
            },
            inputs=inputs,
            also=self._tokens_read(chosen),
            version=FITS_VERSION,
        )

    # Asked for -----------------------------------------------------------------------------------

    def study(self) -> Finetuning:
        """Every task of the profile: pre-trained models, the same from scratch, baselines."""
        self.pretraining.train_all()
        whole, wanted = self.finetuned(), (self.run.only or {}).values()
        some = next((stage for stage in wanted if stage.name == FINETUNING), whole)
        if some is not whole and whole.find():
            some = whole
        labels = papers_labels() | {name: self._label(name) for name in self._settings}
        jets = {name: task.jets for name, task in self.profile.finetuning.tasks.items()}
        return Finetuning(some.folder, labels, jets)

    def pretraining_jets(self, model: str = MAIN, task: str = "ten-classes") -> dict:
        """Arguments of `jetfm.figures.pretraining_jets`: fine-tuned accuracy by number of jets in
        pre-training, of the pre-trainings that differ from `model` in their ``limit_train_jets``
        alone."""
        results, total = self.study()[task], len(self.jets.store("train"))
        names = {limit or total: name for limit, name in self._like(model).items()}
        return {
            "lines": results.against(names, "n_pretraining", model),
            "n_test": results.n_test,
            "classes": list(results.result["classes"]),
        }

    def mask_fractions(self) -> dict:
        """Arguments of `jetfm.figures.mask_fractions`: fine-tuned accuracy by the share of masked
        particles, of pre-trainings that differ in it alone, task by task."""
        study, names = self.study(), self._mask_fractions()
        panels = []
        for task in _BOTH:
            lines = study[task].against(names, "mask_fraction", MAIN)
            panels.append(
                {
                    "jets": study[task].jets,
                    "lines": [line for line in lines if len(line["mask_fraction"]) > 1],
                    "n_test": study[task].n_test,
                    "classes": list(study[task].result["classes"]),
                }
            )
        return {"panels": panels}

    def out_of_range(self) -> dict:
        """Arguments of `jetfm.figures.out_of_range`: a panel for each task that has ranges."""
        if not any(task.ranges for task in self.profile.finetuning.tasks.values()):
            return {"panels": []}
        return {"panels": self.study().out_of_range()}

    def fits(self) -> Iterator[Path]:
        """The folder of every contender's fits, where there may be some."""
        for one in self._chosen():
            task, model, _ = one
            campaign = self.profile.finetuning.tasks[task].jets
            stages = [] if model in BASELINES else self._trainings(model)
            stages += [self.jets.stored(split, campaign) for split in SPLITS]
            stages += self._tokens_read([one])
            if all(stage.find() for stage in stages):
                yield self.fits_of(self.runner(*one))

    def runner(self, name: str, model: str, weights: str) -> Runner:
        """A contender at a task, with the jets that it reads."""
        folders = [] if model in BASELINES else [one.folder for one in self._trainings(model)]
        folder = folders[0] if folders else None
        others = () if weights == "scratch" else tuple(folders[1:])
        contender = Contender(model, weights, self._label(model), folder, others)
        task = self.profile.finetuning.tasks[name]
        most = task.most_labels_of(model, weights)
        return Runner(name, contender, self._labelled(task, model, weights), most)

    def fits_of(self, runner: Runner) -> Path:
        """Folder of a contender's fits, named by all that decides them, so that studies share them.

        Another strategy in the profile, or another size, then costs its own fits alone.
        """
        settings, model = self.profile.finetuning, runner.contender.model
        task = settings.tasks[runner.task]
        others = {"tasks", "sizes", "n_seeds", "mpm_weight"}
        like_these = settings.model_dump(mode="json", exclude=others)
        request = {
            "version": FITS_VERSION,
            "jetfm": __version__,
            "seed": self.profile.seed,
            "settings": like_these,
            "classes": task.classes,
            "max_constituents": self.profile.data.max_constituents,
            "contender": runner.contender.name,
            "preprocessing": runner.jets.train.preprocessing.to_dict(),
            "model": None if model in BASELINES else self.generation.model(model).artifact.digest,
            "jets": [self.jets.store(split, task.jets).hash_of_arrays() for split in SPLITS],
        }
        if runner.contender.weights == "beside":
            request["mpm_weight"] = settings.mpm_weight
        if task.train_on:
            request["train_on"] = task.train_on
        if runner.contender.others:
            request["others"] = [one.artifact.digest for one in self._trainings(model)[1:]]
        return work_folder() / FITS / fingerprint(request)

    def tokenizer_of(self, model: str) -> str:
        """Name of the tokenizer that a contender belongs to; baselines read what the main has."""
        return MAIN if model in BASELINES else self._settings[model].tokenizer

    # Inside --------------------------------------------------------------------------------------

    def _like(self, model: str) -> dict[int, str]:
        """Pre-trainings that differ from a model in their ``limit_train_jets`` alone, by that."""
        like = self.profile.models[model]
        apart = {"limit_train_jets": like.limit_train_jets, "n_trainings": like.n_trainings}
        return {
            settings.limit_train_jets: name
            for name, settings in self.profile.models.items()
            if settings.model_copy(update=apart) == like
        }

    def _mask_fractions(self) -> dict[float, str]:
        """The pre-trainings of masked particles that differ in their ``mask_fraction`` alone, by
        that; of several such groups the largest."""
        groups: dict[str, dict[float, str]] = {}
        for name, settings in self.profile.models.items():
            if settings.objective == "mpm":
                rest = settings.model_copy(update={"mask_fraction": 0.5, "n_trainings": 1})
                groups.setdefault(fingerprint(rest), {})[settings.mask_fraction] = name
        return max(groups.values(), key=len, default={})

    def _trainings(self, model: str) -> list[Stage]:
        """Every training of a model that is fine-tuned."""
        if model in self.profile.models:
            return self.pretraining.repeated(model)
        return [self.generation.model(model)]

    @property
    def _settings(self) -> dict[str, PretrainingSettings]:
        """Of every model that can be fine-tuned."""
        quality = self.profile.generative_quality
        of_types = {BY_TYPE + name: quality.model for name in quality.trained_on}
        return {**self.profile.models, **of_types}

    def _chosen(self) -> list[tuple[str, str, str]]:
        """Task, model and weights of every contender that the profile has."""
        known = (*self._settings, *BASELINES)
        return [
            (name, model, weights)
            for name, task in self.profile.finetuning.tasks.items()
            for model, starts in task.contenders.items()
            if model in known
            for weights in starts
        ]

    def _tokens_read(self, chosen: Sequence[tuple[str, str, str]]) -> list[Stage]:
        """Tokens of the jets of models that read ids, and of training jets of which some are
        masked; they follow from model and jets."""
        tasks = self.profile.finetuning.tasks
        found = {
            (split, self._settings[model].tokenizer, tasks[name].jets): None
            for name, model, weights in chosen
            for split in SPLITS
            if self._reads_ids(model) or (weights == "beside" and split == "train")
        }
        return [self.tokenizers.tokenised(*key) for key in found]

    def _reads_ids(self, model: str) -> bool:
        return model not in BASELINES and self._settings[model].backbone.input == "token-id"

    def _label(self, model: str) -> str:
        if model in self.profile.models:
            return self.pretraining.label(model)
        return "" if model in BASELINES else self._settings[model].label

    def _fit_all(self, chosen: Sequence[tuple[str, str, str]], folder: Path) -> dict:
        settings, seed = self.profile.finetuning, self.profile.seed
        runners = [self.runner(*one) for one in chosen]
        kept = [self.fits_of(runner) for runner in runners]
        for runner, fits in zip(runners, kept, strict=True):
            for found in self.run.kept.fits(fits.name):
                link_files(found, runs_folder(folder, runner.task), f"{runner.contender.name}_*")
        return run_shared(runners, kept, settings, folder, seed, self.run.progress)

    def _labelled(self, task: TaskSettings, model: str, weights: str) -> Jets:
        """The splits of a task as a contender reads them."""
        settings = self.profile.finetuning
        tokenizer = self.tokenizer_of(model)
        limits = {"train": 0, "val": settings.limit_val_jets, "test": settings.limit_test_jets}
        ranges = {"train": task.ranges, "val": task.ranges, "test": ()}  # tested on all

        def side(split: str) -> LabelledJets:
            tokens = targets = None
            if self._reads_ids(model):
                tokens = self.tokenizers.tokens(split, tokenizer, task.jets).folder
            elif weights == "beside" and split == "train":
                targets = self.tokenizers.tokens(split, tokenizer, task.jets).folder
            return LabelledJets(
                self.jets.store(split, task.jets).folder,
                task.classes if task.classes or task.jets == JETCLASS else ("QCD", "Tbqq"),
                self.tokenizers.preprocessing(tokenizer),
                self.profile.data.max_constituents,
                tokens,
                limits[split],
                self.profile.seed,
                targets,
                ranges[split],
            )

        return Jets(**{split: side(split) for split in SPLITS})
