"""Token quality measures what was done to the jets, no more and no less."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.data.schema import KINEMATICS
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.features import Preprocessing
from jetfm.tokenizers.quality import TokenQuality, compare, residual_edges

N_JETS = 400


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    rng = np.random.default_rng(1)
    counts = rng.integers(8, 40, N_JETS)
    physical = np.column_stack(
        [rng.exponential(20, counts.sum()) + 1, rng.normal(0, 0.25, (counts.sum(), 2))]
    )
    jets = np.zeros(N_JETS, JET_DTYPE)
    jets["label"] = np.resize([8, 0], N_JETS)
    folder = tmp_path_factory.mktemp("jets")
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(physical, counts, jets)
    return JetStore(folder)


def tokens_of(store, folder, scale: np.ndarray) -> TokenStore:
    """Tokens that decode to the store's constituents with pt scaled by one factor a jet."""
    physical, mask = store.dense(slice(None))
    physical = physical * np.array([1.0, 1.0, 1.0])
    physical[..., 0] *= scale[:, None]
    decoded = Preprocessing().forward(physical, mask)
    with TokenStoreWriter(folder, n_codes=5) as writer:
        writer.append(np.zeros(mask.shape, int), decoded, mask, store.labels)
    return TokenStore(folder)


def test_residuals_are_those_that_were_put_in(store, tmp_path):
    scale = np.random.default_rng(2).normal(1.0, 0.05, N_JETS)
    tokens = tokens_of(store, tmp_path / "tokens", scale)
    compare(store, tokens, Preprocessing(), tmp_path)
    quality = TokenQuality(tmp_path)
    mass = quality.values("original", "jet_mass")
    # Mass and pt are homogeneous in the constituents' pt; the ratios of tau do not see a scale.
    np.testing.assert_allclose(quality.values("reconstructed", "jet_mass"), scale * mass, rtol=1e-5)
    signal = store.labels == 8
    np.testing.assert_allclose(
        quality.residuals("jet_mass"), ((scale - 1) * mass)[signal], atol=2e-3
    )
    expected = ((scale - 1) * quality.values("original", "jet_pt"))[signal]
    assert quality.result["fits"]["jet_pt"]["bias"] == pytest.approx(expected.mean(), abs=1e-2)
    assert np.abs(quality.residuals("tau32")).max() < 1e-4
    assert quality.result["n_signal_jets"] == N_JETS // 2
    assert quality.beats_mean_mass()


def test_the_figures_curve_has_the_area_of_the_peak(store, tmp_path):
    scale = np.random.default_rng(3).normal(1.0, 0.05, N_JETS)
    tokens = tokens_of(store, tmp_path / "tokens", scale)
    # tau needs a width of its own for its fit: smear by redrawing half of the jets' constituents.
    compare(store, tokens, Preprocessing(), tmp_path)
    fit = TokenQuality(tmp_path).figure_data()["fits"]["jet_mass"]
    area = fit["height"] * fit["sigma"] * np.sqrt(2 * np.pi)
    assert area == pytest.approx(1.0, abs=0.15)


def test_longer_jets_are_compared_on_the_same_leading_constituents(store, tmp_path):
    physical, mask = store.dense(slice(None), max_constituents=10)
    decoded = Preprocessing().forward(physical * np.array([1.02, 1.0, 1.0]), mask)
    with TokenStoreWriter(tmp_path / "tokens", n_codes=5) as writer:
        writer.append(np.zeros(mask.shape, int), decoded, mask, store.labels)
    tokens = TokenStore(tmp_path / "tokens")
    compare(store, tokens, Preprocessing(), tmp_path, max_constituents=10)
    quality = TokenQuality(tmp_path)
    ratio = quality.values("reconstructed", "jet_pt") / quality.values("original", "jet_pt")
    np.testing.assert_allclose(ratio, 1.02, rtol=1e-4)


def test_jets_that_lose_nothing_have_no_width_to_fit(store, tmp_path):
    tokens = tokens_of(store, tmp_path / "tokens", np.full(N_JETS, 0.0))
    with pytest.raises(JetfmError):
        compare(store, tokens, Preprocessing(), tmp_path)


@pytest.mark.parametrize("reach", [0.3, 7.0, 55.0])
def test_residual_edges_hold_the_residuals(reach):
    residuals = np.random.default_rng(0).uniform(-reach, reach, 1000)
    edges = residual_edges(residuals, 10.0)
    assert edges[0] == -edges[-1] and len(edges) == 61
    assert (np.abs(residuals) <= edges[-1]).mean() >= 0.99
    assert edges[-1] % 10 == 0
