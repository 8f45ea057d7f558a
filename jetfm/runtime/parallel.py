"""Trainings side by side, one thread each: for many small ones that beats one with many threads.

Results do not depend on the number of workers: a single one runs in this process, with one thread
too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

from jetfm.runtime.device import n_at_once
from jetfm.runtime.workers import run_tasks

_PRELOAD = ("jetfm.pipeline", "jetfm.training.lightning_task")


def run_fits(
    function: Callable[..., object],
    tasks: Sequence[tuple],
    workers: int = 0,
    name: str = "fits",
    progress: bool = True,
    unit: str = "fit",
) -> None:
    """`run_tasks` for work of torch, by default `n_at_once`."""
    with one_thread():
        run_tasks(function, tasks, workers or n_at_once(), name, progress, unit, preload=_PRELOAD)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
