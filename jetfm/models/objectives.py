"""What pre-training predicts, and the loss: next tokens (NTP), masked particles (MPM), or both.

After arXiv 2512.04149; NTP is also that of arXiv 2403.05618.

NTP reads d_s, d_1..d_N and predicts t_1..t_N, stop:

    L_g = - sum_{k=0..N} log p(t_{k+1} | d_s, d_1..d_k, N),    t_{N+1} = stop.

MPM reads d_s and the visible d_j and predicts the tokens of the masked set M:

    L_m = - sum_{i in M} log p(t_i | {d_j, j visible}, rank_i, N).

The cross-entropies: `jetfm.models.heads.TokenHead.loss`.

Either alone is averaged over its predictions. Together, by default, (L_g + L_m) / n_g with n_g the
number of next-token predictions of the batch: every predicted token weighs the same, and padding
nothing (the official code divides by the padded length). Weighting 'per-objective' adds the means.

Vocabulary: start 0 (never a target), codes 1..K (the tokenizer's 0..K-1 plus one), stop K+1.

Jets longer than the store's cap keep N, their uncapped count, as condition and get no stop target,
since they do not end where they were cut (our choice; the official code lets them lose it too, but
without a count). The token store records how many there are (``n_truncated``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

OBJECTIVES = ("ntp", "mpm")


class Predictions(NamedTuple):
    """What one objective asks of a batch: where a head predicts which token."""

    hidden: Tensor  # (B, T+1, C)
    mask: Tensor  # (B, T+1)
    causal: bool
    positions: Tensor  # (n,) int64, in the B * (T+1) positions of `hidden`, ascending
    targets: Tensor  # (n,) int64, ids of the vocabulary
    n_real: int | None = None  # real positions of all jets, where they are to be packed


def next_token_targets(ids: Tensor, mask: Tensor, n_constituents: Tensor, n_codes: int) -> Tensor:
    """What each of the positions d_s, d_1..d_T predicts.

    Parameters
    ----------
    ids : (B, T) tokenizer ids 0..K-1 where `mask` is True
    n_constituents : (B,) uncapped count; larger than ``mask.sum(1)`` for a truncated jet

    Returns
    -------
    (B, T+1) int64: code + 1, then stop = K+1 after the last constituent of an untruncated jet,
    -1 elsewhere
    """
    targets = torch.full((len(ids), ids.shape[1] + 1), -1, dtype=torch.int64, device=ids.device)
    targets[:, :-1] = torch.where(mask, ids + 1, -1)
    length = mask.sum(1)
    whole = (n_constituents <= length).nonzero().squeeze(1)
    targets[whole, length[whole]] = n_codes + 1
    return targets


def masked_token_targets(ids: Tensor, masked: Tensor) -> Tensor:
    """As `next_token_targets`, for masked particles: their own codes, and -1 elsewhere.

    Parameters
    ----------
    ids : (B, T) tokenizer ids 0..K-1
    masked : (B, T) True where they are to be predicted
    """
    return F.pad(torch.where(masked, ids + 1, -1), (1, 0), value=-1)


def together(
    results: Mapping[str, tuple[Tensor, int, Tensor]], weighting: str
) -> tuple[Tensor, dict[str, Any]]:
    """One loss of one or two objectives.

    Parameters
    ----------
    results : mean loss, number of predictions and of correct ones (`TokenHead.loss`), by objective
        in the order of `OBJECTIVES`
    weighting : 'per-token' or 'per-objective'

    Returns
    -------
    the loss; for each objective its mean 'ntp', 'mpm' and the '_accuracy' of the most likely
    token, as (sum, number) pairs; 'weight', the number of predictions that the loss is per;
    'parts', (mean, number) pairs, where the loss is a sum of means over different numbers
    """
    metrics: dict[str, Any] = {}
    for name, (mean, n, n_correct) in results.items():
        metrics[name] = (mean.detach() * n, n)
        metrics[f"{name}_accuracy"] = (n_correct, n)
    mean, n, _ = next(iter(results.values()))
    metrics["weight"] = n
    if len(results) == 1:
        return mean, metrics
    masked_mean, n_masked, _ = results["mpm"]
    if weighting == "per-token":
        masked_mean = masked_mean * (n_masked / max(n, 1))
    else:
        metrics["parts"] = [(mean, n), (masked_mean, n_masked)]
    return mean + masked_mean, metrics
