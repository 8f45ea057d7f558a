"""Stages are skipped, resumed and rerun exactly when they should be."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time

import pytest

from jetfm.errors import JetfmError
from jetfm.settings.profiles import load_profile
from jetfm.storage.artifacts import fingerprint, produce


def quiet(_):
    pass


@pytest.fixture
def stage(tmp_path):
    """A stage that counts its runs and writes its setting to a file."""
    calls = []

    def run(setting=1, name="stage", **request):
        def make(folder):
            calls.append(setting)
            (folder / "value.txt").write_text(str(setting))
            return {"value": setting}

        return produce(name, make, work=tmp_path, settings=setting, say=quiet, **request)

    run.calls = calls
    return run


def test_a_finished_stage_is_found(stage):
    first, second = stage(), stage()
    assert stage.calls == [1] and first.folder == second.folder
    assert second.metrics == {"value": 1} and second.digest == first.digest


def test_a_changed_setting_seed_input_or_version_reruns_and_keeps_the_old(stage):
    old = stage(1)
    for change in ({"seed": 2}, {"inputs": {"jets": "abc"}}, {"version": 2}):
        assert stage(1, **change).folder != old.folder
    stage(2)
    assert stage.calls == [1, 1, 1, 1, 2]
    stage(1)
    assert len(stage.calls) == 5, "going back to the first setting finds its artifact"


def test_digest_depends_on_content_alone(stage):
    assert stage(1).digest == stage(1, seed=5).digest != stage(2).digest


def test_a_missing_file_makes_the_stage_run_again(stage):
    (stage() / "value.txt").unlink()
    stage()
    assert stage.calls == [1, 1]


def test_an_interrupted_stage_finds_what_it_left(tmp_path):
    def interrupted(folder):
        (folder / "part").write_text("half")
        raise KeyboardInterrupt

    def resumed(folder):
        assert (folder / "part").read_text() == "half"

    with pytest.raises(KeyboardInterrupt):
        produce("s", interrupted, work=tmp_path, say=quiet)
    assert produce("s", resumed, work=tmp_path, say=quiet).record["resumed"]


def test_record_tells_where_a_result_comes_from(stage):
    record = stage(seed=3).record
    assert record["seed"] == 3 and record["settings"] == 1
    assert record["packages"]["torch"].startswith("2.")
    assert len(record["files"]["value.txt"]) == 64


def test_fingerprint_ignores_order_but_not_values():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    smoke = load_profile("smoke")
    assert fingerprint(smoke) == fingerprint(load_profile("smoke"))
    assert fingerprint(smoke) != fingerprint(load_profile("smoke", seed=2))


def _hold(work, started, release):
    def make(folder):
        started.set()
        release.wait(20)
        (folder / "who").write_text(str(os.getpid()))

    produce("s", make, work=work, say=quiet)


def test_a_second_process_waits_and_says_for_whom(tmp_path):
    context = multiprocessing.get_context("fork")
    started, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, started, release))
    holder.start()
    assert started.wait(20)
    said = []

    def say(text):
        said.append(text)
        if "waiting" in text:
            release.set()

    artifact = produce("s", lambda folder: pytest.fail("ran twice"), work=tmp_path, say=say)
    holder.join()
    assert any(f"process {holder.pid}" in text for text in said)
    assert (artifact / "who").read_text() == str(holder.pid)


def test_a_killed_holder_leaves_no_lock(tmp_path):
    context = multiprocessing.get_context("fork")
    started, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, started, release))
    holder.start()
    assert started.wait(20)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    before = time.monotonic()
    done = produce("s", lambda folder: {"resumed": True}, work=tmp_path, say=quiet)
    assert done.metrics == {"resumed": True} and time.monotonic() - before < 10


def test_work_folder_without_permission_is_named(tmp_path, monkeypatch):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(JetfmError, match="file"):
        produce("s", quiet, work=blocker, say=quiet)
