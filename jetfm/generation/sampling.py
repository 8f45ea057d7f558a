"""Random numbers of generation: a stream for each jet, tokens from logits, multiplicities.

Randomness belongs to a jet, not to a batch: position k of jet j uses the k-th number of the Philox
stream with key (seed, j), turned into a token by inverting the cumulative distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jetfm.errors import JetfmError

ROWS = 32  # a batch has a multiple, and finished jets leave as many at a time
_BLOCK = 64  # tokens whose probabilities are summed first


@dataclass(frozen=True)
class Choice:
    """How a token is drawn; the default, plain sampling, is the papers'.

    Parameters
    ----------
    temperature : divides the logits
    top_k : keep the k most probable tokens
    top_p : of those, keep the smallest set of most probable ones that holds this share (nucleus
        sampling, arXiv 1904.09751)

    Raises
    ------
    JetfmError
        A temperature or `top_k` that is not positive, `top_p` outside (0, 1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise JetfmError("temperature", str(self.temperature), "a positive number")
        if self.top_k is not None and self.top_k < 1:
            raise JetfmError("top_k", str(self.top_k), "at least one token")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise JetfmError("top_p", str(self.top_p), "above 0, at most 1")


PLAIN = Choice()


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


def draw_multiplicities(
    held_out: np.ndarray, n_jets: int, seed: int, max_constituents: int = 128
) -> np.ndarray:
    """Numbers of constituents to ask for, drawn from the histogram of jets not trained on.

    With replacement; a jet longer than `max_constituents` counts as one of that length, one
    without constituents as one with a single one.

    Parameters
    ----------
    held_out : (n,) int, multiplicities of held-out jets, e.g. ``TokenStore.n_constituents``

    Returns
    -------
    (n_jets,) int64, 1 to `max_constituents`

    Raises
    ------
    JetfmError
        No jets asked for, or none to draw from.
    """
    if n_jets < 1:
        raise JetfmError("n_jets", str(n_jets), "at least one jet")
    if len(held_out) == 0:
        raise JetfmError("multiplicities", "no held-out jets", "at least one to draw from")
    rng = np.random.default_rng([seed, 5])
    return np.clip(rng.choice(held_out, n_jets), 1, max_constituents).astype(np.int64)


def draw(logits: Tensor, u: Tensor, choice: Choice = PLAIN) -> Tensor:
    """Draw a token for each row of logits, the start id left out.

    By inverting the cumulative distribution, to float32 rounding: blocks of tokens first, then
    within the block. A token of probability zero is never drawn.

    Parameters
    ----------
    logits : (B, K+2) float32, the start id first; overwritten
    u : (B,) float64 in [0, 1)

    Returns
    -------
    (B,) int64, 1 to K+1

    Raises
    ------
    JetfmError
        Logits that are not numbers, as of a model that has diverged.
    """
    token, good = draw_unchecked(logits, u, choice)
    require_numbers(good)
    return token


def require_numbers(good: Tensor) -> None:
    """Refuse logits of which `draw_unchecked` says that some are not numbers."""
    if not bool(good):
        raise JetfmError("logits", "values that are not numbers", "a model that has not diverged")


def draw_unchecked(logits: Tensor, u: Tensor, choice: Choice = PLAIN) -> tuple[Tensor, Tensor]:
    """`draw`, and whether all logits were numbers, (), for a device that is not asked yet.

    Where they were not, tokens are any of 1 to K+1.
    """
    w = weights(logits, choice)
    n_tokens = w.shape[1]
    whole = n_tokens - n_tokens % _BLOCK
    sums = w[:, :whole].unflatten(1, (-1, _BLOCK)).sum(-1)  # (B, n)
    cdf = torch.cat([sums, w[:, whole:].sum(1, keepdim=True)], 1).double().cumsum(1)
    total = cdf[:, -1:]
    # right: the first block, or token, whose cumulated probability exceeds the threshold
    threshold = u.unsqueeze(1) * total
    block = torch.searchsorted(cdf, threshold, right=True)  # (B, 1)
    block = block.clamp(max=cdf.shape[1] - 1)  # which is not reached by numbers
    before = torch.where(block > 0, cdf.gather(1, (block - 1).clamp(min=0)), 0)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=w.device)  # (B, 64)
    inside = w.gather(1, columns.clamp(max=n_tokens - 1)).double()
    inside = torch.where(columns < n_tokens, inside, 0).cumsum(1)
    last = inside[:, -1:]
    # the two sums over a block differ by rounding
    threshold = torch.minimum(threshold - before, torch.nextafter(last, torch.zeros_like(last)))
    token = (block * _BLOCK + torch.searchsorted(inside, threshold, right=True)).squeeze(1)
    return token.clamp(1, n_tokens - 1), torch.isfinite(total).all()


def weights(logits: Tensor, choice: Choice = PLAIN) -> Tensor:
    """What tokens are drawn with: probabilities but for a factor, zero where never drawn.

    A token as probable as the last one that top-k or top-p keeps stays too (our choice), so that
    the order of ids does not matter.

    Parameters
    ----------
    logits : (B, K+2), the start id first; overwritten

    Returns
    -------
    (B, K+2), in the memory of `logits` where nothing is cut off
    """
    temperature, top_k, top_p = choice.temperature, choice.top_k, choice.top_p
    logits[:, 0] = -torch.inf  # the start id
    logits -= logits.amax(1, keepdim=True)
    if temperature != 1:
        logits /= temperature
    w = logits.exp_()
    if top_k is not None and top_k < w.shape[1]:
        w = _at_least(w, w.topk(top_k).values[:, -1:])
    if top_p is not None and top_p < 1:
        ordered = w.sort(1, descending=True).values
        held = ordered.cumsum(1, dtype=torch.float64)
        enough = (held >= top_p * held[:, -1:]).int().argmax(1, keepdim=True)
        w = _at_least(w, ordered.gather(1, enough))
    return w


def _at_least(w: Tensor, least: Tensor) -> Tensor:
    return torch.where(w >= least, w, 0)
