"""Tasks in worker processes: whatever ends the parent ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jetfm.parallel import run_tasks


def write_pid_and_sleep(folder: str, name: str) -> None:
    (Path(folder) / name).write_text(str(os.getpid()))
    time.sleep(600)


def fail(name: str) -> None:
    raise ValueError(name)


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
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_a_parent_that_alone_was_interrupted(tmp_path, how):
    """As ``kill -INT`` or a batch system does it; a terminal's Ctrl-C reaches workers as well."""
    script = (
        "from jetfm.parallel import run_tasks\n"
        "from tests.test_parallel import write_pid_and_sleep as task\n"
        "if __name__ == '__main__':\n"
        f"    run_tasks(task, [({str(tmp_path)!r}, 'a'), ({str(tmp_path)!r}, 'b')], 2)\n"
    )
    (tmp_path / "main.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, tmp_path / "main.py"], env=environment)
    files = [tmp_path / name for name in "ab"]
    while not all(path.exists() and path.read_text() for path in files):
        assert parent.poll() is None
        time.sleep(0.1)
    workers = [int(path.read_text()) for path in files]
    parent.send_signal(how)
    assert parent.wait(timeout=60) != 0  # the tasks would take ten minutes
    while any(is_alive(pid) for pid in workers):
        time.sleep(0.1)
