"""Several processes that train one model: what torchrun or SLURM has told this one.

Nothing here starts processes. ``torchrun --nproc-per-node 4 -m jetfm pretrain ...`` does, and sets
the variables that are read here; without them there is one process, of rank 0.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor


def world_size() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Number of this process, 0 to `world_size` - 1."""
    return int(os.environ.get("RANK", 0)) if world_size() > 1 else 0


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world_size()))


def summed(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes; itself where there is one."""
    if world_size() == 1 or not torch.distributed.is_initialized():
        return value
    value = value.clone()
    torch.distributed.all_reduce(value)
    return value
