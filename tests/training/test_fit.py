"""Training: exact resume, early stopping, batches, optimiser, damage; all by numbers."""

from __future__ import annotations

import csv
import math
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from jetfm.errors import JetfmError
from jetfm.models.attention import dropout
from jetfm.runtime import precision
from jetfm.settings import OptimizerSettings
from jetfm.training.checkpoints import (
    LAST,
    PREVIOUS,
    load_newest,
    read_checkpoint,
    save_newest,
    write_checkpoint,
)
from jetfm.training.fit import fit
from jetfm.training.job import Training
from jetfm.training.optimizer import make_optimizer
from tests.toys import training_settings


class Noisy(nn.Module):
    """Linear regression with dropout and a buffer that counts forwards: all that must resume."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(8, generator=generator))
        self.register_buffer("forwards", torch.zeros((), dtype=torch.int64))

    def loss(self, batch):
        self.forwards += self.training
        x = dropout(batch["x"], 0.2, self.training)
        loss = (x @ self.weight - batch["y"]).square().mean()
        return loss, {"weight": torch.tensor(len(x)), "norm": self.weight.norm()}


def batches(step: int) -> dict:
    rng = np.random.default_rng(step)
    x = torch.as_tensor(rng.normal(size=(16, 8)), dtype=torch.float32)
    return {"x": x, "y": x.sum(1) + 0.1 * torch.as_tensor(rng.normal(size=16)).float()}


VALIDATION = [batches(10**6), batches(10**6 + 1)]
RANGER = OptimizerSettings(lr=1e-2)


def train(folder=None, steps=57, every=10, seed=3, say=lambda text: None, **options):
    module = Noisy()
    plan = training_settings(max_steps=steps, validate_every=every, patience=100, optimizer=RANGER)
    options = {"validation": VALIDATION, "restore_best": False} | options
    options |= {"folder": folder, "seed": seed, "progress": False, "say": say}
    result = fit(Training(module, batches, plan, **options))
    return module, result


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(),
                                                 strict=True))  # fmt: skip


class Killed(Exception):
    pass


def killed_after(step: int):
    """Batches that end the training when batch `step` is asked for."""

    real = batches

    def interrupted(k):
        if k == step:
            raise Killed
        return real(k)

    return interrupted


def test_agrees_with_a_plain_loop():
    """Every step: seed from (seed, step), warm-up, clipping, Ranger; no hidden extras."""
    module, result = train()
    plain = Noisy()
    optimizer = make_optimizer(plain, RANGER)
    for step in range(57):
        number = int(np.random.SeedSequence([3, step]).generate_state(1, np.uint64)[0] >> 1)
        torch.manual_seed(number)
        optimizer.param_groups[0]["lr"] = 1e-2 / 3 if step < 5 else 1e-2
        loss, _ = plain.loss(batches(step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), RANGER.clip)
        optimizer.step()
    assert torch.equal(module.weight, plain.weight)
    plain.eval()
    expected = np.mean([plain.loss(batch)[0].item() for batch in VALIDATION])
    last = result.history[-1]
    assert last["split"] == "validation" and last["step"] == 57 == result.last_step
    assert last["loss"] == pytest.approx(expected, rel=1e-6)
    assert [r["step"] for r in result.history if r["split"] == "validation"] == [
        10, 20, 30, 40, 50, 57
    ]  # fmt: skip


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Module and result of a whole training, and its folder."""
    folder = tmp_path_factory.mktemp("whole")
    return *train(folder), folder


@pytest.mark.parametrize("at", [3, 10, 11, 45, 56])
def test_interrupted_training_continues_to_the_same_bits(tmp_path, monkeypatch, uninterrupted, at):
    whole, expected, whole_folder = uninterrupted
    folder = tmp_path / "interrupted"
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "batches", killed_after(at))
        with pytest.raises(Killed):
            train(folder)
    resumed, result = train(folder)
    assert result.resumed_from == at // 10 * 10
    assert same(whole, resumed)
    assert result.history == expected.history
    assert (result.best_metric, result.best_step) == (expected.best_metric, expected.best_step)
    for name in ("metrics.csv",):
        assert (folder / name).read_bytes() == (whole_folder / name).read_bytes()
    best = [read_checkpoint(f / "best.ckpt") for f in (folder, whole_folder)]
    assert torch.equal(best[0]["module"]["weight"], best[1]["module"]["weight"])


def test_a_part_that_comes_in_evaluation_mode_trains_as_one_in_training_mode():
    """As loaded models do: without it a fine-tuned backbone would have no dropout."""
    modules = [Noisy(), Noisy().eval()]
    for module in modules:
        whole = nn.ModuleDict({"loaded": module})
        whole.loss = module.loss
        plan = training_settings(max_steps=7, validate_every=3, optimizer=RANGER)
        options = {"validation": VALIDATION, "restore_best": False, "progress": False}
        fit(Training(whole, batches, plan, seed=3, **options))
    assert same(*modules)
    assert modules[0].forwards == 7


def test_finished_training_is_not_repeated(tmp_path):
    first, expected = train(tmp_path)
    again, result = train(tmp_path, say=print)
    assert result.resumed_from == 57 == result.last_step and result.history == expected.history
    assert torch.equal(again.weight, first.weight)


SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
import tests.training.test_fit as t
real = t.batches
def slow(step):
    time.sleep(0.01)
    return real(step)
t.batches = slow
t.train(sys.argv[1], steps=60, every=4)
"""


def test_kill_minus_nine(tmp_path):
    """SIGKILL soon after a checkpoint, wherever it hits; then the same call: the same bits."""
    folder, root = tmp_path / "killed", Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, folder], env=environment, cwd=root)
    while not (folder / PREVIOUS).exists():
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.005)
    time.sleep(0.03)
    process.send_signal(signal.SIGKILL)
    process.wait()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    whole, expected = train(tmp_path / "whole", steps=60, every=4)
    resumed, result = train(folder, steps=60, every=4)
    torch.set_num_threads(threads)
    assert 8 <= result.resumed_from < 60
    assert same(whole, resumed) and result.history == expected.history
    assert (folder / "metrics.csv").read_text() == (tmp_path / "whole/metrics.csv").read_text()
    assert not list(folder.glob(".*.part"))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "removed"])
def test_a_damaged_checkpoint_falls_back_to_the_previous_one(
    tmp_path, monkeypatch, uninterrupted, damage
):
    whole = uninterrupted[0]
    folder = tmp_path / "damaged"
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "batches", killed_after(45))
        with pytest.raises(Killed):
            train(folder)
    data = bytearray((folder / LAST).read_bytes())
    data[len(data) // 2] ^= 1
    content = {"truncated": data[: len(data) // 2], "flipped": data, "empty": b""}
    if damage == "removed":  # as if killed between the two renames
        (folder / LAST).unlink()
    else:
        (folder / LAST).write_bytes(content[damage])
    messages = []
    resumed, result = train(folder, say=messages.append)
    assert result.resumed_from == 30 and same(whole, resumed)
    assert (damage == "removed") == (messages == [])
    assert all("last.ckpt" in text and "damaged" in text for text in messages)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_malicious_checkpoint_is_refused_and_not_executed(tmp_path):
    """With the right checksum, which anyone can compute."""
    path, trace = tmp_path / LAST, tmp_path / "executed"
    write_checkpoint(path, {"module": Malicious(trace)})
    with pytest.raises(JetfmError, match="something other than tensors"):
        load_newest(tmp_path)
    assert not trace.exists()


def test_no_checkpoint_left_means_from_the_beginning(tmp_path):
    for name in (LAST, PREVIOUS):
        (tmp_path / name).write_bytes(b"nothing")
    messages = []
    assert load_newest(tmp_path, messages.append) is None and len(messages) == 2
    save_newest(tmp_path, {"a": torch.arange(3), "b": [1, "x", math.inf]})
    content = load_newest(tmp_path)
    assert torch.equal(content["a"], torch.arange(3)) and content["b"] == [1, "x", math.inf]


def test_other_settings_in_the_same_folder_are_refused(tmp_path):
    train(tmp_path)
    with pytest.raises(JetfmError, match="other settings"):
        train(tmp_path, seed=4)


class Curve(nn.Module):
    """Validation loss follows a given curve; the parameter counts the steps."""

    def __init__(self, curve):
        super().__init__()
        self.curve, self.at = curve, 0
        self.weight = nn.Parameter(torch.zeros(()))

    def loss(self, batch):
        if self.training:
            return self.weight * 1.0, {}
        self.at += 1
        return torch.tensor(self.curve[self.at - 1]), {}


def test_early_stopping_and_best_weights():
    curve = [5.0, 3.0, 4.0, 2.0, 2.5, 2.0, 9.0, 1.0, 1.0]
    module = Curve(curve)
    plan = training_settings(
        max_steps=1000,
        validate_every=2,
        patience=3,
        optimizer=OptimizerSettings(
            name="adamw", weight_decay=0, warmup_steps=0, lr=1.0, betas=(0.9, 0.999), eps=1e-8
        ),
    )
    result = fit(Training(module, batches, plan, validation=[batches(0)], progress=False))
    assert result.stopped_early and result.last_step == 14
    assert (result.best_metric, result.best_step) == (2.0, 8)
    assert module.weight.item() == pytest.approx(-8, rel=1e-5)  # Adam walks one lr a step


def test_monitor_can_be_maximised(capsys, monkeypatch):
    # a bar on a terminal, whatever else this process has loaded or set
    monkeypatch.setattr("jetfm.runtime.progress.is_interactive", lambda: True)

    class Accuracy(Curve):
        monitor = "-accuracy"

        def loss(self, batch):
            loss, _ = super().loss(batch)
            return loss, {"accuracy": loss.detach()}

    module = Accuracy([0.1, 0.7, 0.3, 0.2])
    plan = training_settings(max_steps=8, validate_every=2)
    result = fit(Training(module, batches, plan, validation=[batches(0)]))
    assert result.best_metric == pytest.approx(-0.7) and result.best_step == 4
    said = capsys.readouterr().err
    assert "accuracy 0.2000, best 0.7000" in said and "-accuracy" not in said


def test_validation_weighs_batches_by_what_they_average_over():
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def loss(self, batch):
            return batch["x"].mean() + 0 * self.weight, {"weight": len(batch["x"])}

    parts = [{"x": torch.tensor([1.0])}, {"x": torch.tensor([2.0, 4.0, 9.0])}]
    plan = training_settings(max_steps=1, validate_every=1)
    result = fit(Training(Weighted(), lambda _: parts[0], plan, validation=parts, progress=False))
    assert result.best_metric == pytest.approx(4.0)


def test_without_validation_the_training_loss_decides():
    _, result = train(validation=None, steps=20, every=5)
    assert {row["split"] for row in result.history} == {"train"}
    assert result.best_step in (5, 10, 15, 20)


def test_a_loss_that_is_not_finite_is_reported():
    def poisoned(step):
        batch = batches(step)
        return {**batch, "y": batch["y"] * (math.nan if step == 7 else 1)}

    with pytest.raises(JetfmError, match="step 8.*NaN"):
        fit(Training(Noisy(), poisoned, training_settings(validate_every=10), progress=False))


def test_the_callers_random_numbers_stay_untouched():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    train()
    assert torch.equal(torch.rand(3), expected)


def test_metrics_file(tmp_path):
    _, result = train(tmp_path, steps=20)
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "split", "loss", "norm"]
    assert len(rows) == len(result.history) == 22
    assert float(rows[-1]["loss"]) == result.history[-1]["loss"]


def _events(folder):
    """(step, tag) -> value of a folder's TensorBoard files; later files win, as on the screen."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        data, at = path.read_bytes(), 0
        while at < len(data):  # length, its checksum, the record, its checksum
            (size,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + size])
            at += size + 16
            if event.session_log.status == 1:  # a start: forget what lies beyond
                found = {key: value for key, value in found.items() if key[0] < event.step}
            for value in event.summary.value:
                found[event.step, value.tag] = value.simple_value
    return found


def test_tensorboard_shows_the_history_after_an_interruption_too(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[__name__], "batches", killed_after(45))
        with pytest.raises(Killed):
            train(tmp_path, tensorboard=True)
    _, result = train(tmp_path, tensorboard=True)
    expected = {
        (row["step"], f"{key}/{row['split']}"): pytest.approx(row[key], rel=1e-6)
        for row in result.history
        for key in ("loss", "norm")
    }
    assert _events(tmp_path / "tensorboard") == expected


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    train(steps=12)
    assert list(tmp_path.iterdir()) == [] and capfd.readouterr() == ("", "")


class Probe(Noisy):
    """Notes in which type its products are."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def loss(self, batch):
        self.seen.add((batch["x"][:, None] @ self.weight[:, None]).dtype)
        return super().loss(batch)


BF16 = dict(max_steps=2, validate_every=1, precision="bf16")


def test_autocast_in_bfloat16_trains_the_float32_weights(monkeypatch):
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    module, plan = Probe(), training_settings(**BF16)
    result = fit(Training(module, batches, plan, validation=VALIDATION, progress=False))
    assert module.seen == {torch.bfloat16} and module.weight.dtype == torch.float32
    assert result.precision == "bf16"


def test_a_processor_without_bfloat16_takes_the_steps_of_float32(monkeypatch, tmp_path):
    """Says so once, for two trainings; what the folder asks for stays bf16."""
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(precision, "_said", [])
    plain, lines = Noisy(), []
    fit(Training(plain, batches, training_settings(**BF16 | {"precision": "fp32"}), progress=False))
    options = dict(progress=False, say=lines.append)
    for name in ("first", "second"):
        module, plan = Probe(), training_settings(**BF16)
        result = fit(Training(module, batches, plan, folder=tmp_path / name, **options))
        assert module.seen == {torch.float32} and torch.equal(module.weight, plain.weight)
        assert result.precision == "fp32"
    assert len(lines) == 1 and "bf16 is float32 here" in lines[0]
    saved = load_newest(tmp_path / "second")
    assert saved["request"]["settings"]["precision"] == "bf16"
    assert saved["state"]["precision"] == "fp32"


def test_a_gpu_keeps_bfloat16_whatever_the_processor(monkeypatch):
    from jetfm.training import lightning_task

    class Trainer:
        def __init__(self, plugins, **options):
            asked.extend((p.device, p.precision) for p in plugins if hasattr(p, "precision"))

        def fit(self, task):
            raise Killed

    asked = []
    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(lightning_task.L, "Trainer", Trainer)
    with pytest.raises(Killed):
        fit(Training(Noisy(), batches, training_settings(**BF16), device="cuda", progress=False))
    assert asked == [("cuda", "bf16-mixed")]


def test_averaged_weights_are_those_of_the_formula_and_survive_a_resume(tmp_path):
    """w <- d w + (1 - d) p over the steps; validation and the result use w, training goes on."""
    plan = training_settings(max_steps=8, validate_every=4, ema=0.75)
    visited = []

    class Watched(Noisy):
        def after_step(self, optimizer):
            visited.append(self.weight.detach().clone())

    module = Watched()
    expected = module.weight.detach().clone()
    options = dict(validation=VALIDATION, folder=tmp_path / "whole", progress=False)
    fit(Training(module, batches, plan, **options))
    averages = []
    for weight in visited:
        expected = 0.75 * expected + 0.25 * weight
        averages.append(expected)
    assert any(torch.allclose(module.weight, averages[k]) for k in (3, 7))
    assert not torch.allclose(module.weight, visited[7])
    short = plan.model_copy(update={"max_steps": 8})
    again = Watched()
    fit(Training(again, batches, short, **options))
    assert torch.equal(again.weight, module.weight)


def test_parameter_groups_keep_their_own_rates():
    class Grouped(Noisy):
        def __init__(self):
            super().__init__()
            self.other = nn.Parameter(torch.zeros(2))

        def parameter_groups(self):
            return [{"params": [self.weight], "lr": 1e-4}, {"params": [self.other]}]

    optimizer = make_optimizer(Grouped(), OptimizerSettings(name="adamw", lr=0.5))
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 0.5]


def test_a_fused_optimizer_is_clipped_in_bfloat16_too(monkeypatch):
    """What a GPU gets: the same steps as from the plain optimiser, clipping included."""
    from jetfm.training import lightning_task

    monkeypatch.setattr(precision, "cpu_has_bfloat16", lambda: True)
    adamw = OptimizerSettings(name="adamw", lr=1e-2, betas=(0.9, 0.999), eps=1.0, clip=0.05)
    plan = training_settings(max_steps=12, precision="bf16", optimizer=adamw)
    weights = []
    for fused in (False, True):

        def make(module, settings, fused=fused):
            optimizer = make_optimizer(module, settings)
            optimizer.param_groups[0]["fused"] = fused
            return type(optimizer)(optimizer.param_groups)

        monkeypatch.setattr(lightning_task, "make_optimizer", make)
        module = Noisy()
        fit(Training(module, batches, plan, progress=False))
        weights.append(module.weight.detach())
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-7)
    assert (weights[0] - Noisy().weight).abs().max() > 1e-4


def test_adamw_is_fused_on_cuda_alone(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **options: asked.append(options))
    for devices in (["cuda", "cuda:1"], ["cuda", "cpu"], ["cpu"]):
        parameters = [
            SimpleNamespace(requires_grad=True, device=torch.device(name)) for name in devices
        ]
        module = SimpleNamespace(parameters=lambda parameters=parameters: parameters)
        make_optimizer(module, OptimizerSettings(name="adamw"))
    assert [options.get("fused", False) for options in asked] == [True, False, False]
