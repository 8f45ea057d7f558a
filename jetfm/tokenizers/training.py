"""Train a VQ-VAE on a jets store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jetfm.data.batches import (
    EvaluationBatches,
    InOrderBatches,
    Reading,
    mean_length,
    shuffled_batches,
)
from jetfm.data.store import JetStore
from jetfm.tokenizers.encoding import jet_batch
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.quantizer import rows_of
from jetfm.training.fit import fit
from jetfm.training.job import Training


def train_vqvae(
    tokenizer: Tokenizer,
    train: JetStore,
    validation: JetStore,
    folder: str | Path,
    seed: int,
    max_constituents: int = 128,
    progress: bool = True,
) -> dict[str, Any]:
    """Train in place, and keep the weights of the best validation; see `Tokenizer.fit`.

    Where the settings say so, constituents are shuffled within their jet anew in every batch: the
    causal decoder would otherwise learn an order that generated jets do not have (official code of
    arXiv 2512.04149).
    """
    settings = tokenizer.settings.training
    schedule = shuffled_batches(train.n_constituents, settings.batch_size, seed)

    def collate(store: JetStore, indices: np.ndarray, seed: tuple[int, ...]) -> dict[str, Tensor]:
        made = jet_batch(store, tokenizer, indices, max_constituents, seed)
        # where the real constituents are, before the batch is on a GPU that would have to be asked
        return {"x": made["x"], "mask": made["mask"], "rows": rows_of(made["mask"])}

    reading = Reading(train, schedule)

    def batch(step: int) -> dict:
        store, indices = reading.of(step, schedule.indices(step))
        return collate(store, indices, (seed, 0, step))

    training = Training(
        tokenizer,
        batch,
        settings,
        validation=EvaluationBatches(
            InOrderBatches(validation.n_constituents, settings.batch_size),
            lambda indices: collate(validation, indices, (seed, 1, int(indices[0]))),
        ),
        folder=folder,
        seed=seed,
        progress=progress,
        name="tokenizer",
        tensorboard=True,
        mean_weight=settings.batch_size * mean_length(train.n_constituents),
    )
    result = fit(training)
    return {"metrics": result.metrics, "history": result.history}
