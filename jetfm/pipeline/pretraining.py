"""Notebook 03: pre-trained models, and what they predict.

Models go by name: 'main' is the one that the later stages use, the others are the profile's
``strategies``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import ceil, gcd
from pathlib import Path

import numpy as np

from jetfm.data.batches import mean_length, seed_of_repeat
from jetfm.data.token_store import TokenStore
from jetfm.models.jet_model import JetModel
from jetfm.models.transformer import n_parameters
from jetfm.pipeline.history import HISTORY, learning_curves, save_trained
from jetfm.pipeline.stage import Run, Stage
from jetfm.pipeline.tokenizers import TokenizerStages
from jetfm.pretraining.comparison import Strategies, judge
from jetfm.pretraining.scaling_law import ScalingStudy, Trained
from jetfm.pretraining.train import predictions_per_jet, pretrain
from jetfm.runtime.device import computing_on
from jetfm.settings import MAIN, PretrainingSettings, TokenizerSettings
from jetfm.settings.profiles import save_profile
from jetfm.storage.artifacts import Artifact, fingerprint
from jetfm.storage.paths import work_folder
from jetfm.tokenizers.interface import preprocessing_of
from jetfm.training.launch import launch, n_processes


def kind_of(settings: PretrainingSettings, tokenizer: TokenizerSettings) -> str:
    """What legends call a pre-training: its objective, its input, and what is special about it."""
    label = settings.label
    if settings.tokenizer != MAIN:
        label += f", {preprocessing_of(tokenizer).n_features} features"
    if settings.limit_train_jets:
        label += f", {settings.limit_train_jets:,} jets"
    return label


class PretrainingStages:
    """From tokens to pre-trained models."""

    def __init__(self, run: Run, tokenizers: TokenizerStages) -> None:
        self.run, self.profile, self.tokenizers = run, run.profile, tokenizers

    def stages(self) -> Iterator[Stage]:
        """All of the profile."""
        for name in self.profile.models:
            yield from self.repeated(name)
        yield from map(self.judged, self._of_the_main_tokens())
        yield from self.scaled().values()

    def read_by(self, figure: str) -> list[Stage]:
        """The stages that a figure of the notebook reads."""
        if figure == "fig03_pretraining":
            return [self.pretrained()]
        if figure == "fig03_scaling":
            return [*self.scaled().values(), *self.repeated()]
        return [self.judged(n) for n in self._of_the_main_tokens()] if figure[:5] == "fig03" else []

    # Declared ------------------------------------------------------------------------------------

    def pretrained(self, name: str = MAIN, number: int = 0) -> Stage:
        """A pre-trained model, the first of the profile's `n_trainings` of it or another.

        Where it is not there yet and is to have several processes
        (`jetfm.training.launch.n_processes`), they are started for it: a notebook's kernel cannot
        become several.
        """
        settings = self.profile.models[name].model_copy(update={"n_trainings": 1})
        return self.run.stage(
            "pretraining",
            partial(self._pretrain, self.profile.models[name], number),
            variant=f"{name} {number + 1}" if number else name,
            together=True,
            settings={"pretraining": settings, "number": number} if number else settings,
            inputs=self.tokenizers.learned(settings),
            elsewhere=partial(self._in_processes, name),
            version=2,  # 1: tokens of short jets counted more in training
        )

    def repeated(self, name: str = MAIN) -> list[Stage]:
        """All trainings of a model."""
        return [self.pretrained(name, n) for n in range(self.profile.models[name].n_trainings)]

    def scaled(self) -> dict[tuple[int, int, int], Stage]:
        """Small trainings of the main objective, by width, blocks and steps."""
        scaling, main = self.profile.scaling, self.profile.pretraining
        return {
            (*network, steps): self._small(*network, steps)
            for network in scaling.networks
            for steps in scaling.steps(main.training.max_steps)
        }

    def _small(self, dim: int, n_blocks: int, steps: int) -> Stage:
        settings = self._small_settings(dim, n_blocks, steps)
        return self.run.stage(
            "scaling",
            partial(self._pretrain, settings, 0),
            variant=f"{dim}x{n_blocks}, {steps} steps",
            settings=settings,
            inputs=self.tokenizers.learned(settings),
        )

    def judged(self, name: str) -> Stage:
        """What a model predicts on the validation jets, by position and by pt."""
        trained, tokenizer = self.pretrained(name), self.tokenizers.trained()

        def make(folder: Path) -> dict:
            model = JetModel.load(trained.folder)
            val = self.tokenizers.tokens("val")
            return judge(model, self.tokenizers.load(), val, folder, self.profile.seed)

        return self.run.stage(
            "strategy",
            make,
            variant=name,
            inputs={
                "model": trained,
                "tokenizer": tokenizer,
                "tokens": self.tokenizers.tokenised("val"),
            },
            version=2,  # 1 counted stops among the last constituents
        )

    # Asked for -----------------------------------------------------------------------------------

    def train_all(self) -> dict[str, Artifact]:
        """All pre-trainings of the profile: side by side, one core each, where one process trains
        a model; else in turn. The first of each is returned."""
        every = {name: self.repeated(name) for name in self.profile.models}
        wanted = {name: list(filter(self.run.wants, some)) for name, some in every.items()}
        stages = {name: some for name, some in wanted.items() if some}
        # two objectives in a step take twice as long: first, so that no core waits at the end
        names = sorted(stages, key=lambda name: self.profile.models[name].objective != "joint")
        every = [stage for name in names for stage in stages[name]]
        for stage in every:
            for tokens in () if stage.find() else stage.needs:
                tokens.artifact  # noqa: B018, made here, with all cores
        with computing_on(self.run.device):
            processes = n_processes()
        if processes == 1:
            self.run.side_by_side("pre-training", [[one] for one in every], "model")
        made = {name: [stage.artifact for stage in repeated] for name, repeated in stages.items()}
        return {name: artifacts[0] for name, artifacts in made.items()}

    def scaling(self) -> ScalingStudy:
        """What small trainings foretell of the main model's loss, which is not needed for it."""
        stages, main = self.scaled(), self.profile.pretraining
        groups = [[stage] for stage in reversed(stages.values())]  # the longest first
        self.run.side_by_side("scaling study", groups, "model")
        train = self.tokenizers.tokens("train", main.tokenizer)
        of_a_jet = predictions_per_jet(main, mean_length(train.n_constituents))

        preprocessing = self.tokenizers.preprocessing(main.tokenizer)

        def trained(settings: PretrainingSettings, loss: float) -> Trained:
            n_features = train.decoded.shape[1]
            model = JetModel(settings, train.n_codes, n_features, preprocessing=preprocessing)
            n_tokens = settings.training.max_steps * settings.training.batch_size * of_a_jet
            return Trained(n_parameters(model), round(n_tokens), loss)

        points = {(dim, n_blocks): [] for dim, n_blocks, _ in stages}
        for (dim, n_blocks, steps), stage in stages.items():
            loss = stage.artifact.metrics["best_loss"]
            settings = self._small_settings(dim, n_blocks, steps)
            points[dim, n_blocks].append(trained(settings, loss))
        return ScalingStudy(points, trained(main, float("nan")))

    def losses(self, name: str = MAIN) -> list[float]:
        """Best validation loss of every training of a model."""
        return [stage.artifact.metrics["best_loss"] for stage in self.repeated(name)]

    def strategies(self) -> Strategies:
        """What the models of the main tokenizer, which saw all jets, predict on the validation
        jets, by position and by pt: other codebooks have other losses."""
        self.train_all()
        chosen = self._of_the_main_tokens()
        stages = {name: self.judged(name) for name in chosen}
        self.run.side_by_side("judge models", [[one] for one in stages.values()], "model")
        return Strategies(
            {name: self.label(name) for name in chosen},
            {name: stage.folder for name, stage in stages.items()},
            {name: self._with_history(name).folder for name in chosen},
        )

    def summary(self) -> dict:
        """Validation loss beside what no model and token frequencies alone would give, in nats."""
        train, val = self.tokenizers.tokens("train"), self.tokenizers.tokens("val")
        counts = np.append(train.count_ids(), len(train)) + 1.0  # the stop token, once a jet
        log_p = np.log(counts / counts.sum())
        n_predicted = len(val.ids) + len(val)
        return {
            "n_codes": train.n_codes,
            "uniform": float(np.log(train.n_codes + 2)),
            "unigram": float(-(np.append(val.count_ids(), len(val)) @ log_p) / n_predicted),
            "validation": self.pretrained().artifact.metrics["best_loss"],
        }

    def history(self) -> dict:
        """Learning curves of the main model, as `jetfm.figures.training` takes them."""
        return learning_curves(self._with_history().artifact)

    # Described -----------------------------------------------------------------------------------

    def label(self, model: str) -> str:
        """What it is, and its name where an earlier pre-training is of the same kind."""
        label = self._kind(model)
        first = next(name for name in self.profile.models if self._kind(name) == label)
        return label if first == model else f"{label} ({model})"

    def _kind(self, model: str) -> str:
        """Objective and input, and what is special about this pre-training."""
        settings = self.profile.models[model]
        return kind_of(settings, self.profile.tokenizers[settings.tokenizer])

    def _of_the_main_tokens(self) -> list[str]:
        """Models of the main tokenizer that saw all jets."""
        return [
            name
            for name, settings in self.profile.models.items()
            if settings.tokenizer == MAIN and not settings.limit_train_jets
        ]

    # Inside --------------------------------------------------------------------------------------

    def _small_settings(self, dim: int, n_blocks: int, steps: int) -> PretrainingSettings:
        """Those of the main model, but for the network's size and the length of the training."""
        main = self.profile.pretraining
        sizes = {"dim": dim, "n_blocks": n_blocks, "n_heads": gcd(main.backbone.n_heads, dim)}
        length = {"max_steps": steps, "validate_every": ceil(steps / 2)}
        return main.model_copy(
            update={
                "n_trainings": 1,
                "backbone": main.backbone.model_copy(update=sizes),
                "training": main.training.model_copy(update=length),
            }
        )

    def _with_history(self, name: str = MAIN) -> Stage:
        """The first training of a model whose learning curve was kept: some ship without."""
        every = self.repeated(name)
        found = (one for one in every if one.find() and (one.folder / HISTORY).exists())
        return next(found, every[0])

    def _pretrain(self, settings: PretrainingSettings, number: int, folder: Path) -> dict:
        train, val = (TokenStore(s.folder) for s in self.tokenizers.learned(settings).values())
        tokenizer = self.tokenizers.load(settings.tokenizer) if settings.needs_tokenizer else None
        trained = pretrain(
            train,
            val,
            settings,
            folder / "training",
            seed_of_repeat(self.profile.seed, number),
            self.run.progress,
            tokenizer,
        )
        return save_trained(*trained, folder)

    def _in_processes(self, name: str) -> None:
        """Make all trainings of it in several processes, if it is to have them."""
        processes = n_processes()
        if processes == 1:
            return
        for tokens in self.pretrained(name).needs:
            tokens.artifact  # noqa: B018, made here, with all cores
        profile = self.profile
        path = work_folder() / "profiles" / f"{profile.name}-{fingerprint(profile)}.yaml"
        save_profile(profile, path)  # it may differ from the file it came from
        self.run.say(f"pretraining: '{name}' in {processes} processes")
        launch(processes, ["pretrain", "--profile", str(path), "--strategy", name])
