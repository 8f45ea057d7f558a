"""Pre-train a model on a token store: batches, the training, and what the result can do.

One training path for every strategy; which one is a setting (`PretrainingSettings.objective`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from jetfm.data.batches import (
    InOrderBatches,
    Reading,
    Schedule,
    mean_length,
    seed_of,
    shuffled_batches,
)
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.models.jet_model import JetModel
from jetfm.models.masking import Part
from jetfm.settings import PretrainingSettings
from jetfm.tokenizers.interface import Tokenizer
from jetfm.training.fit import TrainingResult, fit
from jetfm.training.job import Training


def token_batch(
    store: TokenStore, indices: np.ndarray, max_constituents: int | None = None
) -> dict[str, Tensor]:
    """One batch of a token store, ready for `JetModel.loss`.

    Parameters
    ----------
    store : its `multiplicity` is the uncapped count of a jet's constituents
    indices : jets
    max_constituents : longer jets keep their first ones, their count, and get no stop target
    """
    ids, decoded, mask = store.dense(indices, max_constituents)
    n_constituents = store.multiplicity[indices]
    return {
        "ids": torch.as_tensor(ids).long(),
        "decoded": torch.as_tensor(decoded),
        "mask": torch.as_tensor(mask),
        "n_constituents": torch.as_tensor(n_constituents),
    }


class TokenBatches:
    """Training batches by step, or one process's part of each.

    Parameters
    ----------
    schedule : says which jets are in which batch
    rank, world : every `world`-th jet of each batch, from number `rank` on
    plan : `JetModel.plan`, adds what a step needs; random numbers from `seed` and step, those of a
        jet the same in whichever process
    seed : at least one number
    """

    def __init__(
        self,
        store: TokenStore,
        schedule: Schedule,
        max_constituents: int | None = None,
        rank: int = 0,
        world: int = 1,
        plan: Callable[[dict[str, Tensor], torch.Generator, Part], dict[str, Tensor]] | None = None,
        seed: tuple[int, ...] = (0,),
    ) -> None:
        self.store, self.schedule, self.max_constituents = store, schedule, max_constituents
        self.rank, self.world, self.plan, self.seed = rank, world, plan, seed
        self._reading = Reading(store, schedule, rank, world)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """Batch of this step; a part without a jet holds one that predicts nothing."""
        indices = self.schedule.indices(step)
        rows = np.arange(len(indices))[self.rank :: self.world]
        store, mine = self._reading.of(step, indices[rows])
        silent = not len(mine)
        if silent:
            rows = np.zeros(1, np.int64)
            mine = indices[rows]
        batch = token_batch(store, mine, self.max_constituents)
        if silent:
            batch["silent"] = torch.ones(1, dtype=torch.bool)
        if self.plan is None:
            return batch
        length = int(self.store.n_constituents[indices].max())
        if self.max_constituents is not None:
            length = min(length, self.max_constituents)
        length = max(length, batch["mask"].shape[1])  # jets without constituents have a slot, too
        part = Part((len(indices), length), torch.from_numpy(rows))
        generator = torch.Generator().manual_seed(seed_of(*self.seed, step, 0))
        return self.plan(batch, generator, part)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """All batches of an epoch, for validation."""
        return (self(step) for step in range(self.schedule.steps_per_epoch))

    def shard(self, rank: int, world: int) -> TokenBatches:
        """The part of one of `world` processes."""
        return TokenBatches(
            self.store, self.schedule, self.max_constituents, rank, world, self.plan, self.seed
        )


def pretrain(
    train: TokenStore,
    validation: TokenStore,
    settings: PretrainingSettings,
    folder: str | Path,
    seed: int,
    progress: bool = True,
    tokenizer: Tokenizer | None = None,
    classes: Sequence[str] = (),
) -> tuple[JetModel, TrainingResult]:
    """Train a model on tokenised jets; an interrupted call continues.

    Parameters
    ----------
    folder : for checkpoints and ``metrics.csv``
    seed : of the initial weights, the batches, the masks and the dropout
    tokenizer : the one that made the tokens; needed for `leak_free` and for a pair bias alone
    classes : of jets to learn from; none named means all

    Returns
    -------
    the model with the weights of its best validation, and how the training went

    Raises
    ------
    JetfmError
        `leak_free` or a pair bias without a tokenizer, or with another one than that of the tokens;
        no jets of these classes.
    """
    if settings.needs_tokenizer:
        _check_tokenizer(tokenizer, train, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        n_features = train.decoded.shape[1]
        own, preprocessing = train.info["tokenizer"], getattr(tokenizer, "preprocessing", None)
        model = JetModel(settings, train.n_codes, n_features, own, preprocessing)
    if settings.leak_free:
        model.visible_decoder = _decoder(tokenizer)
    batch_size = settings.training.batch_size
    chosen = some_jets(train, settings.limit_train_jets, seed, classes)
    schedule = shuffled_batches(train.n_constituents, batch_size, seed, chosen)
    in_order = InOrderBatches(
        validation.n_constituents,
        batch_size,
        some_jets(validation, settings.limit_val_jets, seed, classes),
    )
    n_predicted = predictions_per_jet(settings, mean_length(train.n_constituents, chosen))
    training = Training(
        model,
        TokenBatches(train, schedule, plan=model.plan, seed=(seed, 0)),
        settings.training,
        validation=TokenBatches(
            validation,
            in_order,
            plan=model.plan,
            seed=(seed, 1),  # the same masks in every validation
        ),
        folder=folder,
        seed=seed,
        progress=progress,
        name=f"pre-training {settings.label}",
        tensorboard=True,
        mean_weight=batch_size * n_predicted,
    )
    return model, fit(training)


def predictions_per_jet(settings: PretrainingSettings, n_tokens: float) -> float:
    """What a loss is per, of jets of so many tokens: next tokens and stops, or masked tokens; of
    joint training the former (`jetfm.models.objectives.together`)."""
    return n_tokens + 1 if settings.predicts_next else settings.mask_fraction * n_tokens


def some_jets(
    store: TokenStore, limit: int, seed: int, classes: Sequence[str] = ()
) -> np.ndarray | None:
    """At most `limit` jets of a store, at random; a larger limit keeps those of a smaller one.

    Of the jets of `classes`, if some are named. A `limit` of zero is none; the answer None stands
    for all jets.
    """
    if not limit and not classes:
        return None
    jets = store.jets_of(classes)
    if not limit:
        return jets
    return np.sort(np.random.default_rng([seed, 3]).permutation(jets)[:limit])


def _check_tokenizer(tokenizer, tokens: TokenStore, settings: PretrainingSettings) -> None:
    if tokenizer is None:
        where = "leak_free" if settings.leak_free else "backbone.pair_bias"
        raise JetfmError(where, "no tokenizer", "the one that made the tokens")
    if tokenizer.hash != tokens.info["tokenizer"]:
        found = f"tokenizer {tokenizer.hash[:12]}"
        raise JetfmError(tokens.folder, found, f"{tokens.info['tokenizer'][:12]}, its own")


def _decoder(tokenizer: Tokenizer) -> Callable:
    tokenizer.eval()
    return lambda ids, mask: tokenizer.to(ids.device).decode_known(ids, mask)
