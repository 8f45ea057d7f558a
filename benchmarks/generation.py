"""Generation at the papers' size: key-value caches against the plain way.

Plain: every step decodes the prefixes padded to 128, reads all of them with the plain block, and
computes the logits of every position, until the batch's longest jet has stopped. A plain step costs
the same whatever the position, so that a few are timed; a few jets are also drawn to the end, and
are the same as ours.

The networks are untrained, the multiplicities those of JetClass roughly (50 +- 20), and each jet is
made to stop at the one it asks for, as trained models do within a few constituents.

How the cost grows, on a CPU: a batch of up to 32 jets costs like one of 32, because it is filled up
to that; from there to 64 the cost of a jet falls, as weights are read once a step for all; beyond,
keys and values, which every jet has for itself, fall out of the processor's cache, and the cost
of a jet stays or rises a little. With the length L of a jet it grows like a L + b L^2: a step costs
the same multiplications at every position, plus the reading of all earlier keys and values. The
plain way costs in proportion to the longest jet of the batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from jetfm.generation.autoregressive import generate
from jetfm.generation.sampling import draw, uniforms
from jetfm.models.jet_model import JetModel
from jetfm.models.transformer import Block
from jetfm.settings import PretrainingSettings, TokenizerSettings
from jetfm.tokenizers.vqvae import VQVAE

N_CODES, BATCH, LONGEST, SEED = 8192, 64, 128, 1
N_JETS, N_PLAIN_STEPS, N_COMPARED = 1024, 6, 4
BATCHES = {1: 8, 16: 128, 64: 1024, 256: 1024}  # jets at once: jets timed
LENGTHS = (30, 60, 120)


class StopsAsAsked(JetModel):
    """A model whose jets end at the multiplicity they ask for."""

    def forward(self, x: Tensor, mask: Tensor, n_constituents: Tensor) -> Tensor:
        logits = super().forward(x, mask, n_constituents)
        position = torch.arange(logits.shape[1])
        logits[..., -1] = _stop_logit(position, n_constituents[:, None])
        return logits

    def next_logits(self, newest, n_constituents, caches, out=None) -> Tensor:
        logits = super().next_logits(newest, n_constituents, caches, out)
        position = caches[1][0].length - 1
        logits[:, -1] = _stop_logit(position, n_constituents)
        return logits


def _stop_logit(position, n_constituents: Tensor) -> Tensor:
    return torch.where(n_constituents == position, 1e4, -1e4)


def run() -> Iterator[dict]:
    """Rows of the benchmark, in jets a second."""
    torch.manual_seed(0)
    tokenizer = VQVAE(TokenizerSettings()).eval()
    model = StopsAsAsked(PretrainingSettings(), N_CODES).eval()
    rng = np.random.default_rng(0)
    n = np.clip(rng.normal(50, 20, N_JETS).round().astype(int), 1, LONGEST)
    _rate(model, tokenizer, n[:BATCH], BATCH)  # warm up
    step = _plain_step_seconds(model, tokenizer, n[:BATCH])
    few = n[:N_COMPARED]
    ours = generate(model, tokenizer, few, seed=SEED, max_constituents=LONGEST, progress=False)
    if not np.array_equal(_plain(model, tokenizer, few), ours.ids):
        raise RuntimeError("the two paths generated different jets")

    def row(what: str, value: float, lengths: np.ndarray) -> dict:
        steps = lengths[: len(lengths) // BATCH * BATCH].reshape(-1, BATCH).max(1) + 1
        reference = BATCH / (step * steps.mean())
        return {
            "name": f"generation: {what}",
            "value": round(value, 1),
            "unit": "jets/s",
            "reference": round(reference, 2),
            "ratio": round(value / reference, 1),
        }

    for batch, n_jets in BATCHES.items():
        value = _rate(model, tokenizer, n[:n_jets], batch)
        yield row(f"batch {batch}, plain {BATCH}", value, n)
    for length in LENGTHS:
        same = np.full(2 * BATCH, length)
        yield row(f"batch {BATCH}, jets of {length}", _rate(model, tokenizer, same, BATCH), same)


def _rate(model: JetModel, tokenizer: VQVAE, n: np.ndarray, batch_size: int) -> float:
    """Jets a second."""
    start = time.perf_counter()
    generate(
        model,
        tokenizer,
        n,
        seed=SEED,
        batch_size=batch_size,
        max_constituents=LONGEST,
        progress=False,
    )
    return len(n) / (time.perf_counter() - start)


def _plain_step_seconds(model: JetModel, tokenizer: VQVAE, n: np.ndarray) -> float:
    """Seconds of one step of the plain way, on a batch of jets halfway."""
    ids = torch.full((len(n), LONGEST), -1)
    ids[:, : LONGEST // 2] = torch.randint(0, N_CODES, (len(n), LONGEST // 2))
    u, condition = torch.rand(len(n), dtype=torch.float64), torch.as_tensor(n)
    _plain_step(model, tokenizer, ids, condition, u, LONGEST // 2)
    start = time.perf_counter()
    for _ in range(N_PLAIN_STEPS):
        _plain_step(model, tokenizer, ids, condition, u, LONGEST // 2)
    return (time.perf_counter() - start) / N_PLAIN_STEPS


def _plain(model: JetModel, tokenizer: VQVAE, n: np.ndarray) -> np.ndarray:
    """Flat ids of jets drawn the plain way."""
    condition = torch.as_tensor(n)
    numbers = torch.from_numpy(uniforms(SEED, np.arange(len(n)), LONGEST + 1))
    ids = torch.full((len(n), LONGEST), -1)
    running = torch.ones(len(n), dtype=torch.bool)
    for position in range(LONGEST + 1):
        token = _plain_step(model, tokenizer, ids, condition, numbers[:, position], position)
        running &= token != N_CODES + 1
        if position == LONGEST or not running.any():
            break
        ids[running, position] = token[running] - 1
    return ids[ids >= 0].numpy()


@torch.inference_mode()
@patch.object(Block, "forward", Block.plain)
def _plain_step(model, tokenizer, ids: Tensor, condition: Tensor, u: Tensor, position: int):
    """Decode all prefixes, read all of them, draw the next token of each jet."""
    logits = model(tokenizer.decode(ids), ids >= 0, condition)
    return draw(logits[:, position].clone(), u)
