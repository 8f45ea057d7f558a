"""Random but physical toy jets and small models for the tests."""

from __future__ import annotations

import numpy as np
import torch

from jetfm.physics.features import Preprocessing
from jetfm.settings import (
    BackboneSettings,
    PretrainingSettings,
    TokenizerSettings,
    TrainingSettings,
)


def toy_jets(counts, seed: int = 0, extra_padding: int = 0):
    """Jets with a falling pt spectrum and narrow angles, in network space.

    Returns
    -------
    x (B, T, 3) float32, mask (B, T), with T the longest jet plus `extra_padding`
    """
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts)
    length = max(int(counts.max()), 1)
    pt = np.exp(rng.normal(1.0, 1.2, (len(counts), length)))
    angles = rng.normal(0, 0.15, (len(counts), length, 2))
    mask = torch.as_tensor(np.arange(length) < counts[:, None])
    physical = torch.as_tensor(np.concatenate([pt[..., None], angles], -1), dtype=torch.float32)
    x = Preprocessing().forward(physical, mask)
    padding = (len(counts), extra_padding)
    x = torch.cat([x, x.new_zeros(*padding, 3)], 1)
    return x, torch.cat([mask, mask.new_zeros(padding)], 1)


def small_tokenizer_settings(**changes) -> TokenizerSettings:
    values = dict(n_codes=64, latent_dim=4, dim=32, n_blocks=2, n_heads=4, replace_after=20)
    return TokenizerSettings(**(values | changes))


def small_pretraining_settings(dropout: float = 0.0) -> PretrainingSettings:
    return PretrainingSettings(
        backbone=BackboneSettings(dim=32, n_blocks=2, n_heads=4, n_registers=3, dropout=dropout)
    )


def training_settings(**changes) -> TrainingSettings:
    values = dict(batch_size=16, max_steps=20, validate_every=5)
    return TrainingSettings(**(values | changes))


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Move all parameters off their initial values, so that no term is zero by construction."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def token_batch_of(tokenizer, counts, seed: int = 0, extra_padding: int = 0) -> dict:
    """Tokens and decoded features of toy jets, as `JetModel.loss` takes them."""
    x, mask = toy_jets(counts, seed, extra_padding)
    ids = tokenizer.encode(x, mask)
    n_constituents = torch.as_tensor(np.asarray(counts))
    return {
        "ids": torch.where(mask, ids, 0),
        "decoded": tokenizer.decode(ids),
        "mask": mask,
        "n_constituents": n_constituents,
    }
