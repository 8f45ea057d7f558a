"""Several processes that train one model: what torchrun or SLURM has told this one.

Nothing here starts processes. torchrun does (`jetfm.training.launch`), or ``srun`` in a SLURM job;
both set the variables that are read here. Without them there is one process, of rank 0.

Of SLURM the variables of the job *step* count, which srun sets for the tasks that it starts. Those
of the whole job are there in an ``sbatch`` script and in an ``salloc`` shell too, where a command
without srun is one process; and so it is in a shell that ``srun --pty`` has opened. Variables that
are left over from another launch lack those that came with them: an error names them.

``JETFM_SHARDING`` says what each process holds: 'ddp' all weights, 'fsdp' a share of them. It
changes memory and speed and, beyond rounding, no result.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from jetfm.errors import JetfmError

if TYPE_CHECKING:
    from torch import Tensor

SHARDING = "JETFM_SHARDING"
SHARDINGS = ("ddp", "fsdp")
_OF_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_OF_SLURM = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_JOB_ID", "SLURM_STEP_NODELIST")
_SLURM_OWN_STEPS = 0xFFFFFFF0  # from here on numbers of steps mean batch script, shell and the like


def launched() -> bool:
    """Whether torchrun or srun started this process, be it alone."""
    return "WORLD_SIZE" in os.environ or _in_slurm_step()


def world_size() -> int:
    """Number of processes.

    Raises
    ------
    JetfmError
        Several, without what they need to find each other: a variable is left over.
    """
    size = _told("WORLD_SIZE", "SLURM_STEP_NUM_TASKS", 1)
    if size > 1:
        torchrun = "WORLD_SIZE" in os.environ
        needed = _OF_TORCHRUN if torchrun else _OF_SLURM
        missing = [name for name in needed if name not in os.environ]
        if missing:
            name = "WORLD_SIZE" if torchrun else "SLURM_STEP_NUM_TASKS"
            found = f"{size}, without {', '.join(missing)}"
            wanted = f"all that {'torchrun' if torchrun else 'srun'} sets, or 'unset {name}'"
            raise JetfmError(name, found, f"{wanted} for one process")
    return size


def rank() -> int:
    """Number of this process, 0 to `world_size` - 1."""
    return _told("RANK", "SLURM_PROCID", 0) if world_size() > 1 else 0


def local_rank() -> int:
    """Number of this process on its machine."""
    return _told("LOCAL_RANK", "SLURM_LOCALID", 0) if world_size() > 1 else 0


def local_world_size() -> int:
    """Number of processes on this machine.

    Raises
    ------
    JetfmError
        SLURM tasks spread unevenly over its machines.
    """
    if "WORLD_SIZE" in os.environ or not _in_slurm_step():
        return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))
    name = "SLURM_STEP_TASKS_PER_NODE"
    counts = os.environ.get(name, str(world_size()))  # '4', '4(x2)' or '4,3'
    if "," in counts:
        raise JetfmError(name, counts, "as many tasks on each machine: --ntasks-per-node")
    return int(re.match(r"\d+", counts)[0])


def machine() -> int:
    """Number of this machine."""
    return _told("GROUP_RANK", "SLURM_NODEID", 0)


def meeting_point() -> tuple[str, int]:
    """Address and port where the processes find each other."""
    if "MASTER_ADDR" in os.environ and "MASTER_PORT" in os.environ:
        return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    # one port a job and step; above the usual services, below the ports that clients get
    port = 15_000 + (int(os.environ["SLURM_JOB_ID"]) * 16 + int(_slurm_step())) % 15_000
    return _first_machine(os.environ["SLURM_STEP_NODELIST"]), port


def sharding() -> str:
    """'ddp' or 'fsdp'.

    Raises
    ------
    JetfmError
        Anything else in ``JETFM_SHARDING``.
    """
    value = os.environ.get(SHARDING, SHARDINGS[0])
    if value not in SHARDINGS:
        raise JetfmError(f"--sharding ({SHARDING})", repr(value), " or ".join(SHARDINGS))
    return value


def summed(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes; itself where there is one."""
    if world_size() == 1:
        return value
    import torch  # seconds, which a command that only says something wrong should not take

    if not torch.distributed.is_initialized():
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value


def _told(torchrun: str, slurm: str, alone: int) -> int:
    if "WORLD_SIZE" in os.environ:
        return int(os.environ.get(torchrun, alone))
    return int(os.environ.get(slurm, alone)) if _in_slurm_step() else alone


def _slurm_step() -> str:
    return os.environ.get("SLURM_STEP_ID", "")


def _in_slurm_step() -> bool:
    ordinary = _slurm_step().isdigit() and int(_slurm_step()) < _SLURM_OWN_STEPS
    if "SLURM_PTY_PORT" in os.environ:  # a shell of srun --pty
        return False
    return ordinary and int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1


def _first_machine(names: str) -> str:
    """First name of SLURM's compact list: 'gpu[07-09,12]' -> 'gpu07'."""
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", re.split(r",(?![^\[]*\])", names)[0])
