"""The stages hang together: what is done is found, and only what changed runs again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jetfm.errors import JetfmError
from jetfm.pipeline import Pipeline
from jetfm.schema import CLASSES
from jetfm.settings.profiles import dry_run, load_profile, with_folder
from jetfm.storage.paths import work_folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One folder for the whole file: what a test finds done, it need not do."""
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETFM_WORK", str(folder / "work"))
        patch.setenv("JETFM_FIGURES", str(folder / "figures"))
        yield folder / "work"


@pytest.fixture(scope="module")
def tiny():
    """The smoke profile with fewer jets and steps."""
    return dry_run(load_profile("smoke"))


def test_gpu_has_the_networks_of_paper():
    gpu, paper = load_profile("gpu"), load_profile("paper")
    assert gpu.pretraining.backbone == paper.pretraining.backbone
    for name, settings in (gpu.token_quality.tokenizers | {"main": gpu.tokenizer}).items():
        theirs = (paper.token_quality.tokenizers | {"main": paper.tokenizer})[name]
        assert settings.model_copy(update={"training": theirs.training}) == theirs


@pytest.fixture(scope="module")
def first(work, tiny):
    """The ledger once every stage has run."""
    return Pipeline(tiny, progress=False).ledger()


def test_everything_is_found_the_second_time(first, tiny, capsys):
    capsys.readouterr()
    second = Pipeline(tiny, progress=False).ledger()
    said = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert second == first
    assert said and all("done before" in line for line in said)


def test_a_changed_setting_reruns_its_stage_and_what_follows(first, tiny):
    def finished() -> set[str]:
        return {path.parent.name for path in work_folder().glob("*/artifact.json")}

    before = finished()
    longer = tiny.pretraining.training.model_copy(update={"max_steps": 3})
    pretraining = tiny.pretraining.model_copy(update={"training": longer})
    Pipeline(tiny.model_copy(update={"pretraining": pretraining}), progress=False).ledger()
    made = {name.rpartition("-")[0] for name in finished() - before}
    assert made == {"pretraining", "generated", "generative-quality", "finetuning"}


def test_two_of_a_kind_are_told_apart(work, tiny):
    strategies = tiny.strategies | {"mpm-long": tiny.strategies["mpm"]}
    pipeline = Pipeline(tiny.model_copy(update={"strategies": strategies}), progress=False)
    labels = [pipeline.label(name) for name in pipeline.pretraining_settings]
    assert len(set(labels)) == len(labels)
    assert labels[-1] == "MPM (mpm-long)" and "MPM" in labels


def test_generators_of_a_kind_are_told_apart(work, tiny):
    strategies = tiny.strategies | {"joint-again": tiny.strategies["joint"]}
    pipeline = Pipeline(tiny.model_copy(update={"strategies": strategies}), progress=False)
    labels = [(one.label, one.classes) for one in pipeline.generators.values()]
    assert len(set(labels)) == len(labels)
    assert ("NTP + MPM (joint-again)", ()) in labels


def test_studies_share_the_fits_of_equal_contenders(first, tiny):
    """Another choice of contenders costs no fit that was done; other steps cost every one."""
    settings = tiny.finetuning
    task = settings.tasks["ten-classes"]
    fewer = task.model_copy(update={"contenders": {"main": ("scratch",), "part": ("scratch",)}})
    tasks = settings.tasks | {"ten-classes": fewer}

    def runs(**changed) -> dict[str, Path]:
        finetuning = settings.model_copy(update=changed)
        profile = tiny.model_copy(update={"finetuning": finetuning})
        folder = Pipeline(profile, progress=False).finetuning().folder / "runs"
        return {str(path.relative_to(folder)): path for path in folder.rglob("*.json")}

    usual, other, longer = runs(), runs(tasks=tasks), runs(tasks=tasks, max_steps=3)
    assert 0 < len(other) < len(usual) and longer.keys() == other.keys()
    assert all(path.samefile(usual[name]) for name, path in other.items())
    assert not any(path.samefile(usual[name]) for name, path in longer.items())


def test_tokens_belong_to_their_jets(work, tiny):
    pipeline = Pipeline(tiny, progress=False)
    store, tokens = pipeline.store("test"), pipeline.tokens("test")
    assert np.array_equal(tokens.labels, store.labels)
    assert np.array_equal(tokens.multiplicity, store.n_constituents)
    kept = np.minimum(store.n_constituents, tiny.data.max_constituents)
    assert np.array_equal(tokens.n_constituents, kept)
    tokenizer, jet = pipeline.tokenizer(), 7
    ids, decoded, mask = (array[0] for array in tokens.dense([jet]))
    again = tokenizer.decode(_tensor(ids)[None], _tensor(mask)[None])[0]
    np.testing.assert_allclose(again.numpy(), decoded, atol=1e-5)


def _tensor(array):
    import torch

    return torch.as_tensor(array)


def test_counts_by_class(work, tiny):
    counts = Pipeline(tiny, progress=False).count_by_class("val")
    assert counts == {c.name: tiny.data.jets_per_class.val for c in CLASSES}


def test_a_folder_without_the_files_is_named(work, tiny, tmp_path):
    profile = with_folder(load_profile("smoke"), tmp_path)
    with pytest.raises(JetfmError, match="train"):
        Pipeline(profile, progress=False).store("train")


def test_the_gallery_names_the_notebook_of_a_missing_figure(work, tiny):
    with pytest.raises(JetfmError, match="fig00_calibration.*notebook 00"):
        Pipeline(tiny, progress=False).gallery()
