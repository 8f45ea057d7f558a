"""Start a command in several processes of this machine, with torchrun's agent over them.

A notebook cannot do that within itself: its kernel has threads and perhaps a GPU open, and cannot
fork. So the processes are new ones. None outlives who started them: the agent watches this process,
and each of its workers the agent (`jetfm.cli`), however either ended.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from jetfm.errors import JetfmError
from jetfm.runtime.cores import AGENT, n_cores, watch_parent
from jetfm.runtime.distributed import launched

PROCESSES = "JETFM_PROCESSES"
_PARENT = "JETFM_LAUNCHER"  # tells the agent whose child it is
_PATIENCE = 10  # seconds for the processes to end when asked to


class ProcessesFailed(JetfmError):
    """The command ended with `code` in one of its processes."""

    code = 1


def n_processes(asked: int | None = None) -> int:
    """How many processes a training is to have: 1 means this one.

    Parameters
    ----------
    asked : None for ``JETFM_PROCESSES``, else one per GPU where there are several, else 1. Where
        torchrun or SLURM has started this process already, 1.

    Raises
    ------
    JetfmError
        Fewer than one, or more than one asked for under torchrun or SLURM.
    """
    if launched():
        if asked is not None:
            raise JetfmError("--processes", f"{asked}, under torchrun or SLURM", "one of the two: "
                             "they have started the processes already")  # fmt: skip
        return 1
    if asked is None:
        value = os.environ.get(PROCESSES) or str(max(_n_gpus(), 1))
        if not value.isdecimal():
            raise JetfmError(PROCESSES, repr(value), "a number of processes")
        asked = int(value)
    if asked < 1:
        raise JetfmError("--processes", str(asked), "1 or more")
    return asked


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run ``jetfm arguments`` in so many processes, and wait for them.

    On a machine without a GPU they share its cores, unless ``OMP_NUM_THREADS`` says otherwise: on
    two cores two processes with a thread each are 1.4 times as fast as one with two.

    Raises
    ------
    ProcessesFailed
        When they end with an error; they have said themselves which.
    """
    command = [sys.executable, "-m", "jetfm.training.launch", "--standalone"]
    command += ["--nproc-per-node", str(processes), "-m", "jetfm", *arguments]
    environment = {k: v for k, v in os.environ.items() if k not in (PROCESSES, "DRY_RUN")}
    environment[_PARENT] = str(os.getpid())
    environment.setdefault("LOGLEVEL", "CRITICAL")  # torchrun's, which repeats what workers say
    if not _n_gpus():
        environment.setdefault("OMP_NUM_THREADS", str(max(n_cores() // processes, 1)))
    # a session of its own: Ctrl-C reaches this process alone, and is passed on once
    agent = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = agent.wait()
    except BaseException:
        agent.terminate()
        try:
            agent.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            agent.kill()
        raise
    if code:
        error = ProcessesFailed(f"{arguments[0]} in {processes} processes", f"exit code {code}",
                                "0; what went wrong is said above")  # fmt: skip
        error.code = code
        raise error


def _n_gpus() -> int:
    import torch  # seconds, which a command with a wrong option should not take

    from jetfm.runtime.device import current_device

    return torch.cuda.device_count() if current_device() == "cuda" else 0


def _agent() -> int:
    """torchrun, without its own report of what a worker has said; the first failure's code."""
    watch_parent(int(os.environ[_PARENT]))
    os.environ[AGENT] = str(os.getpid())
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    try:
        run(parse_args(sys.argv[1:]))
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        return code if code > 0 else 128 - code  # -9: ended by signal 9, 137 in a shell
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


if __name__ == "__main__":
    sys.exit(_agent())
