"""A small study, run once: a model pre-trained twice, one that reads ids, a baseline; two tasks."""

from __future__ import annotations

import pytest

from jetfm.benchmark.adding import collect
from jetfm.pipeline import Pipeline
from jetfm.pipeline.stage import silent
from jetfm.settings.profiles import load_profile

PROFILE = """
extends: smoke
tokenizer: {n_codes: 16, dim: 16, training: {batch_size: 20, max_steps: 2, validate_every: 2}}
pretraining:
  n_trainings: 2
  backbone: {dim: 16, n_blocks: 1, n_heads: 2}
  training: {batch_size: 10, max_steps: 2, validate_every: 2}
  limit_val_jets: 20
strategies:
  ntp-token-id:
    backbone: {dim: 16, n_blocks: 1, n_heads: 2}
    training: {batch_size: 10, max_steps: 2, validate_every: 2}
finetuning:
  tasks:
    tagging:
      sizes: [20, 40]
      contenders:
        omnijet-combined: []
        main: [scratch, fixed, finetuned]
        ntp-token-id: [finetuned]
        deepsets: [scratch]
    ten-classes: {contenders: &none {main: [], joint: [], ntp-token-id: [], mpm: [],
      mpm-causal: [], mpm-20: [], ntp-full: [], mpm-pairs: [], ntp-300: [], deepsets: [], part: []}}
    landscape: {sizes: [20], contenders: {<<: *none, main: [finetuned], deepsets: [scratch]}}
  n_seeds: [[20, 2], [40, 1]]
  limit_val_jets: 20
  limit_test_jets: 60
  max_steps: 30
  validate_every: 2
  patience_epochs: [[40, 2]]
  optimizer: {lr: 1.0e-2}
  baselines: {dim: 16, n_blocks: 1, n_heads: 2, deepsets: [16]}
"""


def pipeline_of(profile) -> Pipeline:
    return Pipeline(profile, progress=False, say=silent)


@pytest.fixture(scope="package")
def profile(tmp_path_factory):
    """Settings of the study; the work folder is of these tests alone."""
    folder = tmp_path_factory.mktemp("benchmark")
    (folder / "toy.yaml").write_text(PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETFM_WORK", str(folder / "work"))
        yield load_profile(folder / "toy.yaml")


@pytest.fixture(scope="package")
def out(profile, tmp_path_factory):
    """Folder of the page, and of the rows of the study."""
    pipeline, folder = pipeline_of(profile), tmp_path_factory.mktemp("docs")
    pipeline.finetuning.finetuned().artifact  # noqa: B018, made
    collect(pipeline, folder)
    return folder
