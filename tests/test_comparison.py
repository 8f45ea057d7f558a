"""Generated jets are compared with tokenised ones without favour to either."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.comparison import Comparison, compare
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.features import Preprocessing
from jetfm.generation import GeneratedJets


def jets(n_jets: int, seed: int):
    """Decoded constituents of random jets in network space, flat, and offsets."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(4, 30, n_jets)
    physical = np.column_stack(
        [rng.exponential(15, counts.sum()) + 1, rng.normal(0, 0.2, (counts.sum(), 2))]
    )
    decoded = Preprocessing().forward(physical).astype(np.float32)
    return decoded, np.concatenate([[0], np.cumsum(counts)])


@pytest.fixture
def compared(tmp_path):
    decoded, offsets = jets(900, 1)
    counts = np.diff(offsets)
    mask = np.arange(counts.max()) < counts[:, None]
    dense = np.zeros((*mask.shape, 3), np.float32)
    dense[mask] = decoded
    with TokenStoreWriter(tmp_path / "tokens", n_codes=4) as writer:
        writer.append(np.zeros(mask.shape, int), dense, mask)
    flat, starts = jets(600, 2)
    flat[starts[3], 0] = -1.8  # log1p(pt) = 0: a constituent without momentum
    finished = np.ones(600, bool)
    finished[:5] = False
    generated = GeneratedJets(
        np.zeros(len(flat), np.int32),
        flat,
        starts,
        np.diff(starts) + (np.arange(600) < 7),
        finished,
    )
    tokens = TokenStore(tmp_path / "tokens")
    compare(generated, tokens, Preprocessing(), tmp_path / "out", 1, 2.0, progress=False)
    return Comparison(tmp_path / "out")


def test_samples_of_one_distribution_cannot_be_told_apart(compared):
    # 240 test jets: one standard deviation is 0.037.
    assert 0.38 < compared.classifier_test["auc"] < 0.62
    assert compared.classifier_test["n_test"] == 240


def test_every_jet_and_constituent_is_in_its_histogram(compared):
    histograms = compared.figure_data()["histograms"]
    totals = {
        quantity: sum(entry["generated"]["counts"])
        + entry["generated"]["underflow"]
        + entry["generated"]["overflow"]
        for quantity, entry in histograms.items()
    }
    n_constituents = len(np.load(compared.folder / "decoded.npy"))
    assert totals["pt"] == totals["eta_rel"] == totals["phi_rel"] == n_constituents
    assert totals["jet_mass"] == totals["n_constituents"] == compared.n_jets == 600


def test_violations_are_counted(compared):
    assert compared.n_unphysical == 1
    assert compared.result["n_unfinished"] == 5
    assert compared.result["n_other_multiplicity"] == 7
    assert compared.jets_per_second == 300
