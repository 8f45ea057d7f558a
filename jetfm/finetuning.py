"""Fine-tuning: the pre-trained backbone learns to classify jets from few labels.

The study of arXiv 2403.05618, figure 7, with the classifier of arXiv 2512.04149: full-resolution
constituents in, a bidirectional backbone that starts with the trained start vector, and two
class-attention blocks on top. Three strategies see the same jets with the same seeds: *scratch*
(random weights), *finetuned* (pre-trained backbone, all weights free) and *fixed* (pre-trained
backbone as it is; its jets are encoded once, without dropout, and only the head learns).

The labelled training jets are, without their labels, among the jets of the pre-training; test jets
are not. (Paper 1 takes all jets of this study from JetClass's test split.) Training jets of a size
are the first ones of a class-balanced random order that depends on the seed alone, so that larger
sets contain the smaller ones. Validation jets stop the training, test jets are seen once, at the
end. The papers give neither the split of labels by class (we balance) nor what a seed changes
beyond the head's weights (here also the training jets and their batches).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from jetfm.data.batches import EvaluationBatches, InOrderBatches, LengthBucketedBatches
from jetfm.data.labelled import EncodedJets, LabelledJets
from jetfm.errors import JetfmError
from jetfm.files import read_json, write_json
from jetfm.metrics import roc_auc
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import HeadOnly, JetClassifier
from jetfm.models.jet_model import load_backbone
from jetfm.parallel import run_tasks
from jetfm.settings import FinetuningSettings, TrainingSettings
from jetfm.training import fit

STRATEGIES = ("scratch", "fixed", "finetuned")
EVALUATION_BATCH = 500
MIN_STEPS_BETWEEN_VALIDATIONS = 10  # our choice: an epoch of 100 jets may be a single step


@dataclass(frozen=True)
class Jets:
    """The three splits of a study."""

    train: LabelledJets
    val: LabelledJets
    test: LabelledJets


def run_study(
    jets: Jets,
    pretrained: str | Path,
    settings: FinetuningSettings,
    folder: Path,
    seed: int,
    progress: bool = True,
    workers: int = 0,
) -> dict:
    """All fits of the study; finished ones are found and skipped.

    Parameters
    ----------
    pretrained : folder of the pre-trained model; 'scratch' has a backbone of the same size
    workers : processes that fit side by side, each on one thread; 0 is one per core. The results
        do not depend on it.

    Returns
    -------
    'rows' with AUC and accuracy on the test jets by strategy and size, one entry a seed

    Raises
    ------
    JetfmError
        Fewer training jets than the smallest size asks for.
    """
    available = len(jets.train.training_order(0))
    sizes = [size for size in settings.sizes if size <= available]
    if not sizes:
        expected = f"at least {min(settings.sizes)}, the smallest training size"
        raise JetfmError("finetuning.sizes", f"{available} labelled training jets", expected)
    runs = {
        (strategy, size, repetition): folder / "runs" / f"{strategy}_{size}_{repetition}.json"
        for strategy in STRATEGIES
        for size in sizes
        for repetition in range(settings.n_seeds)
    }
    # The longest first, so that no worker is left alone with one of them at the end.
    missing = sorted((run for run, path in runs.items() if not path.exists()), key=lambda r: -r[1])
    tasks = [(jets, Path(pretrained), settings, *run, runs[run], seed) for run in missing]
    run_tasks(one_fit, tasks, workers, "fine-tuning", progress)
    rows = []
    for strategy in STRATEGIES:
        for size in sizes:
            found = [read_json(runs[strategy, size, i]) for i in range(settings.n_seeds)]
            rows.append({"strategy": strategy, "size": size, "n_seeds": len(found)})
            keys = ("auc", "accuracy", "best_step", "last_step")
            rows[-1] |= {key: [run[key] for run in found] for key in keys}
    result = {
        "rows": rows,
        "sizes": sizes,
        "n_test": len(jets.test.indices),
        "n_val": len(jets.val.indices),
        "n_leaked": len(jets.test.hashes() & (jets.train.hashes() | jets.val.hashes())),
    }
    write_json(folder / "study.json", result)
    return result


@lru_cache(maxsize=1)
def _encoded(pretrained: Path, jets: Jets) -> Jets:
    """All jets of a study through the fixed backbone; kept for the next fit of this process."""
    backbone = load_backbone(pretrained)
    sides = (jets.train, jets.val, jets.test)
    return Jets(*(EncodedJets(backbone, side, side.indices) for side in sides))


def one_fit(
    jets: Jets,
    pretrained: Path,
    settings: FinetuningSettings,
    strategy: str,
    size: int,
    repetition: int,
    path: Path,
    seed: int,
) -> None:
    """Train on the first `size` jets of the repetition's order, and write the result to `path`."""
    run_seed = seed * 1000 + repetition
    torch.manual_seed(run_seed)
    if strategy == "fixed":
        backbone = load_backbone(pretrained)
        module, sides = HeadOnly(JetClassifier(backbone).head), _encoded(pretrained, jets)
    else:
        backbone = load_backbone(pretrained)
        if strategy == "scratch":
            backbone = Backbone(
                backbone.settings, backbone.n_features, preprocessing=backbone.preprocessing
            )
        module, sides = JetClassifier(backbone), jets
    indices = jets.train.training_order(run_seed)[:size]
    scratch = path.parents[1] / "training" / path.stem
    write_json(path, _train_and_test(module, sides, jets, indices, settings, scratch, run_seed))


def _train_and_test(module, sides, jets: Jets, indices, settings, folder: Path, seed: int) -> dict:
    small = len(indices) <= settings.small_size
    batch_size = min(settings.small_batch_size if small else settings.batch_size, len(indices))
    lengths = jets.train.store.n_constituents
    schedule = LengthBucketedBatches(lengths, batch_size, seed, indices)
    epochs = max(1, math.ceil(MIN_STEPS_BETWEEN_VALIDATIONS / schedule.steps_per_epoch))
    validate_every = min(epochs * schedule.steps_per_epoch, settings.max_steps)
    training = TrainingSettings(
        batch_size=batch_size,
        max_steps=settings.max_steps,
        validate_every=validate_every,
        patience=max(1, math.ceil(settings.patience(len(indices)) / epochs)),
        optimizer=settings.optimizer,
    )
    val = InOrderBatches(jets.val.store.n_constituents, EVALUATION_BATCH, jets.val.indices)
    outcome = fit(
        module,
        lambda step: sides.train.batch(schedule.indices(step)),
        training,
        validation=EvaluationBatches(val, sides.val.batch),
        folder=folder,
        seed=seed,
        progress=False,
        say=lambda text: None,
    )
    labels, scores = evaluate(module, sides.test, jets.test)
    return {
        "auc": roc_auc(labels, scores, n_bootstrap=0).value,
        "accuracy": float(((scores > 0) == labels).mean()),
        "best_step": outcome.best_step,
        "last_step": outcome.last_step,
        "history": outcome.history,
    }


@torch.no_grad()
def evaluate(module: nn.Module, side, jets: LabelledJets) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of the test jets, short jets first.

    Returns
    -------
    labels : (n,) 1 signal, 0 background
    scores : (n,) log-odds of signal, float64

    Raises
    ------
    JetfmError
        A score that is not finite; names the first such jet.
    """
    module.eval()
    batches = InOrderBatches(jets.store.n_constituents, EVALUATION_BATCH, jets.indices)
    logits = torch.cat([module(side.batch(indices)) for indices in batches]).double().numpy()
    scores = logits[:, 1] - logits[:, 0]
    bad = ~np.isfinite(scores)
    if bad.any():
        jet = int(batches.order[np.flatnonzero(bad)[0]])
        raise JetfmError(jets.store.folder, f"a score that is not finite, jet {jet}", "scores")
    return jets.labels[batches.order], scores


@dataclass(frozen=True)
class Study:
    """A finished study, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "result", read_json(self.folder / "study.json"))

    @property
    def sizes(self) -> list[int]:
        """Training sizes that there were enough jets for."""
        return self.result["sizes"]

    @property
    def n_fits(self) -> int:
        """Trainings in all."""
        return sum(row["n_seeds"] for row in self.result["rows"])

    @property
    def n_leaked(self) -> int:
        """Test jets that are, constituent for constituent, training or validation jets too."""
        return self.result["n_leaked"]

    def runs(self, strategy: str, size: int, metric: str) -> np.ndarray | None:
        """The metric of every seed, None where the study has no such point."""
        for row in self.result["rows"]:
            if (row["strategy"], row["size"]) == (strategy, size):
                return np.asarray(row[metric])
        return None

    def still_improving(self, strategy: str, size: int) -> int:
        """Fits whose last validation was their best: with more steps they would do better."""
        best, last = (self.runs(strategy, size, key) for key in ("best_step", "last_step"))
        return int((best == last).sum())

    def figure_data(self) -> dict:
        """Arguments of the figure."""
        paper = FinetuningSettings().sizes
        return {
            "rows": self.result["rows"],
            "n_test": self.result["n_test"],
            "missing_sizes": [size for size in paper if size not in self.sizes],
        }

    def as_text(self) -> str:
        """Table of AUC and accuracy, mean and standard deviation over seeds."""
        lines = [
            f"{'strategy':10s} {'jets':>8s} {'AUC':>18s} {'accuracy':>18s}  seeds, still improving"
        ]
        for row in self.result["rows"]:
            cells = [_mean_and_spread(row[metric]) for metric in ("auc", "accuracy")]
            lines.append(
                f"{row['strategy']:10s} {row['size']:8d} {cells[0]:>18s} {cells[1]:>18s} "
                f"{row['n_seeds']:6d}  {self.still_improving(row['strategy'], row['size']):d}"
            )
        return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = np.std(values, ddof=1) if len(values) > 1 else math.nan
    return f"{np.mean(values):.4f} +- {spread:.4f}"
