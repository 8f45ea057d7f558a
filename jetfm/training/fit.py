"""The one training entry point: Lightning drives, and a killed training continues exactly.

A training is a pure function of its module, its batches, its settings and its seed. Batch k is
``batches(k)``; before step k all of torch's generators are seeded from (seed, k); everything else
that matters (weights and their average, buffers, optimiser with its lookahead weights, early
stopping, history) is in the checkpoint written after each validation. On one CPU machine with one
number of threads a training that was killed and started again therefore ends with the same bits.

What is trained is any ``nn.Module`` with

- ``loss(batch) -> (loss, metrics)``: the loss tensor, and detached scalars to log, or pairs of a
  sum and the number of things in it; a metric called 'weight' is the number of things the loss
  averages over, and weighs batches in validation;
- optionally ``after_step(optimizer)``, ``parameter_groups() -> [{'params': ..., 'lr': ...}]``, and
  ``monitor``, the metric that early stopping minimises (default 'loss'; '-accuracy' maximises).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rangerlite import RangerLite
from torch import nn

from jetfm.errors import JetfmError
from jetfm.runtime.distributed import rank, world_size
from jetfm.runtime.progress import Progress
from jetfm.settings import OptimizerSettings, TrainingSettings
from jetfm.storage.files import make_folder, remove_leftovers
from jetfm.training.checkpoints import load_newest

Batches = Callable[[int], Any]
# With several processes (`jetfm.runtime.distributed`) the batches and the validation need a method
# ``shard(rank, world)`` that returns this process's part of each; together the parts are the whole.
BEST = "best.ckpt"


@dataclass(frozen=True)
class TrainingResult:
    """How a training went. `history` has one dictionary per row of ``metrics.csv``."""

    history: list[dict[str, Any]] = field(repr=False)
    best_metric: float
    best_step: int
    last_step: int
    stopped_early: bool
    resumed_from: int  # 0: from the beginning
    seconds: float  # of this call
    jets_per_second: float  # of this call


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Ranger (RAdam with lookahead, k = 6, alpha = 0.5) or AdamW, on all trainable parameters.

    On CUDA AdamW is one fused kernel for all of them. torch has none for RAdam, which there works
    through lists of tensors by itself; its counters of steps stay on the CPU, so neither asks the
    device for a number.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = module.parameter_groups() if hasattr(module, "parameter_groups") else trainable
    options = {}
    if settings.name == "adamw" and all(p.device.type == "cuda" for p in trainable):
        options["fused"] = True
    kinds = {"ranger": RangerLite, "adamw": torch.optim.AdamW}
    return kinds[settings.name](
        groups,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        eps=settings.eps,
        **options,
    )


def fit(
    module: nn.Module,
    batches: Batches,
    settings: TrainingSettings,
    *,
    validation: Iterable[Any] | None = None,
    folder: str | Path | None = None,
    seed: int = 0,
    device: str = "auto",
    progress: bool = True,
    name: str = "training",
    restore_best: bool = True,
    tensorboard: bool = False,
    say: Callable[[str], None] = print,
) -> TrainingResult:
    """Train `module` in place; continue where an interrupted call with the same arguments was.

    Parameters
    ----------
    module : see the head of this module
    batches : batch of each step 0, 1, ...; must depend on the step alone. On a GPU they are made
        ahead in another thread, see `jetfm.data.prefetch`
    validation : batches that can be iterated again and again; None validates on the training loss
    folder : for checkpoints and ``metrics.csv``; None keeps everything in memory
    device : 'auto', 'cpu', 'cuda' (as Lightning's accelerator)
    restore_best : leave the weights of the best validation in `module`, else the last ones
    tensorboard : write the learning curves for TensorBoard too, into ``folder/tensorboard``

    Raises
    ------
    JetfmError
        A loss that is not finite, or a `folder` that holds a training with other settings.
    """
    from jetfm.training.lightning_task import (  # seconds, which loading a model must not pay
        Task,
        quiet,
        run,
    )

    if world_size() > 1:
        batches, validation = (_part(side, name) for side in (batches, validation))
    request = {"settings": settings.model_dump(mode="json"), "seed": seed}
    state = State()
    folder = None if folder is None else make_folder(folder)
    task = Task(module, batches, validation, settings, seed, folder, request, state)
    if folder is not None:
        if rank() == 0:
            remove_leftovers(folder)
        saved = load_newest(folder, say)
        if saved is not None:
            task.restore(saved)
    resumed_from, began = state.step, time.monotonic()
    jets_per_second = 0.0
    if not state.finished:
        task.progress = Progress(name, settings.max_steps, state.step, show=progress)
        if tensorboard and folder is not None and rank() == 0:
            from tensorboardX import SummaryWriter

            # what a killed training logged after its last checkpoint comes again: hide the old
            task.curves = SummaryWriter(
                str(folder / "tensorboard"),
                purge_step=state.step + 1,
                filename_suffix=f".{state.step}",  # or two starts in one second share a file
            )
        rng_devices = [] if device == "cpu" else None
        try:
            with quiet(), torch.random.fork_rng(rng_devices):
                run(task, settings, device)
        finally:
            task.progress.close()
            if task.curves is not None:
                task.curves.close()
        jets_per_second = task.progress.jets_per_second
    if restore_best and task.best is not None:
        module.load_state_dict(task.best)
    module.eval()
    return TrainingResult(
        history=state.history,
        best_metric=state.best_metric,
        best_step=state.best_step,
        last_step=state.step,
        stopped_early=state.finished and state.step < settings.max_steps,
        resumed_from=resumed_from,
        seconds=time.monotonic() - began,
        jets_per_second=jets_per_second,
    )


@dataclass
class State:
    """What early stopping and the log remember; part of the checkpoint."""

    step: int = 0
    best_metric: float = math.inf
    best_step: int = 0
    bad_validations: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)


def _part(batches: Any, name: str) -> Any:
    if batches is None:
        return None
    if not hasattr(batches, "shard"):
        found = f"{world_size()} processes"
        raise JetfmError(name, found, "one process: this training cannot be shared")
    return batches.shard(rank(), world_size())
