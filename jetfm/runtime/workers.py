"""Independent tasks in worker processes or on a dask cluster, with errors that stay readable.

The processes are loky's. They last from call to call, so that what a task imports is imported once,
and they end when the next call does not come soon. What loky lacks is here: workers that end with a
killed parent, take its environment of each call, and share the seconds that torch takes to load.
"""

from __future__ import annotations

import multiprocessing.context
import os
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor
from contextlib import contextmanager
from itertools import islice
from multiprocessing import forkserver
from types import ModuleType

from joblib.externals import loky

from jetfm.errors import JetfmError
from jetfm.runtime.cores import n_cores, watch_parent, watch_parent_of_server
from jetfm.runtime.progress import Progress

# in new processes linear algebra then has one thread
_ONE_THREAD_EACH = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
_IDLE = 60.0  # seconds, after which a worker ends
_LONGEST_TMP = 70  # characters; the path of a server's socket may have a hundred

# loky starts a worker anew that holds 300 MB more than after its first task; there is no harm in it
warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")


def run_tasks(
    function: Callable[..., object],
    tasks: Sequence[tuple],
    workers: int = 0,
    name: str = "tasks",
    progress: bool = True,
    unit: str = "task",
    *,
    done: int = 0,
    size: Callable[..., int] = lambda *task: 1,
    dask_address: str | None = None,
    preload: Sequence[str] = (),
) -> None:
    """Call ``function(*task)`` for every task.

    An exception of one, or Ctrl-C also where it reaches this process alone, ends all workers at
    once; so does the end of this process, however it ended.

    Parameters
    ----------
    function : importable by name; what it makes, it writes to files
    tasks : its arguments; picklable
    workers : processes of one thread each; 0 is one per available core, 1 works in this process
    name, unit : what the progress says
    done : how many units were finished before
    size : ``size(*task)`` is how many units a task is worth
    dask_address : a cluster with this file system, whose workers do it instead
    preload : modules that a server imports once, from which workers are forked; on Linux, since
        libraries of other systems may not survive a fork

    Raises
    ------
    JetfmError
        That of a task, no cluster at this address, or a worker that was killed, as the system does
        where memory lacks.
    """
    if not tasks:
        return
    total = done + sum(size(*task) for task in tasks)
    workers = min(workers or n_cores(), len(tasks))
    bar = Progress(name, total, done, unit, progress)

    def finished(task: tuple) -> None:
        bar.update(size(*task), size(*task) * (unit == "jet"))

    with bar:
        if dask_address is not None:
            with _plain_errors(name):
                _run_distributed(function, tasks, dask_address, finished)
        elif workers == 1:
            for task in tasks:
                function(*task)
                finished(task)
        else:
            with _plain_errors(name):
                _run_local(function, tasks, workers, finished, preload)


def _run_local(
    function: Callable[..., object],
    tasks: Sequence[tuple],
    workers: int,
    finished: Callable[[tuple], object],
    preload: Sequence[str],
) -> None:
    has_server = preload and sys.platform == "linux" and len(tempfile.gettempdir()) <= _LONGEST_TMP
    pool = loky.get_reusable_executor(
        workers,
        context=_server(preload) if has_server else None,
        timeout=_IDLE,
        initializer=_start_worker,
        initargs=(0 if has_server else os.getpid(), tuple(sys.path)),  # others get other workers
        env=None if has_server else _ONE_THREAD_EACH | {"PYTHONSAFEPATH": "1"},
    )
    here = os.environ | _ONE_THREAD_EACH, os.getcwd()
    waiting, futures = iter(tasks), {}
    try:
        # no more at a time than loky passes on: when it has to end, it stumbles over others
        while True:
            for task in islice(waiting, 2 * workers - len(futures)):
                futures[pool.submit(_call, *here, function, task)] = task
            if not futures:
                return
            for future in loky.wait(futures, return_when=FIRST_COMPLETED).done:
                future.result()
                finished(futures.pop(future))
    except BaseException:
        pool.shutdown(wait=False, kill_workers=True)
        raise


def _server(preload: Sequence[str]) -> multiprocessing.context.BaseContext:
    """The way to fork workers from a server, which ends with this process."""
    context = _ForkServer()
    context.set_forkserver_preload(list(preload))
    # the server is to import what this process has imported, not what lies in the current folder
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    before = dict(os.environ)
    os.environ.update(_ONE_THREAD_EACH | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"})
    try:
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


if sys.platform == "linux":

    class _Worker(multiprocessing.context.ForkServerProcess):
        """Does not run the caller's script again: it need not say ``if __name__ == "__main__"``."""

        @staticmethod
        def _Popen(process):
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return multiprocessing.context.ForkServerProcess._Popen(process)
            finally:
                sys.modules["__main__"] = main

    class _ForkServer(multiprocessing.context.ForkServerContext):
        Process = _Worker


def _start_worker(parent: int, path: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, too: the parent ends its workers
    watch_parent(parent) if parent else watch_parent_of_server()
    sys.path[:] = path


def _call(environment: dict[str, str], folder: str, function: Callable, task: tuple) -> None:
    os.environ.clear()  # of the call for which the worker started
    os.environ.update(environment)
    os.chdir(folder)
    function(*task)


def _run_distributed(
    function: Callable[..., object],
    tasks: Sequence[tuple],
    address: str,
    finished: Callable[[tuple], object],
) -> None:
    from distributed import Client, as_completed  # seconds of start-up, for clusters alone

    try:
        client = Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise JetfmError("dask_address", f"{address!r} ({error})", "a running scheduler") from None
    with client:
        futures = {client.submit(function, *task, pure=False): task for task in tasks}
        for future in as_completed(list(futures)):
            future.result()
            finished(futures.pop(future))
            future.release()  # or a worker that dies later would have it done once more


# of a worker, or of the scheduler; the classes live in packages that not every call imports
_ENDS = ("KilledWorker", "FutureCancelledError", "CancelledError")


@contextmanager
def _plain_errors(name: str) -> Iterator[None]:
    """Turn what comes back from a worker into one plain JetfmError."""
    try:
        yield
    except JetfmError as error:  # wrapped together with the remote traceback
        raise JetfmError(error.where, error.found, error.expected) from None
    except Exception as error:
        if isinstance(error, BrokenExecutor) or type(error).__name__ in _ENDS:
            found = f"the sudden end of a worker ({error})"
            raise JetfmError(name, found, "memory for each of them") from None
        raise
