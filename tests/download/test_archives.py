"""Downloads from a server that fails in every way that Zenodo has been seen to fail."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import numpy as np
import pytest

import jetfm
from jetfm.data import jetclass
from jetfm.download import archives
from jetfm.download.archives import (
    Archive,
    download_class_files,
    download_jetclass,
    download_toplandscape,
)
from jetfm.download.http import Patience, Remote, check_md5, fetch
from jetfm.download.remote_tar import RemoteFile
from jetfm.errors import JetfmError
from jetfm.settings.profiles import load_profile, with_folder
from jetfm.storage.locks import exclusive
from tests.data.jetclass_files import jetclass_file
from tests.download.faulty_server import serving

CONTENT = np.random.default_rng(1).bytes(3_000_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
QUICK = Patience(connect=2, stall=0.3, attempts=4, first_wait=0.01, longest_wait=0.05)
MB = 1_000_000


@pytest.fixture
def server():
    with serving({"train.h5": CONTENT, "val.h5": CONTENT[:MB]}) as running:
        yield running


@pytest.fixture(autouse=True)
def known_archives(monkeypatch):
    published = {
        "train": Archive("train.h5", MD5),
        "val": Archive("val.h5", hashlib.md5(CONTENT[:MB]).hexdigest()),
    }
    monkeypatch.setattr(archives, "TOPLANDSCAPE", published)
    monkeypatch.delenv(archives.URL_VARIABLE, raising=False)


def get(server, dest, parts=("train",), patience=QUICK, **options):
    options = {"base_url": server.url, "progress": False} | options
    return download_toplandscape(dest, parts, patience=patience, **options)


def visible(folder):
    return sorted(p.name for p in folder.rglob("*") if not p.name.startswith("."))


# --- interruptions ---


def test_a_file_as_it_is_under_our_name(server, tmp_path):
    assert get(server, tmp_path / "new") == [tmp_path / "new" / "train.h5"]
    assert (tmp_path / "new" / "train.h5").read_bytes() == CONTENT
    assert {agent for *_, agent in server.requests} == {f"jetfm/{jetfm.__version__}"}
    assert visible(tmp_path / "new") == ["train.h5"]


FAULTS = {
    "cut": ("cut", MB),
    "cut before any byte": ("cut", 0),
    "stall": ("stall", MB),
    "too many requests": ("status", 429, {"Retry-After": "0"}),
    "busy": ("status", 503, {}),
    "busy without sense": ("status", 503, {"Retry-After": "soon"}),
    "bad gateway": ("status", 502, {}),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_one_call_gets_over_any_fault(server, tmp_path, fault):
    server.faults = [fault, fault]
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT
    assert server.sent < len(CONTENT) + 10  # no byte twice; one more told the size


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_second_call_continues_where_the_first_gave_up(server, tmp_path, fault):
    server.faults = [("cut", MB)] + [fault if fault[0] == "status" else (fault[0], 0)] * 3
    with pytest.raises(JetfmError, match="the same command continues later") as caught:
        get(server, tmp_path)
    assert server.url in str(caught.value) and not server.faults
    assert (tmp_path / "train.h5.part").read_bytes() == CONTENT[:MB]
    assert not (tmp_path / "train.h5").exists()
    n_before = len(server.requests)
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT
    assert server.requests[n_before + 1][1] == f"bytes={MB}-"
    assert server.sent < len(CONTENT) + 10


def test_attempts_are_counted_from_the_last_byte_that_came(server, tmp_path):
    server.faults = [("cut", 200_000)] * 12  # more than the attempts
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT


def test_a_killed_process_leaves_a_part_to_continue(server, tmp_path):
    code = (
        "import os; from jetfm.download.http import Remote, fetch; from pathlib import Path\n"
        "class Bar:\n"
        "    keep = note = lambda self, n: None\n"
        "    def advance(self, n): os._exit(9)\n"
        f"fetch(Remote('{server.url}/train.h5'), '{tmp_path}/train.h5', print, bar=Bar())"
    )
    server.faults = [("stall", 2 * MB)]
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 9
    assert not (tmp_path / "train.h5").exists()
    get(server, tmp_path)  # the lock went with the process
    assert (tmp_path / "train.h5").read_bytes() == CONTENT


def test_an_interruption_ends_at_once_and_keeps_the_part(server, tmp_path):
    """Also while a thread waits for a stalled server, whose patience is a minute."""
    server.faults = [("stall", MB)]
    command = [sys.executable, "-m", "jetfm", "download", "toplandscape", "--part", "train"]
    options = ["--dest", str(tmp_path), "--url", server.url]
    running = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    part, began = tmp_path / "train.h5.part", time.monotonic()
    while not (part.exists() and part.stat().st_size > MB - 2**17):  # the rest is in a buffer
        assert time.monotonic() < began + 60, "nothing arrived"
        time.sleep(0.05)
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=30)  # the server itself would end after a minute
    assert running.returncode == 130
    kept = part.read_bytes()
    assert MB - 2**17 < len(kept) <= MB and kept == CONTENT[: len(kept)]


def test_the_server_says_how_long_to_wait(server, tmp_path):
    server.faults = [("status", 429, {"Retry-After": "1"})]
    began = time.monotonic()
    get(server, tmp_path)
    assert time.monotonic() - began >= 1.0
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=7200), usegmt=True)
    server.faults = [("status", 503, {"Retry-After": then})]
    shutil.rmtree(tmp_path)
    with pytest.raises(JetfmError, match=r"503 .*asking to wait 7[12]\d\d s"):
        get(server, tmp_path)


def test_refused_for_good(server, tmp_path):
    del server.files["train.h5"]
    with pytest.raises(JetfmError, match="train.h5: found '404 Not Found'"):
        get(server, tmp_path)
    assert len(server.requests) == 1  # asking again would not help


def test_no_server(tmp_path):
    with serving({}) as gone:
        pass
    with pytest.raises(JetfmError, match="no connection"):
        get(gone, tmp_path)


# --- servers that ignore ranges ---


def test_whole_files_only_begin_anew(server, tmp_path):
    server.ranges = False
    server.faults = [("none",), ("cut", 2 * MB), ("cut", MB)]  # the first tells the size
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT


def test_whole_files_after_a_part(server, tmp_path):
    (tmp_path / "train.h5.part").write_bytes(CONTENT[: 2 * MB])
    server.ranges = False
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT


def test_cuts_that_never_get_further_end(server, tmp_path):
    server.ranges = False
    server.faults = [("none",)] + [("cut", MB)] * 9
    with pytest.raises(JetfmError, match="within 4 attempts"):
        get(server, tmp_path)


# --- wrong bytes are never used ---


def test_a_wrong_checksum_is_deleted_and_said(server, tmp_path):
    server.faults = [("corrupt",)]
    with pytest.raises(JetfmError, match=rf"train.h5: found md5 \w+ .*\(deleted\).*md5 {MD5}"):
        get(server, tmp_path)
    assert visible(tmp_path) == []
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [MB, 3 * MB, 4 * MB])
def test_a_part_of_other_bytes(server, tmp_path, size):
    """Of another file, as long as the right one, or longer."""
    (tmp_path / "train.h5.part").write_bytes(b"\x00" * size)
    if size <= 3 * MB:
        with pytest.raises(JetfmError, match="md5"):
            get(server, tmp_path)
        assert visible(tmp_path) == []
    get(server, tmp_path)
    assert (tmp_path / "train.h5").read_bytes() == CONTENT


def test_a_whole_part_only_needs_its_check(server, tmp_path):
    (tmp_path / "train.h5.part").write_bytes(CONTENT)
    get(server, tmp_path)
    assert server.sent == 1 and visible(tmp_path) == ["train.h5"]


def test_a_wrong_file_under_the_final_name_is_not_taken(server, tmp_path):
    (tmp_path / "train.h5").write_bytes(CONTENT[:-1])
    with pytest.raises(JetfmError, match=f"expected md5 {MD5}"):
        get(server, tmp_path)


def test_what_is_there_is_not_asked_for_again(server, tmp_path):
    get(server, tmp_path)
    n_before = len(server.requests)
    get(server, tmp_path)
    assert len(server.requests) == n_before


# --- several files, room, locks ---


def test_several_at_once_and_the_first_failure_ends_all(server, tmp_path):
    assert get(server, tmp_path / "a", ("train", "val"), jobs=2)[1].read_bytes() == CONTENT[:MB]
    server.faults = [("corrupt",), ("corrupt",)]
    with pytest.raises(JetfmError, match="md5"):
        get(server, tmp_path / "b", ("train", "val"), jobs=2)
    server.faults = []
    get(server, tmp_path / "b", ("train", "val"), jobs=2)
    assert visible(tmp_path / "b") == ["train.h5", "val.h5"]


def test_no_room_is_known_before_the_first_byte(server, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda _: usage._replace(free=2 * MB))
    with pytest.raises(JetfmError, match="found 0.0 GB free; expected 0.3 GB"):
        get(server, tmp_path)
    assert server.sent <= 1 and visible(tmp_path) == []


def test_room_for_what_is_unpacked(jetclass_server, tmp_path, monkeypatch):
    """The contents of all tars, and as many tars beside them as are at work."""
    sizes = [len(content) for content in jetclass_server.files.values()]
    needed = []
    monkeypatch.setattr(archives, "_check_room", lambda folder, n: needed.append(n))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "val.tar.part").write_bytes(jetclass_server.files["val.tar"][:1000])
    unpack(jetclass_server, tmp_path / "a", ["val", "train"], jobs=1)
    unpack(jetclass_server, tmp_path / "b", ["val", "train"], jobs=1, keep_archives=True)
    assert needed == [sum(sizes) + max(sizes), 2 * sum(sizes) - 1000]


def test_a_disk_that_fills_up_keeps_what_came(server, tmp_path):
    big = Remote(f"{server.url}/train.h5", QUICK)
    with pytest.raises(JetfmError, match=r"a\.part: found 'no space left"):
        (tmp_path / "a.part").symlink_to("/dev/full")
        fetch(big, tmp_path / "a", lambda path: None)


def test_two_processes_at_one_file(server, tmp_path):
    with exclusive(tmp_path, None, "train.h5."):
        with pytest.raises(JetfmError, match=f"process {os.getpid()} on .* at work"):
            get(server, tmp_path)


@pytest.mark.parametrize(
    ("options", "found"),
    [({"parts": ["val", "trian"]}, "'trian'; expected one of train, val"), ({"jobs": 0}, "--jobs"),
     ({"parts": []}, "nothing")],
)  # fmt: skip
def test_bad_requests(server, tmp_path, options, found):
    with pytest.raises(JetfmError, match=found):
        get(server, tmp_path, **options)


def test_another_server_by_environment(server, tmp_path, monkeypatch):
    monkeypatch.setenv(archives.URL_VARIABLE, server.url + "/")
    assert len(get(server, tmp_path, base_url=None)) == 1


def test_progress_counts_every_byte_once(server, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("jetfm.runtime.progress.is_interactive", lambda: False)
    (tmp_path / "train.h5.part").write_bytes(CONTENT[:MB])
    server.ranges = False
    get(server, tmp_path, progress=True)
    assert "download: 0.00/0.00 GB" in capsys.readouterr().out
    bar = archives.ByteProgress(show=False)
    (tmp_path / "train.h5").unlink()
    (tmp_path / "train.h5.part").write_bytes(CONTENT[:MB])
    check = lambda path: check_md5(path, MD5)  # noqa: E731
    fetch(Remote(f"{server.url}/train.h5", QUICK), tmp_path / "train.h5", check, bar=bar)
    assert bar.done == len(CONTENT)


# --- archives of JetClass ---


def tar_of(entries, format=tarfile.USTAR_FORMAT) -> bytes:
    """A tar of (name or TarInfo, content) without compression."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        for info, content in entries:
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def root_files(tmp_path_factory):
    """Two files of each of three classes, as val_5M holds them."""
    folder = tmp_path_factory.mktemp("root")
    names = [
        f"{prefix}_{i}.root" for prefix in ("HToBB", "TTBar", "ZJetsToNuNu") for i in (120, 121)
    ]
    for seed, name in enumerate(names):
        jetclass_file(folder / name, seed=seed)
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture
def jetclass_server(root_files, monkeypatch):
    """JetClass with small archives: val, and two of training."""
    val = tar_of((f"val_5M/{name}", content) for name, content in root_files.items())
    some = [(name.replace("12", "00"), content) for name, content in root_files.items()]
    tars = {"val.tar": val, "t0.tar": tar_of(some[:3]), "t1.tar": tar_of(some[3:])}
    folders = {"val": "val_5M", "train0": "train_100M", "train1": "train_100M"}
    published = {
        part: Archive(name, hashlib.md5(tars[name]).hexdigest(), folders[part])
        for part, name in zip(("val", "train0", "train1"), tars, strict=True)
    }
    monkeypatch.setattr(archives, "JETCLASS", published)
    with serving(tars) as running:
        yield running


def unpack(server, dest, parts, **options):
    return download_jetclass(
        dest, parts, base_url=server.url, patience=QUICK, progress=False, **options
    )


def test_archives_unpack_to_what_data_reads(jetclass_server, root_files, tmp_path):
    paths = unpack(jetclass_server, tmp_path, ["val", "train"])
    assert [path.relative_to(tmp_path).as_posix() for path in paths if "val" in str(path)] == [
        f"val_5M/{name}" for name in sorted(root_files)
    ]
    assert len(list(tmp_path.glob("train*/*.root"))) == 6
    for name, content in root_files.items():
        assert (tmp_path / "val_5M" / name).read_bytes() == content
    assert not [name for name in visible(tmp_path) if name.endswith((".tar", ".part"))]
    profile = with_folder(load_profile("smoke"), tmp_path)
    from jetfm.pipeline import Pipeline

    assert Pipeline(profile).jets.files("val") == [p for p in paths if p.parent.name == "val_5M"]


def test_archives_are_unpacked_once_and_again_if_a_file_is_gone(jetclass_server, tmp_path):
    first = unpack(jetclass_server, tmp_path, ["val"], keep_archives=True)
    n_before = len(jetclass_server.requests)
    assert unpack(jetclass_server, tmp_path, ["val"]) == first
    assert len(jetclass_server.requests) == n_before
    first[2].unlink()
    unpack(jetclass_server, tmp_path, ["val"])  # from the archive that was kept
    assert first[2].exists() and jetclass_server.requests[n_before:][0][1] == "bytes=0-0"
    assert len(jetclass_server.requests) == n_before + 1


def test_a_corrupt_archive_is_not_unpacked(jetclass_server, tmp_path):
    jetclass_server.faults = [("corrupt",)]
    with pytest.raises(JetfmError, match="val.tar: found md5"):
        unpack(jetclass_server, tmp_path, ["val"])
    assert visible(tmp_path) == []


def test_an_interrupted_unpacking_begins_anew(jetclass_server, tmp_path, monkeypatch):
    copy, n_copies = shutil.copyfileobj, [0]

    def interrupted(*args):
        n_copies[0] += 1
        if n_copies[0] == 3:
            raise KeyboardInterrupt
        copy(*args)

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupted)
    with pytest.raises(KeyboardInterrupt):
        unpack(jetclass_server, tmp_path, ["val"])
    assert len(list(tmp_path.rglob("*.root"))) == 2 and (tmp_path / "val.tar").exists()
    assert len(unpack(jetclass_server, tmp_path, ["val"])) == 6
    assert visible(tmp_path) == sorted(["val_5M", *(p.name for p in tmp_path.rglob("*.root"))])


def link(name: str, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    return info


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ([("../../HToBB_120.root", b"a")], "would be extracted to"),
        ([("HToBB_120.root", b"a"), (link("val_5M", "/etc"), b"")], "absolute path"),
        ([("a/HToBB_120.root", b"a"), ("b/HToBB_120.root", b"b")], "HToBB_120.root twice"),
        ([("README", b"a"), ("HToBB_120.root/x", b"")], "no ROOT files"),
    ],
)
def test_tars_that_would_write_elsewhere(server, tmp_path, monkeypatch, entries, found):
    content = tar_of(entries)
    server.files["val.tar"] = content
    archive = Archive("val.tar", hashlib.md5(content).hexdigest(), "val_5M")
    monkeypatch.setattr(archives, "JETCLASS", {"val": archive})
    with pytest.raises(JetfmError, match=found):
        unpack(server, tmp_path / "in", ["val"])
    assert [
        path for path in tmp_path.rglob("*.root") if path.parent != tmp_path / "in/val_5M"
    ] == []


def test_not_a_tar(server, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "JETCLASS", {"val": Archive("train.h5", MD5, "val_5M")})
    with pytest.raises(JetfmError, match="cannot be unpacked"):
        unpack(server, tmp_path, ["val"])
    with pytest.raises(JetfmError, match="expected a tar without compression"):
        single(server, tmp_path, "val", "HToBB")


# --- single files out of an archive ---


def single(server, dest, part, class_name, n_files=1, **options):
    return download_class_files(
        dest, part, class_name, n_files,
        **{"base_url": server.url, "patience": QUICK, "progress": False} | options,
    )  # fmt: skip


def test_a_header_that_arrived_damaged_is_asked_for_again(jetclass_server, root_files, tmp_path):
    """It is not taken for the end of the archive."""
    jetclass_server.spare = 0
    jetclass_server.faults = [("none",), ("none",), ("garble",)]  # length, first header, second
    with pytest.raises(JetfmError, match=r"unreadable headers \(no header at byte \d+\)"):
        single(jetclass_server, tmp_path, "val", "Tbqq")
    (path,) = single(jetclass_server, tmp_path, "val", "Tbqq")
    assert path.read_bytes() == root_files["TTBar_120.root"]


def test_one_class_file_costs_its_bytes_and_some_headers(jetclass_server, root_files, tmp_path):
    paths = single(jetclass_server, tmp_path, "val", "Tbqq")
    assert paths == [tmp_path / "val_5M" / "TTBar_120.root"]
    assert paths[0].read_bytes() == root_files["TTBar_120.root"]
    assert jetclass.count_jets(paths[0]) == 10
    assert jetclass_server.sent < len(root_files["TTBar_120.root"]) + 4 * 5000
    n_before = len(jetclass_server.requests)
    assert single(jetclass_server, tmp_path, "val", "TTBar", 2)[:1] == paths
    # where the first lies is known: the size, one more header, and the second file
    assert len(jetclass_server.requests) == n_before + 3


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tar_formats_with_long_names(jetclass_server, root_files, tmp_path, format):
    deep = "some/" * 30
    jetclass_server.files["val.tar"] = tar_of(
        ((deep + name if format != tarfile.USTAR_FORMAT else name, content)
         for name, content in root_files.items()), format,
    )  # fmt: skip
    path = single(jetclass_server, tmp_path, "val", "QCD", 2)[1]
    assert path.read_bytes() == root_files["ZJetsToNuNu_121.root"]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_single_files_get_over_faults(jetclass_server, root_files, tmp_path, fault):
    fault = (fault[0], min(fault[1], 7000), *fault[2:])
    jetclass_server.faults = [fault, fault]
    path = single(jetclass_server, tmp_path, "val", "TTBar")[0]
    assert path.read_bytes() == root_files["TTBar_120.root"]


def test_a_single_file_is_continued(jetclass_server, root_files, tmp_path):
    jetclass_server.faults = [("cut", 7000)] + [("cut", 0)] * 3
    with pytest.raises(JetfmError, match="a connection cut"):
        single(jetclass_server, tmp_path, "val", "TTBar")
    before = jetclass_server.sent
    path = single(jetclass_server, tmp_path, "val", "TTBar")[0]
    assert path.read_bytes() == root_files["TTBar_120.root"]
    assert jetclass_server.sent == before + 1 + len(path.read_bytes()) - 7000


def test_a_single_file_of_wrong_structure_is_deleted(jetclass_server, root_files, tmp_path):
    broken = root_files | {"TTBar_120.root": root_files["TTBar_120.root"][:-100]}
    jetclass_server.files["val.tar"] = tar_of(broken.items())
    with pytest.raises(JetfmError, match=r"TTBar_120.root: found a truncated ROOT file .*deleted"):
        single(jetclass_server, tmp_path, "val", "TTBar")
    assert visible(tmp_path) == ["val_5M"]


def test_single_files_need_ranges(jetclass_server, tmp_path):
    jetclass_server.ranges = False
    with pytest.raises(JetfmError, match="whole files only"):
        single(jetclass_server, tmp_path, "val", "TTBar")


def test_single_files_that_do_not_exist(jetclass_server, tmp_path):
    with pytest.raises(JetfmError, match=r"found 2 files TTBar_.*root; expected 3"):
        single(jetclass_server, tmp_path, "val", "TTBar", 3)
    n_before = len(jetclass_server.requests)
    with pytest.raises(JetfmError, match="found 0 files ZToQQ_"):
        single(jetclass_server, tmp_path, "val", "ZToQQ")
    assert len(jetclass_server.requests) == n_before + 1  # the whole archive is known by now
    with pytest.raises(JetfmError, match="--part"):
        single(jetclass_server, tmp_path, "train", "ZToQQ")


def test_remote_file_reads_like_a_local_one(server):
    file = RemoteFile(Remote(f"{server.url}/train.h5", QUICK), len(CONTENT))
    local, rng = io.BytesIO(CONTENT), np.random.default_rng(0)
    for _ in range(30):
        at = int(rng.choice([rng.integers(len(CONTENT)), len(CONTENT) - 100, file.tell()]))
        size = int(rng.choice([1, 512, 3000, 10_000]))
        assert file.seek(at) == local.seek(at)
        assert file.read(size) == local.read(size)
        assert file.tell() == local.tell()


# --- the published archives ---


def test_archives_as_published():
    """Twelve archives of JetClass, three files of the Top Landscape, each with an MD5."""
    from importlib import reload

    fresh = reload(archives)
    assert list(fresh.JETCLASS) == [f"train{i}" for i in range(10)] + ["val", "test"]
    assert list(fresh.TOPLANDSCAPE) == ["train", "val", "test"]
    published = [*fresh.JETCLASS.values(), *fresh.TOPLANDSCAPE.values()]
    assert len({archive.md5 for archive in published}) == 15
    assert {len(bytes.fromhex(archive.md5)) for archive in published} == {16}
