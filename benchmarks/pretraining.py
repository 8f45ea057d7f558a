"""Training steps: what jetfm does on a CPU against the same model done plainly.

Plain: fixed padding to 128, torch's own dropout, attention with dropout through torch's SDPA, all
logits of all slots. Ours: batches bucketed by length, 16-bit dropout, own attention gradient,
logits where there is a target, bfloat16 outside attention.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.models import transformer
from jetfm.pretraining import NextTokenModel, next_token_targets
from jetfm.settings import (
    BackboneSettings,
    OptimizerSettings,
    PretrainingSettings,
    TokenizerSettings,
)
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training import make_optimizer

N_CODES, BATCH, LONGEST, SECONDS = 512, 100, 128, 5.0


def run() -> Iterator[dict]:
    """Rows of the benchmark: jets a second through forward, backward and optimiser."""
    tokenizer = TokenizerSettings(n_codes=N_CODES, dim=64, n_blocks=2, n_heads=4)
    backbone = BackboneSettings(dim=64, n_blocks=4, n_heads=4)
    models = {
        "tokenizer, 64 wide, 2+2 blocks": lambda: VQVAE(tokenizer),
        "next token, 64 wide, 4+2 blocks": lambda: NextTokenModel(
            PretrainingSettings(backbone=backbone), N_CODES
        ),
    }
    for name, make in models.items():
        torch.manual_seed(0)
        reference = _rate(make(), _batches(padded=True), plain=True)
        for precision in ("fp32", "bf16"):
            torch.manual_seed(0)
            value = _rate(make(), _batches(padded=False), bf16=precision == "bf16")
            yield {
                "name": f"training step: {name}, {precision}",
                "value": round(value),
                "unit": "jets/s",
                "reference": round(reference),
                "ratio": round(value / reference, 1),
            }


def _batches(padded: bool) -> list[dict[str, Tensor]]:
    """Eight batches of jets with 40 constituents on average."""
    rng = np.random.default_rng(0)
    counts = np.clip(rng.gamma(7, 40 / 7, 8 * BATCH), 3, LONGEST).astype(int)
    counts = rng.permutation(counts) if padded else np.sort(counts)
    made = []
    for n in np.split(counts, 8):
        n = torch.as_tensor(n)
        mask = torch.arange(LONGEST if padded else int(n.max())) < n[:, None]
        x = torch.as_tensor(rng.normal(size=(*mask.shape, 3))).float() * mask[..., None]
        ids = torch.as_tensor(rng.integers(0, N_CODES, mask.shape)) * mask
        made.append({"x": x, "mask": mask, "ids": ids, "decoded": x, "n_constituents": n})
    return [made[i] for i in rng.permutation(8)]


def _rate(model: nn.Module, batches: list[dict], bf16: bool = False, plain: bool = False) -> float:
    optimizer = make_optimizer(model.train(), OptimizerSettings())
    loss_of = _plain_loss if plain and isinstance(model, NextTokenModel) else type(model).loss

    def step(batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    best = [float("inf")] * len(batches)  # of each batch, the fastest time
    with _plain_layers() if plain else nullcontext():
        end = time.perf_counter() + SECONDS
        while time.perf_counter() < end:
            for i, batch in enumerate(batches):
                start = time.perf_counter()
                step(batch)
                best[i] = min(best[i], time.perf_counter() - start)
    return BATCH * len(batches) / sum(best)


def _plain_layers():
    def attention(q, k, v, mask=None, causal=False, p=0.0):
        seen = None if mask is None else mask[:, None, None, :]
        return F.scaled_dot_product_attention(q, k, v, seen, p, is_causal=causal)

    return patch.multiple(transformer, attention=attention, dropout=F.dropout)


def _plain_loss(model: NextTokenModel, batch: dict[str, Tensor]) -> tuple[Tensor, dict]:
    ids, mask, n = batch["ids"], batch["mask"], batch["n_constituents"]
    logits = model(batch["decoded"], mask, n)  # of every slot
    targets = next_token_targets(ids, mask, n, N_CODES)
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1), {}
