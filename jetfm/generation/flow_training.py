"""Train EPiC-FM on a jets store: at full resolution, each model against its own truth."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jetfm.data.batches import (
    EvaluationBatches,
    InOrderBatches,
    Reading,
    mean_length,
    shuffled_batches,
)
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.models.flow_matching import FlowModel
from jetfm.physics.features import Preprocessing
from jetfm.settings import FlowSettings
from jetfm.training.fit import TrainingResult, fit
from jetfm.training.job import Training

_CHUNK = 20_000  # jets at once while moments are taken


def flow_batch(
    store: JetStore,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    max_constituents: int = 128,
) -> dict[str, Tensor]:
    """Jets for `FlowModel.loss`: 'x' (B, T, F) in network space and 'mask' (B, T).

    Longer jets keep their leading constituents in pt, and count as jets of that many.
    """
    physical, mask = store.dense(indices, max_constituents, preprocessing.features)
    x = preprocessing.forward(physical, mask)
    return {"x": torch.as_tensor(x, dtype=torch.float32), "mask": torch.as_tensor(mask)}


def moments(
    store: JetStore,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    max_constituents: int = 128,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, (F,) float64 each, of the jets' constituents in network space.

    Raises
    ------
    JetfmError
        Jets without a constituent.
    """
    n, total, squares = 0, 0.0, 0.0
    for start in range(0, len(indices), _CHUNK):
        some = indices[start : start + _CHUNK]
        physical, mask = store.dense(some, max_constituents, preprocessing.features)
        x = preprocessing.forward(physical[mask].astype(np.float64))
        n, total, squares = n + len(x), total + x.sum(0), squares + (x**2).sum(0)
    if n == 0:
        raise JetfmError(store.folder, "no constituents", "jets to learn from")
    mean = total / n
    return mean, np.sqrt(np.maximum(squares / n - mean**2, 0))


def train_flow(
    train: JetStore,
    validation: JetStore,
    settings: FlowSettings,
    preprocessing: Preprocessing,
    folder: str | Path,
    seed: int,
    progress: bool = True,
    max_constituents: int = 128,
) -> tuple[FlowModel, TrainingResult]:
    """Train EPiC-FM on the jets of the settings' classes; an interrupted call continues.

    Parameters
    ----------
    preprocessing : from physical to network space, e.g. that of the tokenizer beside it
    folder : for checkpoints and ``metrics.csv``
    seed : of the initial weights, the batches, the times and the noise
    max_constituents : longer jets keep their leading constituents in pt

    Returns
    -------
    the model with the weights of its best validation, and how the training went

    Raises
    ------
    JetfmError
        A store without jets of these classes, or a feature without spread.
    """
    chosen, judged = (store.jets_of(settings.classes) for store in (train, validation))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FlowModel(settings, preprocessing.n_features, preprocessing)
    model.set_standardisation(*moments(train, chosen, preprocessing, max_constituents))
    collate = partial(flow_batch, preprocessing=preprocessing, max_constituents=max_constituents)
    batch_size = settings.training.batch_size
    lengths = np.minimum(train.n_constituents, max_constituents)
    schedule = shuffled_batches(lengths, batch_size, seed, chosen)
    reading = Reading(train, schedule)
    training = Training(
        model,
        lambda step: collate(*reading.of(step, schedule.indices(step))),
        settings.training,
        validation=EvaluationBatches(
            InOrderBatches(validation.n_constituents, batch_size, judged),
            partial(collate, validation),
        ),
        folder=folder,
        seed=seed,
        progress=progress,
        name="EPiC-FM",
        mean_weight=batch_size * mean_length(lengths, chosen),
    )
    return model, fit(training)
