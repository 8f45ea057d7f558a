"""The classifier test: can a network tell two samples of jets apart? (2403.05618, appendix A 5)

The paper's network is a DeepSets, which sees a jet through a sum over its constituents and so is
blind to much of how they lie to each other. A transformer is not, but learns more slowly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from jetfm.data.batches import InOrderBatches, LengthBucketedBatches
from jetfm.errors import JetfmError
from jetfm.models.deepsets import CLASSIFIER_TEST, DeepSets
from jetfm.models.transformer_classifier import TransformerClassifier
from jetfm.physics.statistics import roc_auc
from jetfm.runtime.device import evaluation_batch
from jetfm.settings import OptimizerSettings, TrainingSettings
from jetfm.training.fit import fit
from jetfm.training.job import Training

SHARES = (0.6, 0.2, 0.2)  # training, validation, test
EPOCHS = 100
MIN_JETS = 10  # of each sample: four for the test

#: By name, networks of so many features: the paper's, and a small transformer (our choice).
NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    "deepsets": lambda n_features: DeepSets(n_features, 2, phi=CLASSIFIER_TEST),
    "transformer": lambda n_features: TransformerClassifier(
        n_features, n_classes=2, dim=32, n_blocks=2, n_heads=4
    ),
}


def classifier_test(
    sample: tuple[np.ndarray, np.ndarray],
    reference: tuple[np.ndarray, np.ndarray],
    folder: Path | None,
    seed: int,
    epochs: int = EPOCHS,
    batch_size: int = 500,
    progress: bool = True,
    network: str = "deepsets",
) -> dict:
    """AUC of a network that separates two samples.

    Parameters
    ----------
    sample, reference : flat constituents (n_total, F) in network space, and offsets (n_jets + 1,)
    folder : for checkpoints; an interrupted call continues. None keeps everything in memory
    epochs : over the training jets; the paper trains for 100 and keeps the best validation loss
    network : 'deepsets', the paper's, or 'transformer'; see `NETWORKS`

    Returns
    -------
    'auc', its bootstrap uncertainty 'auc_error', 'n_train', 'n_test', 'best_step'

    Raises
    ------
    JetfmError
        An unknown network, fewer than 10 jets in a sample, samples of different features,
        constituents that are not finite.

    Notes
    -----
    Adam with a learning rate of 0.001 as in the paper (AdamW without weight decay is the same), for
    both networks. Validation every other epoch and the batch size are our choices. The samples are
    cut to equal size, so that 0.5 means indistinguishable. The uncertainty is of the test jets
    alone: another training would differ too.
    """
    _check(sample, reference, network)
    rng = np.random.default_rng([seed, 11])
    n_each = min(len(offsets) - 1 for _, offsets in (sample, reference))
    flat = np.concatenate([sample[0], reference[0]]).astype(np.float32)
    starts, lengths = [], []
    for shift, (_, offsets) in zip((0, len(sample[0])), (sample, reference), strict=True):
        # At random: a store is sorted by class, and its first jets are not a fair sample.
        chosen = rng.choice(len(offsets) - 1, n_each, replace=False)
        starts.append(shift + offsets[chosen])
        lengths.append(np.diff(offsets)[chosen])
    starts, lengths = np.concatenate(starts), np.concatenate(lengths)
    labels = np.repeat([1, 0], n_each)

    def batch(indices: np.ndarray) -> dict[str, torch.Tensor]:
        counts = lengths[indices]
        mask = np.arange(counts.max(initial=1)) < counts[:, None]
        x = np.zeros((*mask.shape, flat.shape[1]), np.float32)
        before = np.cumsum(counts) - counts
        x[mask] = flat[np.repeat(starts[indices] - before, counts) + np.arange(counts.sum())]
        return {
            "x": torch.from_numpy(x),
            "mask": torch.from_numpy(mask),
            "label": torch.from_numpy(labels[indices]),
        }

    order = rng.permutation(2 * n_each)
    cuts = np.cumsum([int(share * len(order)) for share in SHARES[:2]])
    train, val, test = np.split(order, cuts)
    schedule = LengthBucketedBatches(lengths, batch_size, seed, train, chunk_batches=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = NETWORKS[network](flat.shape[1])
    validation = InOrderBatches(lengths, evaluation_batch(), val)
    settings = TrainingSettings(
        batch_size=batch_size,
        max_steps=epochs * schedule.steps_per_epoch,
        validate_every=2 * schedule.steps_per_epoch,
        patience=epochs,
        optimizer=OptimizerSettings(
            name="adamw", lr=1e-3, weight_decay=0.0, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0
        ),
    )
    training = Training(
        judge,
        lambda step: batch(schedule.indices(step)),
        settings,
        validation=[batch(indices) for indices in validation],
        folder=folder,
        seed=seed,
        progress=progress,
        name="classifier test",
    )
    outcome = fit(training)
    final = InOrderBatches(lengths, evaluation_batch(), test)
    with torch.no_grad():
        logits = torch.cat([judge(b["x"], b["mask"]) for b in map(batch, final)])
    scores = (logits[:, 1] - logits[:, 0]).double().numpy()
    area = roc_auc(labels[final.order], scores)
    return {
        "auc": area.value,
        "auc_error": area.uncertainty,
        "n_train": len(train),
        "n_test": len(test),
        "best_step": outcome.best_step,
    }


def over_seeds(tests: Sequence[dict]) -> dict:
    """Several classifier tests of the same samples as one.

    Returns
    -------
    of one test itself; of several the means of all numbers, 'auc_of_tests', and as 'auc_error' the
    spread of the areas with the mean of their own uncertainties, in quadrature: tests share jets,
    and more of them do not make it smaller (our choice)
    """
    if len(tests) == 1:
        return tests[0]
    areas = [one["auc"] for one in tests]
    means = {key: float(np.mean([one[key] for one in tests])) for key in tests[0]}
    counts = {key: round(means[key]) for key in ("n_train", "n_test", "best_step")}
    error = float(np.hypot(means["auc_error"], np.std(areas, ddof=1)))
    return means | counts | {"auc_error": error, "auc_of_tests": areas}


def _check(sample, reference, network: str) -> None:
    if network not in NETWORKS:
        raise JetfmError("network", repr(network), f"one of {', '.join(NETWORKS)}")
    for name, (flat, offsets) in (("sample", sample), ("reference", reference)):
        where = f"classifier test: {name}"
        if len(offsets) - 1 < MIN_JETS:
            raise JetfmError(where, f"{len(offsets) - 1} jets", f"at least {MIN_JETS}")
        if flat.ndim != 2 or flat.shape[1] != sample[0].shape[1]:
            found = f"constituents of shape {flat.shape}"
            raise JetfmError(where, found, f"(n_total, {sample[0].shape[-1]})")
        if not np.isfinite(flat).all():
            raise JetfmError(where, "constituents that are not finite", "finite features")
