"""Train every contender of every task on every training size, several times, and test it.

After arXiv 2403.05618, figure 7, and arXiv 2512.04149, figures 4 and 5. All contenders of a task
see the same labelled jets with the same seeds. *scratch* has random weights, *finetuned* a
pre-trained backbone with all weights free, *fixed* a pre-trained backbone as it is: its jets are
encoded once, without dropout, and only the head learns; probes (`jetfm.finetuning.probes`) read
these jets, too. Nothing is masked when classifying; *beside* is fine-tuned and masks particles in a
pass of its own (`jetfm.finetuning.masking_beside`).

The labelled training jets of JetClass are, without their labels, among the jets of the
pre-training; test jets are not. (Paper 1 takes all jets of this study from JetClass's test split.)
Validation jets stop the training, test jets are seen once, at the end. What a seed changes is our
choice, too: the head's weights, the training jets and their batches; the pre-trained backbone is
always the same one, or where there are several they take turns.

A task may train, and validate, on jets in some ranges (`jetfm.data.jet_ranges`). Its fits are
tested on all jets, those inside and those outside apart: two numbers of one fit. A classifier
trained on the other range, a task of its own, says what those outside allow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from jetfm.data.batches import EvaluationBatches, InOrderBatches, LengthBucketedBatches
from jetfm.data.jet_ranges import ranges_as_text, within
from jetfm.data.labelled import LabelledJets
from jetfm.errors import JetfmError
from jetfm.finetuning.contenders import ON_A_FIXED_BACKBONE, Contender
from jetfm.finetuning.encoded_jets import EncodedJets, encode
from jetfm.finetuning.masking_beside import MaskingBeside
from jetfm.finetuning.probes import probe_and_test
from jetfm.finetuning.scores import judged
from jetfm.models.classifier import JetClassifier
from jetfm.runtime.device import current_device, evaluation_batch
from jetfm.runtime.parallel import run_fits
from jetfm.schema import SPLITS
from jetfm.settings import PROBES, FinetuningSettings, TrainingSettings
from jetfm.storage.files import link_files, read_json, write_json, write_npy
from jetfm.training.fit import fit
from jetfm.training.job import Training

_MASKS = 19  # in the seeds of masks, which those of dropout have not
STUDY, LABELS = "study.json", "labels.npy"


@dataclass(frozen=True)
class Jets:
    """The three splits of a task, as one contender reads them."""

    train: LabelledJets
    val: LabelledJets
    test: LabelledJets

    @property
    def by_split(self) -> dict[str, LabelledJets]:
        """'train', 'val' and 'test'."""
        return {split: getattr(self, split) for split in SPLITS}


@dataclass(frozen=True)
class Runner:
    """A contender at a task, with the jets that it reads.

    Parameters
    ----------
    most : labelled jets; larger sizes are for others. Zero means all sizes
    shared : folder that finished fits appear in, too, for other studies
    """

    task: str
    contender: Contender
    jets: Jets
    most: int = 0
    shared: Path | None = None

    def sizes(self, of_task: Sequence[int]) -> list[int]:
        """Its own of a task's training sizes."""
        return [size for size in of_task if not self.most or size <= self.most]

    def path(self, folder: Path, size: int, repetition: int) -> Path:
        """Where the result of a fit is kept."""
        return fit_path(runs_folder(folder, self.task), self.contender, size, repetition)


def runs_folder(folder: Path, task: str) -> Path:
    """Where a task's results are kept: metrics and scores of the test jets by fit, and `LABELS`."""
    return folder / "runs" / task


def fit_path(runs: Path, contender: Contender, size: int, repetition: int) -> Path:
    """Metrics of a fit; its scores of the test jets lie beside it, as ``.npy``."""
    return runs / f"{contender.name}_{size}_{repetition}.json"


def run_study(
    runners: Sequence[Runner],
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
    progress: bool = True,
    workers: int = 0,
) -> dict:
    """All fits of the study; finished ones are found and skipped.

    Parameters
    ----------
    workers : processes that fit side by side, each on one thread; 0 is one per core. The results
        do not depend on it.

    Returns
    -------
    by task: 'sizes', 'classes', 'n_test', 'n_val', 'n_leaked' and 'rows', with the metrics of
    `jetfm.finetuning.scores.judged` by contender and size, one entry a seed; of a task with ranges
    these and the number of test jets inside and outside, 'ranges', 'n_inside' and 'n_outside', and
    in a row the same metrics of either, 'inside' and 'outside'

    Raises
    ------
    JetfmError
        Fewer training jets than the smallest size of a task asks for, or a class without jets
        inside a task's ranges, or without test jets outside.
    """
    tasks: dict[str, list[Runner]] = {}
    for runner in runners:
        tasks.setdefault(runner.task, []).append(runner)
    for name, (first, *_) in tasks.items():
        _check_ranges(name, first.jets)
    sizes = {name: possible_sizes(name, some[0].jets, settings) for name, some in tasks.items()}
    points = [
        (runner, size, repetition)
        for runner in runners
        for size in runner.sizes(sizes[runner.task])
        for repetition in settings.seeds(runner.task, size)
    ]
    # The longest first, so that no worker is left alone with one of them at the end.
    missing = sorted(
        (point for point in points if not point[0].path(folder, *point[1:]).exists()),
        key=lambda point: -point[1],
    )
    encodings = {  # one for all that read the same
        (runner.task, runner.contender.model): (runner, tuple(sizes[runner.task]))
        for runner, _, _ in missing
        if runner.contender.weights in ON_A_FIXED_BACKBONE
    }
    run_fits(
        _encode,
        [(*encoding, settings, folder, seed) for encoding in encodings.values()],
        workers,
        "encode jets",
        progress,
        "backbone",
    )
    fits = [(*point, settings, folder, seed) for point in missing]
    run_fits(one_fit, fits, workers, "fine-tuning", progress)
    result = {
        name: _collected(some, sizes[name], settings, folder, seed) for name, some in tasks.items()
    }
    write_json(folder / STUDY, result)
    return result


def run_shared(
    runners: Sequence[Runner],
    kept: Sequence[Path],
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
    progress: bool = True,
) -> dict:
    """`run_study`, whose fits other studies have too.

    Parameters
    ----------
    kept : a folder for each runner, named by all that decides its fits: those there are taken, and
        each new one put there as soon as it is finished

    Returns
    -------
    'sizes' by task
    """
    for runner, fits in zip(runners, kept, strict=True):
        link_files(fits, runs_folder(folder, runner.task), f"{runner.contender.name}_*")
    runners = [replace(one, shared=fits) for one, fits in zip(runners, kept, strict=True)]
    result = run_study(runners, settings, folder, seed, progress)
    return {name: {"sizes": task["sizes"]} for name, task in result.items()}


def possible_sizes(task: str, jets: Jets, settings: FinetuningSettings) -> list[int]:
    """Training sizes of a task that there are enough jets for.

    Raises
    ------
    JetfmError
        Fewer jets than the smallest.
    """
    wanted = settings.sizes_of(task)
    available = len(jets.train.training_order(0))
    sizes = [size for size in wanted if size <= available]
    if not sizes:
        expected = f"at least {min(wanted)}, the smallest training size"
        ranges = ranges_as_text(jets.train.ranges)
        found = f"{available} labelled training jets" + (f" inside {ranges}" if ranges else "")
        raise JetfmError(f"finetuning, {task}", found, expected)
    return sizes


def _check_ranges(task: str, jets: Jets) -> None:
    """A JetfmError where a selection of jets lacks a class."""
    ranges = jets.train.ranges
    if not ranges:
        return
    inside = within(jets.test.store, jets.test.indices, ranges)
    selections = {
        "training jets inside": (jets.train, jets.train.indices),
        "validation jets inside": (jets.val, jets.val.indices),
        "test jets inside": (jets.test, jets.test.indices[inside]),
        "test jets outside": (jets.test, jets.test.indices[~inside]),
    }
    for text, (side, indices) in selections.items():
        counts = np.bincount(side.labels[indices], minlength=len(side.class_names))
        for name, n_jets in zip(side.class_names, counts, strict=True):
            if not n_jets:
                every = f"{len(indices)} {text} {ranges_as_text(ranges)}"
                found = f"{every}, none of them {name}"
                raise JetfmError(f"finetuning, {task}", found, "jets of every class of the task")


def _collected(
    runners: Sequence[Runner],
    sizes: Sequence[int],
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
) -> dict:
    rows, jets = [], runners[0].jets
    labels = jets.test.labels[jets.test.indices].astype(np.int16)
    ranges = jets.train.ranges
    inside = within(jets.test.store, jets.test.indices, ranges)
    for runner in runners:
        for size in runner.sizes(sizes):
            seeds = settings.seeds(runner.task, size)
            found = [read_json(runner.path(folder, size, i)) for i in seeds]
            row = {"model": runner.contender.model, "weights": runner.contender.weights}
            row |= {"text": runner.contender.text, "size": size}
            row |= {key: [run[key] for run in found] for key in found[0] if key != "history"}
            n_pretrainings = min(1 + len(runner.contender.others), len(seeds))
            if n_pretrainings > 1:
                row["n_pretrainings"] = n_pretrainings
            if ranges:
                paths = [runner.path(folder, size, i).with_suffix(".npy") for i in seeds]
                for name, chosen in (("inside", inside), ("outside", ~inside)):
                    row[name] = _judged_on(paths, chosen, labels, settings.n_bootstrap)
            rows.append(row)
    write_npy(runs_folder(folder, runners[0].task) / LABELS, labels)
    seen = _all_training_jets(runners[0], sizes, settings, seed)
    used = jets.train.hashes(seen) | jets.val.hashes(jets.val.indices)
    return {
        "rows": rows,
        "sizes": list(sizes),
        "classes": jets.test.class_names,
        "n_test": len(jets.test.indices),
        "n_val": len(jets.val.indices),
        "n_leaked": len(jets.test.hashes(jets.test.indices) & used),
    } | (
        {"ranges": ranges, "n_inside": int(inside.sum()), "n_outside": int((~inside).sum())}
        if ranges
        else {}
    )


def _judged_on(
    paths: Sequence[Path], chosen: np.ndarray, labels: np.ndarray, n_bootstrap: int
) -> dict[str, list]:
    """Metrics of fits on some of the test jets, one entry a fit."""
    some = labels[chosen].astype(np.int64)
    found = []
    for path in paths:  # one at a time: scores are far larger than what is kept
        scores = np.load(path, allow_pickle=False)[chosen]
        found.append(judged(some, scores, n_bootstrap))
    return {key: [one[key] for one in found] for key in found[0]}


def _run_seed(seed: int, repetition: int) -> int:
    return seed * 1000 + repetition


def labelled_jets(train: LabelledJets, size: int, repetition: int, seed: int) -> np.ndarray:
    """(size,) jets of the store that a fit has the labels of, in their random order."""
    return train.training_order(_run_seed(seed, repetition))[:size]


def _all_training_jets(
    runner: Runner, sizes: Sequence[int], settings: FinetuningSettings, seed: int
) -> np.ndarray:
    """Training jets of all sizes and repetitions of a task together, ascending."""
    by_repetition = {i: n for n in sorted(sizes) for i in settings.seeds(runner.task, n)}
    chosen = [labelled_jets(runner.jets.train, n, i, seed) for i, n in by_repetition.items()]
    return np.unique(np.concatenate(chosen))


def _encode(
    runner: Runner, sizes: Sequence[int], settings: FinetuningSettings, folder: Path, seed: int
) -> None:
    """The jets of all sizes and repetitions through every training of the fixed backbone."""
    torch.manual_seed(0)
    jets = runner.jets.train
    wanted = {
        "train": _all_training_jets(runner, sizes, settings, seed),
        "val": runner.jets.val.indices,
        "test": runner.jets.test.indices,
    }
    n_seeds = max(len(settings.seeds(runner.task, size)) for size in sizes)
    for number, contender in enumerate(runner.contender.trainings()[:n_seeds]):
        classifier = JetClassifier(contender.backbone(jets.preprocessing, jets.tokenizer_hash))
        for split, indices in wanted.items():
            side = getattr(runner.jets, split)
            where = _encoded_folder(folder, runner, split, number)
            encode(classifier.backbone, side, indices, where, classifier.causal)


def _encoded(folder: Path, runner: Runner, repetition: int) -> dict[str, EncodedJets]:
    return {
        split: EncodedJets(_encoded_folder(folder, runner, split, repetition)) for split in SPLITS
    }


def _encoded_folder(folder: Path, runner: Runner, split: str, repetition: int) -> Path:
    contender = runner.contender
    number = repetition % len(contender.trainings())
    model = f"{contender.model} {number + 1}" if number else contender.model
    return folder / "training" / "encoded" / runner.task / model / split


def one_fit(
    runner: Runner,
    size: int,
    repetition: int,
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
) -> None:
    """Train on the first `size` jets of the repetition's order; write result and test scores."""
    path = runner.path(folder, size, repetition)
    if runner.contender.weights in PROBES:
        result, scores = _probed(runner, size, repetition, settings, folder, seed)
    else:
        _, result, scores = trained(runner, size, repetition, settings, folder, seed)
    write_npy(path.with_suffix(".npy"), scores)
    write_json(path, result)
    if runner.shared is not None:
        link_files(path.parent, runner.shared, f"{path.stem}.*")


def _probed(
    runner: Runner,
    size: int,
    repetition: int,
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
) -> tuple[dict, np.ndarray]:
    jets = runner.jets
    indices = {split: side.indices for split, side in jets.by_split.items()}
    indices["train"] = labelled_jets(jets.train, size, repetition, seed)
    return probe_and_test(
        runner.contender.weights,
        _encoded(folder, runner, repetition),
        indices,
        {
            split: side.labels[indices[split]].astype(np.int64)
            for split, side in jets.by_split.items()
        },
        len(jets.train.class_names),
        settings,
    )


def trained(
    runner: Runner,
    size: int,
    repetition: int,
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
) -> tuple[nn.Module, dict, np.ndarray]:
    """The classifier of one fit, with what `train_and_test` returns; interrupted, it continues."""
    run_seed, jets = _run_seed(seed, repetition), runner.jets
    torch.manual_seed(run_seed)
    n_classes = len(jets.train.class_names)
    contender = runner.contender.of(repetition)
    space, tokenizer = jets.train.preprocessing, jets.train.tokenizer_hash
    if contender.weights == "beside":
        module = contender.beside(n_classes, space, settings.mpm_weight, tokenizer)
    else:
        module = contender.module(n_classes, space, settings.baselines, tokenizer)
    indices = labelled_jets(jets.train, size, repetition, seed)
    sides: Mapping[str, LabelledJets | EncodedJets] = jets.by_split
    if contender.weights == "fixed":
        sides = _encoded(folder, runner, repetition)
    scratch = folder / "training" / runner.task / runner.path(folder, size, repetition).stem
    result, scores = train_and_test(
        module, sides, jets, indices, settings, scratch, run_seed, weights=contender.weights
    )
    return module, result, scores


def validation_interval(settings: FinetuningSettings, steps_per_epoch: int) -> int:
    """Steps from one validation to the next: whole epochs, as in the papers, where several fit in.

    A training that ends within its first epoch is validated every ``settings.validate_every``
    steps, so that it too keeps its best weights and not its last (our choice).
    """
    if steps_per_epoch >= settings.max_steps:
        return min(settings.validate_every, settings.max_steps)
    epochs = math.ceil(settings.validate_every / steps_per_epoch)
    return min(epochs * steps_per_epoch, settings.max_steps)


def train_and_test(
    module: nn.Module,
    sides: Mapping[str, LabelledJets | EncodedJets],
    jets: Jets,
    indices: np.ndarray,
    settings: FinetuningSettings,
    folder: Path | None,
    seed: int,
    progress: bool = False,
    weights: str = "scratch",
) -> tuple[dict, np.ndarray]:
    """One fit.

    Parameters
    ----------
    module : trained in place
    sides : where batches of 'train', 'val' and 'test' come from
    indices : training jets
    folder : for checkpoints
    weights : with which the contender starts, which decides the learning rate

    Returns
    -------
    metrics on the test jets, and the logarithm of the probabilities of the classes for each of
    ``jets.test.indices``, (n, n_classes) float32. 'cut' says that the limit of steps ended the fit
    and not its patience, or that it saw fewer jets than it was given: its accuracy is a lower limit
    """
    small = len(indices) <= settings.small_size
    batch_size = min(settings.small_batch_size if small else settings.batch_size, len(indices))
    lengths = jets.train.store.n_constituents
    schedule = LengthBucketedBatches(lengths, batch_size, seed, indices, chunk_batches=1)
    interval = validation_interval(settings, schedule.steps_per_epoch)
    patience = settings.patience(len(indices)) * schedule.steps_per_epoch  # in steps
    plan = TrainingSettings(
        batch_size=batch_size,
        max_steps=settings.max_steps,
        validate_every=interval,
        patience=math.ceil(patience / interval),
        precision=settings.precision,
        ema=settings.ema,
        optimizer=settings.optimizer_of(weights),
    )
    val = InOrderBatches(jets.val.store.n_constituents, evaluation_batch(), jets.val.indices)
    module.monitor = {"loss": "loss", "accuracy": "-accuracy"}[settings.monitor]

    def batches(step: int) -> dict[str, Tensor]:
        batch = sides["train"].batch(schedule.indices(step))
        if isinstance(module, MaskingBeside):
            return module.planned(batch, seed, step, _MASKS)
        return batch

    training = Training(
        module,
        batches,
        plan,
        validation=EvaluationBatches(val, sides["val"].batch),
        folder=folder,
        seed=seed,
        progress=progress,
        say=lambda text: None,
    )
    outcome = fit(training)
    scores = log_probabilities(module, sides["test"], jets.test)
    labels = jets.test.labels[jets.test.indices].astype(np.int64)
    result = judged(labels, scores, settings.n_bootstrap)
    unseen = outcome.last_step * batch_size < len(indices)
    result |= {"cut": unseen or not outcome.stopped_early}
    return result | outcome.steps | {"history": outcome.history}, scores


@torch.no_grad()
def log_probabilities(
    module: nn.Module, side: LabelledJets | EncodedJets, jets: LabelledJets
) -> np.ndarray:
    """ln p of every class for each of ``jets.indices``, (n, n_classes) float32.

    Raises
    ------
    JetfmError
        A score that is not finite; names the batch and its first such jet.
    """
    device = current_device()
    module.to(device).eval()
    batches = InOrderBatches(jets.store.n_constituents, evaluation_batch(), jets.indices)
    found = []
    for number, indices in enumerate(batches):
        batch = {key: value.to(device) for key, value in side.batch(indices).items()}
        logits = module(batch).double().log_softmax(1).cpu()
        bad = ~logits.isfinite().all(1)
        if bad.any():
            where = f"a score that is not finite, batch {number}, jet {indices[bad.numpy()][0]}"
            raise JetfmError(jets.folder, where, "finite scores")
        found.append(logits.float().numpy())
    module.to("cpu")
    return np.concatenate(found)[batches.inverse]
