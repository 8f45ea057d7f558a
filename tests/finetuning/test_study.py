"""Fine-tuning: fair splits, a truly fixed backbone, and results that survive an interruption."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from jetfm.data.labelled import LabelledJets
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.finetuning import Contender, Finetuning, Jets, Runner, run_study, study
from jetfm.finetuning.encoded_jets import EncodedJets, encode
from jetfm.models.classifier import JetClassifier, SumHead
from jetfm.models.jet_model import JetModel, load_backbone
from jetfm.physics.features import Preprocessing
from jetfm.physics.statistics import roc_auc
from jetfm.settings import (
    BackboneSettings,
    BaselineSettings,
    FinetuningSettings,
    OptimizerSettings,
    PretrainingSettings,
    TaskSettings,
)

KINEMATICS = ("pt", "eta_rel", "phi_rel")
CLASSES = ("QCD", "Tbqq")
N_CODES = 8
SMALL = BackboneSettings(dim=16, n_blocks=1, n_heads=2, n_registers=2, mlp_ratio=2)
GPT = BackboneSettings(
    network="gpt", input="token-id", dim=16, n_blocks=1, n_heads=2, n_registers=0,
    told_multiplicity=False, dropout=0.0,
)  # fmt: skip
WEIGHTS = ("scratch", "fixed", "finetuned")
SETTINGS = FinetuningSettings(
    tasks={"tagging": TaskSettings(classes=CLASSES, contenders={"main": WEIGHTS})},
    sizes=(60,),
    n_seeds=1,
    max_steps=25,
    batch_size=20,
    small_batch_size=20,
    n_bootstrap=10,
    optimizer=OptimizerSettings(name="adamw", lr=1e-2, warmup_steps=0),
    baselines=BaselineSettings(dim=16, n_blocks=1, n_heads=2, deepsets=(16,)),
)
SHORT = SETTINGS.model_copy(update={"sizes": (20,), "max_steps": 6})


def toy_store(folder, n_jets, seed, labels=(0, 8, 1), empty=0) -> JetStore:
    """QCD jets are narrow, Tbqq jets wide; Hbb jets are there to be ignored.

    The first `empty` jets have no constituents.
    """
    rng = np.random.default_rng(seed)
    label = np.resize(labels, n_jets)
    counts = rng.integers(5, 30, n_jets)
    counts[:empty] = 0
    width = np.where(label == 8, 0.6, 0.02)
    angles = rng.normal(0, np.repeat(width, counts)[:, None], (counts.sum(), 2))
    pt = rng.exponential(20, counts.sum()) + 0.5
    jets = np.zeros(n_jets, JET_DTYPE)
    jets["label"] = label
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(np.column_stack([pt, angles]), counts, jets)
    return JetStore(folder)


def toy_tokens(store, folder):
    """A token for each octant of the plane, wider for wide jets."""
    x = np.asarray(store.constituents)
    wide = np.hypot(x[:, 1], x[:, 2]) > 0.2
    ids = 2 * (x[:, 1] > 0) + (x[:, 2] > 0) + 4 * wide
    with TokenStoreWriter(folder, N_CODES) as writer:
        for jet, n in enumerate(store.n_constituents):
            rows = slice(store.offsets[jet], store.offsets[jet + 1])
            writer.append(ids[None, rows], x[None, rows], np.ones((1, n), bool))
    return folder


@pytest.fixture(scope="module")
def jets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    sides = {}
    for name, n, seed in (("train", 300, 1), ("val", 90, 2), ("test", 150, 3)):
        toy_store(folder / name, n, seed)
        sides[name] = LabelledJets(folder / name, CLASSES)
    return Jets(**sides)


@pytest.fixture(scope="module")
def token_jets(jets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return Jets(
        **{
            name: LabelledJets(side.folder, CLASSES, tokens=toy_tokens(side.store, folder / name))
            for name, side in vars(jets).items()
        }
    )


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("model")
    JetModel(PretrainingSettings(backbone=SMALL), n_codes=N_CODES, n_features=3).save(folder)
    return folder


@pytest.fixture(scope="module")
def omnijet(tmp_path_factory):
    torch.manual_seed(6)
    folder = tmp_path_factory.mktemp("omnijet")
    settings = PretrainingSettings(backbone=GPT, head={"n_blocks": 0})
    JetModel(settings, n_codes=N_CODES, n_features=3).save(folder)
    return folder


def runners(jets, folder, weights=WEIGHTS, model="main"):
    return [Runner("tagging", Contender(model, w, "NTP", folder), jets) for w in weights]


def test_only_the_classes_of_the_task_are_used_and_labelled(jets):
    side = jets.train
    assert set(side.store.labels[side.indices]) == {0, 8}
    assert (side.store.labels[side.indices[side.labels[side.indices] == 1]] == 8).all()
    both = LabelledJets(side.folder, ("Hbb", "Tbqq", "QCD"))
    assert (both.labels[side.store.labels == 0] == 2).all()


@pytest.mark.parametrize("size", [2, 20, 60])
def test_training_sets_are_balanced_nested_and_without_repetition(jets, size):
    order = jets.train.training_order(3)
    assert len(np.unique(order)) == len(order)
    assert jets.train.labels[order[:size]].sum() == size // 2
    assert not np.array_equal(order, jets.train.training_order(4))


def test_three_classes_take_turns(jets):
    side = LabelledJets(jets.train.folder, ("QCD", "Hbb", "Tbqq"))
    found = side.labels[side.training_order(1)[:30]]
    assert np.bincount(found).tolist() == [10, 10, 10]


def test_a_limit_draws_jets_that_depend_on_the_seed_alone(jets):
    some, same, others = (
        LabelledJets(jets.test.folder, CLASSES, limit=30, seed=seed).indices for seed in (1, 1, 2)
    )
    assert np.array_equal(some, same) and not np.array_equal(some, others)
    assert len(np.unique(some)) == 30 and np.isin(some, jets.test.indices).all()
    assert jets.test.labels[some].sum() == 15


@pytest.mark.parametrize("kind", ["continuous", "token ids"])
def test_encoded_jets_equal_the_backbone_on_the_fly(
    jets, token_jets, pretrained, omnijet, tmp_path, kind
):
    side = (jets if kind == "continuous" else token_jets).train
    classifier = JetClassifier(load_backbone(pretrained if kind == "continuous" else omnijet))
    classifier.eval()
    some = side.indices[[3, 40, 7]]
    encode(classifier.backbone, side, side.indices, tmp_path / "e", classifier.causal)
    encoded = EncodedJets(tmp_path / "e").batch(some)
    batch = side.batch(some)
    with torch.no_grad():
        hidden, mask = classifier.backbone(
            batch["x"], batch["mask"], batch["n_constituents"], causal=classifier.causal
        )
    assert torch.equal(encoded["mask"], mask)
    torch.testing.assert_close(encoded["x"][mask], hidden[mask], rtol=1e-5, atol=1e-5)
    assert torch.equal(encoded["label"], batch["label"])


def test_a_jet_that_was_not_encoded_is_named(jets, pretrained, tmp_path):
    encode(load_backbone(pretrained), jets.train, jets.train.indices[:5], tmp_path / "e", False)
    with pytest.raises(JetfmError, match=f"no jet {jets.train.indices[7]}"):
        EncodedJets(tmp_path / "e").batch(jets.train.indices[5:8][2:])


def test_scores_do_not_depend_on_the_order_of_constituents(jets, pretrained):
    torch.manual_seed(0)
    module = JetClassifier(load_backbone(pretrained)).eval()
    batch = jets.test.batch(jets.test.indices[:1])
    order = torch.randperm(batch["x"].shape[1])
    with torch.no_grad():
        first = module(batch)
        second = module(batch | {"x": batch["x"][:, order]})
    torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_paper_1s_head_on_a_causal_backbone(token_jets, omnijet):
    """Padding adds nothing to the sum, and the state of a token knows no later one."""
    torch.manual_seed(0)
    module = JetClassifier(load_backbone(omnijet)).eval()
    assert module.causal and isinstance(module.head, SumHead)
    some = token_jets.test.indices[:6]
    batch = token_jets.test.batch(some)
    with torch.no_grad():
        together = module(batch)
        alone = torch.cat([module(token_jets.test.batch(some[i : i + 1])) for i in range(6)])
        torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
        changed = dict(batch, x=batch["x"].clone())
        changed["x"][:, 4:] = (changed["x"][:, 4:] + 1) % N_CODES
        states = [module.backbone(b["x"], b["mask"], b["n_constituents"], True)[0]
                  for b in (batch, changed)]  # fmt: skip
    torch.testing.assert_close(states[0][:, :5], states[1][:, :5], rtol=0, atol=1e-6)
    assert not torch.allclose(states[0][:, 5:], states[1][:, 5:])


def test_study_separates_separable_jets(jets, token_jets, pretrained, omnijet, tmp_path):
    some = runners(jets, pretrained) + runners(token_jets, omnijet, WEIGHTS, "omnijet")
    some += [
        Runner("tagging", Contender(name, "scratch"), jets)
        for name in ("deepsets", "transformer", "part", "lgatr")
    ]
    result = run_study(some, SETTINGS, tmp_path, 1, progress=False, workers=1)
    results = Finetuning(tmp_path)
    task = results["tagging"]
    assert results.n_fits == 10 and results.n_leaked == 0
    for model, weights in task.contenders:
        assert task.runs(model, weights, 60, "auc").min() > 0.9, (model, weights)
        right = task.correct(model, weights, 60).mean(1)
        np.testing.assert_allclose(right, task.runs(model, weights, 60, "accuracy"))
    assert result["tagging"]["n_test"] == len(jets.test.indices) == 100
    assert "1/eps_B" in results.as_text() and "DeepSets" in results.as_text()
    scores = np.load(tmp_path / "runs/tagging/deepsets-scratch_60_0.npy")
    labels = jets.test.labels[jets.test.indices]
    area = roc_auc(labels, scores[:, 1].astype(float) - scores[:, 0], 0).value
    assert area == pytest.approx(task.runs("deepsets", "scratch", 60, "auc")[0])


@pytest.mark.parametrize("pair_bias", [False, True])
def test_strategies_train_what_they_say(jets, pair_bias, tmp_path, monkeypatch):
    backbone = SMALL.model_copy(update={"pair_bias": pair_bias})
    pretrained, space = tmp_path / "model", Preprocessing()
    torch.manual_seed(5)
    JetModel(PretrainingSettings(backbone=backbone), 8, preprocessing=space).save(pretrained)
    trained = {}
    original = study.fit

    def spy(training):
        module = training.module
        before = {name: p.detach().clone() for name, p in module.named_parameters()}
        result = original(training)
        trained[runner.contender.weights] = (before, dict(module.named_parameters()))
        return result

    monkeypatch.setattr(study, "fit", spy)
    for runner in runners(jets, pretrained):
        if runner.contender.weights == "fixed":
            study._encode(runner, (20,), SHORT, tmp_path, 1)
        study.one_fit(runner, 20, 0, SHORT, tmp_path, 1)
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


def test_a_pretrained_backbone_is_fine_tuned_with_its_dropout(jets, tmp_path, monkeypatch):
    """The same as one of random weights: a start is compared with a start, not with a dropout."""
    backbone, modes = SMALL.model_copy(update={"dropout": 0.3}), {}
    JetModel(PretrainingSettings(backbone=backbone), n_codes=N_CODES, n_features=3).save(tmp_path)
    original = JetClassifier.loss
    for runner in runners(jets, tmp_path, ("scratch", "finetuned")):
        seen = modes[runner.contender.weights] = []

        def spy(module, batch, seen=seen):
            seen.append({part.training for part in module.modules()})
            return original(module, batch)

        monkeypatch.setattr(JetClassifier, "loss", spy)
        study.one_fit(runner, 20, 0, SHORT, tmp_path / runner.contender.weights, 1)
    assert modes["scratch"] == modes["finetuned"]
    assert {True} in modes["finetuned"] and {True, False} not in modes["finetuned"]


def test_two_workers_and_an_interruption_change_nothing(jets, pretrained, tmp_path, monkeypatch):
    some, settings = (
        runners(jets, pretrained, ("fixed", "finetuned")),
        SHORT.model_copy(update={"sizes": (10, 20)}),
    )
    whole = run_study(some, settings, tmp_path / "whole", 1, progress=False, workers=1)
    assert Finetuning(tmp_path / "whole").n_fits == 2 * 2
    original, calls = study.one_fit, []

    def fails_at_the_third(*args):
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study, "one_fit", fails_at_the_third)
        run_study(some, settings, tmp_path / "cut", 1, progress=False, workers=1)
    assert len(list((tmp_path / "cut" / "runs" / "tagging").glob("*.json"))) == 2
    resumed = run_study(some, settings, tmp_path / "cut", 1, progress=False, workers=2)
    assert resumed == whole


@pytest.mark.parametrize("weights", ["finetuned", "fixed"])
def test_a_fit_is_given_training_jets_to_learn_and_validation_jets_to_stop(
    jets, pretrained, tmp_path, monkeypatch, weights
):
    """Test jets are read once, when the weights are final."""
    (runner,) = runners(jets, pretrained, (weights,))
    asked: dict[str, list] = {"train": [], "val": [], "test": []}
    kind = EncodedJets if weights == "fixed" else LabelledJets
    if weights == "fixed":
        study._encode(runner, (20,), SHORT, tmp_path, 1)
    original, score = kind.batch, study.log_probabilities
    order = []

    def spy(side, indices):
        split = side.folder.name
        asked[split].extend(map(int, indices))
        order.append(split)
        return original(side, indices)

    def scored(*args):
        order.append("final")
        return score(*args)

    monkeypatch.setattr(kind, "batch", spy)
    monkeypatch.setattr(study, "log_probabilities", scored)
    study.one_fit(runner, 20, 0, SHORT, tmp_path, 1)
    assert set(asked["train"]) == set(jets.train.training_order(1000)[:20].tolist())
    assert set(asked["val"]) == set(jets.val.indices.tolist())
    assert sorted(asked["test"]) == jets.test.indices.tolist()
    assert set(order[: order.index("final")]) == {"train", "val"}
    assert set(order[order.index("final") + 1 :]) == {"test"}


@pytest.mark.parametrize("weights", ["finetuned", "fixed"])
def test_seeds_start_from_the_pretrainings_in_turn(jets, pretrained, tmp_path, weights):
    """The second seed of two models is that of the second model alone; the third is the first's."""
    torch.manual_seed(15)
    other = tmp_path / "other"
    JetModel(PretrainingSettings(backbone=SMALL), n_codes=N_CODES, n_features=3).save(other)
    three = SHORT.model_copy(update={"n_seeds": 3})
    folders = {"both": (pretrained, (other,)), "first": (pretrained, ()), "second": (other, ())}
    found = {}
    for name, (folder, others) in folders.items():
        runner = Runner("tagging", Contender("main", weights, "NTP", folder, others), jets)
        result = run_study([runner], three, tmp_path / name, 1, False, workers=1)
        (row, *_) = result["tagging"]["rows"]
        found[name] = row["auc"], row.get("n_pretrainings")
    both, first, second = (found[name][0] for name in folders)
    assert both == [first[0], second[1], first[2]] and both != first
    assert [n for _, n in found.values()] == [2, None, None]


@pytest.mark.parametrize("weights", ["finetuned", "fixed"])
def test_seeds_by_size_are_the_first_of_more(jets, pretrained, tmp_path, weights):
    """Three fits of 10 jets and one of 20: those that three of every size would be."""
    by_size = SHORT.model_copy(update={"sizes": (10, 20), "n_seeds": ((10, 3), (20, 1))})
    everywhere = by_size.model_copy(update={"n_seeds": 3})
    runner = runners(jets, pretrained, (weights,))
    few, many = (
        run_study(runner, settings, tmp_path / str(settings.n_seeds), 1, False, workers=1)
        for settings in (by_size, everywhere)
    )
    found = [[row["auc"] for row in result["tagging"]["rows"]] for result in (few, many)]
    assert [len(row) for row in found[0]] == [3, 1] and [len(row) for row in found[1]] == [3, 3]
    assert found[0] == [found[1][0], found[1][1][:1]]
    assert few["tagging"]["n_leaked"] == 0


def test_leaked_jets_are_counted(jets, pretrained, tmp_path):
    leaky = Jets(jets.train, jets.val, jets.val)
    run_study(runners(leaky, pretrained, ("scratch",)), SHORT, tmp_path, 1, False, workers=1)
    assert Finetuning(tmp_path).n_leaked == len(jets.val.indices)


def test_the_papers_optimiser_and_patience():
    """2403.05618, appendix A 4: 20 epochs up to 10k jets, 10 up to a million, 5 beyond."""
    settings = FinetuningSettings()
    sizes = (100, 1000, 10_000, 100_000, 1_000_000, 2_000_000, 10_000_000)
    assert [settings.patience(size) for size in sizes] == [20, 20, 20, 10, 10, 5, 5]
    optimizer = settings.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.weight_decay) == ("adamw", 1e-4, 1e-2)


def test_numbers_by_size_hold_up_to_it():
    settings = FinetuningSettings(n_seeds=((100, 3), (1000, 2)))
    sizes = (1, 100, 101, 1000, 1001)
    assert [len(settings.seeds("tagging", size)) for size in sizes] == [3, 3, 2, 2, 2]
    assert len(FinetuningSettings(n_seeds=4).seeds("tagging", 10)) == 4
    for name in ("n_seeds", "patience_epochs"):
        for bad in (((100, 0),), ()):
            with pytest.raises(ValidationError, match=name):
                FinetuningSettings(**{name: bad})


def test_a_task_may_have_a_number_of_seeds_of_its_own():
    tasks = {
        "few": TaskSettings(n_seeds=2),
        "by-size": TaskSettings(n_seeds=((100, 5), (1000, 1))),
        "usual": TaskSettings(),
    }
    settings = FinetuningSettings(tasks=tasks, n_seeds=((100, 10), (1000, 3)))
    seeds = {name: [len(settings.seeds(name, size)) for size in (100, 1000)] for name in tasks}
    assert seeds == {"few": [2, 2], "by-size": [5, 1], "usual": [10, 3]}


def test_a_fit_stops_after_so_many_epochs_without_improvement(jets, monkeypatch):
    """Twenty jets in batches of ten, validated every fourth step: 3 epochs are 6 steps, two
    validations."""
    asked = {}

    def spy(training):
        asked["training"] = training.settings
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "fit", spy)
    settings = SETTINGS.model_copy(
        update={"small_batch_size": 10, "validate_every": 3, "patience_epochs": ((100, 3),)}
    )
    indices = jets.train.training_order(1)[:20]
    with pytest.raises(KeyboardInterrupt):
        study.train_and_test(torch.nn.Identity(), vars(jets), jets, indices, settings, None, 1)
    assert asked["training"].validate_every == 4 and asked["training"].patience == 2


@pytest.mark.parametrize(
    ("steps_per_epoch", "interval"),
    [
        (1, 20),  # tiny sets: several epochs, at least `validate_every` steps
        (7, 21),
        (20, 20),
        (99, 99),  # whole epochs, as in the papers
        (100, 20),  # within a single epoch, by steps
        (10_000, 20),
    ],
)
def test_trainings_are_validated_by_epochs_or_within_their_only_one(steps_per_epoch, interval):
    settings = FinetuningSettings(max_steps=100, validate_every=20)
    assert study.validation_interval(settings, steps_per_epoch) == interval


def test_a_missing_class_is_named(tmp_path):
    toy_store(tmp_path / "s", 10, 1, labels=(0, 1))
    with pytest.raises(JetfmError, match="Tbqq"):
        LabelledJets(tmp_path / "s", CLASSES)


def test_too_few_jets_for_any_size_is_an_error(jets, pretrained, tmp_path):
    settings = SETTINGS.model_copy(update={"sizes": (10_000,)})
    with pytest.raises(JetfmError, match="200 labelled"):
        run_study(runners(jets, pretrained), settings, tmp_path, 1, progress=False)


def test_a_backbone_of_other_features_is_refused(pretrained):
    full = Preprocessing(features=("pt", "eta_rel", "phi_rel", "charge"))
    with pytest.raises(JetfmError, match=r"a backbone of 3 features.*4: pt, eta_rel"):
        Contender("main", "finetuned", "NTP", pretrained).module(2, full, BaselineSettings())


@pytest.mark.parametrize("weights", WEIGHTS)
def test_tokens_of_another_tokenizer_are_refused(jets, tmp_path, weights):
    """By every start; a model whose tokens do not say where they are from is taken at its word."""
    settings = PretrainingSettings(backbone=GPT, head={"n_blocks": 0})
    JetModel(settings, n_codes=N_CODES, n_features=3, tokenizer_hash="mine").save(tmp_path)
    contender = Contender("main", weights, "NTP", tmp_path)
    for found in ("mine", None):
        contender.backbone(Preprocessing(), found)
    with pytest.raises(JetfmError, match="trained with tokenizer mine; expected tokenizer other"):
        contender.module(2, Preprocessing(), BaselineSettings(), "other")


def test_a_score_that_is_not_finite_stops_and_names_the_jet(jets, pretrained):
    module = JetClassifier(load_backbone(pretrained))
    torch.nn.init.constant_(module.head.out.bias, torch.nan)
    with pytest.raises(JetfmError, match="not finite, batch 0, jet"):
        study.log_probabilities(module, jets.test, jets.test)


def test_scores_are_in_the_order_of_the_jets(jets):
    class Oracle(torch.nn.Module):
        def forward(self, batch):
            n = batch["n_constituents"].float()
            return torch.stack([n, torch.zeros_like(n)], 1) / 10

    scores = study.log_probabilities(Oracle(), jets.test, jets.test)
    n = jets.test.store.n_constituents[jets.test.indices]
    np.testing.assert_allclose(scores[:, 0] - scores[:, 1], n / 10, rtol=1e-5)


def test_a_panel_says_what_the_papers_have_and_it_has_not(jets, pretrained, tmp_path):
    settings = SHORT.model_copy(update={"tasks": {"landscape": SETTINGS.tasks["tagging"]}})
    run_study(
        [Runner("landscape", Contender("main", "scratch", "NTP", pretrained), jets)],
        settings, tmp_path, 1, progress=False, workers=1,
    )  # fmt: skip
    results = Finetuning(tmp_path, {"main": "NTP"})
    panel = results.panel("landscape", "accuracy", "main *", "part *")
    wanted = ["NTP, backbone fixed", "NTP, fine-tuned", "Transformer, pair bias (ParT)"]
    assert panel["missing_contenders"] == wanted
    assert panel["missing_sizes"] == [100, 1000, 10_000, 100_000, 1_200_000]
    assert [line["text"] for line in panel["lines"]] == ["NTP, from scratch"]
