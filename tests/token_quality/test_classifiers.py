"""Classifiers on tokenised jets: equal conditions for every input, and exact resumption."""

from __future__ import annotations

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing
from jetfm.schema import CONSTITUENT_FEATURES, KINEMATICS
from jetfm.settings import OptimizerSettings, TokenQualitySettings, TrainingSettings
from jetfm.token_quality import classifiers
from jetfm.token_quality.classifiers import ClassifierJets, TokenClassifiers, run_study

LOG = Preprocessing(pt_map="log")
TRAINING = TrainingSettings(
    batch_size=50,
    max_steps=45,
    validate_every=15,
    optimizer=OptimizerSettings(name="adamw", lr=4e-3, warmup_steps=0),
)
FASTER = TRAINING.model_copy(
    update={
        "max_steps": 20,
        "validate_every": 10,
        "optimizer": OptimizerSettings(name="adamw", lr=1e-2, warmup_steps=0),
    }
)
SETTINGS = TokenQualitySettings(
    n_train=240,
    n_seeds=2,
    deepsets={"training": TRAINING},
    transformer={"training": FASTER, "dim": 16, "n_blocks": 1, "n_heads": 2},
)
SHORT_TRAINING = TRAINING.model_copy(update={"max_steps": 12, "validate_every": 3})
SHORT = SETTINGS.model_copy(
    update={
        name: getattr(SETTINGS, name).model_copy(update={"training": SHORT_TRAINING})
        for name in classifiers.CLASSIFIERS
    }
)


def charged_store(folder, n_jets, seed) -> JetStore:
    """Jets of two classes that differ in the charge of their constituents alone."""
    rng = np.random.default_rng(seed)
    label = np.resize((0, 8), n_jets)
    counts = rng.integers(5, 15, n_jets)
    jets = np.zeros(n_jets, JET_DTYPE)
    jets["label"] = label
    constituents = np.zeros((counts.sum(), len(CONSTITUENT_FEATURES)))
    constituents[:, 0] = rng.exponential(20, counts.sum()) + 0.5
    constituents[:, 1:3] = rng.normal(0, 0.2, (counts.sum(), 2))
    constituents[:, CONSTITUENT_FEATURES.index("charge")] = np.repeat(np.sign(label - 4), counts)
    with JetStoreWriter(folder, CONSTITUENT_FEATURES) as writer:
        writer.append(constituents, counts, jets)
    return JetStore(folder)


def toy_store(folder, n_jets, seed, labels=(8, 0, 1, -1)) -> JetStore:
    """QCD jets are narrow, Hbb jets wider, Tbqq jets wide; one jet in four has no label."""
    rng = np.random.default_rng(seed)
    label = np.resize(labels, n_jets)
    counts = rng.integers(5, 15, n_jets)
    width = np.repeat(np.select([label == 8, label == 1], [1.0, 0.25], 0.03), counts)
    angles = rng.normal(0, width[:, None], (counts.sum(), 2))
    jets = np.zeros(n_jets, JET_DTYPE)
    jets["label"] = label
    with JetStoreWriter(folder, KINEMATICS) as writer:
        constituents = np.column_stack([rng.exponential(20, counts.sum()) + 0.5, angles])
        writer.append(constituents, counts, jets)
    return JetStore(folder)


def tokens_of(
    store, folder, preprocessing=LOG, change=lambda decoded: decoded, n_codes=512, kind=None
):
    """A token store that decodes to the store's constituents, or to a change of them; features of
    `kind` are the store's, further ones are 1."""
    physical, mask = store.dense(slice(None), features=(kind or Preprocessing()).features)
    missing = preprocessing.n_features - physical.shape[-1]
    physical = np.concatenate([physical, np.ones((*mask.shape, missing), np.float32)], axis=-1)
    decoded = change(preprocessing.forward(physical, mask))
    with TokenStoreWriter(folder, n_codes, preprocessing.n_features) as writer:
        writer.append(np.zeros(mask.shape, int), decoded, mask, store.labels)
    return TokenStore(folder)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Original jets, the same from lossless tokens, and from tokens without information."""
    folder, rng = tmp_path_factory.mktemp("jets"), np.random.default_rng(5)

    def noise(decoded):
        return rng.normal(0, 1, decoded.shape).astype(np.float32)

    inputs = {"original": {}, "lossless": {}, "destroyed": {}}
    for seed, (split, n_jets) in enumerate({"train": 400, "val": 120, "test": 400}.items()):
        store = toy_store(folder / split, n_jets, seed)
        inputs["original"][split] = ClassifierJets(store)
        lossless = tokens_of(store, folder / f"lossless-{split}")
        inputs["lossless"][split] = ClassifierJets(lossless, LOG)
        destroyed = tokens_of(store, folder / f"destroyed-{split}", change=noise, n_codes=8192)
        inputs["destroyed"][split] = ClassifierJets(destroyed, LOG)
    return inputs


# Features ----------------------------------------------------------------------------------------

FULL = Preprocessing(features=CONSTITUENT_FEATURES)


@pytest.fixture(scope="module")
def charged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("charged")
    sizes = {"train": 240, "val": 60, "test": 200}
    return {
        split: charged_store(folder / split, n, i) for i, (split, n) in enumerate(sizes.items())
    }


def test_all_features_are_seen_by_the_classifiers_of_all_features_alone(charged, tmp_path):
    """What only the charge tells, a study of the kinematics cannot find, and one of all can."""
    for features, expected in (("full", 1.0), ("kinematics", 0.5)):
        original = {s: ClassifierJets(store, features=features) for s, store in charged.items()}
        decoded = {
            split: ClassifierJets(
                tokens_of(store, tmp_path / features / split, FULL, kind=FULL), FULL, 128, features
            )
            for split, store in charged.items()
        }
        inputs = {"original": original, "lossless": decoded}
        found = run_study(inputs, SHORT, tmp_path / f"study-{features}", 1, progress=False)
        for row in found["rows"]:
            assert np.mean(row["accuracy"]) == pytest.approx(expected, abs=0.12), row


def test_the_original_batch_of_all_features_comes_back_from_lossless_tokens(charged, tmp_path):
    store = charged["val"]
    tokens = tokens_of(store, tmp_path, FULL, kind=FULL)
    original = ClassifierJets(store, features="full").batch(np.arange(7))
    found = ClassifierJets(tokens, FULL, features="full").batch(np.arange(7))
    torch.testing.assert_close(found["x"], original["x"], rtol=1e-5, atol=1e-5)
    assert original["x"].shape[-1] == 14


def test_tokens_of_too_few_features_and_of_others_than_the_original_are_refused(charged, tmp_path):
    tokens = tokens_of(charged["val"], tmp_path, LOG, kind=LOG)
    with pytest.raises(JetfmError, match="decode to 3 features; expected 14"):
        ClassifierJets(tokens, LOG, features="full")
    inputs = {
        "original": {s: ClassifierJets(store) for s, store in charged.items()},
        "t": {s: ClassifierJets(store, features="full") for s, store in charged.items()},
    }
    with pytest.raises(JetfmError, match="features 'full'; expected 'kinematics'"):
        run_study(inputs, SHORT, tmp_path / "study", 1, progress=False)


# Jets --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "preprocessing", [Preprocessing(), LOG, Preprocessing(features=CONSTITUENT_FEATURES)]
)
def test_lossless_tokens_give_the_original_batch(inputs, tmp_path, preprocessing):
    original = inputs["original"]["val"]
    tokens = tokens_of(original.store, tmp_path, preprocessing)
    some = original.indices[[7, 3, 50]]
    expected, found = original.batch(some), ClassifierJets(tokens, preprocessing).batch(some)
    torch.testing.assert_close(found["x"], expected["x"], rtol=1e-5, atol=1e-5)
    assert expected["x"].dtype == found["x"].dtype == torch.float32
    assert torch.equal(found["mask"], expected["mask"])
    assert torch.equal(found["label"], expected["label"])


def test_labels_count_the_classes_that_there_are(inputs):
    jets = inputs["original"]["train"]
    assert jets.class_names == ["QCD", "Hbb", "Tbqq"]
    assert (jets.labels[jets.store.labels == 8] == 2).all()
    assert (jets.labels[jets.store.labels == -1] == -1).all()
    assert set(jets.labels[jets.indices]) == {0, 1, 2} and len(jets.indices) == 300


def test_long_jets_keep_their_leading_constituents(inputs):
    store = inputs["original"]["val"].store
    jets = ClassifierJets(store, max_constituents=6)
    batch = jets.batch(jets.indices)
    assert batch["x"].shape[1] == 6 and jets.lengths.max() == 6
    full = inputs["original"]["val"].batch(jets.indices)
    assert torch.equal(batch["x"], full["x"][:, :6])
    with pytest.raises(JetfmError, match="14 tokens.*at most 6"):  # whose order is not known
        ClassifierJets(inputs["lossless"]["val"].store, LOG, max_constituents=6)


def test_odd_constituents_are_fine(inputs, tmp_path):
    def odd(decoded):
        decoded[..., 0] = -500  # exp(-498) GeV is zero
        decoded[..., 1:] = 30
        return decoded

    original = inputs["original"]["val"]
    jets = ClassifierJets(tokens_of(original.store, tmp_path, change=odd), LOG)
    batch = jets.batch(jets.indices)
    assert torch.isfinite(batch["x"]).all()
    real = batch["x"][batch["mask"]]
    torch.testing.assert_close(real[:, 0], torch.full((len(real),), 1e-5 - 1.8))


@pytest.mark.parametrize("value", [np.nan, 1e4])
def test_a_constituent_that_is_not_finite_names_its_jet(inputs, tmp_path, value):
    def spoil(decoded):
        decoded[9, 0, 0] = value
        return decoded

    store = inputs["original"]["val"].store
    jets = ClassifierJets(tokens_of(store, tmp_path, change=spoil), LOG)
    with pytest.raises(JetfmError, match="not finite, jet 9"):
        jets.batch(np.array([4, 9]))
    jets.batch(np.array([4, 5]))


def test_tokens_need_their_preprocessing_and_originals_none(inputs):
    with pytest.raises(JetfmError, match="token store without preprocessing"):
        ClassifierJets(inputs["lossless"]["val"].store)
    with pytest.raises(JetfmError, match="jets store with preprocessing"):
        ClassifierJets(inputs["original"]["val"].store, LOG)


def test_one_class_is_not_enough(tmp_path):
    with pytest.raises(JetfmError, match="1 classes"):
        ClassifierJets(toy_store(tmp_path, 20, 1, labels=(8, -1)))


@pytest.mark.parametrize("name", ["original", "lossless"])
def test_jets_travel_light(inputs, name):
    jets = inputs[name]["train"]
    packed = pickle.dumps(jets)
    assert len(packed) < 1000
    some = jets.indices[:5]
    again = pickle.loads(packed)
    assert again.n_codes == jets.n_codes
    assert torch.equal(again.batch(some)["x"], jets.batch(some)["x"])


def test_training_jets_are_balanced_nested_and_without_repetition(inputs, tmp_path):
    jets = inputs["original"]["train"]
    order = jets.balanced_order(3)
    assert np.array_equal(np.sort(order), jets.indices)
    for n in (3, 30, 240):
        assert (np.bincount(jets.labels[order[:n]]) == n // 3).all()
    assert not np.array_equal(order, jets.balanced_order(4))
    uneven = ClassifierJets(toy_store(tmp_path, 60, 1, labels=(8, 8, 8, 0)))
    order = uneven.balanced_order(0)
    assert np.bincount(uneven.labels[order[:40]]).tolist() == [15, 25]
    assert len(order) == 60


# Study -------------------------------------------------------------------------------------------


def test_study_sees_what_tokens_keep_and_what_they_lose(inputs, tmp_path):
    result = run_study(inputs, SETTINGS, tmp_path, 1, progress=False, workers=1)
    study = TokenClassifiers(tmp_path)
    for classifier in classifiers.CLASSIFIERS:
        original = study.accuracies(classifier, "original")
        assert original.shape == (2,) and original.min() > 0.9
        # the same up to rounding: same jets, same batches, same initial weights
        lossless = study.accuracies(classifier, "lossless")
        np.testing.assert_allclose(lossless, original, atol=0.05)
        chance = study.accuracies(classifier, "destroyed")
        assert np.abs(chance - 1 / 3).max() < 0.1  # four standard deviations of 300 jets
    assert len(study.rows) == 6 and study.rows == result["rows"]
    assert [row["n_codes"] for row in study.rows[:3]] == [None, 512, 8192]
    assert result["n_train"] == 240 and result["n_val"] == 90 and result["n_test"] == 300
    assert result["classes"] == ["QCD", "Hbb", "Tbqq"]
    assert study.n_leaked == 0
    data = study.figure_data()
    assert data["missing"] == [2048, 4096] and data["n_train"] == 240
    assert len(study.as_text().splitlines()) == 8
    with pytest.raises(JetfmError, match="no deepsets on nothing"):
        study.accuracies("deepsets", "nothing")


def test_every_input_has_the_same_jets_batches_and_initial_weights(inputs, tmp_path, monkeypatch):
    seen = {}

    def spy(training):
        steps = [training.batches(step) for step in range(7)]  # more than an epoch
        seen[run] = {
            "labels": [b["label"].tolist() for b in steps],
            "lengths": [b["mask"].sum(1).tolist() for b in steps],
            "validation": [b["label"].tolist() for b in training.validation],
            "weights": [p.detach().clone() for p in training.module.parameters()],
            "seed": training.seed,
        }
        return SimpleNamespace(steps={})

    monkeypatch.setattr(classifiers, "fit", spy)
    for classifier in classifiers.CLASSIFIERS:
        for name, jets in inputs.items():
            for repetition in range(2):
                run = (classifier, name, repetition)
                classifiers.one_fit(
                    jets, SHORT, classifier, repetition, tmp_path / "fit.json", seed=4
                )
    for (classifier, _, repetition), found in seen.items():
        expected = seen[classifier, "original", repetition]
        for key in ("labels", "lengths", "validation", "seed"):
            assert found[key] == expected[key]
        for ours, theirs in zip(found["weights"], expected["weights"], strict=True):
            assert torch.equal(ours, theirs)
        other = seen[classifier, "original", 1 - repetition]
        assert found["labels"] != other["labels"]
        assert sorted(sum(found["labels"][:5], [])) == sorted(sum(other["labels"][:5], []))
        assert not torch.equal(found["weights"][-2], other["weights"][-2])


@pytest.mark.soak  # in `make test`: fine-tuning's fits, which are run alike
def test_two_workers_and_an_interruption_change_nothing(inputs, tmp_path, monkeypatch):
    some = {name: inputs[name] for name in ("original", "destroyed")}
    one = SHORT.model_copy(update={"n_seeds": 1})
    whole = run_study(some, one, tmp_path / "whole", 1, progress=False, workers=1)
    original, calls = ClassifierJets.batch, []

    def fails_in_the_second_fit(jets, indices):
        calls.append(indices)
        if len(calls) == 29:  # 12 steps, 4 validations and a test make 17
            raise KeyboardInterrupt
        return original(jets, indices)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ClassifierJets, "batch", fails_in_the_second_fit)
        run_study(some, one, tmp_path / "cut", 1, progress=False, workers=1)
    training = tmp_path / "cut" / "training"
    assert [path.name for path in training.glob("*.json")] == ["deepsets_original_0.json"]
    assert (training / "deepsets_destroyed_0" / "last.ckpt").exists()  # in the middle of it
    resumed = run_study(some, one, tmp_path / "cut", 1, progress=False, workers=2)
    assert resumed == whole


def test_the_most_expensive_fits_come_first(inputs, tmp_path, monkeypatch):
    class Enough(Exception):
        pass

    def spy(function, tasks, *args):
        names.extend(task[2] for task in tasks)
        raise Enough

    monkeypatch.setattr(classifiers, "run_fits", spy)
    long = SHORT_TRAINING.model_copy(update={"max_steps": 10_000})
    for name in classifiers.CLASSIFIERS:
        names = []
        longer = getattr(SHORT, name).model_copy(update={"training": long})
        with pytest.raises(Enough):
            run_study(inputs, SHORT.model_copy(update={name: longer}), tmp_path, 1)
        assert names[:6] == [name] * 6 and len(names) == 12


def test_leaked_jets_are_counted(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(classifiers, "run_fits", lambda *args: None)
    monkeypatch.setattr(classifiers, "read_json", lambda path: dict.fromkeys(keys, 0.5))
    keys = ("accuracy", "loss", "best_step", "last_step")
    clean = {"original": inputs["original"]}
    assert run_study(clean, SHORT, tmp_path, 1)["n_leaked"] == 0
    original = dict(inputs["original"])
    for split in ("train", "val"):
        leaky = {"original": original | {"test": original[split]}}
        n_leaked = run_study(leaky, SHORT, tmp_path, 1)["n_leaked"]
        assert n_leaked == {"train": 240, "val": 90}[split]


def test_inputs_must_be_the_same_jets(inputs, tmp_path):
    original = inputs["original"]
    reordered = toy_store(tmp_path / "a", 400, 0, labels=(0, 8, 1, -1))
    longer = toy_store(tmp_path / "b", 400, 3)
    two = toy_store(tmp_path / "c", 120, 1, labels=(0, 8))
    train = {
        "other classes": ClassifierJets(tokens_of(reordered, tmp_path / "d"), LOG),
        "other jets": ClassifierJets(tokens_of(longer, tmp_path / "e"), LOG),
        "shorter": inputs["lossless"]["val"],
    }
    cases = [
        ({"tokens": inputs["lossless"]}, "'original' first"),
        ({}, "found nothing"),
        ({"original": {"train": original["train"]}}, "splits train, val, test"),
        ({"original": inputs["lossless"]}, "reconstructed"),
        ({"original": original | {"val": ClassifierJets(two)}}, "QCD, Tbqq; expected QCD, Hbb"),
        ("other classes", "jet 0, 0 as its class; expected 8"),
        ("other jets", "constituents; expected"),
        ("shorter", "120 jets"),
    ]
    for case, message in cases:
        if isinstance(case, str):
            case = {"original": original, "t": inputs["lossless"] | {"train": train[case]}}
        with pytest.raises(JetfmError, match=message):
            run_study(case, SHORT, tmp_path, 1, progress=False)


def test_a_score_that_is_not_finite_stops_and_names_the_jet(inputs):
    jets = inputs["original"]["test"]
    network = classifiers.make_classifier("deepsets", SETTINGS.deepsets, jets, seed=0)
    torch.nn.init.constant_(network.f[-1].bias, torch.nan)
    with pytest.raises(JetfmError, match="not finite, jet"):
        classifiers.evaluate(network, jets)


def test_evaluation_pairs_scores_with_their_labels(inputs):
    jets = inputs["original"]["test"]

    class Width(torch.nn.Module):
        def forward(self, x, mask):
            width = x[..., 1:].abs().sum((1, 2)) / mask.sum(1)
            return torch.stack([-width, width - 1, width], 1)

    labels, logits = classifiers.evaluate(Width(), jets)
    assert sorted(labels) == sorted(jets.labels[jets.indices])
    assert logits[labels == 2, 2].min() > logits[labels == 0, 2].max()
