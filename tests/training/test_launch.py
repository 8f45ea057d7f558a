"""The command that starts several processes: how many, how they end, and what they make."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from jetfm.errors import JetfmError
from jetfm.pipeline import Pipeline
from jetfm.settings import FinetuningSettings
from jetfm.settings.profiles import dry_run, load_profile, save_profile
from jetfm.training import launch
from tests.loopback import talking
from tests.training.test_distributed import bare  # noqa: F401

CODE = Path(__file__).parents[2]


@pytest.fixture
def machine(bare, monkeypatch):  # noqa: F811
    """A machine with so many GPUs, as far as their number goes."""
    monkeypatch.delenv(launch.PROCESSES, raising=False)

    def with_gpus(n: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: n > 0)
        monkeypatch.setattr("torch.cuda.device_count", lambda: n)

    return with_gpus


@pytest.mark.parametrize(("gpus", "expected"), [(0, 1), (1, 1), (4, 4)])
def test_one_process_per_gpu_and_one_without(machine, gpus, expected):
    machine(gpus)
    assert launch.n_processes() == expected
    assert launch.n_processes(3) == 3


def test_the_environment_decides_before_the_gpus(machine, monkeypatch):
    machine(4)
    monkeypatch.setenv("JETFM_PROCESSES", "2")
    assert launch.n_processes() == 2
    assert launch.n_processes(1) == 1


def test_a_started_process_starts_no_others(machine, monkeypatch):
    machine(4)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert launch.n_processes() == 1
    with pytest.raises(JetfmError, match="torchrun"):
        launch.n_processes(2)


@pytest.mark.parametrize("asked", [0, -1])
def test_fewer_than_one_process_is_refused(machine, asked):
    machine(0)
    with pytest.raises(JetfmError, match="1 or more"):
        launch.n_processes(asked)


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_a_wrong_number_in_the_environment_is_refused(machine, monkeypatch, value):
    machine(0)
    monkeypatch.setenv("JETFM_PROCESSES", value)
    with pytest.raises(JetfmError, match=value):
        launch.n_processes()


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--processes", "0"], "1 or more"), (["--sharding", "zero"], "ddp or fsdp")],
)
def test_wrong_options_are_one_line(options, expected, tmp_path):
    command = [sys.executable, "-m", "jetfm", "pretrain", "--profile", "smoke", *options]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and expected in done.stderr
    assert not list((tmp_path / "work").glob("*"))


def environment(folder: Path) -> dict[str, str]:
    names = {"JETFM_WORK": folder / "work", "JETFM_FIGURES": folder / "figures", "PYTHONPATH": CODE}
    return os.environ | {name: str(path) for name, path in names.items()}


def tiny():
    """The smoke profile with fewer jets and steps, and only the main model."""
    profile = dry_run(load_profile("smoke"))
    no_others = FinetuningSettings()  # whose contenders may be left out
    return profile.model_copy(update={"strategies": {}, "finetuning": no_others})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """With a work folder that holds the tokens of `tiny`."""
    folder = tmp_path_factory.mktemp("launch")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)
        pipeline = Pipeline(tiny(), progress=False)
        pipeline.tokenizers.tokens("train"), pipeline.tokenizers.tokens("val")
    return folder


@talking
@pytest.mark.soak
def test_a_model_of_two_processes_is_found_by_this_one(machine, monkeypatch, folder, capfd):
    """Made by the command with a profile that no file holds, and fully sharded."""
    machine(0)
    for name, value in environment(folder).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JETFM_PROCESSES", "2")
    monkeypatch.setenv("JETFM_SHARDING", "fsdp")
    monkeypatch.setenv("DRY_RUN", "1")
    said = []
    pipeline = Pipeline(tiny(), progress=False, say=said.append)
    models = pipeline.pretraining.train_all()
    assert list(models) == ["main"]
    assert sum("in 2 processes" in line for line in said) == 1
    assert not any("pretraining: starting" in line for line in said), "by the command, not here"
    assert capfd.readouterr().out.count("pretraining: starting") == 1
    again = Pipeline(tiny(), progress=False, say=said.append).pretraining.train_all()
    assert {n: a.digest for n, a in again.items()} == {n: a.digest for n, a in models.items()}
    assert sum("in 2 processes" in line for line in said) == 1


@talking
@pytest.mark.soak
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_command(folder, how):
    profile = tiny()
    plan = {"max_steps": 10**6 + how}  # not done before the end that it meets here
    training = profile.pretraining.training.model_copy(update=plan)
    pretraining = profile.pretraining.model_copy(update={"training": training})
    endless = profile.model_copy(update={"pretraining": pretraining})
    path = save_profile(endless, folder / f"{how}.yaml")
    command = [sys.executable, "-m", "jetfm", "pretrain", "--profile", path, "--processes", "2"]
    before = set(folder.glob("work/pretraining-*"))
    process = subprocess.Popen(
        command, env=environment(folder), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    while not [f for f in set(folder.glob("work/pretraining-*")) - before
               if (f / "training" / "last.ckpt").exists()]:  # fmt: skip
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    others = psutil.Process(process.pid).children(recursive=True)
    assert len(others) >= 3  # the agent and its two workers
    process.send_signal(how)
    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(others, timeout=15)
    assert alive == []
    assert process.returncode == (130 if how == signal.SIGINT else -how)


@talking
def test_the_code_of_a_failed_process_is_passed_on(machine, monkeypatch):
    machine(0)
    monkeypatch.setenv("PYTHONPATH", str(CODE))
    with pytest.raises(launch.ProcessesFailed, match="exit code 2") as caught:
        launch.launch(2, ["pretrain", "--profile", "absent.yaml"])
    assert caught.value.code == 2
