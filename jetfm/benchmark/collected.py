"""Rows of a finished study: every contender of a profile, and the fits of a model of one's own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jetfm.benchmark.format import JUDGED, About, Benchmark, Point, Row, Submission
from jetfm.finetuning.results import Finetuning, TaskResults
from jetfm.finetuning.study import Runner
from jetfm.models.transformer import n_parameters
from jetfm.pipeline import Pipeline
from jetfm.settings import BASELINES, FinetuningSettings
from jetfm.storage.artifacts import Artifact


def submission_of(pipeline: Pipeline, benchmark: Benchmark) -> Submission | None:
    """The rows of all contenders of the profile; None where its fits are not finished."""
    artifact = pipeline.finetuning.finetuned().find()
    if artifact is None:
        return None
    study = Finetuning(artifact.folder)
    contenders = dict.fromkeys(pair for task in study.tasks.values() for pair in task.contenders)
    rows = [
        Row(
            text=_text(study, model, start),
            start=start,
            about=_about(pipeline, study, model, start, artifact),
            points=points_of(study.tasks, model, start),
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


def size_of(runner: Runner, settings: FinetuningSettings) -> int:
    """Parameters of all that scores a jet, the fixed ones too; some differ with the classes, by a
    last layer."""
    train = runner.jets.train
    how = (len(train.class_names), train.preprocessing, settings.baselines, train.tokenizer_hash)
    return n_parameters(runner.contender.network(*how))


def commit_of(artifact: Artifact) -> str:
    """Version, and commit where it was made in a clone."""
    record = artifact.record
    return f"jetfm {record['jetfm']}" + (f", {record['commit']}" if record["commit"] else "")


def tuned_text(profile: str) -> str:
    """What was chosen for fits with a profile's settings."""
    return f"settings of profile {profile}, the same at all tasks and sizes (docs/optimisers.md)"


def _about(
    pipeline: Pipeline, study: Finetuning, model: str, start: str, artifact: Artifact
) -> About:
    finetuning, settings = pipeline.finetuning, pipeline.profile.finetuning
    task = next(name for name, one in study.tasks.items() if (model, start) in one.contenders)
    known = {
        "who": "the profile's own",
        "n_parameters": size_of(finetuning.runner(task, model, start), settings),
        "tuned": tuned_text(pipeline.profile.name),
        "commit": commit_of(artifact),
    }
    if model in BASELINES or start == "scratch":
        return About(**known, n_pretraining_jets=0, pretraining="none")
    n_jets, text = _pretraining(pipeline, model)
    return About(**known, n_pretraining_jets=n_jets, pretraining=text)


def _pretraining(pipeline: Pipeline, model: str) -> tuple[int, str]:
    """Jets that a model was pre-trained on, and what they are."""
    store, strategies = pipeline.jets.store("train"), pipeline.pretraining.settings
    if model in strategies:
        settings, classes, which = strategies[model], (), "of all classes"
    else:  # a generator of some classes
        settings = pipeline.profile.generative_quality.model
        classes = pipeline.generation.generators[model].classes
        which = f"{' and '.join(classes)} alone, chosen by class"
    indices = [store.class_index(name) for name in classes or store.class_names]
    n_jets = int(np.isin(np.asarray(store.labels), indices).sum())
    n_jets = min(settings.limit_train_jets or n_jets, n_jets)
    return n_jets, f"the profile's training jets, {which}; no labels in training"


def _text(study: Finetuning, model: str, start: str) -> str:
    """What legends call a contender."""
    rows = (row for task in study.tasks.values() for row in task.result["rows"])
    return next(row["text"] for row in rows if (row["model"], row["weights"]) == (model, start))
