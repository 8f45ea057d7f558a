"""Kept stages: known by how they are made, used as they are, and nothing made for them."""

from __future__ import annotations

import os

import pytest

from jetfm.errors import JetfmError
from jetfm.figures import training
from jetfm.pipeline import Pipeline
from jetfm.pipeline.stage import Run, SourceFiles
from jetfm.settings.profiles import load_profile
from jetfm.storage.kept import keep
from jetfm.storage.paths import weights_folder


class _Machine:
    """A run with two stages, 'jets' and what is made of them, that counts what it makes.

    Parameters
    ----------
    bits : what the machine's jets are; others' may differ
    """

    def __init__(self, bits="a", jets=10, steps=5, seed=1, version=1, files=None):
        profile = load_profile("smoke").model_copy(update={"seed": seed})
        self.made = []
        self.run = Run(profile, False, lambda text: None, lambda *_: None)

        def make(name, text):
            def fill(folder):
                self.made.append(name)
                (folder / "small.txt").write_text(text)
                (folder / "large.txt").write_text(text * 1000)
                return {"loss": 1.5}

            return fill

        self.jets = self.run.stage("jets", make("jets", bits), settings={"n": jets}, files=files)
        self.model = self.run.stage(
            "model", make("model", bits), settings={"steps": steps}, inputs={"jets": self.jets},
            version=version,
        )  # fmt: skip


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A model kept by one machine, and another machine that starts bare."""
    monkeypatch.setenv("JETFM_KEPT", "none")
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "one"))
    one = _Machine()
    left_out = keep(one.model.artifact, one.model.recipe, tmp_path / "kept/deep/model", 100)
    assert left_out == ["large.txt"]
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "other"))
    folders = str(tmp_path / "one"), str(tmp_path / "kept")  # records of mere work are passed over
    monkeypatch.setenv("JETFM_KEPT", os.pathsep.join(folders))
    return one.model.artifact


def test_a_kept_stage_is_used_and_what_it_was_made_from_is_not_made(kept, tmp_path):
    other = _Machine(bits="b")
    assert other.model.find().digest == kept.digest
    assert other.model.artifact.metrics == {"loss": 1.5}
    assert other.model.folder == tmp_path / "kept" / "deep" / "model"
    assert not other.made
    assert not (tmp_path / "other").exists()


def test_files_too_large_to_keep_stay_behind(kept):
    folder = _Machine().model.folder
    assert (folder / "small.txt").read_text() == "a"
    assert not (folder / "large.txt").exists()


@pytest.mark.parametrize(
    "changed", [{"jets": 11}, {"steps": 6}, {"seed": 2}, {"version": 2}], ids=str
)
def test_what_is_made_otherwise_is_another_stage(kept, changed):
    """Its own settings, and those of what it reads."""
    other = _Machine(**changed)
    assert other.model.find() is None
    assert other.model.artifact.digest == kept.digest  # the same bits, made here
    assert other.made == ["jets", "model"]


def test_kept_jets_of_files_are_known_by_their_bytes(kept, tmp_path, monkeypatch):
    """A user's files have no recipe."""
    paths = [tmp_path / "jets.root"]
    paths[0].write_text("real")
    files = SourceFiles(lambda: paths)
    known = _Machine(files=files).model.recipe
    assert _Machine().model.recipe != known
    assert _Machine(files=files).model.recipe == known
    paths[0].write_text("other")
    assert _Machine(files=files).model.recipe != known

    def none():
        raise JetfmError(tmp_path, "no files", "some")

    assert _Machine(files=SourceFiles(none)).model.find() is None


def test_work_of_this_machine_comes_first(kept, tmp_path, monkeypatch):
    """Which holds all digits of weights that ship with half of them."""
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "one"))
    found = _Machine()
    assert found.model.find().folder.parent == tmp_path / "one"
    assert not found.model.is_kept and found.model.artifact.folder == found.model.folder


def test_what_was_made_from_another_kept_stage_is_not_taken(kept, tmp_path, monkeypatch):
    """Of two runs with the same recipe, jets of one and a model of the other."""
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "third"))
    monkeypatch.setenv("JETFM_KEPT", "none")
    third = _Machine(bits="c")
    keep(third.jets.artifact, third.jets.recipe, tmp_path / "kept/jets", 10**6)
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "other"))
    monkeypatch.setenv("JETFM_KEPT", str(tmp_path / "kept"))
    mixed = _Machine()
    assert mixed.jets.find() and mixed.jets.is_kept
    assert mixed.model.find() is None
    keep(third.model.artifact, third.model.recipe, tmp_path / "kept/model", 10**6)
    matching = _Machine()
    assert matching.model.find().digest == third.model.artifact.digest != kept.digest


def test_a_folder_of_kept_stages_that_is_not_there_is_named(kept, tmp_path, monkeypatch):
    monkeypatch.setenv("JETFM_KEPT", os.pathsep.join(["", str(tmp_path / "gone")]))
    with pytest.raises(JetfmError, match="gone"):
        _Machine()


def test_none_is_looked_for_where_the_user_says_so(kept, monkeypatch):
    monkeypatch.setenv("JETFM_KEPT", "none")
    assert _Machine().model.find() is None


def test_the_weights_that_ship_are_those_of_their_profile(monkeypatch):
    """Whoever changes a setting of theirs trains and ships them again, or `overnight` would train
    what lies beside it."""
    monkeypatch.delenv("JETFM_KEPT", raising=False)
    pipeline = Pipeline("overnight", say=lambda text: None)
    kinds = (weights_folder() / kind for kind in ("models", "tokenizers"))
    names = {path.parent for kind in kinds for path in kind.rglob("artifact.json")}
    stages = [pipeline.tokenizers.trained(name) for name in pipeline.profile.tokenizers]
    stages += [one for name in pipeline.profile.models
               for one in pipeline.pretraining.repeated(name)]  # fmt: skip
    stages += map(pipeline.generation.model, pipeline.generation.generators)
    found = {stage.folder for stage in stages if stage.find()}
    assert found == names
    assert {folder.name for folder in found} >= {"main", "mpm", "joint", "omnijet"}


def test_whose_learning_curves_they_are_is_said_below_them():
    """The tokenizer's own were lost; a repetition's stand for them, and say so."""
    pipeline = Pipeline("overnight", progress=False, say=lambda text: None)
    curves = pipeline.tokenizers.history()
    last = curves["history"]["val"]["reconstruction"][-1]
    own = pipeline.tokenizers.trained().artifact.metrics["best_loss"]
    assert f"loss {last:.5f} at the end, its own {own:.5f}" in curves["note"]
    drawn = training(panels=[("reconstruction", "Loss")], **curves)
    assert drawn.get_supxlabel() == curves["note"]
