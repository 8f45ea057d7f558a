"""Fine-tuning: fair splits, a truly fixed backbone, and results that survive an interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jetfm import finetuning
from jetfm.data.labelled import EncodedJets, LabelledJets
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.features import Preprocessing
from jetfm.finetuning import Jets, Study, run_study
from jetfm.metrics import roc_auc
from jetfm.models.classifier import JetClassifier
from jetfm.models.jet_model import JetModel, load_backbone
from jetfm.settings import (
    BackboneSettings,
    FinetuningSettings,
    OptimizerSettings,
    PretrainingSettings,
)

KINEMATICS = ("pt", "eta_rel", "phi_rel")
SMALL = BackboneSettings(dim=16, n_blocks=1, n_heads=2, n_registers=2, mlp_ratio=2)
SETTINGS = FinetuningSettings(
    sizes=(20, 60),
    n_seeds=2,
    max_steps=80,
    batch_size=20,
    small_batch_size=20,
    optimizer=OptimizerSettings(name="adamw", lr=3e-3, warmup_steps=0),
)
SHORT = SETTINGS.model_copy(update={"sizes": (20,), "n_seeds": 2, "max_steps": 20})


def toy_store(folder, n_jets, seed, labels=(0, 8, 1)) -> JetStore:
    """QCD jets are narrow, Tbqq jets wide; Hbb jets are there to be ignored."""
    rng = np.random.default_rng(seed)
    label = np.resize(labels, n_jets)
    counts = rng.integers(5, 30, n_jets)
    width = np.where(label == 8, 0.35, 0.05)
    angles = rng.normal(0, np.repeat(width, counts)[:, None], (counts.sum(), 2))
    pt = rng.exponential(20, counts.sum()) + 0.5
    jets = np.zeros(n_jets, JET_DTYPE)
    jets["label"] = label
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(np.column_stack([pt, angles]), counts, jets)
    return JetStore(folder)


@pytest.fixture(scope="module")
def jets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    sides = (
        LabelledJets(toy_store(folder / name, n, seed), SETTINGS, Preprocessing(), 128)
        for name, n, seed in (("train", 300, 1), ("val", 90, 2), ("test", 150, 3))
    )
    return Jets(*sides)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("model")
    JetModel(PretrainingSettings(backbone=SMALL), n_codes=8, n_features=3).save(folder)
    return folder


def test_only_the_two_classes_are_used_and_labelled(jets):
    assert set(jets.train.store.labels[jets.train.indices]) == {0, 8}
    signal = jets.train.labels[jets.train.indices] == 1
    assert (jets.train.store.labels[jets.train.indices][signal] == 8).all()


@pytest.mark.parametrize("size", [2, 20, 60])
def test_training_sets_are_balanced_nested_and_without_repetition(jets, size):
    order = jets.train.training_order(3)
    assert len(np.unique(order)) == len(order)
    assert jets.train.labels[order[:size]].sum() == size // 2
    assert not np.array_equal(order, jets.train.training_order(4))


def test_encoded_jets_equal_the_backbone_on_the_fly(jets, pretrained):
    backbone, some = load_backbone(pretrained), jets.train.indices[[3, 40, 7]]
    encoded = EncodedJets(backbone, jets.train, jets.train.indices).batch(some)
    batch = jets.train.batch(some)
    with torch.no_grad():
        hidden, mask = backbone.eval()(
            batch["x"], batch["mask"], batch["n_constituents"], causal=False
        )
    assert torch.equal(encoded["mask"], mask)
    torch.testing.assert_close(encoded["x"][mask], hidden[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(encoded["label"], batch["label"])


def test_scores_do_not_depend_on_the_order_of_constituents(jets, pretrained):
    torch.manual_seed(0)
    module = JetClassifier(load_backbone(pretrained)).eval()
    batch = jets.test.batch(jets.test.indices[:1])
    order = torch.randperm(batch["x"].shape[1])
    with torch.no_grad():
        first = module(batch)
        second = module(batch | {"x": batch["x"][:, order]})
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_study_separates_separable_jets(jets, pretrained, tmp_path):
    result = run_study(jets, pretrained, SETTINGS, tmp_path, 1, progress=False, workers=1)
    study = Study(tmp_path)
    assert study.n_fits == 12 and study.n_leaked == 0
    for strategy in finetuning.STRATEGIES:
        assert study.runs(strategy, 60, "auc").min() > 0.9
    assert result["n_test"] == len(jets.test.indices) == 100


@pytest.mark.parametrize("pair_bias", [False, True])
def test_strategies_train_what_they_say(jets, pair_bias, tmp_path, monkeypatch):
    backbone = SMALL.model_copy(update={"pair_bias": pair_bias})
    pretrained, space = tmp_path / "model", Preprocessing()
    torch.manual_seed(5)
    JetModel(PretrainingSettings(backbone=backbone), 8, preprocessing=space).save(pretrained)
    trained = {}
    original = finetuning.fit

    def spy(module, *args, **options):
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        result = original(module, *args, **options)
        trained[strategy] = (before, dict(module.named_parameters()))
        return result

    monkeypatch.setattr(finetuning, "fit", spy)
    for strategy in finetuning.STRATEGIES:
        path = tmp_path / "runs" / f"{strategy}.json"
        finetuning.one_fit(jets, pretrained, SHORT, strategy, 20, 0, path, 1)
    backbone = dict(load_backbone(pretrained).named_parameters())
    for name, weights in backbone.items():
        assert torch.equal(trained["finetuned"][0][f"backbone.{name}"], weights)
        if name.endswith("in.weight") or name == "pair_bias.mlp.0.weight":
            assert not torch.equal(trained["scratch"][0][f"backbone.{name}"], weights)
            assert not torch.equal(trained["finetuned"][1][f"backbone.{name}"], weights)
    assert {name.split(".")[0] for name in trained["fixed"][0]} == {"head"}
    changed = [
        not torch.equal(old, trained["fixed"][1][n]) for n, old in trained["fixed"][0].items()
    ]
    assert all(changed)


def test_two_workers_and_an_interruption_change_nothing(jets, pretrained, tmp_path, monkeypatch):
    arguments = (jets, pretrained, SHORT)
    whole = run_study(*arguments, tmp_path / "whole", 1, progress=False, workers=1)
    original, calls = finetuning.one_fit, []

    def fails_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(finetuning, "one_fit", fails_at_the_third)
        run_study(*arguments, tmp_path / "cut", 1, progress=False, workers=1)
    assert len(list((tmp_path / "cut" / "runs").iterdir())) == 2
    resumed = run_study(*arguments, tmp_path / "cut", 1, progress=False, workers=2)
    assert resumed == whole


def test_leaked_jets_are_counted(jets, pretrained, tmp_path):
    leaky = Jets(jets.train, jets.val, jets.val)
    run_study(leaky, pretrained, SHORT, tmp_path, 1, progress=False, workers=1)
    assert Study(tmp_path).n_leaked == len(jets.val.indices)


def test_a_missing_class_is_named(tmp_path):
    store = toy_store(tmp_path / "s", 10, 1, labels=(0, 1))
    with pytest.raises(JetfmError, match="Tbqq"):
        LabelledJets(store, SETTINGS, Preprocessing(), 128)


def test_too_few_jets_for_any_size_is_an_error(jets, pretrained, tmp_path):
    settings = SETTINGS.model_copy(update={"sizes": (10_000,)})
    with pytest.raises(JetfmError, match="200 labelled"):
        run_study(jets, pretrained, settings, tmp_path, 1, progress=False)


def test_a_score_that_is_not_finite_stops_and_names_the_jet(jets, pretrained):
    module = JetClassifier(load_backbone(pretrained))
    torch.nn.init.constant_(module.head.out.bias, torch.nan)
    with pytest.raises(JetfmError, match="not finite, jet"):
        finetuning.evaluate(module, jets.test, jets.test)


def test_evaluation_pairs_scores_with_their_labels(jets):
    class Oracle(torch.nn.Module):
        def forward(self, batch):
            return torch.stack([-batch["label"].float(), batch["label"].float()], 1)

    labels, scores = finetuning.evaluate(Oracle(), jets.test, jets.test)
    assert roc_auc(labels, scores, n_bootstrap=0).value == 1.0
