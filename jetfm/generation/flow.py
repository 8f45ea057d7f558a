"""Generate jets with EPiC-FM: noise in, jets out, of exactly the multiplicities asked for.

The noise of jet j is the beginning of the Philox stream with key (seed, j), as in
`jetfm.generation.sampling`: the jets are the same for every batch size, up to float32 rounding.
Batches hold jets of similar length, so that little is padded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from jetfm.data.batches import InOrderBatches
from jetfm.errors import JetfmError
from jetfm.generation.autoregressive import check_request
from jetfm.generation.sampling import stream
from jetfm.models.flow_matching import FlowModel
from jetfm.physics.jagged import padded
from jetfm.runtime.progress import Progress


@dataclass(frozen=True)
class FlowJets:
    """Generated jets, jagged: jet j owns the flat rows ``offsets[j]:offsets[j+1]``."""

    decoded: np.ndarray  # (n_total, F) float32, network space
    offsets: np.ndarray  # (n_jets + 1,) int64
    requested: np.ndarray  # (n_jets,) int64, multiplicity asked for, and had

    @property
    def n_constituents(self) -> np.ndarray:
        """(n_jets,) int64 generated multiplicity."""
        return np.diff(self.offsets)


def normals(seed: int, jets: np.ndarray, counts: np.ndarray, n_features: int) -> np.ndarray:
    """Standard normal numbers of each jet's own stream.

    Parameters
    ----------
    jets, counts : (B,) number of each jet, and of its constituents

    Returns
    -------
    (sum of counts, n_features) float32, jet after jet
    """
    return np.concatenate(
        [
            stream(seed, jet).standard_normal((count, n_features), np.float32)
            for jet, count in zip(jets, counts, strict=True)
        ]
    )


@torch.inference_mode()
def generate_flow(
    model: FlowModel,
    n_constituents: np.ndarray,
    *,
    seed: int,
    n_steps: int | None = None,
    batch_size: int = 128,
    max_constituents: int = 128,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> FlowJets:
    """Generate one jet per requested multiplicity.

    Parameters
    ----------
    n_constituents : (n_jets,) int, e.g. those of validation jets
    seed : non-negative; one seed, the same jets up to rounding, whatever the batch size
    n_steps : of the solver, default that of the model's settings
    max_constituents : the largest multiplicity that the model was trained for
    device : where to run; default where the model is

    Raises
    ------
    JetfmError
        No jets, or a multiplicity below 1 or above `max_constituents`.
    """
    if not isinstance(model, FlowModel):
        raise JetfmError("model", type(model).__name__, "a FlowModel")
    requested = np.asarray(n_constituents)
    n_steps = model.settings.n_steps if n_steps is None else n_steps
    check_request(requested, seed, max_constituents, batch_size=batch_size, n_steps=n_steps)
    requested = requested.astype(np.int64)
    home, was_training = model.mean.device, model.training
    device = torch.device(device) if device is not None else home
    offsets = np.concatenate([[0], np.cumsum(requested)])
    decoded = np.empty((offsets[-1], model.n_features), np.float32)
    bar = Progress("flow generation", len(requested), unit="jet", show=progress)
    model.to(device).eval()
    try:
        for jets in InOrderBatches(requested, batch_size):
            counts = requested[jets]
            mask = np.arange(counts.max()) < counts[:, None]
            noise = padded(normals(seed, jets, counts, model.n_features), mask)
            inputs = (torch.from_numpy(array).to(device) for array in (noise, mask))
            x = model.transport(*inputs, n_steps).cpu().numpy()
            before = np.cumsum(counts) - counts
            rows = np.repeat(offsets[jets] - before, counts) + np.arange(counts.sum())
            decoded[rows] = x[mask]
            bar.update(len(jets), len(jets))
    finally:
        bar.close()
        model.to(home).train(was_training)
    return FlowJets(decoded, offsets, requested)
