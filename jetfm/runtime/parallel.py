"""Independent tasks in worker processes, one thread each, with progress.

For many small trainings this beats one process with many threads. Results do not depend on the
number of workers: a single worker runs in this process, with one thread too.

Importing torch and the rest takes a core some five seconds. On Linux workers are therefore forked
from a server that has done so once, and has run nothing else; elsewhere each starts from scratch.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import forkserver
from typing import Any

import torch
from tqdm import tqdm

from jetfm.errors import JetfmError
from jetfm.runtime.cores import changed_environment, end_with_parent, n_cores

_LONGEST_TMP = 70
_IMPORTED = ("jetfm.pipeline", "jetfm.training.lightning_task")  # by the server, once


def run_tasks(
    function: Callable[..., Any],
    tasks: Sequence[tuple],
    workers: int = 0,
    name: str = "tasks",
    progress: bool = True,
    unit: str = "fit",
) -> None:
    """Call ``function(*task)`` for every task.

    An exception of one, or Ctrl-C also where it reaches this process alone, ends all workers at
    once.

    Parameters
    ----------
    function : importable by name; what it makes, it writes to files
    name, unit : what the progress bar says
    workers : processes; 0 is one per available core. On a machine with a GPU, one: it is shared.

    Raises
    ------
    JetfmError
        A worker that was killed, as the system does where memory lacks.
    """
    if not workers:
        workers = 1 if torch.cuda.is_available() else n_cores()
    workers = min(workers, len(tasks))
    bar = tqdm(total=len(tasks), desc=name, unit=unit, disable=not progress)
    with bar:
        if workers <= 1:
            with one_thread():
                for task in tasks:
                    function(*task)
                    bar.update()
            return
        others = multiprocessing.active_children()
        with ProcessPoolExecutor(workers, _context(), _start_worker, (dict(os.environ),)) as pool:
            try:
                futures = [pool.submit(function, *task) for task in tasks]
                for future in as_completed(futures):
                    future.result()
                    bar.update()
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in set(multiprocessing.active_children()) - set(others):
                    worker.terminate()
                if isinstance(error, BrokenProcessPool):
                    found = f"the sudden end of a worker ({error})"
                    raise JetfmError(name, found, "memory for each of them") from None
                raise


@contextmanager
def one_thread():
    """torch on one thread inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _context() -> multiprocessing.context.BaseContext:
    # Elsewhere libraries may not survive a fork; a socket's path may have a hundred characters.
    if sys.platform != "linux" or len(tempfile.gettempdir()) > _LONGEST_TMP:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    # the server is to import what this process has imported, not what lies in the current folder
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    with changed_environment({"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}):
        forkserver.ensure_running()
    return context


def _start_worker(environment: dict[str, str]) -> None:
    os.environ.clear()  # of the time when the server started
    os.environ.update(environment)
    torch.set_num_threads(1)
    end_with_parent()
