"""Train a generator without tokens on a jets store: batches in network space, and the training.

Constituents come at full resolution, straight from the jets. Their order is paper 2's, random
(arXiv 2512.04149, figure 2 and official code), or paper 1's, falling pt. Nothing is stored here
that an order would have to agree with, so a random one is drawn anew whenever a jet comes; the
validation jets keep theirs, and losses of different steps compare. Jets beyond the cap keep their
leading constituents in pt, in either order, as in `jetfm.tokenizers.encoding`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jetfm.data.batches import (
    InOrderBatches,
    Reading,
    Schedule,
    mean_length,
    shuffled_batches,
)
from jetfm.data.constituent_order import shuffled
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.models.continuous_model import ContinuousModel
from jetfm.physics.features import Preprocessing
from jetfm.settings import ContinuousSettings
from jetfm.training.fit import TrainingResult, fit
from jetfm.training.job import Training


def continuous_batch(
    store: JetStore,
    indices: np.ndarray,
    preprocessing: Preprocessing,
    max_constituents: int | None = None,
    rng: np.random.Generator | None = None,
) -> dict[str, Tensor]:
    """One batch of a jets store, ready for `ContinuousModel.loss`.

    Parameters
    ----------
    indices : jets
    max_constituents : longer jets keep their leading ones in pt, their count, and get no stop
    rng : for a random order of the constituents; None keeps them in falling pt
    """
    physical, mask = store.dense(indices, max_constituents, preprocessing.features)
    if rng is not None:
        order = shuffled(mask, rng)
        physical = np.take_along_axis(physical, order[..., None], axis=1)
    return {
        "x": torch.as_tensor(preprocessing.forward(physical, mask), dtype=torch.float32),
        "mask": torch.as_tensor(mask),
        "n_constituents": torch.as_tensor(store.n_constituents[indices]),
    }


class ContinuousBatches:
    """Batches by step, or one process's part of each.

    Parameters
    ----------
    schedule : says which jets are in which batch
    seed : of the random order of the constituents, together with the step; None for falling pt
    rank, world : every `world`-th jet of each batch, from number `rank` on
    """

    def __init__(
        self,
        store: JetStore,
        schedule: Schedule,
        preprocessing: Preprocessing,
        max_constituents: int | None,
        seed: tuple[int, ...] | None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.store, self.schedule, self.preprocessing = store, schedule, preprocessing
        self.max_constituents, self.seed = max_constituents, seed
        self.rank, self.world = rank, world
        self._reading = Reading(store, schedule)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Batch of this step; a part without a jet holds one that predicts nothing."""
        indices = self.schedule.indices(step)
        rng = None if self.seed is None else np.random.default_rng([*self.seed, step])
        store, within = self._reading.of(step, indices)
        batch = continuous_batch(store, within, self.preprocessing, self.max_constituents, rng)
        if self.world == 1:
            return batch
        mine = slice(self.rank, None, self.world)  # of the whole batch's draw: parts agree with it
        if self.rank >= len(indices):
            silent = torch.ones(1, dtype=torch.bool)
            return {key: value[:1] for key, value in batch.items()} | {"silent": silent}
        return {key: value[mine] for key, value in batch.items()}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """All batches of an epoch, for validation."""
        return (self(step) for step in range(self.schedule.steps_per_epoch))

    def shard(self, rank: int, world: int) -> ContinuousBatches:
        """The part of one of `world` processes."""
        whole = (self.store, self.schedule, self.preprocessing, self.max_constituents, self.seed)
        return ContinuousBatches(*whole, rank, world)


def train_continuous(
    train: JetStore,
    validation: JetStore,
    settings: ContinuousSettings,
    preprocessing: Preprocessing,
    folder: str | Path,
    seed: int,
    max_constituents: int = 128,
    progress: bool = True,
) -> tuple[ContinuousModel, TrainingResult]:
    """Train a model on jets; an interrupted call continues.

    Parameters
    ----------
    preprocessing : the network space in which the density is learnt; kinematics only
    folder : for checkpoints and ``metrics.csv``
    seed : of the initial weights, the batches, the orders and the dropout
    max_constituents : longer jets are cut, in training and in validation

    Returns
    -------
    the model with the weights of its best validation, and how the training went

    Raises
    ------
    JetfmError
        A `max_constituents` below 1, features beyond the kinematics, or a store without them.
    """
    if max_constituents < 1:
        raise JetfmError("max_constituents", str(max_constituents), "at least 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ContinuousModel(settings, preprocessing)
    batch_size = settings.training.batch_size
    lengths = [np.minimum(s.n_constituents, max_constituents) for s in (train, validation)]
    schedules = (
        shuffled_batches(lengths[0], batch_size, seed),
        InOrderBatches(lengths[1], batch_size),
    )
    batches, judged = (
        ContinuousBatches(
            store,
            schedule,
            preprocessing,
            max_constituents,
            (seed, stream) if settings.order == "random" else None,
        )
        for stream, (store, schedule) in enumerate(zip((train, validation), schedules, strict=True))
    )
    training = Training(
        model,
        batches,
        settings.training,
        validation=judged,
        folder=folder,
        seed=seed,
        progress=progress,
        name="continuous generator",
        mean_weight=batch_size * (mean_length(lengths[0]) + 1),  # constituents and the stop
    )
    return model, fit(training)
