"""One process at a time: on file systems without locks, and after one that left its lock behind."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest
from filelock import SoftFileLock

from jetfm.errors import JetfmError
from jetfm.storage import locks
from jetfm.storage.locks import exclusive


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(locks, "_PATIENCE", 0.1)


def entered(folder, said: list[str]) -> threading.Thread:
    """A thread that enters and leaves."""

    def work() -> None:
        with exclusive(folder, said.append):
            said.append("entered")

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_lock_left_by_another_machine_is_named_with_its_age(tmp_path, monkeypatch, impatient):
    """Nobody can tell from here whether its process is alive."""
    monkeypatch.setattr(locks, "FileLock", SoftFileLock)
    lock, owner = tmp_path / ".lock", tmp_path / ".owner"
    lock.write_text("4242\nsome-other-host\n")
    owner.write_text("process 4242 on some-other-host")
    hours_ago = time.time() - 5 * 3600
    os.utime(owner, (hours_ago, hours_ago))
    said: list[str] = []
    thread = entered(tmp_path, said)
    until(lambda: len(said) >= 3)
    who = "process 4242 on some-other-host, there for 5 hours,"
    assert said[0] == f"waiting for {who} to finish {tmp_path.name}"
    assert said[1] == said[2] == f"still waiting for {who}; if it is gone, delete {lock}"
    lock.unlink()
    thread.join(20)
    assert said[-1] == "entered"
    lock.write_text("4242\nsome-other-host\n")
    with pytest.raises(JetfmError, match=f"one process at a time; if it is gone, delete {lock}"):
        exclusive(tmp_path, None).__enter__()


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_still_has_one_at_a_time(
    tmp_path, monkeypatch, code, impatient
):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", flock)
    said: list[str] = []
    with exclusive(tmp_path, None):
        with pytest.raises(JetfmError, match=f"process {os.getpid()} on .* at work"):
            exclusive(tmp_path, None).__enter__()
        thread = entered(tmp_path, said)
        until(lambda: len(said) >= 2)
        assert "entered" not in said
    thread.join(20)
    assert said[-1] == "entered"
    assert not [path.name for path in tmp_path.iterdir() if path.name.endswith(".soft")]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(90, "2 minutes"), (5_000, "83 minutes"), (8_000, "2 hours"), (1e6, "12 days")],
)
def test_ages_are_small_numbers(seconds, text):
    assert locks._duration(seconds) == text
