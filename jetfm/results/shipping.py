"""Write a finished profile's models for others to use: ``weights/``, with cards and checksums."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from jetfm.errors import JetfmError
from jetfm.explore.stages import classifier_stage
from jetfm.finetuning.classifier import Classifier
from jetfm.models.jet_model import JetModel
from jetfm.physics.statistics import share_of
from jetfm.pipeline import Pipeline
from jetfm.pipeline.history import HISTORY
from jetfm.pipeline.stage import Stage
from jetfm.pretraining.comparison import losses
from jetfm.schema import CLASS_NAMES
from jetfm.settings import COMBINED, MAIN, PretrainingSettings
from jetfm.storage.artifacts import RECORD
from jetfm.storage.files import copy_file, read_json, sha256, write_text
from jetfm.storage.kept import write_kept_record
from jetfm.storage.paths import sample_folder
from jetfm.storage.weights import WEIGHTS
from jetfm.tokenizers import load_tokenizer
from jetfm.tokenizers.interface import NAME, USAGE
from jetfm.tokenizers.own_jets import tokenize_files

CHECKSUMS = "SHA256SUMS"
LICENCE = "MIT"
_CLASSIFIER = "ten-classes"

_USES = {
    "main": "generating jets of all ten classes; a start for classifiers",
    "mpm": "a start for classifiers. It cannot generate",
    "joint": "a start for classifiers, and generating jets of all ten classes",
    "omnijet": "generating q/g and t→bqq′ jets together, and a start for tagging them: paper 1's "
    "model, which reads token ids and is not told the multiplicity",
}
_NOT_FOR = (
    "Jets outside 500 to 1000 GeV or |η| < 2, of another radius than .8, or reconstructed "
    "otherwise; measurements without a calibration of your own. Learned from simulated jets "
    "(Pythia 8, a CMS-like detector): docs/own_jets.md shows how to see whether yours are alike."
)


def ship(pipeline: Pipeline, out: Path, say: Callable[[str], None] = print) -> Path:
    """Write the profile's main, MPM, joint and combined models that it has, and a classifier.

    Models are written in half precision, every training of theirs that is finished. What that does
    to their losses on the validation jets of the sample that ships stands in their cards, with the
    losses that a test finds again. Each folder is a kept stage (`jetfm.storage.kept`): the profile
    itself begins with it, and what it began with stays as it is.

    Parameters
    ----------
    out : ``weights/`` of the repository

    Raises
    ------
    JetfmError
        Models of another profile lie there.
    """
    _check_profile(out / "models", pipeline.profile.name)
    known = pipeline.profile.models
    models = {
        f"{name}-{number}" if number > 1 else name: (stage, known[name])
        for name in (MAIN, "mpm", "joint")
        if name in known
        for number, stage in enumerate(pipeline.pretraining.repeated(name), 1)
        if number == 1 or stage.find()
    }
    combined = pipeline.generation.model(COMBINED)
    models["omnijet"] = (combined, pipeline.profile.generative_quality.model)
    tokenizers = {settings.tokenizer for _, settings in models.values()}
    for name in tokenizers:
        _ship_tokenizer(pipeline, name, out / "tokenizers" / name)
    _keep_only(out / "tokenizers", tokenizers)
    _keep_only(out / "models", models)
    for name, (stage, settings) in models.items():
        card = _ship_model(pipeline, name, stage, settings, out)
        say(f"{name}: {card}")
    _ship_classifier(pipeline, out / "classifiers" / _CLASSIFIER)
    _write_checksums(out)
    return out


def _check_profile(folder: Path, profile: str) -> None:
    for path in sorted(folder.glob("*/model.json")):
        shipped = read_json(path).get("profile")
        if shipped != profile:
            expected = f"of {profile!r}, none (remove them first), or another --out"
            raise JetfmError(path.parent, f"a model of profile {shipped!r}", expected)


def _keep_only(folder: Path, names: Collection[str]) -> None:
    """Remove what was shipped under other names: the profile has it no more."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and path.name not in names:
            shutil.rmtree(path)


def _ship_tokenizer(pipeline: Pipeline, name: str, folder: Path) -> None:
    stage = pipeline.tokenizers.trained(name)
    if not _makes_way(folder, stage):
        return
    for file in (f"{NAME}.json", WEIGHTS, USAGE):  # in single precision: ids are ids
        copy_file(stage.folder / file, folder / file)
    _copy_history(stage, folder)
    write_text(folder / "README.md", _tokenizer_card(pipeline, stage))
    write_kept_record(stage.artifact, stage.recipe, folder)


def _makes_way(folder: Path, stage: Stage) -> bool:
    """Whether a stage is to be written there, which is then no kept one until its record is; not if
    it is what shipped before and lies there."""
    if stage.folder.resolve() == folder.resolve():
        return False
    (folder / RECORD).unlink(missing_ok=True)
    return True


def _copy_history(stage: Stage, folder: Path) -> None:
    if (stage.folder / HISTORY).exists():  # some shipped without
        copy_file(stage.folder / HISTORY, folder / HISTORY)


def _ship_model(
    pipeline: Pipeline, name: str, stage: Stage, settings: PretrainingSettings, out: Path
) -> str:
    folder = out / "models" / name
    if not _makes_way(folder, stage):
        return "is there"
    model, tokenizer = JetModel.load(stage.folder), pipeline.tokenizers.load(settings.tokenizer)
    held_out = pipeline.tokenizers.tokens("val", settings.tokenizer).multiplicity
    with TemporaryDirectory() as scratch:
        sample = tokenize_files(tokenizer, sample_folder() / "val", scratch, progress=False)
        whole = _only_losses(losses(model, tokenizer, sample, seed=1))
        info: dict[str, Any] = {
            "profile": pipeline.profile.name,
            "tokenizer": settings.tokenizer,
            "n_constituents": np.bincount(held_out).tolist(),
        }
        model.save(folder, half=True, **info)
        halved = _only_losses(losses(JetModel.load(folder), tokenizer, sample, seed=1))
    info |= {"losses": halved, "losses_in_single_precision": whole}
    model.save(folder, half=True, **info)
    write_text(folder / "README.md", _card(pipeline, name, stage, settings, halved, whole))
    _copy_history(stage, folder)
    write_kept_record(stage.artifact, stage.recipe, folder)
    return ", ".join(f"{objective} loss {loss:.4f}" for objective, loss in halved.items())


def _ship_classifier(pipeline: Pipeline, folder: Path) -> None:
    stage = classifier_stage(pipeline, _CLASSIFIER)
    if not _makes_way(folder, stage):
        return
    classifier = Classifier.load(stage.folder)
    classifier.save(folder, half=True, profile=pipeline.profile.name)
    write_text(folder / "README.md", _classifier_card(pipeline, stage, classifier))
    write_kept_record(stage.artifact, stage.recipe, folder)


def _only_losses(found: dict) -> dict[str, float]:
    return {objective: one["loss"] for objective, one in found.items()}


# Cards -------------------------------------------------------------------------------------------


def _card(
    pipeline: Pipeline,
    name: str,
    stage: Stage,
    settings: PretrainingSettings,
    halved: dict,
    whole: dict,
) -> str:
    record, training = stage.artifact.record, settings.training
    base, _, number = name.partition("-")
    combined = pipeline.generation.generators[COMBINED].classes
    classes = combined if name == "omnijet" else CLASS_NAMES
    lines = [
        f"# {name}: {settings.label}{f', training {number} of its kind' * bool(number)}", "",
        f"For {_USES[base]}.", "",
        f"**Not for.** {_NOT_FOR}", "",
        "| | |", "|---|---|",
        *_origin(pipeline, record),
        f"| classes | {', '.join(classes)} |",
        f"| network | width {settings.backbone.dim}, {settings.backbone.n_blocks} blocks, "
        f"{settings.backbone.n_heads} heads; tokenizer `{settings.tokenizer}` |",
        f"| training | {record['metrics']['last_step']} steps of {training.batch_size} jets, "
        f"{training.optimizer.name}; best loss on validation jets of the profile "
        f"{record['metrics']['best_loss']:.4f} nats a token"
        f"{', of both objectives together' * (settings.objective == 'joint')} |",
        *(
            f"| {objective} loss on data/sample/val | {loss:.4f} nats a token in half precision, "
            f"{whole[objective]:.4f} in single |"
            for objective, loss in halved.items()
        ),
        f"| licence | {LICENCE} |",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _tokenizer_card(pipeline: Pipeline, stage: Stage) -> str:
    tokenizer = load_tokenizer(stage.folder)
    lines = [
        f"# Tokenizer: {tokenizer.n_codes} codes", "",
        "Constituents (pT in GeV, η and φ about the jet's axis) to ids and back. In single "
        "precision, so that ids are those of the training.", "",
        "| | |", "|---|---|",
        *_origin(pipeline, stage.artifact.record),
        f"| features | {', '.join(tokenizer.preprocessing.features)} |",
        f"| licence | {LICENCE} |",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _classifier_card(pipeline: Pipeline, stage: Stage, known: Classifier) -> str:
    record = stage.artifact.record
    low, high = known.pt_range
    n_test = len(pipeline.jets.store("test"))
    n_test = min(pipeline.profile.finetuning.limit_test_jets or n_test, n_test)
    accuracy = share_of(round(record["metrics"]["accuracy"] * n_test), n_test)
    lines = [
        "# Ten classes", "",
        "The main model, fine-tuned: `jetfm score` takes it where no other is named.", "",
        f"**Not for.** {_NOT_FOR}", "",
        "| | |", "|---|---|",
        *_origin(pipeline, record),
        f"| classes | {', '.join(known.classes)} |",
        f"| labelled jets | {record['metrics']['n_train']}, {low:.0f} to {high:.0f} GeV |",
        f"| accuracy on {n_test} test jets of the profile | {accuracy.value:.4f} ± "
        f"{accuracy.uncertainty:.4f} |",
        f"| licence | {LICENCE} |",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _origin(pipeline: Pipeline, record: dict) -> list[str]:
    jets = pipeline.profile.data
    n_jets = jets.jets_per_class.train
    if not n_jets:  # all that there are
        numbers = np.bincount(pipeline.jets.store("train").labels)
        n_jets = " to ".join(map(str, dict.fromkeys((numbers.min(), numbers.max()))))
    return [
        f"| profile | {pipeline.profile.name}, seed {record['seed']} |",
        f"| jets | {n_jets} simulated training jets a class, `source: {jets.source}` |",
        f"| made by | jetfm {record['jetfm']}, commit {record['commit'] or 'unknown'}, "
        f"torch {record['packages']['torch']} |",
    ]


def _write_checksums(out: Path) -> None:
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != CHECKSUMS)
    lines = [f"{sha256(path)}  {path.relative_to(out).as_posix()}" for path in files]
    write_text(out / CHECKSUMS, "\n".join(lines) + "\n")
