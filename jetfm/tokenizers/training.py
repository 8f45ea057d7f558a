"""Train a tokenizer on a jets store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch

from jetfm.config import TokenizerSettings
from jetfm.data.batches import EvaluationBatches, InOrderBatches, LengthBucketedBatches
from jetfm.data.store import JetStore
from jetfm.tokenizers.encoding import jet_batch
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training import TrainingResult, fit


def train_tokenizer(
    train: JetStore,
    validation: JetStore,
    settings: TokenizerSettings,
    folder: str | Path,
    seed: int,
    max_constituents: int = 128,
    progress: bool = True,
) -> tuple[VQVAE, TrainingResult]:
    """Train a VQ-VAE; an interrupted call continues.

    Constituents are shuffled within their jet anew in every batch, since the causal decoder would
    otherwise learn an order that generated jets do not have (official code of arXiv 2512.04149).

    Parameters
    ----------
    folder : for checkpoints and ``metrics.csv``
    seed : of the initial weights, the batches and the order within jets

    Returns
    -------
    the tokenizer with the weights of its best validation, and how the training went
    """
    torch.manual_seed(seed)
    tokenizer = VQVAE(settings)
    batch_size = settings.training.batch_size
    schedule = LengthBucketedBatches(train.n_constituents, batch_size, seed)
    collate = partial(jet_batch, tokenizer=tokenizer, max_constituents=max_constituents)
    result = fit(
        tokenizer,
        lambda step: collate(train, indices=schedule.indices(step), seed=(seed, 0, step)),
        settings.training,
        validation=EvaluationBatches(
            InOrderBatches(validation.n_constituents, batch_size),
            lambda indices: collate(validation, indices=indices, seed=(seed, 1, int(indices[0]))),
        ),
        folder=folder,
        seed=seed,
        progress=progress,
        name="tokenizer",
    )
    return tokenizer, result
