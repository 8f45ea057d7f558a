"""The one training entry point: Lightning drives, and a killed training continues exactly.

A training is a pure function of its module, its batches, its settings and its seed. Batch k is
``batches(k)``; before step k all of torch's generators are seeded from (seed, k); everything else
that matters (weights and their average, buffers, optimiser with its lookahead weights, early
stopping, history) is in the checkpoint written after each validation. On one CPU machine with one
number of threads a training that was killed and started again therefore ends with the same bits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from jetfm.errors import JetfmError
from jetfm.runtime.distributed import rank, world_size
from jetfm.runtime.progress import Progress
from jetfm.storage.files import make_folder, remove_leftovers
from jetfm.training.checkpoints import load_newest
from jetfm.training.job import Training


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
    precision: str  # of the newest steps: 'bf16' may have been asked for and 'fp32' given

    @property
    def steps(self) -> dict[str, int]:
        """'best_step' and 'last_step', for the record of whatever was trained."""
        return {"best_step": self.best_step, "last_step": self.last_step}

    @property
    def metrics(self) -> dict[str, Any]:
        """The same after 'best_loss', the metric of the best validation."""
        return {"best_loss": self.best_metric, **self.steps}


def fit(training: Training) -> TrainingResult:
    """Train in place; continue where an interrupted call with the same training was.

    Raises
    ------
    JetfmError
        A loss that is not finite, or a folder that holds a training with other settings.
    """
    from jetfm.training.lightning_task import (  # seconds, which loading a model must not pay
        Task,
        quiet,
        run,
    )

    module, settings, name = training.module, training.settings, training.name
    if world_size() > 1:
        batches, validation = (_part(b, name) for b in (training.batches, training.validation))
        training = replace(training, batches=batches, validation=validation)
    folder = None if training.folder is None else make_folder(training.folder)
    task = Task(replace(training, folder=folder))
    state = task.state
    if folder is not None:
        if rank() == 0:
            remove_leftovers(folder)
        saved = load_newest(folder, training.say)
        if saved is not None:
            task.restore(saved)
    resumed_from, began = state.step, time.monotonic()
    jets_per_second = 0.0
    if not state.finished:
        task.progress = Progress(name, settings.max_steps, state.step, show=training.progress)
        if training.tensorboard and folder is not None and rank() == 0:
            from tensorboardX import SummaryWriter

            # what a killed training logged after its last checkpoint comes again: hide the old
            task.curves = SummaryWriter(
                str(folder / "tensorboard"),
                purge_step=state.step + 1,
                filename_suffix=f".{state.step}",  # or two starts in one second share a file
            )
        module.train()  # a loaded part comes in evaluation mode, which Lightning keeps
        rng_devices = [] if training.runs_on == "cpu" else None
        try:
            with quiet(), torch.random.fork_rng(rng_devices):
                run(task)
        finally:
            task.progress.close()
            if task.curves is not None:
                task.curves.close()
        jets_per_second = task.progress.jets_per_second
    if training.restore_best and task.best is not None:
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
        precision=state.precision,
    )


def _part(batches: Any, name: str) -> Any:
    if batches is None:
        return None
    if not hasattr(batches, "shard"):
        found = f"{world_size()} processes"
        raise JetfmError(name, found, "one process: this training cannot be shared")
    return batches.shard(rank(), world_size())
