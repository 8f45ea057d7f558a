"""Stages that pre-train models, and look at what they predict."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from jetfm.models.jet_model import JetModel
from jetfm.pipeline.tokens import MAIN, TokenStages
from jetfm.pretraining.strategies import Strategies
from jetfm.runtime.distributed import rank
from jetfm.settings import PretrainingSettings
from jetfm.settings.profiles import save_profile
from jetfm.storage.artifacts import Artifact, fingerprint
from jetfm.storage.files import read_json, write_json
from jetfm.storage.paths import work_folder
from jetfm.tokenizers.kinds import load_tokenizer
from jetfm.training.launch import launch, n_processes


class ModelStages(TokenStages):
    """From tokens to pre-trained models."""

    @property
    def pretraining_settings(self) -> dict[str, PretrainingSettings]:
        """Settings of every pre-training of the profile, the main one first."""
        return {MAIN: self.profile.pretraining, **self.profile.strategies}

    def label(self, model: str) -> str:
        """What it is, and its name where an earlier pre-training is of the same kind."""
        label = self._kind(model)
        first = next(name for name in self.pretraining_settings if self._kind(name) == label)
        return label if first == model else f"{label} ({model})"

    def _kind(self, model: str) -> str:
        """Objective and input, and what is special about this pre-training."""
        settings = self.pretraining_settings[model]
        label = settings.label
        if settings.tokenizer != MAIN:
            label += f", {self.preprocessing_of(settings.tokenizer).n_features} features"
        if settings.limit_train_jets:
            label += f", {settings.limit_train_jets:,} jets"
        return label

    def pretraining(self, name: str = MAIN, processes: int | None = None) -> Artifact:
        """Folder of a pre-trained model; 'main' is the one that the later stages use.

        Where it is not there yet and is to have several processes
        (`jetfm.training.launch.n_processes` of `processes`), they are started for it: a notebook's
        kernel cannot become several.
        """
        processes = n_processes(processes)
        if processes > 1 and not self._only_look:
            if not self.is_made(partial(self._pretraining, name)):
                self._pretrain_in_processes(name, processes)
        return self._pretraining(name)

    def _pretrain_in_processes(self, name: str, processes: int) -> None:
        tokenizer = self.pretraining_settings[name].tokenizer
        self.tokens("train", tokenizer), self.tokens("val", tokenizer)  # here, with all cores
        profile = self.profile
        path = work_folder() / "profiles" / f"{profile.name}-{fingerprint(profile)}.yaml"
        save_profile(profile, path)  # it may differ from the file it came from
        self.say(f"pretraining: '{name}' in {processes} processes")
        launch(processes, ["pretrain", "--profile", str(path), "--strategy", name])

    def _pretraining(self, name: str) -> Artifact:
        from jetfm.pretraining.train import pretrain

        settings = self.pretraining_settings[name]
        trained = self.tokenizer_artifact(settings.tokenizer)
        train, val = (self.tokens(split, settings.tokenizer) for split in ("train", "val"))

        def make(folder: Path) -> dict:
            tokenizer = load_tokenizer(trained.folder) if settings.needs_tokenizer else None
            seed = self.profile.seed
            model, result = pretrain(
                train, val, settings, folder / "training", seed, self.progress, tokenizer
            )
            metrics = {"best_loss": result.best_metric, "best_step": result.best_step}
            if rank() == 0:
                model.save(folder, **metrics)
                write_json(folder / "history.json", result.history)
            return metrics | {"last_step": result.last_step}

        return self._stage(
            "pretraining",
            make,
            variant=name,
            together=True,
            settings=settings,
            inputs={
                split: self._found[f"tokens-{split} {settings.tokenizer}"].digest
                for split in ("train", "val")
            },
        )

    def pretrain_all(self) -> dict[str, Artifact]:
        """All pre-trainings of the profile: side by side, one core each, where one process trains
        a model; else in turn."""
        names = self.pretraining_settings
        for tokenizer in dict.fromkeys(settings.tokenizer for settings in names.values()):
            self.tokens("train", tokenizer), self.tokens("val", tokenizer)
        if n_processes() == 1:
            self._in_parallel("pre-training", _pretrain, names, unit="model")
        return {name: self.pretraining(name) for name in names}

    def strategies(self) -> Strategies:
        """What the models of the main tokenizer, which saw all jets, predict on the validation
        jets, by position and by pt: other codebooks have other losses."""
        self.pretrain_all()
        chosen = {
            name: self.label(name)
            for name, settings in self.pretraining_settings.items()
            if settings.tokenizer == MAIN and not settings.limit_train_jets
        }
        self._in_parallel("judge models", _judge, chosen, unit="model")
        return Strategies(
            chosen,
            {name: self._judged(name).folder for name in chosen},
            {name: self.pretraining(name).folder for name in chosen},
        )

    def _judged(self, name: str) -> Artifact:
        from jetfm.pretraining.strategies import judge

        model, trained, val = self.pretraining(name), self.tokenizer_artifact(), self.tokens("val")

        def make(folder: Path) -> dict:
            tokenizer = load_tokenizer(trained.folder)
            return judge(JetModel.load(model.folder), tokenizer, val, folder, self.profile.seed)

        return self._stage(
            "strategy",
            make,
            variant=name,
            inputs={
                "model": model.digest,
                "tokenizer": trained.digest,
                "tokens": self._found["tokens-val main"].digest,
            },
        )

    def pretraining_summary(self) -> dict:
        """Validation loss beside what no model and token frequencies alone would give, in nats."""
        train, val = self.tokens("train"), self.tokens("val")
        counts = np.append(train.count_ids(), len(train)) + 1.0  # the stop token, once a jet
        log_p = np.log(counts / counts.sum())
        n_predicted = len(val.ids) + len(val)
        return {
            "n_codes": train.n_codes,
            "uniform": float(np.log(train.n_codes + 2)),
            "unigram": float(-(np.append(val.count_ids(), len(val)) @ log_p) / n_predicted),
            "validation": self.pretraining().metrics["best_loss"],
        }

    def history(self, stage: str) -> dict:
        """Learning curves of 'tokenizer' or 'pretraining', as the training figure takes them."""
        artifact = self.tokenizer_artifact() if stage == "tokenizer" else self.pretraining()
        rows = read_json(artifact / "history.json")
        history = {}
        for split, name in (("train", "train"), ("val", "validation")):
            chosen = [row for row in rows if row["split"] == name]
            keys = [key for key in chosen[0] if key != "split"] if chosen else []
            history[split] = {key: [row[key] for row in chosen] for key in keys}
        return {"history": history, "best_step": artifact.metrics["best_step"]}


def _pretrain(stages: ModelStages, name: str) -> None:
    stages.pretraining(name)


def _judge(stages: ModelStages, name: str) -> None:
    stages._judged(name)
