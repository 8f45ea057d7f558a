"""The GPU for large networks, the cores for small ones; no test here needs a GPU."""

from __future__ import annotations

import pytest

from jetfm.errors import JetfmError
from jetfm.pipeline import Pipeline
from jetfm.runtime import device, parallel
from jetfm.runtime.device import DEVICE, computing_on, current_device, device_for
from jetfm.settings.profiles import dry_run, load_profile
from jetfm.training import lightning_task


@pytest.fixture
def machine(monkeypatch):
    """A machine with a GPU, as far as asking whether there is one goes, and so many cores."""
    monkeypatch.delenv(DEVICE, raising=False)

    def with_cores(n: int, gpu: bool = True) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
        monkeypatch.setattr(device, "n_cores", lambda: n)

    return with_cores


@pytest.mark.parametrize(
    ("profile", "n_cores", "expected"),
    [
        ("smoke", 1, "cpu"),
        ("smoke", 16, "cpu"),
        ("laptop", 2, "cuda"),  # two cores would take longer
        ("laptop", 16, "cpu"),
        ("gpu", 16, "cuda"),
        ("gpu", 256, "cuda"),
        ("paper", 16, "cuda"),
    ],
)
def test_small_networks_leave_the_gpu_alone(machine, profile, n_cores, expected):
    machine(n_cores)
    size = load_profile(profile).n_parameters
    assert device_for(size) == expected
    assert current_device() == "cuda", "what is not asked by size, as a command's, takes the GPU"
    machine(n_cores, gpu=False)
    assert device_for(size) == current_device() == "cpu"


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_a_dry_run_is_where_the_run_will_be(machine, name):
    profile = load_profile(name)
    assert dry_run(profile).n_parameters == profile.n_parameters


def test_the_variable_decides_for_all_sizes(machine, monkeypatch):
    machine(16)
    for chosen in ("cpu", "cuda"):
        monkeypatch.setenv(DEVICE, chosen)
        assert current_device() == device_for(1) == device_for(10**9) == chosen
    monkeypatch.setenv(DEVICE, "")  # as good as unset
    assert (device_for(1), device_for(10**9)) == ("cpu", "cuda")


def test_what_cannot_be_is_refused(machine, monkeypatch):
    machine(2, gpu=False)
    monkeypatch.setenv(DEVICE, "cuda")
    with pytest.raises(JetfmError, match="JETFM_DEVICE.*no GPU that torch can use"):
        current_device()
    monkeypatch.setenv(DEVICE, "tpu")
    with pytest.raises(JetfmError, match="'tpu'; expected auto, cpu or cuda"):
        device_for(1)


@pytest.mark.parametrize("before", [None, "auto"])
def test_a_choice_ends_with_its_block(machine, monkeypatch, before):
    machine(2)
    if before:
        monkeypatch.setenv(DEVICE, before)
    with pytest.raises(ZeroDivisionError), computing_on("cpu"):
        with computing_on("cuda"):
            assert current_device() == "cuda"
        assert current_device() == "cpu"
        1 / 0  # noqa: B018
    assert current_device() == "cuda" and device.os.environ.get(DEVICE) == before


def test_a_run_of_small_networks_never_asks_for_the_gpu(machine, monkeypatch, tmp_path):
    """Training, tokenising, and how many share the work."""
    machine(16)
    monkeypatch.setenv("JETFM_WORK", str(tmp_path))
    trained_on, shared_by = [], []
    precision_on = lightning_task.precision_on
    monkeypatch.setattr(
        lightning_task,
        "precision_on",
        lambda where, *more: trained_on.append(where) or precision_on(where, *more),
    )
    monkeypatch.setattr(
        parallel, "run_tasks", lambda function, tasks, workers, *a, **k: shared_by.append(workers)
    )
    said = []
    pipeline = Pipeline(dry_run(load_profile("smoke")), progress=False, say=said.append)
    assert [line for line in said if "small networks: on" in line and "JETFM_DEVICE=cuda" in line]
    assert len(pipeline.tokenizers.tokens("val")) > 0
    pipeline.pretraining.train_all()
    assert trained_on and set(trained_on) == {"cpu"}
    assert shared_by == [16], "as many as there are cores"
    monkeypatch.setenv(DEVICE, "cuda")
    assert Pipeline(dry_run(load_profile("smoke")), progress=False).run.device == "cuda"


@pytest.mark.parametrize(
    ("n_cores", "free_gib", "expected"),
    [(16, 139, 4), (16, 35, 3), (16, 8, 1), (4, 139, 2), (1, 139, 1)],
)
def test_large_fits_share_a_card_where_they_leave_room(
    machine, monkeypatch, n_cores, free_gib, expected
):
    machine(n_cores)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (free_gib * 2**30, 141 * 2**30))
    at_once = []
    monkeypatch.setattr(parallel, "run_tasks", lambda *a, **k: at_once.append(a[2]))
    parallel.run_fits(print, [()])
    parallel.run_fits(print, [()], workers=7)
    with computing_on("cpu"):
        parallel.run_fits(print, [()])
    assert at_once == [expected, 7, n_cores]
