"""Stages of generation: train every generator of the profile, sample jets, judge them.

Generators go by name. Those of pre-training keep theirs ('main', 'joint', ...), paper 1's models
of single jet types are called 'omnijet-' and what they learned from, and those without tokens
'epic-fm' and 'continuous'.
"""

from __future__ import annotations

import time
from pathlib import Path

from jetfm.judging.jet_sample import JetSample
from jetfm.judging.study import GenerativeStudy, Generator
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.pipeline.models import ModelStages
from jetfm.pipeline.tokens import MAIN
from jetfm.runtime.distributed import rank
from jetfm.schema import KINEMATICS, SPLITS
from jetfm.storage.artifacts import Artifact
from jetfm.storage.files import write_json
from jetfm.tokenizers.kinds import load_tokenizer

FLOW, CONTINUOUS, BY_TYPE = "epic-fm", "continuous", "omnijet-"


class GeneratorStages(ModelStages):
    """From pre-trained models and stores to generated jets and what they are worth."""

    @property
    def generators(self) -> dict[str, Generator]:
        """Every generator of the profile, the main model first."""
        profile, found = self.profile, []
        for name, settings in self.pretraining_settings.items():
            whole = settings.tokenizer == MAIN and not settings.limit_train_jets
            if settings.predicts_next and whole:
                steps = settings.training.max_steps
                found.append(Generator(name, self.label(name), (), True, steps))
        density = profile.continuous.training.max_steps
        found.append(Generator(CONTINUOUS, "No tokens (density)", (), False, density))
        quality, model = profile.generative_quality, profile.generative_quality.model
        for name, classes in quality.trained_on.items():
            steps = model.training.max_steps
            found.append(Generator(BY_TYPE + name, model.label, classes, True, steps))
        flow = profile.flow
        found.append(Generator(FLOW, "EPiC-FM", flow.classes, False, flow.training.max_steps))
        return {one.name: one for one in found}

    @property
    def kinematics(self) -> Preprocessing:
        """The main tokenizer's network space of the kinematics, all that has a density."""
        return self.preprocessing.model_copy(update={"features": KINEMATICS})

    # Training ------------------------------------------------------------------------------------

    def generator_model(self, name: str) -> Artifact:
        """Folder of a generator's trained model."""
        if name == FLOW:
            return self._flow()
        if name == CONTINUOUS:
            return self._continuous()
        if name in self.pretraining_settings:
            return self.pretraining(name)
        return self._of_type(name)

    def _flow(self) -> Artifact:
        from jetfm.generation.flow_training import train_flow

        return self._without_tokens("epic-fm", train_flow, self.profile.flow)

    def _continuous(self) -> Artifact:
        from jetfm.generation.density_training import train_continuous

        return self._without_tokens("continuous", train_continuous, self.profile.continuous)

    def _without_tokens(self, stage: str, train, settings) -> Artifact:
        stores = self.store("train"), self.store("val")
        limit = self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            model, result = train(
                *stores,
                settings,
                self.kinematics,
                folder / "training",
                self.profile.seed,
                progress=self.progress,
                max_constituents=limit,
            )
            return _saved(model, result, folder)

        return self._stage(
            stage,
            make,
            together=True,
            settings={
                "model": settings,
                "max_constituents": limit,
                "preprocessing": self.kinematics.to_dict(),
            },
            inputs={"train": self._found["store-train"].digest,
                    "val": self._found["store-val"].digest},
        )  # fmt: skip

    def _of_type(self, name: str) -> Artifact:
        from jetfm.pretraining.train import pretrain

        classes = self.generators[name].classes
        settings = self.profile.generative_quality.model
        train, val, trained = self.tokens("train"), self.tokens("val"), self.tokenizer_artifact()

        def make(folder: Path) -> dict:
            model, result = pretrain(
                train,
                val,
                settings,
                folder / "training",
                self.profile.seed,
                self.progress,
                load_tokenizer(trained.folder) if settings.needs_tokenizer else None,
                classes,
            )
            return _saved(model, result, folder)

        return self._stage(
            "generator",
            make,
            variant=name,
            together=True,
            settings={"model": settings, "classes": classes},
            inputs={"train": self._found["tokens-train main"].digest,
                    "val": self._found["tokens-val main"].digest},
        )  # fmt: skip

    # Sampling and judging ------------------------------------------------------------------------

    def generated(self, name: str = MAIN) -> Artifact:
        """Folder of the jets that a generator made."""
        from jetfm.generation.sampling import draw_multiplicities
        from jetfm.judging.samples import write_generated

        model, trained = self.generator_model(name), self.tokenizer_artifact()
        val, limit = self.store("val"), self.profile.data.max_constituents
        settings, seed = self.profile.generation, self.profile.seed
        held_out = val.n_constituents[val.jets_of(self.generators[name].classes)]

        def make(folder: Path) -> dict:
            asked = draw_multiplicities(held_out, settings.n_jets, seed, limit)
            start = time.monotonic()
            jets = self._sampled(name, model.folder, trained.folder, asked)
            return write_generated(folder, jets, time.monotonic() - start)

        return self._stage(
            "generated",
            make,
            variant=name,
            settings={"generation": settings, "max_constituents": limit},
            inputs={
                "model": model.digest,
                "tokenizer": trained.digest,
                "multiplicity": self._found["store-val"].digest,
            },
        )

    def _sampled(self, name: str, model: Path, tokenizer: Path, asked):
        """Jets of the multiplicities asked for, from the generator's own sampler."""
        from jetfm.generation.density import generate_continuous
        from jetfm.generation.flow import generate_flow
        from jetfm.generation.tokens import generate
        from jetfm.models.continuous_model import ContinuousModel
        from jetfm.models.flow_matching import FlowModel

        settings = self.profile.generation
        options = {
            "seed": self.profile.seed,
            "max_constituents": self.profile.data.max_constituents,
            "device": self.device,
            "progress": self.progress,
        }
        if name == FLOW:
            return generate_flow(FlowModel.load(model), asked, **options)
        options["batch_size"] = settings.batch_size
        if name == CONTINUOUS:
            return generate_continuous(ContinuousModel.load(model), asked, **options)
        options |= settings.model_dump(include={"temperature", "top_k", "top_p"})
        return generate(JetModel.load(model), load_tokenizer(tokenizer), asked, **options)

    def _quality(self, name: str) -> Artifact:
        from jetfm.judging.samples import read_generated
        from jetfm.judging.study import judge_generator

        generated, settings = self.generated(name), self.profile.generative_quality
        generator, seed = self.generators[name], self.profile.seed
        splits = ("test", "train")
        for split in splits:
            self.tokens(split) if generator.tokens else self.store(split)
        found = "tokens-{} main" if generator.tokens else "store-{}"

        def make(folder: Path) -> dict:
            space = self.preprocessing if generator.tokens else self.kinematics
            sample = read_generated(generated.folder, space)
            truth = self._truth("test", generator, len(sample))
            training = self._truth("train", generator, settings.n_training)
            return judge_generator(sample, truth, training, folder, settings, seed, self.progress)

        return self._stage(
            "generative-quality",
            make,
            variant=name,
            settings=settings.model_dump(
                mode="json", include={"classifier_epochs", "n_bootstrap", "n_training"}
            )
            | {
                "classes": generator.classes,
                "max_constituents": self.profile.data.max_constituents,
            },
            inputs={"jets": generated.digest}
            | {split: self._found[found.format(split)].digest for split in splits},
            version=3,  # classifiers: 1 had batches of one length, 2 padded all jets alike
        )

    def _truth(self, split: str, generator: Generator, n_jets: int) -> JetSample:
        from jetfm.judging.samples import decoded_sample, original_sample

        chosen = generator.classes, n_jets, self.profile.seed
        if generator.tokens:
            return decoded_sample(self.tokens(split), self.preprocessing, *chosen)
        limit = self.profile.data.max_constituents
        return original_sample(self.store(split), limit, *chosen)

    def generation(self) -> GenerativeStudy:
        """Jets of every generator, each judged against its own truth, side by side."""
        from jetfm.judging.samples import seconds_per_1000

        for split in SPLITS:  # made here: two workers would do the same work
            self.tokens(split)
        names = list(self.generators)
        # Those that are trained here first: no worker is left alone with one of them at the end.
        names.sort(key=lambda name: name in self.pretraining_settings)
        self._in_parallel("generators", _judge, names, "generator")
        folders = {name: self._quality(name).folder for name in names}
        jets = {name: self.generated(name) for name in names}
        return GenerativeStudy(
            self.generators.values(),
            folders,
            {n: seconds_per_1000(one.folder, one.metrics["n_jets"]) for n, one in jets.items()},
            {name: one.metrics["n_unfinished"] for name, one in jets.items()},
        )


def _judge(stages: GeneratorStages, name: str) -> None:
    stages._quality(name)


def _saved(model, result, folder: Path) -> dict:
    """Write a trained model and its history; return what the record says of the training."""
    metrics = {"best_loss": result.best_metric, "best_step": result.best_step}
    if rank() == 0:
        model.save(folder, **metrics)
        write_json(folder / "history.json", result.history)
    return metrics | {"last_step": result.last_step}
