"""Tokenizers at the papers' size: jets to tokens and back, the search for codes, training steps.

Plain: jets in file order padded to 128, attention with an explicit mask over all slots, distances
to all codes by ``torch.cdist`` for every slot, padding included, torch's own dropout. Ours: jets of
similar length together, so that little is padded, attention without a mask where there is nothing
to hide, codes by `nearest_code` for real constituents only, our dropout and its attention gradient.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks._plain import plain_layers
from benchmarks._rows import row
from jetfm.data.store import JetStore, build_store
from jetfm.data.token_store import TokenStore
from jetfm.settings import OptimizerSettings, TokenizerSettings
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.encoding import jet_batch, tokenize
from jetfm.tokenizers.quantizer import VectorQuantizer, nearest_code
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.optimizer import make_optimizer

SAMPLE = Path(__file__).parents[1] / "data/sample"
LONGEST = 128
PLAIN_EVERY, PLAIN_BATCH = 10, 55  # one jet in ten goes the plain way
BATCH, SECONDS = 50, 3.0  # of a training step, and the time given to each side of its rows


def run() -> Iterator[dict]:
    """Rows of the benchmark; the plain paths take fewer jets."""
    yield from _search()
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted((SAMPLE / "train").glob("*.root"))
        store = build_store(paths, Path(folder) / "jets", progress=False)
        for preset in ("hybrid", "omnijet"):
            yield _tokenise(preset, store, Path(folder) / preset)
        for preset in ("hybrid", "omnijet", "omnijet-unconditional"):
            yield _training(preset, store)


# Search ------------------------------------------------------------------------------------------


def _search() -> Iterator[dict]:
    """Latents of a batch of 500 jets or so against codebooks of either end."""
    for n_codes, dim in ((512, 4), (8192, 8)):
        generator = torch.Generator().manual_seed(0)
        z, codes = (torch.randn(n, dim, generator=generator) for n in (20_000, n_codes))
        few = z[:2000]
        seconds, ids = _timed(lambda z=z, codes=codes: nearest_code(z, codes))
        plain_seconds, plain = _timed(lambda z=few, codes=codes: torch.cdist(z, codes).argmin(1))
        _compare(few, codes, ids[: len(few)], plain)
        name = f"search: nearest of {n_codes} codes in {dim} dimensions"
        yield row(name, len(z) / seconds, "latents/s", len(few) / plain_seconds, digits=1)


def _compare(z: Tensor, codes: Tensor, ids: Tensor, others: Tensor) -> None:
    """Where two searches differ both codes must be equally near."""
    distances = [(z - codes[found]).norm(dim=-1) for found in (ids, others)]
    if (distances[0] - distances[1]).abs().max() > 1e-3:
        raise RuntimeError("the two searches found different codes")


# Jets to tokens and back -------------------------------------------------------------------------


def _tokenise(preset: str, store: JetStore, folder: Path) -> dict:
    """`tokenize` against the plain loop: encode and decode; ours also writes the store."""
    tokenizer = _ready(preset, store)
    options = dict(seed=(1,), max_constituents=LONGEST, progress=False)
    seconds, tokens = _timed(lambda: tokenize(tokenizer, store, folder, **options))
    chosen = np.arange(0, len(store), PLAIN_EVERY)
    plain_seconds, plain = _timed(lambda: _plain_tokens(tokenizer, store, chosen))
    _check_ids(tokens, chosen, plain)
    settings = tokenizer.settings
    blocks = f"{settings.n_blocks}+{settings.n_blocks} blocks"
    name = f"tokenise: {preset}, {settings.dim} wide, {blocks}, {settings.n_codes} codes"
    return row(name, len(store) / seconds, "jets/s", len(chosen) / plain_seconds, digits=1)


def _ready(preset: str, store: JetStore) -> VQVAE:
    """A tokenizer with random weights; latents as wide as the codes, as after training."""
    tokenizer = make_tokenizer(TokenizerSettings(preset=preset), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in tokenizer.parameters():  # fresh NormFormer blocks would do nothing
        parameter.data += 0.03 * torch.randn(parameter.shape, generator=generator)
    few = np.arange(0, len(store), 40)
    batch = jet_batch(store, tokenizer, few, LONGEST, (1,))
    with torch.no_grad():
        z = tokenizer._latents(batch["x"], batch["mask"])[batch["mask"]]
        tokenizer.latent_in.weight /= z.std(0)[:, None]
        tokenizer.latent_in.bias.sub_(z.mean(0)).div_(z.std(0))
    return tokenizer


@torch.no_grad()
def _plain_tokens(tokenizer: VQVAE, store: JetStore, chosen: np.ndarray) -> list[np.ndarray]:
    """The plain loop, there and back; the ids of every jet."""
    found: list[np.ndarray] = []
    codes = tokenizer.quantizer.codes()
    with _plain():
        for start in range(0, len(chosen), PLAIN_BATCH):
            batch = _padded_batch(store, tokenizer, chosen[start : start + PLAIN_BATCH])
            x, mask = batch["x"], batch["mask"]
            hidden = tokenizer.encoder(tokenizer.features_in(x), mask)
            z = tokenizer.latent_in(hidden)
            ids = torch.cdist(z.flatten(0, 1), codes).argmin(1).view(mask.shape)
            hidden = tokenizer.latent_out(codes[ids])
            hidden = tokenizer.decoder(hidden, mask, causal=tokenizer.causal_decoder)
            tokenizer.features_out(hidden) * mask[..., None]
            found += [row[seen].numpy() for row, seen in zip(ids, mask, strict=True)]
    return found


def _padded_batch(store: JetStore, tokenizer: VQVAE, indices: np.ndarray) -> dict[str, Tensor]:
    """Jets over 128 slots, whatever they need, constituents as they lie in the store."""
    physical, mask = store.dense(indices, LONGEST, tokenizer.preprocessing.features)
    x = torch.as_tensor(tokenizer.preprocessing.forward(physical, mask))
    room = LONGEST - mask.shape[1]
    return {"x": F.pad(x, (0, 0, 0, room)), "mask": F.pad(torch.as_tensor(mask), (0, room))}


def _check_ids(tokens: TokenStore, chosen: np.ndarray, plain: list[np.ndarray]) -> None:
    """The same ids, constituent by constituent, but for ties."""
    differing, total = 0, 0
    for jet, ids in zip(chosen, plain, strict=True):
        rows = slice(tokens.offsets[jet], tokens.offsets[jet + 1])
        differing += (tokens.ids[rows] != ids[tokens.positions[rows]]).sum()
        total += len(ids)
    if differing > 1e-3 * total:
        raise RuntimeError(f"the two paths differ in {differing} of {total} tokens")


# Training ----------------------------------------------------------------------------------------


def _training(preset: str, store: JetStore) -> dict:
    """Forward, backward and optimiser, four batches from short jets to long ones."""
    settings = TokenizerSettings(preset=preset)
    tokenizer = make_tokenizer(settings, seed=0)
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(store), 4 * BATCH, replace=False)
    by_length = chosen[np.argsort(store.n_constituents[chosen])]
    ours = [jet_batch(store, tokenizer, part, LONGEST, (1,)) for part in np.split(by_length, 4)]
    value = _rate(tokenizer, ours, VQVAE.loss)
    tokenizer = make_tokenizer(settings, seed=0)
    padded = [_padded_batch(store, tokenizer, part) for part in np.split(chosen, 4)]
    with _plain():
        reference = _rate(tokenizer, padded[:1], _plain_loss)
    size = f"{settings.dim} wide, {settings.n_codes} codes"
    return row(f"training step: {settings.network}, {size}", value, "jets/s", reference, digits=1)


def _rate(model: VQVAE, batches: list[dict], loss_of: Callable) -> float:
    optimizer = make_optimizer(model.train(), OptimizerSettings())

    def step(batch):
        loss, _ = loss_of(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    best = [float("inf")] * len(batches)  # of each batch, the fastest time
    end = time.perf_counter() + SECONDS
    while best[0] == float("inf") or time.perf_counter() < end:
        for i, batch in enumerate(batches):
            best[i] = min(best[i], _timed(lambda batch=batch: step(batch), 1)[0])
    return BATCH * len(batches) / sum(best)


def _plain_loss(model: VQVAE, batch: dict[str, Tensor]) -> tuple[Tensor, dict]:
    """Everything over all slots, as vqtorch's layer and a plain mean do it."""
    z = model._latents(batch["x"], batch["mask"])
    quantized = model.quantizer(z)
    hidden = model.decoder(model.latent_out(quantized.latents), batch["mask"], model.causal_decoder)
    decoded = model.features_out(hidden) * batch["mask"][..., None]
    return F.mse_loss(decoded, batch["x"]) + model.settings.alpha * quantized.loss, {}


# Plain layers and rows ---------------------------------------------------------------------------


@contextmanager
def _plain() -> Iterator[None]:
    """Plain layers, and distances by `cdist`."""

    def nearest(self, z):
        return torch.cdist(z, self.codes().detach()).argmin(1)

    with plain_layers(), patch.object(VectorQuantizer, "nearest", nearest):
        yield


def _timed(action: Callable, repeats: int = 2) -> tuple[float, Any]:
    """Seconds of the best of some runs, and what the last one returned."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        result = action()
        best = min(best, time.perf_counter() - start)
    return best, result
