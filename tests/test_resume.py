"""kill -9 at any moment, the same command again: the same numbers as without interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

TINY = """
extends: smoke
data: {jets_per_class: {train: 30, val: 10, test: 20}}
tokenizer:
  n_codes: 64
  training: {batch_size: 50, max_steps: 60, validate_every: 10}
pretraining:
  training: {batch_size: 50, max_steps: 60, validate_every: 10}
finetuning: {sizes: [20], n_seeds: 1, max_steps: 20}
"""


def finetune(profile, work) -> subprocess.Popen:
    environment = os.environ | {"JETFM_WORK": str(work)}
    command = [sys.executable, "-m", "jetfm", "finetune", "--profile", str(profile)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def digests(work) -> dict[str, str]:
    """Content of every finished stage."""
    records = [json.loads(path.read_text()) for path in work.glob("*/artifact.json")]
    return {record["stage"]: record["digest"] for record in records}


@pytest.mark.timeout(600)
def test_killed_again_and_again_it_ends_the_same(tmp_path):
    profile = tmp_path / "tiny.yaml"
    profile.write_text(TINY)
    start = time.monotonic()
    whole = finetune(profile, tmp_path / "whole")
    assert whole.wait() == 0, whole.stderr.read()
    seconds = time.monotonic() - start
    expected = digests(tmp_path / "whole")
    assert {"tokenizer", "tokens-train", "pretraining", "finetuning"} <= set(expected)

    n_killed = 0
    for share in (0.45, 0.55, 0.65, 0.75):  # imports take the first third
        process = finetune(profile, tmp_path / "killed")
        try:
            process.wait(share * seconds)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            n_killed += 1
    last = finetune(profile, tmp_path / "killed")
    assert last.wait() == 0, last.stderr.read()
    assert n_killed >= 2
    assert digests(tmp_path / "killed") == expected
