"""Small trainings that `test_distributed` runs in one process and, as a script, in two.

Starting a process that trains costs a core ten seconds. So the script starts once, loads what they
all need and forks them: torchrun's agents with their workers, and the tasks of a SLURM step.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.distributed.tensor import DTensor

import jetfm.training.lightning_task  # noqa: F401
from jetfm.data.token_store import TokenStore
from jetfm.models.jet_model import JetModel
from jetfm.pretraining.train import pretrain
from jetfm.runtime.distributed import SHARDING, rank
from jetfm.settings import PretrainingSettings
from jetfm.training.sharding import whole
from tests.forked import forked, wait

N_STEPS = 6
CUT_AT = 5  # with a checkpoint after three
ADAMW = {"name": "adamw", "lr": 1e-2, "betas": [0.9, 0.999], "warmup_steps": 0, "clip": 1e6}
RANGER = {"name": "ranger", "lr": 1e-2, "clip": 0.1}
MUON = {"name": "muon", "lr": 1e-2, "betas": [0.9, 0.99], "warmup_steps": 0, "clip": 1e6}


KILLED = "killed"


class Cut(Exception):
    """The end of an interrupted training."""


def settings_of(objective: str, optimizer: dict | None = None, **more) -> PretrainingSettings:
    plan = {"batch_size": 8, "max_steps": N_STEPS, "validate_every": 3}
    plan["optimizer"] = optimizer or ADAMW
    backbone = {"dim": 16, "n_blocks": 2, "n_heads": 2, "n_registers": 2, "dropout": 0.0}
    return PretrainingSettings.model_validate(
        {"objective": objective, "backbone": backbone, "training": plan, "head": {"n_blocks": 1}}
        | more
    )


#: Paper 1's network: token ids, no registers, no start vector of its own.
OMNIJET = PretrainingSettings.model_validate(
    {
        "preset": "omnijet",
        "backbone": {"dim": 16, "n_blocks": 2, "n_heads": 2},
        "training": settings_of("ntp").training.model_dump(),
    }
)


def n_held(tensors) -> int:
    """Numbers in this process's parts of tensors."""
    return sum(t.to_local().numel() if isinstance(t, DTensor) else t.numel() for t in tensors)


def train(folder: Path, name: str, settings: PretrainingSettings, cut: bool = False) -> None:
    """Train on ``folder/store``; write gradients of every step, weights, history, numbers held."""
    store, out = TokenStore(folder / "store"), folder / name
    gradients, held = [], []

    def record(model, optimizer):
        states = [v for state in optimizer.state.values() for v in state.values()]
        held.append([n_held(model.parameters()), n_held(states)])
        gradients.append(whole({n: p.grad.clone() for n, p in model.named_parameters()}))
        if cut and len(gradients) == CUT_AT:
            if name != KILLED:
                raise Cut
            if rank() == 1:  # the first is not told
                os.kill(os.getpid(), signal.SIGKILL)

    with mock.patch.object(JetModel, "after_step", record, create=True):
        try:
            model, result = pretrain(store, store, settings, out / "training", 3, progress=False)
        except Cut:
            return
    if rank() == 0:
        torch.save(gradients, out / "gradients.pt")
        torch.save(model.state_dict(), out / "weights.pt")
        (out / "history.json").write_text(json.dumps(result.history))
        (out / "held.json").write_text(json.dumps(held[-1]))


def all_trainings(folder: Path) -> None:
    """What two processes train in one go, since starting them takes longest."""
    train(folder, "ntp-ddp", settings_of("ntp"))
    train(folder, "joint-ddp", settings_of("joint"))
    train(folder, "equal-ddp", settings_of("joint", weighting="per-objective"))
    train(folder, "muon-ddp", settings_of("ntp", MUON))
    train(folder, "omnijet-ddp", OMNIJET)
    os.environ[SHARDING] = "fsdp"
    train(folder, "ntp-fsdp", settings_of("ntp"))
    train(folder, "muon-fsdp", settings_of("ntp", MUON))
    train(folder, "omnijet-fsdp", OMNIJET)
    train(folder, "joint-fsdp", settings_of("joint"))
    train(folder, "cut-fsdp", settings_of("ntp", RANGER), cut=True)
    if rank() == 0:
        shutil.copytree(folder / "cut-fsdp", folder / "cut-continued-by-one")
    torch.distributed.barrier()
    train(folder, "cut-fsdp", settings_of("ntp", RANGER))


def slurm_task(step: dict[str, str], folder: Path) -> None:
    os.environ |= step
    train_one(folder, "ntp-slurm")


def train_one(folder: Path, name: str, cut: bool = False) -> None:
    train(folder, name, settings_of("ntp"), cut=cut)


def torchrun(function: Callable[..., None], *arguments) -> int:
    """Exit code of an agent that runs it in two processes, as ``torchrun --standalone`` does."""
    return wait(forked(_agent, function, arguments))


def _agent(function: Callable[..., None], arguments: tuple) -> None:
    config = LaunchConfig(1, 1, 2, rdzv_backend="c10d", rdzv_endpoint="localhost:0")
    config.run_id, config.start_method, config.max_restarts = str(os.getpid()), "fork", 0
    try:
        elastic_launch(config, function)(*arguments)
    except ChildFailedError as error:
        sys.stderr.write(str(error))
        os._exit(3)  # a failed worker, and not this function


def main(folder: Path, slurm: list[dict[str, str]]) -> None:
    """Write exit codes to ``codes.json``, for the tests to judge."""
    torch.set_num_threads(1)
    codes = {"all": torchrun(all_trainings, folder)}
    codes["killed"] = torchrun(train_one, folder, KILLED, True)
    codes["left"] = sorted({path.name for path in (folder / KILLED).rglob("*")})
    codes["continued"] = torchrun(train_one, folder, KILLED)
    tasks = [forked(slurm_task, step, folder) for step in slurm]
    codes["slurm"] = [wait(task) for task in tasks]
    (folder / "codes.json").write_text(json.dumps(codes))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
