"""Rows of a finished study: every contender of a profile, and the fits of a model of one's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jetfm.benchmark.format import JUDGED, About, Benchmark, Point, Row, Submission
from jetfm.finetuning.probes import CHOICES
from jetfm.finetuning.results import Finetuning, TaskResults
from jetfm.finetuning.study import Runner
from jetfm.models.transformer import n_parameters
from jetfm.pipeline import Pipeline
from jetfm.settings import BASELINES, PROBES, FinetuningSettings
from jetfm.storage.artifacts import Artifact
from jetfm.storage.paths import project_folder
from jetfm.tokenizers import Tokenizer
from jetfm.tokenizers.physical_encoder import n_encoder_parameters


def submission_of(pipeline: Pipeline, benchmark: Benchmark) -> Submission | None:
    """The rows of all contenders of the profile; None where its fits are not finished."""
    artifact = pipeline.finetuning.finetuned().find()
    if artifact is None:
        return None
    study = Finetuning(artifact.folder)
    tasks = {name: one for name, one in study.tasks.items() if name in benchmark.tasks}
    contenders = dict.fromkeys(pair for task in tasks.values() for pair in task.contenders)
    rows = [
        Row(
            text=_text(study, model, start),
            start=start,
            about=_about(pipeline, tasks, model, start, artifact),
            points=points_of(tasks, model, start),
        )
        for model, start in contenders
    ]
    name, profile = pipeline.profile.name, benchmark.profile
    return Submission(name=name, profile=profile, jets=benchmark.digests, rows=rows)


def points_of(tasks: Mapping[str, TaskResults], model: str, start: str) -> list[Point]:
    """All that a study has of a contender."""
    found = []
    for task in tasks.values():
        for size in task.sizes:
            row = task.row(model, start, size)
            if row is not None:
                n_pretrainings = row.get("n_pretrainings", 1)
                turns = [seed % n_pretrainings for seed in range(len(row["accuracy"]))]
                columns = {key: row[key] for key in JUDGED if key in row}
                found.append(Point(task=task.name, size=size, pretraining=turns, **columns))
    return found


def size_of(
    runner: Runner, settings: FinetuningSettings, tokenizer: Tokenizer | None = None
) -> int:
    """Parameters of all that scores a jet, the fixed ones too; some differ with the classes, by a
    last layer.

    Parameters
    ----------
    tokenizer : of a model that reads ids: its encoder and codebook score the jet, too
    """
    contender, train = runner.contender, runner.jets.train
    n_classes, read = len(train.class_names), train.tokenizer_hash
    if contender.weights in PROBES:  # a plane a class in the space of `pooled`, or labelled jets
        backbone = contender.backbone(train.preprocessing, read)
        plane = 3 * backbone.dim + 1 if contender.weights == "linear" else 0
        n = n_parameters(backbone) + plane * (n_classes if n_classes > 2 else 1)
    else:
        n = n_parameters(
            contender.network(n_classes, train.preprocessing, settings.baselines, read)
        )
    return n + (n_encoder_parameters(tokenizer) if tokenizer and read else 0)


def commit_of(artifact: Artifact) -> str:
    """Version, and commit where it was made in a clone."""
    record = artifact.record
    return f"jetfm {record['jetfm']}" + (f", {record['commit']}" if record["commit"] else "")


#: Configurations tried for a profile's pre-trained models, and its backbone from random weights, by
#: start; those of baselines were never counted.
_TRIED = {"overnight": {"scratch": 2, "fixed": 1, "finetuned": 4, "beside": 1}}


def tuned(profile: str, start: str) -> dict:
    """Of `About`: what was chosen for fits with a profile's settings, and of how many where that is
    chosen for each fit."""
    if start in CHOICES:
        what = "the penalty" if start == "linear" else "the number of neighbours"
        text = f"{what}, for each fit by the validation jets"
        return {"tuned": text, "n_configurations": len(CHOICES[start])}
    pages = [f"docs/{name}.md" for name in ("optimisers", profile)]
    known = " and ".join(page for page in pages if (project_folder() / page).exists())
    return {"tuned": f"settings of profile {profile}, the same at all tasks; the rates, by start, "
            f"are from searches on validation jets of some tasks: {known}"}  # fmt: skip


def _about(
    pipeline: Pipeline,
    tasks: Mapping[str, TaskResults],
    model: str,
    start: str,
    artifact: Artifact,
) -> About:
    finetuning, settings = pipeline.finetuning, pipeline.profile.finetuning
    task = next(name for name, one in tasks.items() if (model, start) in one.contenders)
    runner = finetuning.runner(task, model, start)
    tokenizer = None
    if runner.jets.train.tokenizer_hash:
        tokenizer = pipeline.tokenizers.load(finetuning.tokenizer_of(model))
    known = {
        "who": "the profile's own",
        "n_parameters": size_of(runner, settings, tokenizer),
        "commit": commit_of(artifact),
        **tuned(pipeline.profile.name, start),
        "pretraining_labels": "none",
    }
    if start not in PROBES and model not in BASELINES:
        known["n_configurations"] = _TRIED.get(pipeline.profile.name, {}).get(start)
    if model in BASELINES or start == "scratch":
        return About(**known, n_pretraining_jets=0, pretraining="none")
    n_jets, text = _pretraining(pipeline, model)
    return About(**known, n_pretraining_jets=n_jets, pretraining=text)


def _pretraining(pipeline: Pipeline, model: str) -> tuple[int, str]:
    """Jets that a model was pre-trained on, what they are, and how often they were read."""
    store, strategies = pipeline.jets.store("train"), pipeline.profile.models
    if model in strategies:
        settings, classes, which = strategies[model], (), "of all classes"
    else:  # a generator of some classes
        settings = pipeline.profile.generative_quality.model
        classes = pipeline.generation.generators[model].classes
        which = f"{' and '.join(classes)} alone, chosen by class"
    indices = [store.class_index(name) for name in classes or store.class_names]
    n_jets = int(np.isin(np.asarray(store.labels), indices).sum())
    n_jets = min(settings.limit_train_jets or n_jets, n_jets)
    training = settings.training
    read = f"{training.max_steps:,} steps of {training.batch_size}"
    return n_jets, f"the profile's training jets, {which}; {read}"


def _text(study: Finetuning, model: str, start: str) -> str:
    """What legends call a contender."""
    rows = (row for task in study.tasks.values() for row in task.result["rows"])
    return next(row["text"] for row in rows if (row["model"], row["weights"]) == (model, start))
