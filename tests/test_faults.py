"""What machines do to long work: read-only data, full disks, other locales, clocks that jump."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from jetfm.data.conversion import convert
from jetfm.pipeline import Pipeline
from jetfm.settings.profiles import load_profile
from jetfm.storage.paths import sample_folder
from tests.pipeline.test_resume import digests, finish, start

CONVERT = (
    "import sys\nfrom jetfm.data.conversion import convert\nfrom jetfm.errors import JetfmError\n"
    "try:\n    convert(sys.argv[1], sys.argv[2], 1, progress=False)\n"
    "except JetfmError as error:\n    print(error)\n"
)


@pytest.fixture
def jets(tmp_path) -> Path:
    """Two files of jets in a folder of their own."""
    folder = tmp_path / "jets"
    folder.mkdir()
    for path in sorted((sample_folder() / "val").glob("*.root"))[:2]:
        shutil.copy(path, folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that is not hidden, by path."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in paths
        if not path.name.startswith(".")
    }


def without_override() -> None:
    """Let permissions count for the superuser, too, in the program that starts next."""
    drop_from_bounding_set, dac_override = 24, 1
    ctypes.CDLL(None).prctl(drop_from_bounding_set, dac_override)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize("read_only", ["data", "output"])
def test_a_read_only_folder(jets, tmp_path, read_only):
    """Data are only read; a folder for output that cannot be written is named, in one line."""
    out = tmp_path / "out"
    out.mkdir()
    locked = jets if read_only == "data" else out
    before = contents(jets)
    for path in (*locked.iterdir(), locked):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CONVERT, jets, out],
            capture_output=True, text=True, preexec_fn=without_override,
        )  # fmt: skip
    finally:
        locked.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert contents(jets) == before
    if read_only == "data":
        convert(jets, tmp_path / "usual", 1, progress=False)
        assert done.stdout == ""
        # where the files lay stands in the store
        assert contents(out).keys() == contents(tmp_path / "usual").keys()
        assert digests_of_arrays(out) == digests_of_arrays(tmp_path / "usual")
    else:
        assert done.stdout.startswith(f"{out}: found 'permission denied'")
        assert done.stdout.count("\n") == 1 and contents(out) == {}


def digests_of_arrays(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name.endswith(".npy")}


def _can_mount() -> bool:
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


@pytest.mark.skipif(not _can_mount(), reason="no right to mount a small disk")
def test_a_disk_that_is_really_full(jets, tmp_path):
    """One error that names the file; with room again, the same command ends with the same bytes."""
    out, kept = tmp_path / "out", tmp_path / "kept"
    out.mkdir()
    kept.mkdir()
    script = (
        'mount -t tmpfs -o size=$1 none "$2" && cp -a "$3/." "$2" && "$4" -c "$5" "$6" "$2"; '
        'status=$?; cp -a "$2/." "$3"; exit $status'
    )

    def convert_within(size: str) -> str:
        command = ["unshare", "-rm", "sh", "-c", script, "-"]
        command += map(str, (size, out, kept, sys.executable, CONVERT, jets))
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    convert(jets, tmp_path / "usual", 1, progress=False)
    size = sum(map(len, contents(tmp_path / "usual").values()))
    said = convert_within(f"{size * 7 // 10}")
    assert said.count("\n") == 1 and "found 'no space left on device'" in said
    assert str(out) in said and "room for it on the disk" in said
    assert not list(kept.rglob("*.part"))
    assert convert_within("100m") == ""
    assert digests_of_arrays(kept) == digests_of_arrays(tmp_path / "usual")


PROFILE = """# jets whose τ₃₂ is small
extends: smoke
data: {classes: [QCD, Tbqq], jets_per_class: {train: 20, val: 10, test: 10}}
tokenizer: {preset: binned, n_codes: 64, bins: [4, 4, 4]}
"""
TOKENS = (
    "import sys; from jetfm.pipeline import Pipeline\n"
    "Pipeline(sys.argv[1]).tokenizers.tokens('test')"
)


def test_locale_and_time_zone_change_nothing(tmp_path, monkeypatch):
    """Plain ASCII of the C locale, and a zone half a day away, against this machine's own."""
    profile = tmp_path / "τ.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    here, there = tmp_path / "here", tmp_path / "there"
    monkeypatch.setenv("JETFM_WORK", str(here / "work"))
    Pipeline(load_profile(str(profile)), progress=False).tokenizers.tokens("test")
    odd = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TZ": "Pacific/Apia"}
    for name, value in odd.items():
        monkeypatch.setenv(name, value)
    finish(start(there, "-c", TOKENS, profile))
    assert len(digests(here / "work")) >= 4
    assert digests(there / "work") == digests(here / "work")


def test_a_terminal_without_greek(monkeypatch):
    """The ledger speaks of OmniJet-α."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    code = "from jetfm import cli; cli.app = lambda arguments: print('OmniJet-α'); cli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "OmniJet-?\n"), done.stderr


@pytest.mark.parametrize("year", [1980, 2100])
def test_a_clock_that_jumped_redoes_nothing(tmp_path, monkeypatch, capsys, year):
    """Files from what is now the far past or future are as good as they were."""
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    profile = tmp_path / "small.yaml"
    profile.write_text(PROFILE, encoding="utf-8")
    Pipeline(load_profile(str(profile)), progress=False).jets.store("test")
    seconds = (year - 1970) * 365 * 86400
    for path in (tmp_path / "work").rglob("*"):
        os.utime(path, (seconds, seconds))
    capsys.readouterr()
    Pipeline(load_profile(str(profile)), progress=False).jets.store("test")
    said = capsys.readouterr().out.splitlines()
    assert said and all("done before" in line for line in said)


FIGURES = """
import sys
from pathlib import Path
from jetfm import notebooks
from jetfm.settings.profiles import load_profile
notebooks.project_folder = lambda: Path(sys.argv[1])
print(*notebooks.run_all(load_profile("smoke"), say=lambda text: None), sep=",")
"""
CELL = """
import os, time
from matplotlib.figure import Figure
from jetfm.figures import style
from jetfm.storage.paths import figures_folder
for number in range(3):
    figure = Figure(figsize=(1, 1))
    figure.add_subplot().plot(range(number + 2))
    style.save(figure, {"number": number}, f"figure{number}", figures_folder(profile))
    if number == 1 and "WAIT_TO_BE_KILLED" in os.environ:
        there = os.environ["WAIT_TO_BE_KILLED"]
        with open(there + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.replace(there + ".part", there)
        time.sleep(600)
"""


@pytest.mark.soak
def test_kill_9_while_figures_are_made(tmp_path, monkeypatch):
    """Every figure there is whole; the same command makes the rest, and the same bytes."""
    project = tmp_path / "project"
    (project / "notebooks").mkdir(parents=True)
    parameters = nbformat.v4.new_code_cell('profile = "smoke"', metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    for name, cell in (("00_first", "print(profile)"), ("01_second", CELL)):
        cells = [parameters, nbformat.v4.new_code_cell(cell)]
        notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(notebook, project / "notebooks" / f"{name}.ipynb")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    finish(start(whole, "-c", FIGURES, project))
    expected = contents(whole / "figures")
    assert len(expected) == 9
    monkeypatch.setenv("WAIT_TO_BE_KILLED", str(tmp_path / "kernel"))
    process = start(cut, "-c", FIGURES, project)
    assert kill_at(process, tmp_path, "kernel")
    monkeypatch.delenv("WAIT_TO_BE_KILLED")
    wait_for_the_end_of(int((tmp_path / "kernel").read_text()))
    left = contents(cut / "figures")
    assert 0 < len(left) < len(expected)
    assert all(expected[name] == data for name, data in left.items())
    leftover = cut / "figures" / "smoke" / ".figure2.png.0123abcd.part"
    leftover.write_bytes(b"half a figure")
    finish(start(cut, "-c", FIGURES, project))
    assert contents(cut / "figures") == expected and not leftover.exists()


def kill_at(process: subprocess.Popen, folder, pattern: str) -> bool:
    """SIGKILL as soon as a file of this pattern is there; False if the process ended before."""
    while process.poll() is None:
        if any(folder.glob(pattern)):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.005)
    return False


def wait_for_the_end_of(pid: int) -> None:
    """A kernel looks for its parent itself."""
    deadline = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a kernel draws on without its parent"
        time.sleep(0.1)


def test_a_second_call_for_the_same_figures_waits(tmp_path, monkeypatch):
    """It says for whom, and goes on when that process is gone."""
    from jetfm import notebooks
    from jetfm.storage.locks import exclusive

    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("JETFM_FIGURES", str(tmp_path / "figures"))
    folder = tmp_path / "figures" / "smoke"
    folder.mkdir(parents=True)
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom jetfm.storage.locks import exclusive\n"
        "with exclusive(Path(sys.argv[1]), print):\n    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(folder)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    said = []

    def say(text: str) -> None:
        said.append(text)
        os.kill(holder.pid, signal.SIGKILL)

    monkeypatch.setattr(notebooks, "_run_all", lambda *_: ["all"])
    assert notebooks.run_all(load_profile("smoke"), say) == ["all"]
    holder.wait()
    assert said == [f"waiting for process {holder.pid} on {os.uname().nodename} to finish smoke"]
    with exclusive(folder, pytest.fail):
        pass
