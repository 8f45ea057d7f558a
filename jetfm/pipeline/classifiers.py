"""Stages that classify: the contenders of every task, on JetClass-like and on other jets."""

from __future__ import annotations

from pathlib import Path

import jetfm
from jetfm.data.labelled import LabelledJets
from jetfm.finetuning import Contender, Finetuning, Jets, Runner, run_study
from jetfm.pipeline.generators import BY_TYPE, GeneratorStages
from jetfm.pipeline.jets import JETCLASS
from jetfm.pipeline.tokens import MAIN
from jetfm.schema import SPLITS
from jetfm.settings import BASELINES, PretrainingSettings
from jetfm.storage.artifacts import fingerprint
from jetfm.storage.files import link_files
from jetfm.storage.paths import work_folder

# Raise it when a change of the code changes a fit: 1 had batches of one length, 2 validated large
# sets once, at the end, 3 padded all jets of a batch alike.
FITS_VERSION = 4


class ClassifierStages(GeneratorStages):
    """From pre-trained models to classifiers.

    A model that is fine-tuned is a pre-training of the profile, or one of paper 1's generators.
    """

    def finetuning(self) -> Finetuning:
        """Every task of the profile: pre-trained models, the same from scratch, baselines."""
        settings = self.profile.finetuning
        wanted = dict.fromkeys(
            model for task in settings.tasks.values() for model in self._contenders(task)
        )
        self.pretrain_all()
        runners = [runner for name in settings.tasks for runner in self._runners(name)]
        inputs = {
            f"model {name}": self.generator_model(name).digest
            for name in wanted
            if name not in BASELINES
        }
        for campaign in {task.jets for task in settings.tasks.values()}:
            for split in SPLITS:
                inputs[f"{campaign} {split}"] = self._store(split, campaign).digest
        artifact = self._stage(
            "finetuning",
            lambda folder: self._run(runners, folder),
            settings={
                "finetuning": settings,
                "max_constituents": self.profile.data.max_constituents,
                "contenders": [(runner.task, runner.contender.name) for runner in runners],
                "preprocessing": self.preprocessing.to_dict(),  # of those that no model stands for
            },
            inputs=inputs,
            version=FITS_VERSION,
        )
        return Finetuning(artifact.folder)

    def _run(self, runners: list[Runner], folder: Path) -> dict:
        settings, seed = self.profile.finetuning, self.profile.seed
        kept = [work_folder() / "fits" / self._fits(runner) for runner in runners]
        for runner, fits in zip(runners, kept, strict=True):
            link_files(fits, runner.runs(folder), f"{runner.contender.name}_*")
        result = run_study(runners, settings, folder, seed, self.progress)
        for runner, fits in zip(runners, kept, strict=True):
            link_files(runner.runs(folder), fits, f"{runner.contender.name}_*")
        return {name: {"sizes": task["sizes"]} for name, task in result.items()}

    def _fits(self, runner: Runner) -> str:
        """Hash of all that decides a contender's fits, so that studies share them.

        Another strategy in the profile, or another size, then costs its own fits alone.
        """
        settings, model = self.profile.finetuning, runner.contender.model
        task = settings.tasks[runner.task]
        like_these = settings.model_dump(mode="json", exclude={"tasks", "sizes", "n_seeds"})
        request = {
            "version": FITS_VERSION,
            "jetfm": jetfm.__version__,
            "seed": self.profile.seed,
            "settings": like_these,
            "classes": task.classes,
            "max_constituents": self.profile.data.max_constituents,
            "contender": runner.contender.name,
            "preprocessing": runner.jets.train.preprocessing.to_dict(),
            "model": None if model in BASELINES else self.generator_model(model).digest,
            "stores": [self._store(split, task.jets).digest for split in SPLITS],
        }
        return fingerprint(request)

    @property
    def _model_settings(self) -> dict[str, PretrainingSettings]:
        """Of every model that can be fine-tuned."""
        quality = self.profile.generative_quality
        of_types = {BY_TYPE + name: quality.model for name in quality.trained_on}
        return {**self.pretraining_settings, **of_types}

    def _label(self, model: str) -> str:
        known = self.pretraining_settings
        return self.label(model) if model in known else self._model_settings[model].label

    def _contenders(self, task) -> dict[str, tuple[str, ...]]:
        """Weights by model, of those that the profile has."""
        known = (*self._model_settings, *BASELINES)
        return {model: weights for model, weights in task.contenders.items() if model in known}

    def _runners(self, name: str) -> list[Runner]:
        task = self.profile.finetuning.tasks[name]
        found = []
        for model, starts in self._contenders(task).items():
            is_baseline = model in BASELINES
            label = "" if is_baseline else self._label(model)
            folder = None if is_baseline else self.generator_model(model).folder
            jets = self._labelled(name, None if is_baseline else model)
            for weights in starts:
                found.append(Runner(name, Contender(model, weights, label, folder), jets))
        return found

    def _labelled(self, name: str, model: str | None) -> Jets:
        """The splits of a task as a pre-trained model reads them."""
        settings = self.profile.finetuning
        task = settings.tasks[name]
        tokenizer, reads_ids = MAIN, False
        if model is not None:
            pretraining = self._model_settings[model]
            tokenizer = pretraining.tokenizer
            reads_ids = pretraining.backbone.input == "token-id"
        limits = {"train": 0, "val": settings.limit_val_jets, "test": settings.limit_test_jets}

        def side(split: str) -> LabelledJets:
            tokens = None
            if reads_ids:
                tokens = self.tokens(split, tokenizer, task.jets).folder
            return LabelledJets(
                self.store(split, task.jets).folder,
                task.classes if task.classes or task.jets == JETCLASS else ("QCD", "Tbqq"),
                self.preprocessing_of(tokenizer),
                self.profile.data.max_constituents,
                tokens,
                limits[split],
                self.profile.seed,
            )

        return Jets(**{split: side(split) for split in SPLITS})

    def pretraining_jets(self, model: str = MAIN, task: str = "ten-classes") -> dict:
        """Arguments of `jetfm.figures.pretraining_jets`: fine-tuned accuracy by number of jets in
        pre-training, of the pre-trainings that differ from `model` in their ``limit_train_jets``
        alone."""
        results, total = self.finetuning()[task], len(self.store("train"))
        like = self.pretraining_settings[model]
        names = {}
        for name, settings in self.pretraining_settings.items():
            if settings.model_copy(update={"limit_train_jets": like.limit_train_jets}) == like:
                names[settings.limit_train_jets or total] = name
        lines = []
        for size in results.sizes:
            points = [
                (n, results.curves("accuracy", [(names[n], "finetuned")])) for n in sorted(names)
            ]
            at = results.sizes.index(size)
            found = [(n, curves[0]) for n, curves in points if curves]
            scratch = results.curves("accuracy", [(results.scratch_of(model), "scratch")])
            line = {"size": size, "n_pretraining": [n for n, _ in found]}
            line |= {
                key: [curve[key][at] for _, curve in found] for key in ("mean", "spread", "jets")
            }
            line["scratch"] = [one[key][at] for one in scratch for key in ("mean", "spread")]
            lines.append(line)
        return {
            "lines": lines,
            "n_test": results.n_test,
            "classes": list(results.result["classes"]),
        }
