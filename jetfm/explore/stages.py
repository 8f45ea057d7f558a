"""What the displays show, from the finished stages of a profile; what is missing is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.explore.nearest import RealJets
from jetfm.finetuning.classifier import Classifier, architecture_of, pt_range_of
from jetfm.finetuning.study import trained
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.samples import original_sample
from jetfm.pipeline import Pipeline
from jetfm.pipeline.finetuning import FITS_VERSION
from jetfm.pipeline.stage import Stage
from jetfm.schema import SPLITS
from jetfm.settings import MAIN
from jetfm.tokenizers import Tokenizer

N_REAL = 10_000  # training jets among which neighbours are looked for, at most; our choice
N_LABELS = 10_000  # the classifier's, at most: more would be hours of training; our choice
_WEIGHTS = "finetuned"


@dataclass(frozen=True)
class GeneratedJets:
    """Jets of one generator, and the real jets of the classes that it learned.

    Parameters
    ----------
    label : what the generator is called
    sample : its jets
    real : training jets
    """

    label: str
    sample: JetSample
    real: RealJets


def tokenizers(pipeline: Pipeline) -> dict[str, Tokenizer]:
    """Every tokenizer of the profile, trained, by name; the main one first."""
    return {name: pipeline.tokenizers.load(name) for name in pipeline.tokenizers.train_all()}


def generated(pipeline: Pipeline) -> dict[str, GeneratedJets]:
    """Jets of the main generator, made where they are missing, and of all others that are there."""
    stages = pipeline.generation
    stages.generated(MAIN).artifact  # noqa: B018, made
    names = [name for name in stages.generators if stages.generated(name).find()]
    store, limit = pipeline.jets.store("train"), pipeline.profile.data.max_constituents
    real: dict[tuple[str, ...], RealJets] = {}
    found = {}
    for name in names:
        classes = stages.generators[name].classes
        if classes not in real:
            chosen = classes, N_REAL, pipeline.profile.seed
            real[classes] = RealJets(original_sample(store, limit, *chosen))
        label = ", ".join([stages.generators[name].label, *classes])
        found[label] = GeneratedJets(label, stages.sample(name), real[classes])
    return found


def classifier(pipeline: Pipeline, task: str = "ten-classes") -> Classifier:
    """The main model, fine-tuned for a task with the most labels of the study up to `N_LABELS`.

    It is the first of the study's fits with these labels, of which the study keeps scores alone.
    `jetfm score` reads its folder, too.

    Raises
    ------
    JetfmError
        A task that the profile lacks, or a main model that reads tokens.
    """
    return Classifier.load(classifier_stage(pipeline, task).folder)


def jets_to_classify(pipeline: Pipeline, task: str = "ten-classes") -> JetStore:
    """Test jets of a task's campaign, of which some may belong to none of its classes."""
    return pipeline.jets.store("test", pipeline.profile.finetuning.tasks[task].jets)


def classifier_stage(pipeline: Pipeline, task: str) -> Stage:
    """The stage of `classifier`."""
    settings = pipeline.profile.finetuning
    if task not in settings.tasks:
        raise JetfmError("task", repr(task), f"one of {', '.join(settings.tasks)}")
    if pipeline.profile.pretraining.backbone.input == "token-id":
        where = "pretraining.backbone.input"
        raise JetfmError(where, "token-id", "a main model of constituents, to take some away")
    chosen = settings.tasks[task]
    inputs: Mapping[str, Stage] = {
        "model": pipeline.pretraining.pretrained(),
        **{split: pipeline.jets.stored(split, chosen.jets) for split in SPLITS},
    }
    like_these = settings.model_dump(mode="json", exclude={"tasks", "sizes", "n_seeds"})
    return pipeline.run.stage(
        "classifier",
        partial(_train, pipeline, task),
        variant=task,
        settings={
            "finetuning": like_these,
            "classes": chosen.classes,
            "sizes": settings.sizes_of(task),
            "max_constituents": pipeline.profile.data.max_constituents,
            **({"train_on": ranges} if (ranges := chosen.train_on) else {}),
        },
        inputs=inputs,
        version=FITS_VERSION,
    )


def _train(pipeline: Pipeline, task: str, folder: Path) -> dict:
    settings = pipeline.profile.finetuning
    runner = pipeline.finetuning.runner(task, MAIN, _WEIGHTS)
    most = min(len(runner.jets.train.training_order(0)), N_LABELS)
    size = max((n for n in settings.sizes_of(task) if n <= most), default=most)
    network, result, _ = trained(runner, size, 0, settings, folder, pipeline.profile.seed)
    jets = runner.jets.train
    Classifier(
        network.cpu(),
        architecture_of(runner.contender, network, settings.baselines),
        jets.class_names,
        jets.preprocessing,
        jets.max_constituents,
        pt_range_of(jets.store, jets.indices),
    ).save(folder)
    return {"n_train": size, "accuracy": result["accuracy"]}
