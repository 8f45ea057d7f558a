"""Samples come back as they were made, and both truths are the same jets."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.generation.autoregressive import GeneratedJets
from jetfm.generation.flow import FlowJets
from jetfm.judging.samples import (
    decoded_sample,
    original_sample,
    read_generated,
    seconds_per_1000,
    write_generated,
)
from jetfm.physics.features import Preprocessing
from jetfm.schema import class_by_name
from tests.judging.jet_samples import random_sample, sample_of

SPACE = Preprocessing()
COUNTS = np.array([0, 3, 150, 1, 2, 40, 5, 7])
LABELS = [class_by_name(name).index for name in ("QCD", "Tbqq")] * 4


@pytest.fixture
def stores(tmp_path):
    """The same jets as they are, and as tokens that cost no resolution; capped at 128."""
    jets = random_sample(1, COUNTS)
    rows = np.zeros(len(COUNTS), JET_DTYPE)
    rows["label"] = LABELS
    with JetStoreWriter(tmp_path / "jets", ("pt", "eta_rel", "phi_rel")) as writer:
        writer.append(jets.constituents, COUNTS, rows)
    store = JetStore(tmp_path / "jets")
    physical, mask = store.dense(np.arange(len(COUNTS)), 128)
    ids = np.arange(mask.size).reshape(mask.shape)
    with TokenStoreWriter(tmp_path / "tokens", mask.size) as writer:
        decoded = SPACE.forward(physical.astype(np.float64), mask).astype(np.float32)
        writer.append(ids, decoded, mask, LABELS)
    return store, TokenStore(tmp_path / "tokens")


@pytest.mark.parametrize("classes", [(), ("Tbqq",), ("QCD", "Tbqq")])
@pytest.mark.parametrize("n_jets", [None, 3, 100])
def test_both_truths_are_the_same_jets(stores, classes, n_jets):
    store, tokens = stores
    original = original_sample(store, 128, classes, n_jets, seed=4)
    decoded = decoded_sample(tokens, SPACE, classes, n_jets, seed=4)
    available = 4 if classes == ("Tbqq",) else 8
    assert len(original) == len(decoded) == min(n_jets or available, available)
    assert original.n_constituents.max() <= 128
    np.testing.assert_array_equal(original.offsets, decoded.offsets)
    np.testing.assert_array_equal(original.labels, decoded.labels)
    np.testing.assert_allclose(decoded.constituents, original.constituents, rtol=1e-5, atol=1e-5)
    assert len(decoded.ids) == len(decoded.constituents) and original.ids is None
    if classes == ("Tbqq",):
        assert set(original.labels) == {8}


def test_jets_are_drawn_at_random_and_by_the_seed(stores):
    drawn = [original_sample(stores[0], 128, (), 4, seed).offsets.tolist() for seed in range(6)]
    assert len({tuple(offsets) for offsets in drawn}) > 1
    assert drawn[0] == original_sample(stores[0], 128, (), 4, 0).offsets.tolist()


def test_no_jet_of_a_class(stores):
    for make in (lambda: original_sample(stores[0], 128, ("Hbb",)),
                 lambda: decoded_sample(stores[1], SPACE, ("Hbb",))):  # fmt: skip
        with pytest.raises(JetfmError, match="no jets of Hbb"):
            make()


@pytest.mark.parametrize("tokens", [True, False])
def test_generated_jets_come_back(tmp_path, tokens):
    jets = sample_of(2, 20)
    flat = SPACE.forward(jets.constituents).astype(np.float32)
    asked = jets.n_constituents + (np.arange(20) < 7)
    made = FlowJets(flat, jets.offsets, asked)
    if tokens:
        ids, finished = np.arange(len(flat)), np.arange(20) >= 3
        made = GeneratedJets(ids, flat, jets.offsets, asked, finished)
    counted = write_generated(tmp_path, made, seconds=0.5)
    assert counted == {"n_jets": 20, "n_unfinished": 3 if tokens else None}
    found = read_generated(tmp_path, SPACE)
    np.testing.assert_allclose(found.constituents, jets.constituents, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.requested, asked)
    assert (found.ids is not None) == tokens
    assert seconds_per_1000(tmp_path, 20) == 25
