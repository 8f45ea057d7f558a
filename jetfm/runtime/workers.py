"""Independent tasks on several cores or on a dask cluster, with errors that stay readable."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from jetfm.errors import JetfmError
from jetfm.runtime.cores import changed_environment, n_cores, watch_parent

# in new processes linear algebra then has one thread
_ONE_THREAD_EACH = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


def run_local(
    work: Callable[[Any], object],
    tasks: Sequence[Any],
    workers: int,
    finished: Callable[[Any], object],
) -> None:
    """Run tasks in this process, or in dask's pool of processes, which needs no network.

    Parameters
    ----------
    work : function of a module, called with each task
    tasks : what to do; picklable
    workers : number of processes; 0 for one per core; 1 works in this process
    finished : called here with each finished task
    """
    workers = min(workers or n_cores(), len(tasks))
    if workers <= 1:
        for task in tasks:
            work(task)
            finished(task)
        return
    import dask
    from dask.callbacks import Callback

    by_key = {f"task-{number}": task for number, task in enumerate(tasks)}
    delayed = [dask.delayed(work)(task, dask_key_name=key) for key, task in by_key.items()]

    def tick(key, *_):
        if key in by_key:
            finished(by_key[key])

    with _translated_errors(), changed_environment(_ONE_THREAD_EACH), Callback(posttask=tick):
        dask.compute(
            *delayed,
            scheduler="processes",
            num_workers=workers,
            chunksize=1,
            initializer=partial(watch_parent, os.getpid()),
        )


def run_distributed(
    work: Callable[[Any], object],
    tasks: Sequence[Any],
    address: str,
    finished: Callable[[Any], object],
) -> None:
    """Run tasks on a dask cluster; arguments as of ``run_local``."""
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise JetfmError("dask_address", f"{address!r} ({error})", "a running scheduler") from None
    with client, _translated_errors():
        futures = {client.submit(work, task, pure=False): task for task in tasks}
        for future in as_completed(list(futures)):
            future.result()
            finished(futures.pop(future))
            future.release()  # or a worker that dies later would have it done once more


# of a worker, or of the scheduler; the classes live in packages that not every call imports
_ENDS = ("BrokenProcessPool", "KilledWorker", "FutureCancelledError", "CancelledError")


@contextmanager
def _translated_errors():
    """Turn what comes back from a worker into one plain JetfmError."""
    try:
        yield
    except JetfmError as error:  # dask wraps it together with the remote traceback
        raise JetfmError(error.where, error.found, error.expected) from None
    except BrokenPipeError as error:
        raise JetfmError("worker", f"its end ({error})", "a worker that lives") from None
    except Exception as error:
        if type(error).__name__ in _ENDS:
            raise JetfmError(
                "worker", f"its sudden end ({error})", "memory for each worker"
            ) from None
        raise
