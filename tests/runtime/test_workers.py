"""Tasks in worker processes: whatever ends the parent ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetfm.errors import JetfmError
from jetfm.runtime.workers import run_tasks


def write_pid_and_sleep(folder: str, name: str) -> None:
    aside = Path(folder) / f".{name}"
    aside.write_text(str(os.getpid()))
    aside.replace(Path(folder) / name)
    time.sleep(600)


def fail(name: str, folder: str = "") -> None:
    """At once, or as soon as another task has begun."""
    while folder and not list(Path(folder).glob("[!.]*")):
        time.sleep(0.01)
    raise ValueError(name)


def fail_or_sleep(folder: str, name: str) -> None:
    fail("bad", folder) if name == "fail" else write_pid_and_sleep(folder, name)


def kill_oneself(name: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def write_where_jetfm_is(path: str) -> None:
    import jetfm

    Path(path).write_text(f"{jetfm.__file__} {os.environ['JETFM_WORK']} {os.getcwd()}")


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_of_a_task_reaches_the_caller(workers):
    with pytest.raises(ValueError, match="bad"):
        run_tasks(fail, [("bad",), ("bad",)], workers, progress=False)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("preload", [(), ("jetfm.errors",)])
def test_an_error_of_a_task_ends_the_others(tmp_path, preload):
    tasks = [(str(tmp_path), n) for n in ("a", "fail")]
    with pytest.raises(ValueError, match="bad"):
        run_tasks(fail_or_sleep, tasks, 2, progress=False, preload=preload)
    while is_alive(int((tmp_path / "a").read_text())):  # it would sleep for ten minutes
        time.sleep(0.1)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("preload", [(), ("jetfm.errors",)])
def test_a_worker_that_was_killed_is_one_clear_error(preload):
    with pytest.raises(JetfmError, match="^fits: found the sudden end of a worker"):
        run_tasks(kill_oneself, [("a",), ("b",)], 2, "fits", progress=False, preload=preload)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("preload", [(), ("jetfm.errors",)])
def test_workers_run_the_code_of_their_parent_in_its_environment_and_folder(tmp_path, preload):
    """Another jetfm in the current folder is not it; what was set after the first pool counts."""
    script = (
        "import os\n"
        "from jetfm.runtime.workers import run_tasks\n"
        "from tests.runtime.test_workers import write_where_jetfm_is as task\n"
        "if __name__ == '__main__':\n"
        "    for number in '12':\n"
        "        os.environ['JETFM_WORK'] = number\n"
        "        os.makedirs(number), os.chdir(number)\n"
        "        tasks = [(os.path.abspath(n),) for n in 'ab']\n"
        f"        run_tasks(task, tasks, 2, progress=False, preload={preload})\n"
        "        os.chdir('..')\n"
    )
    for folder in ("script", "here/jetfm"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "script/main.py").write_text(script)
    (tmp_path / "here/jetfm/__init__.py").write_text("raise ImportError('another one')")
    here, root = tmp_path / "here", Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    command = [sys.executable, tmp_path / "script/main.py"]
    subprocess.run(command, env=environment, cwd=here, check=True, timeout=100)
    for number in "12":
        expected = f"{root / 'jetfm/__init__.py'} {number} {here / number}"
        assert [(here / number / name).read_text() for name in "ab"] == [expected] * 2


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("how", "preload"),
    [(signal.SIGINT, ()), (signal.SIGKILL, ()), (signal.SIGKILL, ("jetfm.errors",))],
)
def test_workers_end_with_a_parent_that_alone_was_interrupted(tmp_path, how, preload):
    """As ``kill -INT`` or a batch system does it; a terminal's Ctrl-C reaches workers as well."""
    script = (
        "from jetfm.runtime.workers import run_tasks\n"
        "from tests.runtime.test_workers import write_pid_and_sleep as task\n"
        "if __name__ == '__main__':\n"
        f"    tasks = [({str(tmp_path)!r}, name) for name in 'abcdefgh']\n"
        f"    run_tasks(task, tasks, 2, preload={preload})\n"
    )
    (tmp_path / "main.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, tmp_path / "main.py"]
    parent = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    files = [tmp_path / name for name in "ab"]
    while not all(path.exists() and path.read_text() for path in files):
        assert parent.poll() is None
        time.sleep(0.1)
    workers = [int(path.read_text()) for path in files]
    parent.send_signal(how)
    assert parent.wait(timeout=60) != 0  # the tasks would take ten minutes
    while any(is_alive(pid) for pid in workers):
        time.sleep(0.1)
    assert "Thread" not in parent.stderr.read()  # no error beside the interruption


SCRIPT = """
import sys
from pathlib import Path
from jetfm.runtime.workers import run_tasks
with open(sys.argv[1], "a") as file:
    file.write("started ")
run_tasks(Path.touch, [(Path(p),) for p in sys.argv[2:]], 2, progress=False, preload=PRELOAD)
"""


@pytest.mark.parametrize("preload", [(), ("jetfm.runtime.cores",)])
def test_a_script_needs_no_guard_and_runs_once(tmp_path, preload):
    """A worker that ran it again would wait for a stage that its own parent holds."""
    script, log = tmp_path / "script.py", tmp_path / "log"
    script.write_text(SCRIPT.replace("PRELOAD", repr(preload)))
    made = [tmp_path / name for name in ("one", "two", "three")]
    command = [sys.executable, script, log, *made]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert log.read_text() == "started " and all(path.exists() for path in made)
