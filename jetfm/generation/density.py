"""Autoregressive generation of jets without tokens, from a density and with key-value caches.

Like `jetfm.generation.autoregressive`, with a draw from a mixture density in the place of a token
and its decoder: starting from d_s and a requested multiplicity N (a *condition*: the jet may end
earlier or later), the model gives the probability to stop and the density of the next constituent;
one is drawn and fed back, exactly as drawn. Finished jets leave the batch.

Randomness belongs to a jet: position k of jet j uses the k-th group of 2 + F numbers of the Philox
stream with key (seed, j). The jets are thus the same for every batch size up to float32 rounding in
the network, which passes through the constituents that are fed back.

A smooth density leaks over the edges of what a detector can see. Nothing is cut or drawn again;
`jetfm.judging.metrics.evaluate_sample` counts it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jetfm.errors import JetfmError
from jetfm.generation.autoregressive import check_request
from jetfm.generation.sampling import uniforms
from jetfm.models.continuous_model import ContinuousModel
from jetfm.runtime.progress import Progress

_COMPACT = 8  # finished jets leave the caches once they are a 1/8 of them: copying costs too


@dataclass(frozen=True)
class ContinuousJets:
    """Generated jets, jagged: jet j owns the flat rows ``offsets[j]:offsets[j+1]``.

    Named like `jetfm.generation.autoregressive.GeneratedJets`, without ids.
    """

    decoded: np.ndarray  # (n_total, F) float32, network space, as drawn
    offsets: np.ndarray  # (n_jets + 1,) int64
    requested: np.ndarray  # (n_jets,) int64, multiplicity asked for
    finished: np.ndarray  # (n_jets,) bool, False where `max_constituents` came before the stop

    @property
    def n_constituents(self) -> np.ndarray:
        """(n_jets,) int64 generated multiplicity."""
        return np.diff(self.offsets)


@torch.inference_mode()
def generate_continuous(
    model: ContinuousModel,
    n_constituents: np.ndarray,
    *,
    seed: int,
    batch_size: int = 512,
    max_constituents: int = 128,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> ContinuousJets:
    """Generate one jet per requested multiplicity.

    Parameters
    ----------
    n_constituents : (n_jets,) int, requested multiplicities, e.g. those of validation jets
    seed : non-negative; one seed, the same jets up to rounding, whatever the batch size
    max_constituents : a jet that has not stopped by then is cut and marked unfinished
    device : where to run; default where the model is

    Raises
    ------
    JetfmError
        No jets, a multiplicity below 1 or above `max_constituents`, another kind of model.
    """
    requested = np.asarray(n_constituents)
    if not isinstance(model, ContinuousModel):
        raise JetfmError("model", type(model).__name__, "a ContinuousModel")
    check_request(requested, seed, max_constituents, batch_size=batch_size)
    home, was_training = next(model.parameters()).device, model.training
    device = torch.device(device) if device is not None else home
    model.to(device).eval()
    n_jets, n_features = len(requested), model.n_features
    bar = Progress("generation", n_jets, unit="jet", show=progress)
    parts = []
    try:
        for start in range(0, n_jets, batch_size):
            jets = np.arange(start, min(start + batch_size, n_jets))
            numbers = uniforms(seed, jets, (max_constituents + 1) * (2 + n_features))
            numbers = torch.from_numpy(numbers).unflatten(1, (max_constituents + 1, -1))
            parts.append(_batch(model, requested[jets], numbers.to(device), bar))
    finally:
        bar.close()
        model.to(home).train(was_training)
    decoded, counts, finished = (np.concatenate(p) for p in zip(*parts, strict=True))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ContinuousJets(decoded, offsets, requested.astype(np.int64), finished)


def _batch(model: ContinuousModel, requested: np.ndarray, numbers: Tensor, bar: Progress):
    """Generate the jets of one batch; return flat constituents, counts, finished.

    Parameters
    ----------
    numbers : (B, max_constituents + 1, 2 + F) float64 in [0, 1)
    """
    device = numbers.device
    n_jets, n_positions, _ = numbers.shape
    jets = torch.zeros(n_jets, n_positions - 1, model.n_features, device=device)
    lengths = torch.zeros(n_jets, dtype=torch.int64, device=device)
    finished = torch.zeros(n_jets, dtype=torch.bool, device=device)
    condition = torch.as_tensor(requested, device=device)
    caches = model.new_caches()
    rows = torch.arange(n_jets, device=device)  # of the caches: which jet each one is
    newest = None
    for position in range(n_positions):
        following = model.next_constituent(newest, condition[rows], caches)
        stop, x = following.draw(numbers[rows, position])
        was_finished = finished[rows]
        finished[rows] = was_finished | stop
        n_ended = int((stop & ~was_finished).sum())
        bar.update(n_ended, n_ended)
        alive = ~finished[rows]
        if position == n_positions - 1 or not alive.any():
            break
        newest = x.float()
        if _COMPACT * int((~alive).sum()) >= len(rows):
            kept = alive.nonzero().squeeze(1)
            for cache in (*caches[0], *caches[1]):
                cache.keep(kept)
            rows, newest, alive = rows[kept], newest[kept], alive[kept]
        jets[rows, position] = newest  # rows that wait to leave write beyond their length
        lengths[rows] += alive
    n_cut = int((~finished).sum())
    bar.update(n_cut, n_cut)
    mask = torch.arange(n_positions - 1, device=device) < lengths[:, None]
    return jets[mask].cpu().numpy(), lengths.cpu().numpy(), finished.cpu().numpy()
