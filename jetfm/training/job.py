"""One training as an object: what is trained, on what, how, and where it is kept.

What is trained is any ``nn.Module`` with

- ``loss(batch) -> (loss, metrics)``: the loss tensor, and detached scalars to log, or pairs of a
  sum and the number of things in it; a metric called 'weight' is the number of things the loss
  averages over, and weighs batches in validation;
- optionally ``after_step(optimizer)``, ``parameter_groups() -> [{'params': ..., 'lr': ...}]``, and
  ``monitor``, the metric that early stopping minimises (default 'loss'; '-accuracy' maximises).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from jetfm.runtime.device import current_device
from jetfm.settings import TrainingSettings

Batches = Callable[[int], Any]
# With several processes (`jetfm.runtime.distributed`) the batches and the validation need a method
# ``shard(rank, world)`` that returns this process's part of each; together the parts are the whole.


@dataclass(frozen=True, eq=False)
class Training:
    """What `jetfm.training.fit.fit` runs.

    Parameters
    ----------
    module : see the head of this module; trained in place
    batches : batch of each step 0, 1, ...; must depend on the step alone. On a GPU they are made
        ahead in another thread, see `jetfm.data.prefetch`
    validation : batches that can be iterated again and again; None validates on the training loss
    folder : for checkpoints and ``metrics.csv``; None keeps everything in memory
    seed : of everything random in the steps; the initial weights come with the module
    device : 'cpu' or 'cuda'; 'auto' is what `jetfm.runtime.device` says when it starts
    progress : show it, under this `name`
    restore_best : leave the weights of the best validation in `module`, else the last ones
    tensorboard : write the learning curves for TensorBoard too, into ``folder/tensorboard``
    mean_weight : what the 'weight' of a batch is on average. Losses are means over a batch; where
        batches differ in weight by intent, as those of jets of similar length do, each then counts
        with its own over this, or the constituents of short jets would count more than those of
        long ones, and a generator learn to make jets too short. None: every batch counts the same
    say : where remarks go, one line each
    """

    module: nn.Module
    batches: Batches
    settings: TrainingSettings
    _: KW_ONLY
    validation: Iterable[Any] | None = None
    folder: str | Path | None = None
    seed: int = 0
    device: str = "auto"
    progress: bool = True
    name: str = "training"
    restore_best: bool = True
    tensorboard: bool = False
    mean_weight: float | None = None
    say: Callable[[str], None] = print

    @property
    def runs_on(self) -> str:
        """'cpu' or 'cuda'."""
        return current_device() if self.device == "auto" else self.device

    @property
    def request(self) -> dict[str, Any]:
        """What a checkpoint has to agree with for the training to continue from it."""
        return {"settings": self.settings.model_dump(mode="json"), "seed": self.seed}
