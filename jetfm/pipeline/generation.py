"""Notebook 04: every generator of the profile trained, its jets sampled, and judged.

Generators go by name. Those of pre-training keep theirs ('main', 'joint', ...), paper 1's models
of single jet types are called 'omnijet-' and what they learned from, and those without tokens
'epic-fm' and 'continuous'.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from jetfm.data.token_store import TokenStore
from jetfm.generation.autoregressive import generate
from jetfm.generation.density import generate_continuous
from jetfm.generation.density_training import train_continuous
from jetfm.generation.flow import generate_flow
from jetfm.generation.flow_training import train_flow
from jetfm.generation.sampling import draw_multiplicities
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.samples import (
    decoded_sample,
    original_sample,
    read_generated,
    seconds_per_1000,
    write_generated,
)
from jetfm.judging.study import GenerativeStudy, Generator, judge_generator
from jetfm.models.continuous_model import ContinuousModel
from jetfm.models.flow_matching import FlowModel
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.pipeline.history import save_trained
from jetfm.pipeline.jets import JetStages
from jetfm.pipeline.pretraining import PretrainingStages
from jetfm.pipeline.stage import Run, Stage
from jetfm.pipeline.tokenizers import TokenizerStages
from jetfm.pretraining.train import pretrain
from jetfm.schema import KINEMATICS, SPLITS
from jetfm.settings import COMBINED, MAIN

FLOW, CONTINUOUS, BY_TYPE = "epic-fm", "continuous", "omnijet-"


class GenerationStages:
    """From pre-trained models and stores to generated jets and what they are worth."""

    def __init__(
        self, run: Run, jets: JetStages, tokenizers: TokenizerStages, pretraining: PretrainingStages
    ) -> None:
        self.run, self.profile = run, run.profile
        self.jets, self.tokenizers, self.pretraining = jets, tokenizers, pretraining

    def stages(self) -> Iterator[Stage]:
        """All of the profile."""
        names = list(self.generators)
        yield from map(self.model, names)
        yield from map(self.generated, names)
        yield from map(self.judged, names)

    def read_by(self, figure: str) -> list[Stage]:
        """The stages that a figure of the notebook reads."""
        every = self.generators
        of_all_classes = [name for name, one in every.items() if not one.classes]
        shown = {
            "fig04_combined": [COMBINED],
            "fig04_qcd": [BY_TYPE + "QCD"],
            "fig04_tbqq": [BY_TYPE + "Tbqq"],
            "fig04_rivals": [BY_TYPE + "Tbqq", FLOW],
            "fig04_inputs": [name for name in of_all_classes if every[name].tokens],
            "fig04_without_tokens": [MAIN, CONTINUOUS],
            "fig04_distances": of_all_classes,
        }
        return [self.judged(name) for name in shown.get(figure, ()) if name in every]

    @property
    def generators(self) -> dict[str, Generator]:
        """Every generator of the profile, the main model first."""
        profile, found = self.profile, []
        for name, settings in self.profile.models.items():
            whole = settings.tokenizer == MAIN and not settings.limit_train_jets
            if settings.predicts_next and whole:
                label, steps = self.pretraining.label(name), settings.training.max_steps
                found.append(Generator(name, label, (), True, steps))
        density = profile.continuous.training.max_steps
        found.append(Generator(CONTINUOUS, "No tokens (density)", (), False, density))
        quality, model = profile.generative_quality, profile.generative_quality.model
        for name, classes in quality.trained_on.items():
            steps = quality.model_of(name).training.max_steps
            found.append(Generator(BY_TYPE + name, model.label, classes, True, steps))
        flow = profile.flow
        found.append(Generator(FLOW, "EPiC-FM", flow.classes, False, flow.training.max_steps))
        return {one.name: one for one in found}

    def tokenizer_of(self, name: str) -> str:
        """Whose tokens a generator learns; the main one's where it learns none."""
        if name in self.profile.models:
            return self.profile.models[name].tokenizer
        own = name.removeprefix(BY_TYPE) in self.profile.generative_quality.trained_on
        return self.profile.generative_quality.model.tokenizer if own else MAIN

    @property
    def kinematics(self) -> Preprocessing:
        """The main tokenizer's network space of the kinematics, all that has a density."""
        return self.tokenizers.preprocessing().model_copy(update={"features": KINEMATICS})

    # Declared: models ----------------------------------------------------------------------------

    def model(self, name: str) -> Stage:
        """A generator's trained model."""
        if name == FLOW:
            return self._without_tokens("epic-fm", train_flow, self.profile.flow)
        if name == CONTINUOUS:
            return self._without_tokens("continuous", train_continuous, self.profile.continuous)
        if name in self.profile.models:
            return self.pretraining.pretrained(name)
        return self._of_type(name)

    def _without_tokens(self, name: str, train, settings) -> Stage:
        limit = self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            trained = train(
                self.jets.store("train"),
                self.jets.store("val"),
                settings,
                self.kinematics,
                folder / "training",
                self.profile.seed,
                progress=self.run.progress,
                max_constituents=limit,
            )
            return save_trained(*trained, folder)

        return self.run.stage(
            name,
            make,
            together=True,
            settings={
                "model": settings,
                "max_constituents": limit,
                "preprocessing": self.kinematics.to_dict(),
            },
            inputs={split: self.jets.stored(split) for split in ("train", "val")},
            version=2,  # 1: constituents of short jets counted more in training
        )

    def _of_type(self, name: str) -> Stage:
        quality = self.profile.generative_quality
        classes = self.generators[name].classes
        settings = quality.model_of(name.removeprefix(BY_TYPE))
        every = tuple(dict.fromkeys(sum(quality.trained_on.values(), ())))
        tokens = self.tokenizers.learned(settings, every)

        def make(folder: Path) -> dict:
            trained = pretrain(
                TokenStore(tokens["train"].folder),
                TokenStore(tokens["val"].folder),
                settings,
                folder / "training",
                self.profile.seed,
                self.run.progress,
                self.tokenizers.load(settings.tokenizer) if settings.needs_tokenizer else None,
                classes,
            )
            return save_trained(*trained, folder)

        return self.run.stage(
            "generator",
            make,
            variant=name,
            together=True,
            settings={"model": settings, "classes": classes},
            inputs=tokens,
            version=2,  # 1: tokens of short jets counted more in training
        )

    # Declared: jets ------------------------------------------------------------------------------

    def generated(self, name: str = MAIN) -> Stage:
        """Jets that a generator made, of the multiplicities of validation jets."""
        settings, seed = self.profile.generation, self.profile.seed
        limit = self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            val = self.jets.store("val")
            held_out = val.n_constituents[val.jets_of(self.generators[name].classes)]
            asked = draw_multiplicities(held_out, settings.n_jets, seed, limit)
            start = time.monotonic()
            jets = self._sampled(name, asked)
            return write_generated(folder, jets, time.monotonic() - start)

        return self.run.stage(
            "generated",
            make,
            variant=name,
            settings={"generation": settings, "max_constituents": limit},
            inputs={
                "model": self.model(name),
                "tokenizer": self.tokenizers.trained(self.tokenizer_of(name)),
                "multiplicity": self.jets.stored("val"),
            },
        )

    def judged(self, name: str) -> Stage:
        """What a generator's jets are worth, beside its own truth."""
        settings, generator = self.profile.generative_quality, self.generators[name]
        tokenizer, generated = self.tokenizer_of(name), self.generated(name)
        truth = {
            split: self.tokenizers.tokenised(split, tokenizer)
            if generator.tokens
            else self.jets.stored(split)
            for split in ("test", "train")
        }

        def make(folder: Path) -> dict:
            sample = self.sample(name)
            truth = self._truth("test", generator, len(sample))
            training = self._truth("train", generator, settings.n_training)
            seed, progress = self.profile.seed, self.run.progress
            return judge_generator(sample, truth, training, folder, settings, seed, progress)

        chosen = {"classifier_epochs", "classifier_seeds", "n_bootstrap", "n_training"}
        return self.run.stage(
            "generative-quality",
            make,
            variant=name,
            settings=settings.model_dump(mode="json", include=chosen)
            | {
                "classes": generator.classes,
                "max_constituents": self.profile.data.max_constituents,
            },
            inputs={"jets": generated} | truth,
            version=3,  # classifiers: 1 had batches of one length, 2 padded all jets alike
        )

    # Asked for -----------------------------------------------------------------------------------

    def study(self) -> GenerativeStudy:
        """Jets of every generator, each judged against its own truth, side by side."""
        wanted = [name for name in self.generators if self.run.wants(self.judged(name))]
        names = list(wanted)
        for tokenizer in dict.fromkeys(map(self.tokenizer_of, names)):
            for stage in (self.tokenizers.tokenised(split, tokenizer) for split in SPLITS):
                if self.run.wants(stage):
                    stage.artifact  # noqa: B018, made here, with all cores
        # Those that are trained here first: no worker is left alone with one of them at the end.
        names.sort(key=lambda name: name in self.profile.models)
        groups = [[self.judged(name)] for name in names]
        self.run.side_by_side("generators", groups, "generator")
        names = wanted  # in the order of tables
        folders = {name: self.judged(name).folder for name in names}
        jets = {name: self.generated(name).artifact for name in names}
        return GenerativeStudy(
            [self._as_trained(name) for name in names],
            folders,
            {n: seconds_per_1000(one.folder, one.metrics["n_jets"]) for n, one in jets.items()},
            {name: one.metrics["n_unfinished"] for name, one in jets.items()},
        )

    def sample(self, name: str = MAIN) -> JetSample:
        """A generator's jets, in physical space."""
        space = self.kinematics
        if self.generators[name].tokens:
            space = self.tokenizers.preprocessing(self.tokenizer_of(name))
        return read_generated(self.generated(name).folder, space)

    # Inside --------------------------------------------------------------------------------------

    def _as_trained(self, name: str) -> Generator:
        """With the steps that it took, which may be fewer than it was allowed."""
        return replace(self.generators[name], steps=self.model(name).artifact.metrics["last_step"])

    def _sampled(self, name: str, asked):
        """Jets of the multiplicities asked for, from the generator's own sampler."""
        settings, model = self.profile.generation, self.model(name).folder
        options = {
            "seed": self.profile.seed,
            "max_constituents": self.profile.data.max_constituents,
            "device": self.run.device,
            "progress": self.run.progress,
        }
        if name == FLOW:
            return generate_flow(FlowModel.load(model), asked, **options)
        options["batch_size"] = settings.batch_size
        if name == CONTINUOUS:
            return generate_continuous(ContinuousModel.load(model), asked, **options)
        options |= settings.model_dump(include={"temperature", "top_k", "top_p"})
        tokenizer = self.tokenizers.load(self.tokenizer_of(name))
        return generate(JetModel.load(model), tokenizer, asked, **options)

    def _truth(self, split: str, generator: Generator, n_jets: int) -> JetSample:
        chosen = generator.classes, n_jets, self.profile.seed
        if generator.tokens:
            name = self.tokenizer_of(generator.name)
            tokens, space = self.tokenizers.tokens(split, name), self.tokenizers.preprocessing(name)
            return decoded_sample(tokens, space, *chosen)
        limit = self.profile.data.max_constituents
        return original_sample(self.jets.store(split), limit, *chosen)
