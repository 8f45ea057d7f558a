"""Several processes train as one: the same gradients, every jet once, one set of files."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from jetfm.data.batches import BlockShuffledBatches, InOrderBatches, LengthBucketedBatches
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.pretraining.train import TokenBatches
from jetfm.runtime import distributed
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.loopback import talking
from tests.toys import training_settings
from tests.training.two_processes import (
    KILLED,
    MUON,
    N_STEPS,
    OMNIJET,
    RANGER,
    settings_of,
    train,
)

K = 32


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> TokenStore:
    """37 jets: batches of 8 leave a last one of 5, which two processes share unevenly."""
    folder = tmp_path_factory.mktemp("tokens") / "store"
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder, K, tokenizer="none") as writer:
        for n in rng.integers(1, 12, 37):
            ids = rng.integers(0, K, (1, n))
            decoded = rng.normal(size=(1, n, 3)).astype(np.float32)
            writer.append(ids, decoded, np.ones((1, n), bool))
    return TokenStore(folder)


ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[2]),
    "OMP_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


@pytest.fixture(scope="module")
def trained(store) -> Path:
    """Folder of the same trainings in one process, here, and in two."""
    folder = store.folder.parent
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        job = free.getsockname()[1]  # some number that no other test run has
    tasks = []
    for number in range(2):  # with nothing but what srun would tell them
        step = slurm(number, 2) | {"SLURM_JOB_ID": str(job), "SLURM_STEP_NODELIST": "localhost"}
        # what a job of four tasks would say beside
        tasks.append(step | {"SLURM_NTASKS": "4", "SLURM_JOB_NAME": "train"})
    command = [sys.executable, "-m", "tests.training.two_processes", str(folder), json.dumps(tasks)]
    done = subprocess.run(
        command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert codes(folder)["all"] == 0, done.stderr[-3000:]
    train(folder, "ntp-one", settings_of("ntp"))
    train(folder, "joint-one", settings_of("joint"))
    train(folder, "muon-one", settings_of("ntp", MUON))
    train(folder, "omnijet-one", OMNIJET)
    train(folder, "equal-one", settings_of("joint", weighting="per-objective"))
    train(folder, "cut-one", settings_of("ntp", RANGER))
    train(folder, "cut-continued-by-one", settings_of("ntp", RANGER))
    return folder


def codes(folder: Path) -> dict:
    """How the two processes ended."""
    return json.loads((folder / "codes.json").read_text())


def assert_same_weights(folder: Path, first: str, second: str) -> None:
    one, two = (torch.load(folder / n / "weights.pt", weights_only=True) for n in (first, second))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=2e-4, atol=2e-5)


def assert_same_history(folder: Path, first: str, second: str) -> None:
    one, two = (json.loads((folder / n / "history.json").read_text()) for n in (first, second))
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@talking
@pytest.mark.parametrize(
    ("objective", "sharding"),
    [(one, how) for one in ("ntp", "joint", "omnijet") for how in ("ddp", "fsdp")]
    + [("equal", "ddp")],
)
def test_gradients_of_two_processes_are_those_of_one(trained, objective, sharding):
    """With the joined batch, at every step; jets, and so predictions, are shared unevenly."""
    one, two = (
        torch.load(trained / f"{objective}-{name}" / "gradients.pt", weights_only=True)
        for name in ("one", sharding)
    )
    assert len(one) == len(two) == N_STEPS
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        largest = max(gradient.abs().max() for gradient in a.values())
        for name, gradient in a.items():
            torch.testing.assert_close(b[name], gradient, rtol=1e-3, atol=float(1e-5 * largest))


@talking
@pytest.mark.parametrize(
    ("objective", "sharding"),
    [(one, how) for one in ("ntp", "joint", "muon", "omnijet") for how in ("ddp", "fsdp")]
    + [("equal", "ddp")],
)
def test_two_processes_take_the_steps_of_one(trained, objective, sharding):
    """The steps of an optimiser end at the same weights, and every logged mean is the same."""
    one, two = f"{objective}-one", f"{objective}-{sharding}"
    assert_same_weights(trained, one, two)
    assert_same_history(trained, one, two)
    files = [{path.name for path in (trained / n / "training").iterdir()} for n in (one, two)]
    assert files[0] == files[1]


@talking
def test_with_fsdp_a_process_holds_half(trained):
    whole = json.loads((trained / "ntp-one" / "held.json").read_text())
    half = json.loads((trained / "ntp-fsdp" / "held.json").read_text())
    assert json.loads((trained / "ntp-ddp" / "held.json").read_text()) == whole
    assert half == pytest.approx([n / 2 for n in whole], rel=0.05)


@talking
@pytest.mark.parametrize("name", ["cut-fsdp", "cut-continued-by-one"])
def test_a_shared_out_training_continues_after_its_end(trained, name):
    """Cut off between checkpoints, then continued in two processes, or in one without sharding.

    With lookahead weights in the optimiser's state and clipped gradients.
    """
    assert_same_weights(trained, "cut-one", name)
    assert_same_history(trained, "cut-one", name)


@talking
def test_after_kill_9_of_one_process_both_continue_to_the_same_end(trained):
    """Killed between checkpoints: torchrun ends the other; the same command continues."""
    ended = codes(trained)
    assert ended["killed"] == 3 and ended["continued"] == 0
    assert "last.ckpt" in ended["left"] and "weights.pt" not in ended["left"]
    assert_same_weights(trained, "ntp-ddp", KILLED)
    assert_same_history(trained, "ntp-ddp", KILLED)
    gradients = torch.load(trained / KILLED / "gradients.pt", weights_only=True)
    assert len(gradients) == N_STEPS - 3  # the steps after the checkpoint


@talking
def test_tasks_of_a_slurm_step_find_each_other(store, trained):
    """Two processes with nothing but what srun would tell them."""
    assert codes(trained)["slurm"] == [0, 0]
    assert_same_weights(trained, "ntp-one", "ntp-slurm")


def slurm(task: int, n_tasks: int, tasks_per_node: str = "", node: int = 0, local: int = -1):
    """What srun tells a task of a step."""
    return {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(n_tasks),
        "SLURM_STEP_TASKS_PER_NODE": tasks_per_node or str(n_tasks),
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task if local < 0 else local),
        "SLURM_NODEID": str(node),
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "localhost",
    }


TORCHRUN = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture
def bare(monkeypatch):
    """An environment without torchrun and SLURM."""
    torchruns = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    for name in list(os.environ):
        if name.startswith("SLURM") or name in torchruns:
            monkeypatch.delenv(name)

    def tell(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return tell


def seen() -> tuple:
    return (
        distributed.launched(),
        distributed.world_size(),
        distributed.rank(),
        distributed.local_world_size(),
        distributed.local_rank(),
        distributed.machine(),
    )


ALONE = (False, 1, 0, 1, 0, 0)


def test_nothing_told_is_one_process(bare):
    assert seen() == ALONE


def test_a_task_of_a_slurm_step_on_two_machines(bare):
    bare(slurm(5, 8, "4(x2)", node=1, local=1))
    bare({"SLURM_JOB_ID": "1234567", "SLURM_STEP_NODELIST": "gpu[07-08]"})
    assert seen() == (True, 8, 5, 4, 1, 1)
    host, port = distributed.meeting_point()
    assert host == "gpu07" and 15_000 <= port < 30_000


@pytest.mark.parametrize(
    "values",
    [
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},  # sbatch without srun
        slurm(0, 1) | {"SLURM_NTASKS": "4"},  # srun of one task in a larger job
        slurm(0, 4) | {"SLURM_STEP_ID": str(0xFFFFFFFA)},  # the shell of salloc
        slurm(0, 4) | {"SLURM_PTY_PORT": "40123"},  # the shell of srun --pty
    ],
)
def test_in_a_slurm_job_without_a_step_of_tasks_there_is_one_process(bare, values):
    bare(values)
    assert seen() == ALONE


def test_torchrun_within_a_slurm_step_counts(bare):
    bare(slurm(0, 2))
    told = {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}
    bare(TORCHRUN | told)
    assert seen() == (True, 4, 3, 4, 3, 0)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE: found 4, without RANK, LOCAL_RANK, MASTER_ADDR"),
        (TORCHRUN | {"WORLD_SIZE": "2", "RANK": None}, "found 2, without RANK; .*unset WORLD_SIZE"),
        (slurm(0, 2) | {"SLURM_JOB_ID": None}, "SLURM_STEP_NUM_TASKS: found 2, without SLURM_JOB"),
    ],
)
def test_a_variable_that_is_left_over_is_named_at_once(bare, values, named):
    """Instead of waiting for processes that nobody has started."""
    bare({name: value for name, value in values.items() if value is not None})
    for asked in (distributed.world_size, distributed.rank, distributed.local_rank):
        with pytest.raises(JetfmError, match=named):
            asked()


def test_unevenly_spread_tasks_are_refused(bare):
    bare(slurm(0, 5, "3,2"))
    with pytest.raises(JetfmError, match="ntasks-per-node"):
        distributed.local_world_size()


@pytest.mark.parametrize(
    ("names", "first"),
    [("localhost", "localhost"), ("a1,a2", "a1"), ("n[3,5-9],m1", "n3"), ("r[01-02]-x", "r01-x")],
)
def test_first_machine_of_a_list(bare, names, first):
    bare(slurm(0, 2) | {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": names})
    assert distributed.meeting_point()[0] == first


def test_sums_for_the_log_meet_on_the_device_of_the_loss(monkeypatch):
    """Processes of several GPUs have no other way; a number of the CPU must not go there alone."""
    from jetfm.training import lightning_task

    asked = []

    def summed(value):
        asked.append(value.device.type)
        return torch.ones(value.shape, dtype=value.dtype)

    monkeypatch.setattr(lightning_task, "summed", summed)
    means = lightning_task._Means()
    loss = torch.ones((), device="meta")
    means.add(loss, {"weight": 3, "accuracy": (loss, torch.tensor(4.0)), "count": 2.0})
    assert means.take() == {"loss": 1.0, "accuracy": 1.0, "count": 1.0}
    means.add(torch.ones(()), {"weight": 1})
    means.take()
    assert asked == ["meta", "cpu"]


def test_unknown_sharding_is_refused(monkeypatch):
    monkeypatch.setenv("JETFM_SHARDING", "zero")
    with pytest.raises(JetfmError, match="ddp or fsdp"):
        distributed.sharding()


def test_averaged_weights_are_not_shared_out(monkeypatch, store):
    for name, value in (TORCHRUN | {"WORLD_SIZE": "2", "JETFM_SHARDING": "fsdp"}).items():
        monkeypatch.setenv(name, value)
    batches = TokenBatches(store, LengthBucketedBatches(store.n_constituents, 8, seed=1))
    with pytest.raises(JetfmError, match="ema"):
        fit(Training(torch.nn.Linear(1, 1), batches, training_settings(ema=0.9), progress=False))


@pytest.mark.parametrize("kind", [LengthBucketedBatches, BlockShuffledBatches])
@pytest.mark.parametrize("world", [2, 3])
def test_no_jet_is_seen_twice_or_dropped(store, world, kind):
    schedule = kind(store.n_constituents, 8, seed=1)
    whole = TokenBatches(store, schedule)
    for step in range(2 * schedule.steps_per_epoch):
        parts = [whole.shard(rank, world)(step) for rank in range(world)]
        parts = [part for part in parts if "silent" not in part]
        together = sorted(_jets(parts))
        assert together == sorted(_jets([whole(step)]))
        assert len(together) == len(schedule.indices(step))


def test_a_process_without_a_jet_keeps_step(store):
    """One jet, two processes: the second gets a batch that predicts nothing."""
    from jetfm.models.jet_model import JetModel

    schedule = InOrderBatches(store.n_constituents, 36)
    batch = TokenBatches(store, schedule, rank=1, world=2)(1)
    assert "silent" in batch
    model = JetModel(settings_of("joint"), K)
    loss, metrics = model.loss(batch)
    loss.backward()
    assert loss == 0 and metrics["weight"] == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_a_training_that_cannot_be_shared_says_so(monkeypatch):
    for name, value in (TORCHRUN | {"WORLD_SIZE": "2"}).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(JetfmError, match="one process"):
        fit(Training(torch.nn.Linear(1, 1), lambda _: None, training_settings(), progress=False))


def _jets(batches) -> list[tuple]:
    return [
        tuple(ids[mask].tolist())
        for batch in batches
        for ids, mask in zip(batch["ids"], batch["mask"], strict=True)
    ]
