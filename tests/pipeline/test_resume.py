"""kill -9 at any moment, the same command again: the same numbers as without interruption."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import awkward as ak
import numpy as np
import psutil
import pytest
import uproot

from jetfm.schema import BRANCHES, TREE_NAME
from jetfm.simulation.simulate import simulate
from tests.data.toplandscape_files import toplandscape_file
from tests.pipeline import killed_stages

# One of each kind of stage: what a second tokenizer or strategy does, the first has done.
TINY = """
data: {source: sample, jets_per_class: {train: 30, val: 10, test: 40}}
tokenizer:
  n_codes: 64
  dim: 32
  n_blocks: 1
  n_heads: 4
  replace_after: 20
  training: &more
    batch_size: 50
    max_steps: 12
    validate_every: 4
    optimizer: &adamw {name: adamw, lr: 3.0e-3, warmup_steps: 5}
token_quality:
  tokenizers:
    conditional-64:
      preset: omnijet
      n_codes: 64
      dim: 32
      n_blocks: 1
      n_heads: 4
      training: &few {batch_size: 50, max_steps: 4, validate_every: 2, optimizer: *adamw}
  n_reconstructions: 10
  n_conditioning: 10
  classified: [conditional-64]
  n_train: 0
  n_seeds: 1
  deepsets: {training: *few}
  transformer: {dim: 32, n_blocks: 1, n_heads: 4, training: *few}
pretraining:
  backbone: &small {dim: 32, n_blocks: 2, n_heads: 4, n_registers: 2}
  head: {n_blocks: 1}
  training: *more
strategies:
  joint: {objective: joint, backbone: *small, head: {n_blocks: 1}, training: *few}
flow: {n_layers: 2, dim: 32, global_dim: 8, n_steps: 10, training: *few}
continuous: {order: pt, backbone: *small, head: {n_blocks: 1}, n_components: 4, training: *few}
generation: {n_jets: 30}
generative_quality:
  model: {preset: omnijet, backbone: {dim: 32, n_blocks: 2, n_heads: 4}, training: *few}
  trained_on: {combined: [QCD, Tbqq]}
  classifier_epochs: {deepsets: 2, transformer: 1}
  n_bootstrap: 10
  n_training: 100
finetuning:
  tasks:
    tagging: {sizes: [50], contenders: &no_baselines {deepsets: [], transformer: [], part: []}}
    ten-classes:
      sizes: [50]
      contenders: &some {<<: *no_baselines, main: [scratch, finetuned], joint: [fixed]}
    landscape: {sizes: [50], contenders: *some}
  n_seeds: 1
  batch_size: 50
  small_batch_size: 50
  max_steps: 4
  validate_every: 2
  n_bootstrap: 10
  optimizer: *adamw
  baselines: {dim: 32, n_blocks: 2, n_heads: 4}
"""
# Of `killed_stages.arm`, in the order of the stages.
MOMENTS = (
    "2 */work/store-train-*/.*.part",
    "2 */work/tokenizer-*/training/last.ckpt",
    "2 */work/tokens-train-*/.*.part",
    "2 */work/pretraining-*/training/last.ckpt",
    "1 */work/generative-quality-*/last.ckpt",
    "2 */work/finetuning-*/runs/*.json",
)


def start(folder, *command) -> subprocess.Popen:
    environment = os.environ | {
        "JETFM_WORK": str(folder / "work"),
        "JETFM_FIGURES": str(folder / "figures"),
    }
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate()
    assert process.returncode == 0, errors


def digests(work) -> dict[str, str]:
    """Content of every finished stage, by folder: stage and hash of its request."""
    return {
        path.parent.name: json.loads(path.read_text())["digest"]
        for path in work.glob("*/artifact.json")
    }


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_stages_killed_in_the_middle_end_the_same(tmp_path, monkeypatch):
    """`killed_stages` asserts that each was killed when it should be.

    In `make test`: a fit and a conversion that are killed, a simulation that finds files made.
    """
    profile, landscape = tmp_path / "tiny.yaml", tmp_path / "landscape"
    landscape.mkdir()
    for seed, (split, n_jets) in enumerate({"train": 120, "val": 20, "test": 40}.items()):
        # simulated files are never the same: ROOT writes a random identifier into each
        counts = np.random.default_rng(seed).integers(3, 40, n_jets)
        toplandscape_file(landscape / f"{split}.h5", counts, seed)
    profile.write_text(f"{TINY}landscape: {{source: folder, path: {landscape}}}\n")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    (tmp_path / "site").mkdir()
    shutil.copy(killed_stages.__file__, tmp_path / "site" / "sitecustomize.py")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    finish(start(tmp_path, "-m", "tests.pipeline.killed_stages", profile, whole, cut, *MOMENTS))
    expected = digests(whole / "work")
    stages = {"store-train", "tokenizer", "tokens-train", "pretraining", "finetuning"}
    assert stages <= {name.rpartition("-")[0] for name in expected}
    assert digests(cut / "work") == expected
    made = [(side / "figures" / "tiny" / "ledger.json").read_text() for side in (whole, cut)]
    assert made[0] == made[1]


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_killed_simulation_continues_and_leaves_no_worker_behind(tmp_path):
    """Two workers, then one: how many there are changes nothing."""
    pytest.importorskip("pythia8mc")
    options = "--classes Wqq --jets-per-class 6 --jets-per-file 2 --workers 2 --seed 3".split()
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    alone = {"classes": ["Wqq"], "jets_per_class": 6, "jets_per_file": 2, "seed": 3}
    alone |= {"workers": 1, "progress": False}
    simulate(whole, **alone)
    process = start(tmp_path, "-m", "jetfm", "simulate", "--out", cut, *options)
    while not any(cut.glob("*_000.root")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=10)  # they look for their parent themselves
    assert alive == []
    finished = {path.name: path.stat().st_mtime_ns for path in cut.glob("*.root")}
    simulate(cut, **alone)
    assert {p.name for p in whole.glob("[!.]*")} == {p.name for p in cut.glob("[!.]*")}
    for path in whole.glob("*.root"):
        one, two = (uproot.open(side / path.name)[TREE_NAME].arrays() for side in (whole, cut))
        assert all(ak.array_equal(one[branch], two[branch]) for branch in BRANCHES)
    for name, time_ns in finished.items():
        assert (cut / name).stat().st_mtime_ns == time_ns, "finished files are kept"
