"""Generation: key-value caches against the plain way, which reads the whole prefix every step."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import torch

from jetfm.generation import draw, generate, uniforms
from jetfm.models.jet_model import JetModel
from jetfm.settings import BackboneSettings, PretrainingSettings, TokenizerSettings
from jetfm.tokenizers.vqvae import VQVAE

N_CODES, N_JETS, N_PLAIN, LENGTH = 512, 512, 64, 60


def run() -> Iterator[dict]:
    """Rows of the benchmark; the plain path takes fewer jets."""
    torch.manual_seed(0)
    tokenizer = VQVAE(TokenizerSettings(n_codes=N_CODES, dim=64, n_blocks=2, n_heads=4)).eval()
    backbone = BackboneSettings(dim=64, n_blocks=4, n_heads=4)
    model = JetModel(PretrainingSettings(backbone=backbone), N_CODES).eval()
    with torch.no_grad():  # about 40 constituents, cut at 60, as in jets
        model.head.unembedding.bias[N_CODES + 1] += 2.5
    n = np.full(N_JETS, 40)
    start = time.perf_counter()
    fast = generate(model, tokenizer, n, seed=1, max_constituents=LENGTH, progress=False)
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    plain = _plain(model, tokenizer, n[:N_PLAIN], seed=1)
    plain_seconds = time.perf_counter() - start
    same = np.array_equal(plain, fast.ids[: fast.offsets[N_PLAIN]])
    if not same:
        raise RuntimeError("the two paths generated different jets")
    value, reference = N_JETS / seconds, N_PLAIN / plain_seconds
    yield {
        "name": "generation: key-value caches, finished jets leave",
        "value": round(value, 1),
        "unit": "jets/s",
        "reference": round(reference, 1),
        "ratio": round(value / reference, 1),
    }


@torch.inference_mode()
def _plain(model: JetModel, tokenizer: VQVAE, n: np.ndarray, seed: int) -> np.ndarray:
    """Flat ids: every step decodes the prefix padded to full length, and reads all of it."""
    stop, condition = N_CODES + 1, torch.as_tensor(n)
    numbers = torch.from_numpy(uniforms(seed, np.arange(len(n)), LENGTH + 1))
    ids = torch.full((len(n), LENGTH), -1)
    running = torch.ones(len(n), dtype=torch.bool)
    for position in range(LENGTH + 1):
        mask = ids >= 0
        logits = model(tokenizer.decode(ids), mask, condition)[:, position]
        token = draw(logits, numbers[:, position], 1.0)
        running &= token != stop
        if position == LENGTH or not running.any():
            break
        ids[running, position] = token[running] - 1
    return ids[ids >= 0].numpy()
