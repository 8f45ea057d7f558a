"""Many files become one store: in parallel, once each, whatever happens in between."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from jetfm.data import conversion, toplandscape
from jetfm.data.conversion import convert
from jetfm.data.own_jets import store_of
from jetfm.data.ragged import PARTS
from jetfm.data.store import JetStore, build_store
from jetfm.data.toplandscape import build_toplandscape_store
from jetfm.errors import JetfmError
from jetfm.runtime.workers import run_tasks
from jetfm.schema import BRANCHES, CLASSES, KINEMATICS
from jetfm.storage.locks import exclusive
from tests.data.jetclass_files import jetclass_file
from tests.data.slow_parts import slow_part
from tests.data.toplandscape_files import toplandscape_file
from tests.loopback import talking

FILES = {"HToBB_000": 7, "TTBar_000": 30, "HToBB_001": 9, "TTBar_001": 3}  # jets


def labels_of(name, n_jets):
    prefix = name.rsplit("_", 1)[0]
    return {
        f"label_{c.name}": np.full(n_jets, c.prefix == prefix, BRANCHES[f"label_{c.name}"])
        for c in CLASSES
    }


def files_in(folder, n_jets=FILES, first_seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    return [
        jetclass_file(
            folder / f"{name}.root", np.arange(n) % 40 + 3, first_seed + i, **labels_of(name, n)
        )
        for i, (name, n) in enumerate(n_jets.items())
    ]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return files_in(tmp_path_factory.mktemp("root"))


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    convert(sources, folder, workers=1, progress=False)
    return contents(folder)


def contents(folder) -> dict[str, bytes]:
    """Every file of a store but the hidden ones."""
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not any(name.startswith(".") for name in path.relative_to(folder).parts)
    }


def same_jets(store, other):
    assert np.asarray(store.jets).tobytes() == np.asarray(other.jets).tobytes()  # NaN included
    np.testing.assert_array_equal(store.offsets, other.offsets)
    np.testing.assert_array_equal(store.constituents, other.constituents)


def no_work(part):
    raise AssertionError(f"{part.name} was to be kept")


# --- what comes out ---


def test_the_jets_are_those_of_a_store_in_one_folder(sources, tmp_path):
    store = convert(sources, tmp_path / "parts", workers=1, progress=False)
    whole = build_store(sources, tmp_path / "whole", progress=False)
    same_jets(store, whole)
    assert [path.name for path in store.parts] == list(FILES)
    for key in ("n_jets", "n_constituents", "features", "jets_per_class", "sources"):
        assert store.info[key] == whole.info[key]
    store.verify()


@pytest.mark.parametrize("in_parts", [True, False])
def test_the_same_jets_in_other_files_have_the_same_arrays(sources, tmp_path, in_parts):
    """ROOT files name the time when they were written; stores name their ROOT files."""

    def store(files, name):
        if in_parts:
            return convert(files, tmp_path / name, workers=1, progress=False)
        return build_store(files, tmp_path / name, progress=False)

    one, again = store(sources, "one"), store(files_in(tmp_path / "root"), "again")
    assert one.info["sources"] != again.info["sources"]
    other = store(files_in(tmp_path / "others", first_seed=1), "other")
    assert one.hash_of_arrays() == again.hash_of_arrays() != other.hash_of_arrays()
    if in_parts:  # their order is part of it
        turned = store(sources[::-1], "turned")
        assert turned.hash_of_arrays() != one.hash_of_arrays()


def test_two_processes_write_the_same_bytes(sources, undisturbed, tmp_path):
    convert(sources, tmp_path, workers=2, progress=False)
    assert contents(tmp_path) == undisturbed


@pytest.mark.parametrize("limit", [1, 8, 16, 100])
def test_limits_hold_over_files(sources, tmp_path, limit):
    store = convert(sources, tmp_path / "a", 1, jets_per_class=limit, progress=False)
    whole = build_store(sources, tmp_path / "b", progress=False, jets_per_class=limit)
    same_jets(store, whole)
    assert store.info["jets_per_class"]["Hbb"] == min(limit, 16)


def test_a_raised_limit_converts_what_is_new(sources, tmp_path, monkeypatch):
    convert(sources, tmp_path, 1, jets_per_class=8, progress=False)
    made = []
    monkeypatch.setattr(conversion, "_write", spied(conversion._write, made))
    assert len(convert(sources, tmp_path, 1, jets_per_class=16, progress=False)) == 32
    assert made == ["TTBar_000", "HToBB_001"]  # HToBB_000 was whole before


def spied(function, made):
    def write(part, folder):
        made.append(part.name)
        return function(part, folder)

    return write


def test_a_long_file_becomes_several_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "PART_JETS", 4)
    path = toplandscape_file(tmp_path / "train.h5", [3, 0, 5, 2, 9, 1, 4, 4, 30, 2])
    store = convert(path, tmp_path / "a", 1, progress=False)
    same_jets(store, build_toplandscape_store([path], tmp_path / "b", progress=False))
    assert [part["n_jets"] for part in store.info["parts"]] == [4, 4, 2]
    assert store.features == KINEMATICS and store.parts[1].name == "train-00000004"
    limited = convert(path, tmp_path / "c", 1, jets_per_class=3, progress=False)
    other = build_toplandscape_store([path], tmp_path / "d", progress=False, jets_per_class=3)
    same_jets(limited, other)
    np.testing.assert_array_equal(toplandscape.count_classes(path, (1, 4))[[0, 8]], [1, 2])


def test_a_long_root_file_becomes_several_parts(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "PART_JETS", 8)
    monkeypatch.setattr(conversion, "_LONG_FILE", 0)
    store = convert(sources, tmp_path / "a", 1, jets_per_class=15, progress=False)
    assert len(store.parts) == 4  # 7, 8 of 30, 7 more of them, 8 of 9; the rest is not needed
    same_jets(store, build_store(sources, tmp_path / "b", progress=False, jets_per_class=15))


def test_files_of_one_name_from_two_folders(tmp_path):
    for split in ("train", "val"):
        files_in(tmp_path / split, {"HToBB_000": 2})
    store = convert([tmp_path / "train", tmp_path / "val"], tmp_path / "out", 1, progress=False)
    assert [path.name for path in store.parts] == ["train-HToBB_000", "val-HToBB_000"]


# --- the same command again ---


def test_finished_parts_are_kept(sources, undisturbed, tmp_path, monkeypatch):
    convert(sources[:2], tmp_path, 1, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "_write", no_work)
        convert(sources[:2], tmp_path, 1, progress=False)
    convert(sources, tmp_path, 1, progress=False)  # more files: those parts, and new ones
    assert contents(tmp_path) == undisturbed
    os.utime(sources[0])  # touched, not changed
    monkeypatch.setattr(conversion, "_write", no_work)
    convert(sources, tmp_path, 1, progress=False)


def test_a_changed_source_is_done_again(tmp_path, monkeypatch):
    paths = files_in(tmp_path / "root", {"HToBB_000": 3, "TTBar_000": 4})
    convert(paths, tmp_path / "out", 1, progress=False)
    files_in(tmp_path / "root", {"HToBB_000": 5})
    made = []
    monkeypatch.setattr(conversion, "_write", spied(conversion._write, made))
    store = convert(paths, tmp_path / "out", 1, progress=False)
    assert made == ["HToBB_000"] and len(store) == 9
    store.verify()


def test_other_features_are_another_request(sources, tmp_path):
    convert(sources, tmp_path, 1, progress=False)
    store = convert(sources, tmp_path, 1, features=KINEMATICS, progress=False)
    assert store.features == KINEMATICS and store.constituents.shape[1] == 3


def test_files_can_be_added_later(sources, undisturbed, tmp_path):
    convert(sources[:2], tmp_path, 1, progress=False)
    with pytest.raises(JetfmError, match="parts of other files, e.g. HToBB_000.*--append"):
        convert(sources[2:], tmp_path, 1, progress=False)
    convert(sources[2:], tmp_path, 1, append=True, progress=False)
    assert contents(tmp_path) == undisturbed
    convert(sources[1:], tmp_path, 1, append=True, progress=False)  # all there: nothing twice
    assert contents(tmp_path) == undisturbed


def test_another_file_of_the_same_name_does_not_replace_a_part(tmp_path):
    one = files_in(tmp_path / "train", {"HToBB_000": 3})
    other = files_in(tmp_path / "val", {"HToBB_000": 5}, first_seed=9)
    convert(one, tmp_path / "out", 1, progress=False)
    with pytest.raises(JetfmError, match=r"part HToBB_000 of another file, .*train"):
        convert(other, tmp_path / "out", 1, progress=False)
    for _ in range(2):
        store = convert(other, tmp_path / "out", 1, append=True, progress=False)
        assert [path.name for path in store.parts] == ["HToBB_000", "val-HToBB_000"]
        assert len(store) == 8


def test_many_files_of_a_user_become_parts(sources, undisturbed, tmp_path, monkeypatch):
    assert not store_of(sources[0].parent, tmp_path / "whole", progress=False).parts
    monkeypatch.setattr(conversion, "_MUCH", 0)
    store = store_of(sources[0].parent, tmp_path / "parts", progress=False)
    assert len(store.parts) == len(sources)
    monkeypatch.setattr(conversion, "_write", no_work)
    store_of(sources[0].parent, tmp_path / "parts", progress=False)
    assert store_of(tmp_path / "parts", tmp_path / "x").info == store.info


# --- faults ---


@pytest.mark.parametrize("content", ["", "[]", '{"kind": "jets store"}', "no JSON"])
@pytest.mark.parametrize("which", ["a part's", "its source", "the whole"])
def test_a_damaged_manifest_is_written_anew(sources, undisturbed, tmp_path, content, which):
    store = convert(sources, tmp_path, 1, progress=False)
    paths = {
        "a part's": store.parts[1] / "store.json",
        "its source": store.parts[1] / ".source.json",
        "the whole": tmp_path / "store.json",
    }
    paths[which].write_text(content)
    if which == "the whole":
        with pytest.raises(JetfmError, match="store.json"):
            JetStore(tmp_path)
    convert(sources, tmp_path, 1, progress=False)
    assert contents(tmp_path) == undisturbed


def test_a_damaged_part_is_found_named_and_made_anew(sources, undisturbed, tmp_path, monkeypatch):
    store = convert(sources, tmp_path, 1, progress=False)
    path = tmp_path / PARTS / "TTBar_000" / "constituents.npy"
    damaged = bytearray(path.read_bytes())
    damaged[1000] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(JetfmError, match=r"TTBar_000/constituents\.npy: found sha256"):
        store.verify()
    made = []
    monkeypatch.setattr(conversion, "_write", spied(conversion._write, made))
    convert(sources, tmp_path, 1, verify=True, progress=False)
    assert made == ["TTBar_000"] and contents(tmp_path) == undisturbed


def test_a_bad_file_is_named_and_the_others_are_kept(sources, tmp_path, monkeypatch):
    bad = tmp_path / "TTBar_009.root"
    bad.write_bytes(sources[1].read_bytes()[:-200])
    with pytest.raises(JetfmError, match=r"TTBar_009\.root: found a truncated ROOT file"):
        convert([sources[0], bad, sources[2]], tmp_path / "out", 1, progress=False)
    with pytest.raises(JetfmError, match=r"no store\.json"):
        JetStore(tmp_path / "out")
    assert not list((tmp_path / "out" / PARTS).glob(".*"))
    bad.write_bytes(sources[1].read_bytes())
    made = []
    monkeypatch.setattr(conversion, "_write", spied(conversion._write, made))
    convert([sources[0], bad, sources[2]], tmp_path / "out", 1, progress=False)
    assert made == ["TTBar_009", "HToBB_001"]


def test_a_full_disk_leaves_finished_parts(sources, undisturbed, tmp_path, monkeypatch):
    """Room runs out in the second part; with room again, the command ends with the same bytes."""
    import errno

    from jetfm.storage import files

    append, n_calls = files.NpyWriter.append, []

    def full(self, rows):
        n_calls.append(0)
        if len(n_calls) > 6:
            with files.naming(self.path):
                raise OSError(errno.ENOSPC, "No space left on device")
        append(self, rows)

    with monkeypatch.context() as patch:
        patch.setattr(files.NpyWriter, "append", full)
        with pytest.raises(JetfmError, match="'no space left on device'.*room for it"):
            convert(sources, tmp_path, 1, progress=False)
    assert [path.name for path in (tmp_path / PARTS).iterdir()] == ["HToBB_000"]
    convert(sources, tmp_path, 1, progress=False)
    assert contents(tmp_path) == undisturbed


def test_bad_requests(sources, tmp_path):
    with pytest.raises(JetfmError, match="no such file"):
        convert(tmp_path / "none", tmp_path, progress=False)
    with pytest.raises(JetfmError, match="no ROOT, parquet or h5 files"):
        convert(tmp_path, tmp_path / "out", progress=False)
    twin = tmp_path / "elsewhere" / sources[0].parent.name / sources[0].name
    twin.parent.mkdir(parents=True)
    shutil.copy(sources[0], twin)
    with pytest.raises(JetfmError, match="a second file for part"):
        convert([sources[0], twin], tmp_path / "out", progress=False)
    shutil.rmtree(tmp_path / "elsewhere")
    build_store(sources, tmp_path / "whole", progress=False)
    with pytest.raises(JetfmError, match="of another form"):
        convert(sources, tmp_path / "whole", progress=False)


def test_kill_9_in_the_middle(sources, undisturbed, tmp_path):
    """The converter dies with a part half written; the same command ends with the same bytes."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from jetfm.data import conversion\n"
        "from jetfm.storage.files import NpyWriter\n"
        "close = NpyWriter.close\n"
        "def slow(self):\n"
        "    close(self)\n"
        "    if 'HToBB_001' in str(self.path):\n"
        "        Path(sys.argv[1], 'here').touch()\n"
        "        time.sleep(60)\n"
        "NpyWriter.close = slow\n"
        "conversion.convert(sys.argv[2:], sys.argv[1], workers=1, progress=False)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path), *map(str, sources)]
    child = subprocess.Popen(command)
    wait_for(lambda: (tmp_path / "here").exists())
    child.send_signal(signal.SIGKILL)
    child.wait()
    (tmp_path / "here").unlink()
    done = sorted(path.name for path in (tmp_path / PARTS).iterdir() if path.name[0] != ".")
    assert done == ["HToBB_000", "TTBar_000"] and list((tmp_path / PARTS).glob(".*.part"))
    with pytest.raises(JetfmError, match=r"no store\.json"):
        JetStore(tmp_path)
    convert(sources, tmp_path, 1, progress=False)
    assert contents(tmp_path) == undisturbed
    assert not list((tmp_path / PARTS).glob(".*.part"))


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


def test_two_conversions_of_one_store_do_not_mix(sources, tmp_path):
    with exclusive(tmp_path, None, "convert."):
        with pytest.raises(JetfmError, match=f"process {os.getpid()} on .* at work"):
            convert(sources, tmp_path, 1, progress=False)
    convert(sources, tmp_path, 1, progress=False)


def test_two_workers_on_one_part_end_with_one(sources, undisturbed, tmp_path):
    """As when a cluster takes a slow worker for dead: both finish, with the same bytes."""
    parts = conversion.plan(sources, tmp_path, conversion.CONSTITUENT_FEATURES, None)
    convert(sources, tmp_path, 1, progress=False)
    part = parts[1]
    write, second = conversion._write, []

    def raced(task, folder):
        write(task, folder)
        if not second:
            second.append(True)
            conversion.make_part(task)  # the other one, from start to end

    (tmp_path / PARTS / part.name / "store.json").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "_write", raced)
        conversion.make_part(part)
    assert second and contents(tmp_path) == undisturbed


# --- a cluster in miniature ---


@talking
@pytest.mark.soak
def test_a_cluster_loses_a_worker(sources, undisturbed, tmp_path):
    """A scheduler and two workers, processes each; one is killed with a part in its hands."""
    from distributed import Client

    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path[1:]]),
        "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "3",
    }
    address_file = tmp_path / "scheduler.json"
    scheduler = [
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port",
        "0", "--no-dashboard", "--no-show", "--scheduler-file", str(address_file),
    ]  # fmt: skip
    worker = [
        sys.executable, "-m", "distributed.cli.dask_worker", "--scheduler-file", str(address_file),
        "--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path),
    ]  # fmt: skip
    started = []

    def start(command):
        log = (tmp_path / f"log{len(started)}").open("w")
        started.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        return started[-1]

    try:
        start(scheduler)
        wait_for(lambda: address_file.exists() and address_file.read_text().rstrip().endswith("}"))
        workers = [start(worker), start(worker)]
        address = json.loads(address_file.read_text())["address"]
        with Client(address, timeout=30) as client:
            client.wait_for_workers(2, timeout=60)
        out = tmp_path / "out"
        out.mkdir()
        (out / f".victim-{workers[0].pid}").touch()

        def at_work():
            """The part that the first worker has in its hands beside the one that it has done."""
            begun = [path.name.split("-")[1] for path in out.glob(f".begun-*-{workers[0].pid}")]
            done = [path.name for path in (out / PARTS).glob("[!.]*")]
            return set(begun) - set(done) if len(begun) > 1 else set()

        lost = []

        def kill_one():
            wait_for(lambda: lost.extend(at_work() or ()) or lost)
            workers[0].kill()

        killer = threading.Thread(target=kill_one)
        killer.start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conversion, "make_part", slow_part)
            store = convert(sources, out, dask_address=address, progress=False)
        killer.join()
        workers[0].wait(10)
        begun = [path.name.split("-")[1] for path in out.glob(".begun-*")]
        assert lost and all(begun.count(name) == 2 for name in lost)
        assert contents(out) == undisturbed
        store.verify()
    finally:
        for process in reversed(started):
            process.kill()
            process.wait()


def test_no_cluster_at_this_address(sources, tmp_path):
    with pytest.raises(JetfmError, match="a running scheduler"):
        convert(sources, tmp_path, dask_address="nonsense://host", progress=False)


def test_one_worker_needs_no_pool():
    done = []
    run_tasks(done.append, [(1,), (2,)], 1, progress=False)
    assert done == [1, 2]
