"""Two processes train as one: the same gradients, every jet once, one set of files."""

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

from jetfm.data.batches import InOrderBatches, LengthBucketedBatches
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.pretraining import TokenBatches
from jetfm.training import fit
from tests.toys import training_settings

K = 32

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from jetfm.data.token_store import TokenStore
from jetfm.distributed import rank
from jetfm.pretraining import pretrain
from jetfm.settings import PretrainingSettings

torch.set_num_threads(1)
folder, values = Path(sys.argv[1]), json.loads(sys.argv[2])
store = TokenStore(folder / "store")
settings = PretrainingSettings.model_validate(values)
out = folder / sys.argv[3]
model, result = pretrain(store, store, settings, out / "training", seed=3, progress=False)
if rank() == 0:
    torch.save(model.state_dict(), out / "weights.pt")
    (out / "history.json").write_text(json.dumps(result.history))
"""


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


def settings_of(objective: str, **training) -> dict:
    plan = {
        "batch_size": 8,
        "max_steps": 10,
        "validate_every": 5,
        "optimizer": {"name": "adamw", "lr": 1e-2, "betas": (0.9, 0.999), "warmup_steps": 0},
    } | training
    backbone = {"dim": 16, "n_blocks": 1, "n_heads": 2, "n_registers": 2, "dropout": 0.0}
    return {"objective": objective, "backbone": backbone, "training": plan, "head": {"n_blocks": 1}}


def run(store: TokenStore, values: dict, name: str, processes: int):
    """Train in `processes` processes under torchrun; weights, history and what was said."""
    folder = store.folder.parent
    script = folder / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable]
    if processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
        command += [str(processes)]
    command += [str(script), str(folder), json.dumps(values), name]
    (folder / name).mkdir()
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    weights = torch.load(folder / name / "weights.pt", weights_only=True)
    return weights, json.loads((folder / name / "history.json").read_text())


def _has_loopback() -> bool:
    """Whether two processes of this machine can talk; not where the network is cut off whole."""
    with socket.socket() as server, socket.socket() as client:
        try:
            server.bind(("127.0.0.1", 0))
            server.listen()
            client.settimeout(5)
            client.connect(server.getsockname())
        except OSError:
            return False
    return True


@pytest.mark.skipif(not _has_loopback(), reason="no loopback interface for processes to meet on")
def test_two_processes_take_the_steps_of_one(store):
    """Ten steps of AdamW end at the same weights, and every logged mean is the same."""
    values = settings_of("ntp")
    one, history = run(store, values, "one", 1)
    two, shared = run(store, values, "two", 2)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=2e-4, atol=2e-5)
    assert len(shared) == len(history)
    for a, b in zip(shared, history, strict=True):
        assert (a["step"], a["split"]) == (b["step"], b["split"])
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)
    folder = store.folder.parent
    names = {path.name for path in (folder / "two" / "training").iterdir()}
    assert names == {path.name for path in (folder / "one" / "training").iterdir()}


@pytest.mark.parametrize("world", [2, 3])
def test_no_jet_is_seen_twice_or_dropped(store, world):
    schedule = LengthBucketedBatches(store.n_constituents, 8, seed=1)
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
    from jetfm.settings import PretrainingSettings

    schedule = InOrderBatches(store.n_constituents, 36)
    batch = TokenBatches(store, schedule, rank=1, world=2)(1)
    assert "silent" in batch
    model = JetModel(PretrainingSettings.model_validate(settings_of("joint")), K)
    loss, metrics = model.loss(batch)
    loss.backward()
    assert loss == 0 and metrics["weight"] == 0
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_a_training_that_cannot_be_shared_says_so(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(JetfmError, match="one process"):
        fit(torch.nn.Linear(1, 1), lambda step: None, training_settings(), progress=False)


def _jets(batches) -> list[tuple]:
    return [
        tuple(ids[mask].tolist())
        for batch in batches
        for ids, mask in zip(batch["ids"], batch["mask"], strict=True)
    ]
