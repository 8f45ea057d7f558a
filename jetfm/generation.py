"""Autoregressive generation of jets with key-value caches (2512.04149; 2403.05618, Sec. II.C).

Starting from d_s and a requested multiplicity N, the model gives the distribution of the next
token; one is drawn (start id excluded), decoded by the tokenizer's causal decoder to the next
constituent, and fed back, until the stop token. Backbone, head and decoder each keep the keys and
values of what they have seen, so that a step costs one position, and finished jets leave the batch.

N is a *condition*: the drawn jet may end earlier or later.

Randomness belongs to a jet, not to a batch: position k of jet j uses the k-th number of the Philox
stream with key (seed, j), turned into a token by inverting the cumulative distribution in float64.
The jets are thus the same for every batch size, up to float32 rounding in the network (about one
draw in a million lies close enough to the boundary between two tokens to notice).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jetfm.errors import JetfmError
from jetfm.models.jet_model import JetModel
from jetfm.progress import Progress
from jetfm.tokenizers.interface import Tokenizer

_COMPACT = 8  # finished jets leave the caches once they are a 1/8 of them: copying costs too


@dataclass(frozen=True)
class GeneratedJets:
    """Generated jets, jagged: jet j owns the flat rows ``offsets[j]:offsets[j+1]``."""

    ids: np.ndarray  # (n_total,) int32, tokenizer ids 0..K-1
    decoded: np.ndarray  # (n_total, F) float32, network space
    offsets: np.ndarray  # (n_jets + 1,) int64
    requested: np.ndarray  # (n_jets,) int64, multiplicity asked for
    finished: np.ndarray  # (n_jets,) bool, False where `max_constituents` came before the stop

    @property
    def n_constituents(self) -> np.ndarray:
        """(n_jets,) int64 generated multiplicity."""
        return np.diff(self.offsets)


def uniforms(seed: int, jets: np.ndarray, n: int) -> np.ndarray:
    """(len(jets), n) float64 in [0, 1): the first n numbers of each jet's own Philox stream."""
    numbers = np.empty((len(jets), n))
    for row, jet in zip(numbers, jets, strict=True):
        stream(seed, jet).random(out=row)
    return numbers


def stream(seed: int, jet: int) -> np.random.Generator:
    """The random numbers of one jet."""
    key = np.array([seed, jet], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def draw(logits: Tensor, u: Tensor, temperature: float) -> Tensor:
    """Tokens (B,) of softmax(logits / temperature) without the start id, by inverse CDF.

    Parameters
    ----------
    logits : (B, K+2); u : (B,) float64 in [0, 1)
    """
    scaled = logits.double() / temperature
    scaled[:, 0] = -torch.inf  # the start id
    cdf = torch.softmax(scaled, 1).cumsum_(1)
    threshold = (u * cdf[:, -1]).unsqueeze(1)
    # right: the first token whose cumulated probability exceeds u, so never one of probability 0
    token = torch.searchsorted(cdf, threshold, right=True).squeeze(1)
    return token.clamp_(max=logits.shape[1] - 1)


@torch.inference_mode()
def generate(
    model: JetModel,
    tokenizer: Tokenizer,
    n_constituents: np.ndarray,
    *,
    seed: int,
    batch_size: int = 512,
    temperature: float = 1.0,
    max_constituents: int = 128,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> GeneratedJets:
    """Generate one jet per requested multiplicity.

    Parameters
    ----------
    model, tokenizer : the tokenizer must be the one whose tokens the model was trained on
    n_constituents : (n_jets,) int, requested multiplicities, e.g. those of validation jets
    seed : non-negative; one seed, the same jets, whatever the batch size
    temperature : divides the logits; the papers use 1
    max_constituents : a jet that has not stopped by then is cut and marked unfinished
    device : where to run; default where the model is

    Raises
    ------
    JetfmError
        No jets, a multiplicity below 1 or above `max_constituents`, a model without a next-token
        head, a tokenizer that is not the model's or has no causal decoder.
    """
    requested = np.asarray(n_constituents)
    _check(model, tokenizer, requested, seed, batch_size, temperature, max_constituents)
    home = next(model.parameters()).device
    device = torch.device(device) if device is not None else home
    modes = model.training, tokenizer.training
    tokenizer_home = tokenizer.device
    model.to(device).eval(), tokenizer.to(device).eval()
    n_jets = len(requested)
    bar = Progress("generation", n_jets, unit="jet", show=progress)
    parts = []
    try:
        for start in range(0, n_jets, batch_size):
            jets = np.arange(start, min(start + batch_size, n_jets))
            sampler = _Batch(model, tokenizer, requested[jets], device)
            numbers = torch.from_numpy(uniforms(seed, jets, max_constituents + 1))
            parts.append(sampler.run(numbers, temperature, max_constituents, bar))
    finally:
        bar.close()
        model.to(home).train(modes[0]), tokenizer.to(tokenizer_home).train(modes[1])
    ids, decoded, counts, finished = (np.concatenate(p) for p in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return GeneratedJets(ids, decoded, offsets, requested.astype(np.int64), finished)


class _Batch:
    """One batch of jets on their way; rows of the caches are the jets in `active`."""

    def __init__(self, model, tokenizer, requested, device) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.active = torch.arange(len(requested))
        self.alive = torch.ones(len(requested), dtype=torch.bool)  # by row of the caches
        self.condition = torch.as_tensor(requested, device=device)
        self.reads_ids = model.backbone.reads_ids
        self.caches = model.new_caches()
        self.decoder_caches = tokenizer.new_caches()

    def run(self, numbers: Tensor, temperature: float, max_constituents: int, bar: Progress):
        """Generate all jets; return flat ids, flat decoded, counts, finished."""
        n_jets, stop = len(self.active), self.model.n_codes + 1
        ids = np.full((n_jets, max_constituents), -1, np.int32)
        decoded = np.zeros((n_jets, max_constituents, self.model.n_features), np.float32)
        finished = np.zeros(n_jets, bool)
        newest = None
        for position in range(max_constituents + 1):
            logits = self.model.next_logits(newest, self.condition, self.caches)
            token = draw(logits, numbers[self.active, position].to(self.device), temperature)
            ended = (token == stop).cpu() & self.alive
            finished[self.active[ended].numpy()] = True
            self.alive &= ~ended
            bar.update(int(ended.sum()), int(ended.sum()))
            if position == max_constituents or not self.alive.any():
                break
            token = self._leave(token)
            # rows that wait to leave hold a stop; any code will do for them
            code = (token - 1).clamp(max=self.model.n_codes - 1)
            jets = self.active[self.alive].numpy()
            ids[jets, position] = code.cpu()[self.alive].numpy()
            if self.reads_ids:  # decoded at the end, all at once
                newest = code
                continue
            newest = self.tokenizer.decode_next(code, self.decoder_caches)
            decoded[jets, position] = newest.cpu()[self.alive].numpy()
        bar.update(int(self.alive.sum()), int(self.alive.sum()))
        mask = ids >= 0
        if self.reads_ids:
            length = int(mask.sum(1).max(initial=0))
            some = torch.as_tensor(ids[:, :length], device=self.device).long()
            decoded[:, :length] = self.tokenizer.decode(some).cpu().numpy()
        return ids[mask], decoded[mask], mask.sum(1), finished

    def _leave(self, token: Tensor) -> Tensor:
        """Drop the rows of finished jets, when they are many enough to be worth copying for."""
        if _COMPACT * int((~self.alive).sum()) < len(self.alive):
            return token
        rows = self.alive.nonzero().squeeze(1)
        self.active, self.alive = self.active[rows], self.alive[rows]
        rows = rows.to(self.device)
        for cache in (*self.caches[0], *self.caches[1], *self.decoder_caches):
            cache.keep(rows)
        self.condition = self.condition[rows]
        return token[rows]


def _check(model, tokenizer, requested, seed, batch_size, temperature, max_constituents) -> None:
    if not isinstance(model, JetModel) or not model.settings.predicts_next:
        found = getattr(getattr(model, "settings", None), "label", type(model).__name__)
        raise JetfmError("model", f"{found} without a next-token head", "a JetModel with one")
    if not (tokenizer.sequential or model.backbone.reads_ids):
        raise JetfmError("tokenizer", "a decoder that sees the future", "a causal decoder")
    if model.n_codes != tokenizer.n_codes:
        found = f"{tokenizer.n_codes} codes"
        raise JetfmError("tokenizer", found, f"the model's {model.n_codes}")
    if model.tokenizer_hash and model.tokenizer_hash != tokenizer.hash:
        found = f"hash {tokenizer.hash[:12]}"
        raise JetfmError("tokenizer", found, f"{model.tokenizer_hash[:12]}, the model's own")
    check_request(requested, seed, max_constituents, batch_size=batch_size, temperature=temperature)


def check_request(
    requested: np.ndarray, seed: int, max_constituents: int, **positive: float
) -> None:
    """Refuse multiplicities, a seed or other numbers that no jets can be generated with.

    Raises
    ------
    JetfmError
        No jets, a multiplicity below 1 or above `max_constituents`, a negative seed, or one of
        `positive` that is not.
    """
    if requested.ndim != 1 or len(requested) == 0:
        raise JetfmError("n_constituents", f"shape {requested.shape}", "at least one jet")
    if not np.issubdtype(requested.dtype, np.integer):
        raise JetfmError("n_constituents", f"{requested.dtype}", "integers")
    if requested.min() < 1 or requested.max() > max_constituents:
        found = f"multiplicities from {requested.min()} to {requested.max()}"
        raise JetfmError("n_constituents", found, f"1 to {max_constituents} (max_constituents)")
    for name, value in positive.items():
        if not value > 0:
            raise JetfmError(name, str(value), "a positive number")
    if seed < 0:
        raise JetfmError("seed", str(seed), "zero or more")
