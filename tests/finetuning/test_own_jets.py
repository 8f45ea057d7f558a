"""Fine-tuning on a user's own files: scores one can trust, and refusals that say why."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pyarrow import parquet
from typer.testing import CliRunner

from jetfm import cli
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.finetuning import Contender, own_jets
from jetfm.finetuning.own_jets import METRICS, SCORES, OwnJets, finetune_files
from jetfm.models.jet_model import JetModel
from jetfm.physics.statistics import roc_auc
from jetfm.settings import PretrainingSettings, TokenizerSettings
from jetfm.storage.paths import sample_folder
from jetfm.tokenizers import make_tokenizer
from tests.data.toplandscape_files import toplandscape_file
from tests.finetuning import test_study
from tests.finetuning.test_study import SMALL, toy_store

SETTINGS = test_study.SETTINGS.model_copy(
    update={"optimizer": test_study.SETTINGS.optimizer.model_copy(update={"lr": 5e-3})}
)
DEEPSETS = Contender("deepsets", "scratch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    for name, n, seed in (("train", 300, 1), ("test", 150, 3)):
        toy_store(folder / name, n, seed)
    toy_store(folder / "one-class", 60, 4, labels=(0,))
    tokenizer = make_tokenizer(TokenizerSettings(preset="binned", bins=(4, 4, 4)), seed=1)
    tokenizer.save(folder / "tokenizer")
    torch.manual_seed(5)
    for name, digest in (("model", tokenizer.hash), ("stranger", "0" * 64)):
        settings = PretrainingSettings(backbone=SMALL)
        JetModel(settings, tokenizer.n_codes, 3, digest).save(folder / name)
    return folder


def own(folder, **changes):
    files = {"train": folder / "train", "test": folder / "test", "classes": ("QCD", "Tbqq")}
    return OwnJets(**(files | changes))


def test_scores_belong_to_their_jets(folder, tmp_path):
    metrics = finetune_files(own(folder), DEEPSETS, SETTINGS, tmp_path, 1, progress=False)
    table = parquet.read_table(tmp_path / SCORES).to_pydict()
    labels = JetStore(folder / "test").labels
    kept = labels[np.isin(labels, (0, 8))]
    assert 0 < len(kept) < len(labels)
    assert table["jet"] == np.flatnonzero(np.isin(labels, (0, 8))).tolist()
    assert table["class"] == ["Tbqq" if label == 8 else "QCD" for label in kept]
    total = np.array(table["p_QCD"]) + np.array(table["p_Tbqq"])
    np.testing.assert_allclose(total, 1, rtol=1e-5)
    area = roc_auc(np.array(table["label"]), np.array(table["p_Tbqq"]), 0).value
    assert area > 0.9 and area == pytest.approx(metrics["auc"], abs=1e-3)
    assert json.loads((tmp_path / METRICS).read_text())["n_train"] == 180  # a tenth validates
    for name in ("classifier.json", "weights.safetensors", "roc.pdf", "roc.png", "roc.json"):
        assert (tmp_path / name).stat().st_size > 0


def leave_out_the_figure(patched):
    """It takes as long as a fit."""
    patched.setattr(own_jets, "roc", lambda **_: None)
    patched.setattr(own_jets.style, "save", lambda *_: None)


@pytest.fixture
def without_figure(monkeypatch):
    leave_out_the_figure(monkeypatch)


@pytest.fixture(scope="module")
def alone(folder, tmp_path_factory):
    """Metrics and scores of each kind of weights, in folders of their own."""
    found = {}
    with pytest.MonkeyPatch.context() as patched:
        leave_out_the_figure(patched)
        for weights in ("finetuned", "fixed", "scratch"):
            found[weights] = answer(folder, weights, tmp_path_factory.mktemp(weights))
    return found


def answer(folder, weights, out):
    metrics = finetune_files(
        own(folder, n_train=40), Contender("main", weights, "NTP", folder / "model"), SETTINGS,
        out, 1, folder / "tokenizer", progress=False,
    )  # fmt: skip
    return metrics, (out / SCORES).read_bytes()


@pytest.mark.parametrize("weights", ["finetuned", "fixed", "scratch"])
def test_a_pretrained_model_needs_its_own_tokenizer(folder, alone, tmp_path, weights):
    metrics, _ = alone[weights]
    assert metrics["n_train"] == 40 and metrics["auc"] > 0.5
    stranger = Contender("main", weights, "NTP", folder / "stranger")
    with pytest.raises(JetfmError, match="a backbone trained with tokenizer 000000000000"):
        finetune_files(
            own(folder), stranger, SETTINGS, tmp_path / "no", 1, folder / "tokenizer",
            progress=False,
        )  # fmt: skip
    contender = Contender("main", weights, "NTP", folder / "model")
    with pytest.raises(JetfmError, match="tokenizer.*nothing"):
        finetune_files(own(folder), contender, SETTINGS, tmp_path / "no", 1, progress=False)


def test_another_question_in_the_same_folder_is_trained_anew(
    folder, alone, tmp_path, without_figure
):
    """And the same one is found, with the answers that a folder of its own gives."""
    shared = [answer(folder, weights, tmp_path)[1] for weights in (*alone, *alone)]
    assert shared[:3] == shared[3:] and len(set(shared)) == 3
    assert shared[:3] == [scores for _, scores in alone.values()]


@pytest.mark.parametrize("n_train", [-5, 0, 1, 181])
def test_a_training_set_that_there_is_not_is_refused(folder, tmp_path, n_train):
    with pytest.raises(JetfmError, match=f"{n_train} training jets"):
        finetune_files(
            own(folder, n_train=n_train), DEEPSETS, SETTINGS, tmp_path, 1, progress=False
        )


def test_the_command_scores_root_and_h5_files(tmp_path):
    """Trained on JetClass files, tested on a Top Landscape file, as a user would call it."""
    files = {
        "train": [*(sample_folder() / "train").glob("*.root")],
        "val": [*(sample_folder() / "val").glob("*.root")],
    }
    for split, paths in files.items():
        (tmp_path / split).mkdir()
        for path in paths:
            if path.name.startswith(("TTBar_", "ZJetsToNuNu_")):
                (tmp_path / split / path.name).symlink_to(path)
    test = toplandscape_file(tmp_path / "test.h5", np.random.default_rng(1).integers(3, 60, 30))
    done = CliRunner().invoke(
        cli.app,
        ["finetune", "--profile", "smoke", "--train", str(tmp_path / "train"),
         "--val", str(tmp_path / "val"), "--test", str(test), "--classes", "QCD,Tbqq",
         "--baseline", "deepsets", "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    table = parquet.read_table(tmp_path / "out" / SCORES).to_pydict()
    assert table["label"] == [i % 2 for i in range(30)]  # as toplandscape_file alternates them
    assert table["class"] == ["QCD", "Tbqq"] * 15
    metrics = json.loads((tmp_path / "out" / METRICS).read_text())
    assert metrics["n_test"] == 30 and metrics["n_val"] == len(JetStore(tmp_path / "out/jets/val"))


def test_fewer_jets_than_a_batch(folder, tmp_path, without_figure):
    settings = SETTINGS.model_copy(update={"small_batch_size": 500, "max_steps": 5})
    metrics = finetune_files(
        own(folder, n_train=7), DEEPSETS, settings, tmp_path, 1, progress=False
    )
    assert metrics["n_train"] == 7 and 0 <= metrics["accuracy"] <= 1


def test_one_class_is_refused(folder, tmp_path):
    jets = own(folder, train=folder / "one-class", classes=())
    with pytest.raises(JetfmError, match="jets of QCD alone"):
        finetune_files(jets, DEEPSETS, SETTINGS, tmp_path, 1, progress=False)


@pytest.mark.parametrize(
    "classes", [("QCD",), ("QCD", "QCD"), ("QCD", "Tbqq", "QCD"), ("QCD", "Tbqq", "TTBar")]
)
def test_classes_that_are_not_two_different_ones_are_refused(folder, tmp_path, classes):
    jets = own(folder, classes=classes)
    with pytest.raises(JetfmError, match="classes.*QCD.*expected two different ones or more"):
        finetune_files(jets, DEEPSETS, SETTINGS, tmp_path, 1, progress=False)


def test_test_jets_of_one_class_are_refused(folder, tmp_path):
    jets = own(folder, test=folder / "one-class")
    with pytest.raises(JetfmError, match="one-class.*Tbqq"):
        finetune_files(jets, DEEPSETS, SETTINGS, tmp_path, 1, progress=False)


def test_empty_jets_do_not_count_as_leaked(tmp_path, without_figure):
    for name, seed in (("train", 1), ("test", 3)):
        toy_store(tmp_path / name, 80, seed, empty=2)
    finetune_files(own(tmp_path), DEEPSETS, SETTINGS, tmp_path / "out", 1, progress=False)


def test_test_jets_among_the_training_jets_are_refused(folder, tmp_path):
    jets = own(folder, test=folder / "train")
    with pytest.raises(JetfmError, match="200 jets that are training or validation jets"):
        finetune_files(jets, DEEPSETS, SETTINGS, tmp_path, 1, progress=False)


def test_missing_files_are_named(folder, tmp_path):
    with pytest.raises(JetfmError, match="nowhere"):
        finetune_files(
            own(folder, test=tmp_path / "nowhere"), DEEPSETS, SETTINGS, tmp_path, 1, progress=False
        )
