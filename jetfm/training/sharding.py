"""How Lightning spreads one training over processes: all weights in each (DDP), or a share (FSDP).

FSDP is torch's `fully_shard`, on each block and on the whole: a process holds its share of the
weights and of the optimiser's state, and gathers a block's weights when it comes to the block.
Checkpoints hold whole tensors either way, so a training may continue in another number of
processes, or with the other sharding.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from jetfm.models.transformer import Stack
from jetfm.runtime import distributed


def trainer_options(device: str, sharded: bool) -> dict[str, Any]:
    """What Lightning's Trainer has to know of the processes, `jetfm.runtime.distributed`'s."""
    world, here = distributed.world_size(), distributed.local_world_size()
    if world == 1:
        # told, not left to find out: in a SLURM job it would wait for others
        return {"devices": 1, "plugins": [LightningEnvironment()]}
    # unused parameters would hide a mistake in the model, so they are not looked for
    kind = FullySharded if sharded else DDPStrategy
    return {
        "devices": here,
        "num_nodes": world // here,
        "strategy": kind(process_group_backend="gloo" if device == "cpu" else "nccl"),
        "plugins": [_Processes()],
        "inference_mode": not sharded,  # gathered weights must serve training afterwards
    }


class _Processes(ClusterEnvironment):
    """The processes as `jetfm.runtime.distributed` sees them, for torchrun and SLURM alike."""

    creates_processes_externally = True
    main_address = property(lambda self: distributed.meeting_point()[0])
    main_port = property(lambda self: distributed.meeting_point()[1])

    @staticmethod
    def detect() -> bool:
        return False  # always given, never looked for

    def world_size(self) -> int:
        return distributed.world_size()

    def global_rank(self) -> int:
        return distributed.rank()

    def local_rank(self) -> int:
        return distributed.local_rank()

    def node_rank(self) -> int:
        return distributed.machine()

    def set_world_size(self, size: int) -> None:
        """Known already."""

    def set_global_rank(self, rank: int) -> None:
        """Known already."""


class FullySharded(DDPStrategy):
    """DDP's processes, with the module of the task shared out among them."""

    def configure_ddp(self) -> None:
        mesh = init_device_mesh(self.root_device.type, (distributed.world_size(),))
        shard(self.lightning_module.module, mesh)

    def teardown(self) -> None:
        self.optimizers = []  # parts of weights, which have no place of their own on the CPU
        super().teardown()


def shard(module: nn.Module, mesh) -> None:
    """Share out a module in place: each block of its stacks, and what is left as a whole."""
    for stack in module.modules():
        if isinstance(stack, Stack):
            for block in stack.blocks:
                fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, "loss")  # what is called here instead of forward


def put_away(module: nn.Module) -> None:
    """Let go of gathered weights, so that the module's parameters are this process's shares."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


def whole(value: Any) -> Any:
    """The same dicts and lists with whole tensors on the CPU for shared-out ones.

    All processes have to call it.
    """
    if isinstance(value, dict):
        return {key: whole(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(whole(item) for item in value)
    return value.full_tensor().cpu() if isinstance(value, DTensor) else value


def shared_out(state: dict, optimizer: torch.optim.Optimizer) -> dict:
    """An optimiser's state of whole tensors, cut as the parameters of `optimizer` are."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    cut = {
        number: {name: _cut_like(value, parameters[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    return state | {"state": cut}


def _cut_like(value: Any, parameter: Tensor) -> Any:
    if not isinstance(parameter, DTensor) or getattr(value, "shape", None) != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements)
