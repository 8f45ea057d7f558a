"""What displays show of a jet: equal to what the library says of it elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from jetfm.data.labelled import LabelledJets
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.explore.jet import KINDS, jet_in, jet_of, observables_of
from jetfm.explore.nearest import RealJets
from jetfm.explore.removal import ORDERS, removal
from jetfm.explore.tokens import tokenised
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.samples import decoded_sample, original_sample
from jetfm.physics.energy_mover import energy_mover_distance
from jetfm.schema import KINEMATICS
from jetfm.tokenizers.encoding import tokenize
from tests.explore.toy_jets import CLASSES, COUNTS, classifier_of, store_of, tokenizer_of
from tests.judging.jet_samples import random_sample
from tests.physics.test_energy_mover import rotated

TOKENIZERS = {
    "conditional": {"preset": "omnijet"},
    "unconditional": {"preset": "omnijet-unconditional", "order": "random"},
    "binned": {"preset": "binned", "bins": [8, 8, 8], "order": "random"},
    "full": {"features": "full", "order": "pt"},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("identified"))


def test_the_mass_of_two_constituents_is_what_one_calculates(store):
    jet = jet_of(store, 4)  # the first of two constituents
    (pt, eta, phi), (pt2, eta2, phi2) = jet.constituents
    expected = math.sqrt(2 * pt * pt2 * (math.cosh(eta - eta2) - math.cos(phi - phi2)))
    found = observables_of(jet.constituents)
    assert found["jet_mass"] == pytest.approx(expected) and found["n_constituents"] == 2
    assert math.isnan(found["tau32"])


@pytest.mark.parametrize("index", range(2 * len(COUNTS)))
def test_a_jet_is_its_constituents_their_kinds_and_its_class(store, index):
    jet, n = jet_of(store, index), min(COUNTS[index // 2], 128)
    rows = store.constituents[store.offsets[index] :][:n]
    assert np.array_equal(jet.constituents, rows[:, :3]) and jet.class_name == CLASSES[index % 2]
    flags = rows[:, store.columns(KINDS)]
    assert flags[np.arange(n), jet.kinds].all()
    assert observables_of(jet.constituents)["n_constituents"] == n


def test_jets_of_other_detectors_have_no_kinds(tmp_path):
    assert jet_of(store_of(tmp_path, (3,), features=KINEMATICS), 0).kinds is None


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_decoded_jet_is_that_of_the_tokenizers_interface(store, tmp_path, name):
    """Ids, constituents and observables, for jets of 0 to 130 constituents."""
    tokenizer = tokenizer_of(**TOKENIZERS[name])
    if name == "binned":
        tokenizer.fit(store, store, tmp_path / "fit", 1, progress=False)
    tokens = tokenize(tokenizer, store, tmp_path, (1,), progress=False, batch_size=1)
    sample = decoded_sample(tokens, tokenizer.preprocessing)
    for index in range(len(store)):
        found, rows = tokenised(tokenizer, store, index), slice(*tokens.offsets[index : index + 2])
        order = np.argsort(tokens.positions[rows])
        assert np.array_equal(found.positions, tokens.positions[rows][order])
        assert np.array_equal(found.ids, tokens.ids[rows][order])
        np.testing.assert_allclose(
            found.constituents, sample.constituents[rows][order], rtol=1e-4, atol=1e-5
        )
        for quantity, value in observables_of(found.constituents).items():
            expected = sample.observables[quantity][index]
            assert value == pytest.approx(expected, rel=1e-3, abs=1e-3, nan_ok=True)
    assert len(found.ids) > 50


@pytest.fixture(scope="module")
def real():
    """Jets of 0 to 30 constituents, and all of them as possible neighbours."""
    counts = [0, 1, 2, *np.random.default_rng(2).integers(3, 31, 60)]
    return RealJets(random_sample(5, counts))


def test_a_copy_is_nearest_to_its_original_wherever_it_lies(real):
    rng = np.random.default_rng(4)
    for index in range(2, len(real)):
        jet = rng.permutation(jet_in(real.sample, index).constituents)
        for copy in (jet, jet + [0, 0.1, -0.2]):
            found = real.nearest(copy)
            assert found.index == index and found.distance == pytest.approx(0, abs=1e-9)


def test_a_jet_that_is_turned_is_another_one_as_its_distance_says(real):
    """Observables are those of its original; constituents are not, and may lie nearer to others."""
    jet = jet_in(real.sample, 20).constituents
    jet = jet - [0, *np.average(jet[:, 1:], axis=0, weights=jet[:, 0])]
    turned = rotated(jet, math.pi / 2)
    found, own = real.nearest(turned), energy_mover_distance(turned, jet)
    every = [
        energy_mover_distance(turned, jet_in(real.sample, i).constituents)
        for i in range(1, len(real))
    ]
    assert 0.05 < min(every) <= own
    assert found.distance == pytest.approx(min(every)) and found.index == 1 + np.argmin(every)


def test_the_smallest_jets_have_neighbours(real):
    found = [real.nearest(jet_in(real.sample, index).constituents) for index in (0, 1, 2)]
    assert [one.index for one in found[1:]] == [1, 2]
    assert math.isnan(found[0].distance) and found[0].index != 0


def test_no_jet_with_constituents_is_an_error():
    with pytest.raises(JetfmError, match="real jets: found no constituents"):
        RealJets(JetSample(np.zeros((0, 3)), np.array([0, 0])))


@pytest.mark.parametrize("first", ORDERS)
@pytest.mark.parametrize("limit", [20, 128])
def test_the_curve_ends_at_the_score_of_the_whole_jet(store, first, limit):
    classifier = classifier_of(limit)
    jets = LabelledJets(store.folder, CLASSES, max_constituents=limit)
    for index in range(len(store)):
        with torch.no_grad():
            logits = classifier.network(jets.batch(np.array([index])))
        found = removal(classifier, store, index, first)
        expected = logits.double().softmax(1)[0].numpy()
        np.testing.assert_allclose(found.probabilities[-1], expected, atol=1e-6)
        n = min(store.n_constituents[index], limit)
        assert found.kept.tolist() == list(range(min(n, 1), n + 1))
        assert (np.diff(found.pt) > 0).all(), "pt only falls as constituents go"
        assert found.pt[-1] == pytest.approx(jet_of(store, index, limit).constituents[:, 0].sum())
        np.testing.assert_allclose(found.probabilities.sum(1), 1)


def test_what_is_left_scores_as_a_jet_that_never_had_the_rest(store, tmp_path):
    classifier, index = classifier_of(), 9
    rows = store.constituents[slice(*store.offsets[index : index + 2])]
    n, kept = len(rows), 7
    parts = {"softest": rows[:kept], "hardest": rows[n - kept :]}
    for first, part in parts.items():
        jets = np.zeros(2, JET_DTYPE)
        jets["label"] = 0, 8
        with JetStoreWriter(tmp_path / first, store.features) as writer:
            writer.append(np.concatenate([part, part]), [kept, kept], jets)
        alone = removal(classifier, JetStore(tmp_path / first), 0)
        found = removal(classifier, store, index, first)
        np.testing.assert_allclose(
            found.probabilities[kept - 1], alone.probabilities[-1], atol=1e-6
        )
    scores = [removal(classifier, store, index, first).probabilities[kept - 1] for first in ORDERS]
    assert np.abs(scores[0] - scores[1]).max() > 1e-3, "which are left matters"


def test_both_orders_share_the_jet_out(store):
    soft, hard = (removal(classifier_of(), store, 8, first) for first in ORDERS)
    total = soft.pt[-1]
    np.testing.assert_allclose(soft.pt[:-1] + hard.pt[-2::-1], total, rtol=1e-5)
    assert soft.pt[0] > hard.pt[0]


def test_another_order_is_refused(store):
    with pytest.raises(JetfmError, match="'middle'; expected softest or hardest"):
        removal(classifier_of(), store, 8, "middle")


def test_a_classifier_of_tokens_is_refused(store):
    with pytest.raises(JetfmError, match="reads tokens; expected one that reads constituents"):
        removal(classifier_of(tokenizer=tokenizer_of(preset="omnijet")), store, 8)


def test_generated_jets_lose_what_is_not_physical():
    sample = JetSample(np.array([[1.0, 0, 0], [np.nan, 0, 0], [5.0, 0.1, 0]]), np.array([0, 3]))
    assert jet_in(sample, 0).constituents[:, 0].tolist() == [5.0, 1.0]


def test_real_jets_come_with_their_classes(store):
    real = RealJets(original_sample(store, 128))
    jet = jet_of(store, 8)
    assert real.nearest(jet.constituents).jet.class_name == jet.class_name
