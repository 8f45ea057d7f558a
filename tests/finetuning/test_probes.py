"""Probes of a fixed backbone: what a jet's vector is, and classifiers that can be checked."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax

from jetfm.data.labelled import LabelledJets
from jetfm.errors import JetfmError
from jetfm.finetuning import Contender, Finetuning, Runner, probes, run_study, study
from jetfm.finetuning.encoded_jets import EncodedJets, encode
from jetfm.finetuning.own_jets import OwnJets, finetune_files
from jetfm.models.classifier import JetClassifier
from jetfm.models.jet_model import load_backbone
from jetfm.settings import PROBES, FinetuningSettings
from jetfm.storage.files import write_json
from tests.finetuning.test_study import (
    CLASSES,
    SETTINGS,
    SHORT,
    jets,  # noqa: F401
    omnijet,  # noqa: F401
    pretrained,  # noqa: F401
    token_jets,  # noqa: F401
)

LOSS = SETTINGS.model_copy(update={"monitor": "loss"})
ACCURACY = SETTINGS.model_copy(update={"monitor": "accuracy"})


def as_encoded(folder, vectors, labels, seed=0):
    """Jets of one constituent each, whose start and only constituent have a vector each."""
    folder.mkdir()
    np.save(folder / "hidden.npy", np.repeat(vectors, 2, axis=0).astype(np.float32))
    np.save(folder / "offsets.npy", 2 * np.arange(len(labels) + 1))
    np.save(folder / "jets.npy", np.arange(len(labels)))
    np.save(folder / "labels.npy", labels)
    write_json(folder / "encoded.json", {"n_jets": len(labels)})
    return EncodedJets(folder)


@pytest.fixture(scope="module")
def clouds(tmp_path_factory):
    """Gaussian clouds of three classes in the plane, of unit width, and their true posterior."""
    rng, folder = np.random.default_rng(4), tmp_path_factory.mktemp("clouds")
    centres = np.array([[0, 0], [4, 0], [0, 4]])
    sides, labels, points = {}, {}, {}
    for split, n in (("train", 300), ("val", 300), ("test", 600)):
        labels[split] = np.arange(n) % 3
        points[split] = centres[labels[split]] + rng.normal(size=(n, 2))
        sides[split] = as_encoded(folder / split, points[split], labels[split])
    indices = {split: np.arange(len(some)) for split, some in labels.items()}
    distance = ((points["test"][:, None] - centres) ** 2).sum(-1)
    return sides, indices, labels, points, log_softmax(-distance / 2, axis=1)


@pytest.mark.parametrize("probe", PROBES)
def test_clouds_are_told_apart_as_well_as_can_be(clouds, probe):
    sides, indices, labels, _, truth = clouds
    result, scores = probes.probe_and_test(probe, sides, indices, labels, 3, LOSS)
    assert scores.dtype == np.float32 and np.isfinite(scores).all()
    np.testing.assert_allclose(np.exp(scores).sum(1), 1, rtol=1e-5)
    best = (truth.argmax(1) == labels["test"]).mean()
    assert best > 0.95 and result["accuracy"] > best - 0.02
    found, least = (-some[np.arange(600), labels["test"]].mean() for some in (scores, truth))
    assert found < least + 0.05
    assert result["accuracy"] == np.mean(scores.argmax(1) == labels["test"])
    assert not result["cut"] and result["chosen"] in (probes.PENALTIES + probes.NEIGHBOURS)


def test_the_linear_probe_minimises_its_loss(clouds, tmp_path):
    """Mean cross-entropy and |w|^2 / 2 times the penalty, minimised by another method."""
    _, _, labels, points, _ = clouds
    x, y, penalty = points["train"], labels["train"], 1e-2
    log_p, _ = probes._linear(x, y, penalty)
    z = (x - x.mean(0)) / x.std(0)

    def loss(flat):
        weights, bias = flat[:6].reshape(2, 3), flat[6:]
        log_p = log_softmax(z @ weights + bias, axis=1)
        return -log_p[np.arange(len(y)), y].mean() + penalty * (weights**2).sum() / 2

    best = minimize(loss, np.zeros(9), method="BFGS", options={"gtol": 1e-7}).x
    new = (points["test"] - x.mean(0)) / x.std(0)
    expected = log_softmax(new @ best[:6].reshape(2, 3) + best[6:], axis=1)
    np.testing.assert_allclose(log_p(points["test"]), expected, atol=1e-4)


def test_two_classes_have_the_signs_of_more(clouds):
    """Of two classes scikit-learn gives one number a jet; the signal is the second."""
    _, _, labels, points, _ = clouds
    some, new = labels["train"] < 2, points["test"][labels["test"] < 2]
    y = labels["test"][labels["test"] < 2]
    log_p, _ = probes._linear(points["train"][some], labels["train"][some], 1e-2)
    scores = log_p(new)
    np.testing.assert_allclose(np.exp(scores).sum(1), 1)
    assert (scores.argmax(1) == y).mean() > 0.95


@pytest.mark.parametrize("n", [1, 3, 10])
def test_neighbours_by_a_direct_sum(clouds, n):
    _, _, labels, points, _ = clouds
    x, y, new = points["train"] * [1, 50], labels["train"], points["test"][:40] * [1, 50]
    log_p, _ = probes._neighbours(x, y, n)
    for one, found in zip(new, log_p(new), strict=True):
        distance = np.sqrt((((x - one) / x.std(0)) ** 2).sum(1))
        nearest = np.argsort(distance)[:n]
        weights = 1 / distance[nearest]
        shares = [weights[y[nearest] == label].sum() / weights.sum() for label in range(3)]
        np.testing.assert_allclose(np.exp(found), (n * np.array(shares) + 1 / 3) / (n + 1))


def test_the_validation_jets_choose_what_stops_the_fits_too(clouds, monkeypatch):
    """By accuracy of equally good ones the most neighbours: a training jet itself is at no distance
    and decides alone. By loss many, where half of the labels are noise."""
    sides, indices, labels, *_ = clouds
    same = sides | {"val": sides["train"]}, indices | {"val": indices["train"]}
    result, _ = probes.probe_and_test(
        "neighbours", *same, labels | {"val": labels["train"]}, 3, ACCURACY
    )
    train = (probes.pooled(sides["train"], indices["train"]), labels["train"])
    exact = [np.mean(probes._neighbours(*train, n)[0](train[0]).argmax(1) == train[1])
             for n in (300, 1)]  # fmt: skip
    assert exact == [1, 1] and result["chosen"] == 300
    rng = np.random.default_rng(1)
    noisy = {
        split: np.where(rng.random(len(some)) < 0.5, rng.integers(0, 3, len(some)), some)
        for split, some in labels.items()
    }
    result, _ = probes.probe_and_test("neighbours", sides, indices, noisy, 3, LOSS)
    assert result["chosen"] >= 30


def test_a_vector_is_start_mean_and_maximum(jets, pretrained, tmp_path):  # noqa: F811
    """Of each jet's own positions, whatever stands beside it, empty ones included."""
    side, some = jets.train, jets.train.indices[:9]
    classifier = JetClassifier(load_backbone(pretrained)).eval()
    encode(classifier.backbone, side, some, tmp_path / "e", classifier.causal)
    found = probes.pooled(EncodedJets(tmp_path / "e"), some[::-1])[::-1]
    for jet, vector in zip(some, found, strict=True):
        batch = side.batch(np.array([jet]))
        with torch.no_grad():
            hidden, _ = classifier.backbone(
                batch["x"], batch["mask"], batch["n_constituents"], causal=False
            )
        hidden = hidden[0].numpy()
        expected = np.hstack([hidden[0], hidden[1:].mean(0), hidden[1:].max(0)])
        np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)
    empty = as_encoded(tmp_path / "one", np.ones((2, 4)), np.zeros(2, np.int64))
    empty._offsets = np.array([0, 1, 3])  # the first has its start alone
    vectors = probes.pooled(empty, np.array([0, 1]))
    np.testing.assert_array_equal(vectors, [[1] * 4 + [0] * 8, [1] * 12])


def test_a_vector_does_not_depend_on_the_order_of_constituents(
    jets,  # noqa: F811
    pretrained,  # noqa: F811
    tmp_path,
):
    classifier, side = JetClassifier(load_backbone(pretrained)).eval(), jets.train

    class Shuffled(LabelledJets):
        def batch(self, indices):
            batch = super().batch(indices)
            order = torch.where(batch["mask"], torch.rand(batch["mask"].shape), 2).argsort(1)
            index = order[..., None].expand_as(batch["x"])
            return batch | {"x": batch["x"].gather(1, index)}

    torch.manual_seed(2)
    some, found = side.indices[:20], []
    for kind in (LabelledJets, Shuffled):
        folder = tmp_path / kind.__name__
        encode(classifier.backbone, kind(side.folder, CLASSES), some, folder, False)
        found.append(probes.pooled(EncodedJets(folder), some))
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-4)


def test_probes_of_every_backbone_in_the_study(
    jets,  # noqa: F811
    token_jets,  # noqa: F811
    pretrained,  # noqa: F811
    omnijet,  # noqa: F811
    tmp_path,
):
    """Beside heads, on the jets that were encoded for all, and again the same."""
    starts = ("fixed", *PROBES)
    some = [
        Runner("tagging", Contender(name, weights, "NTP", folder), side)
        for name, folder, side in (("main", pretrained, jets), ("omnijet", omnijet, token_jets))
        for weights in starts
    ]
    settings = SETTINGS.model_copy(update={"sizes": (20, 60), "n_seeds": 2})
    first = run_study(some, settings, tmp_path / "1", 1, progress=False, workers=1)
    again = run_study(some, settings, tmp_path / "2", 1, progress=False, workers=2)
    assert again == first
    task = Finetuning(tmp_path / "1")["tagging"]
    assert {path.name for path in (tmp_path / "1/training/encoded/tagging").iterdir()} == {
        "main", "omnijet",
    }  # fmt: skip
    rows = {(row["model"], row["weights"], row["size"]): row for row in first["tagging"]["rows"]}
    for (model, weights, size), row in rows.items():
        if weights in PROBES:
            assert row.keys() - {"chosen"} == rows[model, "fixed", size].keys()
            assert np.mean(row["auc"]) > 0.9, (model, weights, size)
            right = task.correct(model, weights, size).mean(1)
            np.testing.assert_allclose(right, row["accuracy"])
    texts = [line["text"] for line in task.curves("accuracy", task.contenders)]
    assert texts[:3] == ["NTP, backbone fixed", "NTP, linear probe", "NTP, nearest neighbours"]


@pytest.mark.parametrize("probe", PROBES)
def test_test_jets_are_seen_once_and_last(
    jets,  # noqa: F811
    pretrained,  # noqa: F811
    tmp_path,
    monkeypatch,
    probe,
):
    runner = Runner("tagging", Contender("main", probe, "NTP", pretrained), jets)
    study._encode(runner, (20,), SHORT, tmp_path, 1)
    asked: list[tuple[str, set]] = []
    original = EncodedJets.batch

    def spy(side, indices):
        asked.append((side.folder.name, set(map(int, indices))))
        return original(side, indices)

    monkeypatch.setattr(EncodedJets, "batch", spy)
    study.one_fit(runner, 20, 0, SHORT, tmp_path, 1)
    assert [split for split, _ in asked] == ["train", "val", "test"]
    assert asked[0][1] == set(jets.train.training_order(1000)[:20].tolist())
    assert asked[1][1] == set(jets.val.indices.tolist())
    assert asked[2][1] == set(jets.test.indices.tolist())


def test_a_class_without_a_training_jet_is_told(clouds):
    sides, indices, labels, *_ = clouds
    few = indices | {"train": np.array([0, 1])}, labels | {"train": np.array([0, 1])}
    with pytest.raises(
        JetfmError, match="linear probe.*2 training jets of 2 classes.*each of the 3"
    ):
        probes.probe_and_test("linear", sides, *few, 3, LOSS)


@pytest.mark.parametrize("weights", PROBES)
def test_own_jets_take_no_probe(tmp_path, weights):
    own = OwnJets(train=tmp_path, test=tmp_path)
    contender = Contender("main", weights, folder=tmp_path)
    with pytest.raises(JetfmError, match=f"'{weights}'; expected one of scratch, fixed, finetuned"):
        finetune_files(own, contender, FinetuningSettings(), tmp_path / "out", 1)
