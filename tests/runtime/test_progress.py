"""Progress lines for places where nobody watches."""

from __future__ import annotations

import pytest

from jetfm.runtime import progress
from jetfm.runtime.progress import ByteProgress, Progress


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    monkeypatch.setattr(progress, "is_interactive", lambda: False)
    return now


def test_a_line_at_most_every_ten_seconds_with_rate_and_time_left(clock, capsys):
    bar = Progress("training", total=100, done=20)  # resumed at 20
    for _ in range(40):
        clock[0] += 1
        bar.update(1, 50)
    bar.note("loss 1.5")
    bar.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training: step 30/100, 50 jets/s, 70 s left"
    assert len(lines) == 5 and lines[-1] == "training: step 60/100, 50 jets/s, 40 s left loss 1.5"


def test_silence_on_request(clock, capsys):
    bar = Progress("training", total=10, show=False)
    clock[0] += 100
    bar.update(10, 10)
    bar.close()
    assert capsys.readouterr().out == "" and bar.jets_per_second == 0.1


def test_bytes_of_an_earlier_download_are_done_but_not_fast(clock, capsys):
    bar = ByteProgress("download")
    bar.expect(10_000_000_000)
    bar.keep(4_000_000_000)
    clock[0] += 20
    bar.note("'503 Busy', waiting 4 s")
    bar.advance(1_000_000_000)
    bar.advance(-500_000_000)  # begun anew
    bar.close()
    assert capsys.readouterr().out.splitlines() == [
        "download: 5.00/10.00 GB, 50.0 MB/s, 100 s left '503 Busy', waiting 4 s",
        "download: 4.50/10.00 GB, 25.0 MB/s, 220 s left",
    ]
