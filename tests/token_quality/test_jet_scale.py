"""Two factors give decoded jets their energy and width back, and change nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing
from jetfm.physics.observables import jet_observables
from jetfm.schema import KINEMATICS
from jetfm.token_quality import measurement
from jetfm.token_quality.jet_scale import JetScale, compare_scaled, measure_scale
from jetfm.token_quality.measurement import compare, fit_residuals, original_observables

LENGTHS = (0, 1, 2, 3, 30, 130)


def jets_of(folder, counts, seed: int) -> JetStore:
    """Jets of t->bqq' (8) and q/g (0) in turn."""
    rng = np.random.default_rng(seed)
    n = int(np.sum(counts))
    physical = np.column_stack([rng.exponential(20, n) + 1, rng.normal(0, 0.25, (n, 2))])
    jets = np.zeros(len(counts), JET_DTYPE)
    jets["label"] = np.resize([8, 0], len(counts))
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(physical, np.asarray(counts), jets)
    return JetStore(folder)


def tokens_of(store: JetStore, folder, change) -> TokenStore:
    """Tokens that decode to changed constituents (B, T, 3)."""
    physical, mask = store.dense(slice(None), None)
    decoded = Preprocessing().forward(change(physical.astype(np.float64)), mask)
    order = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    with TokenStoreWriter(folder, n_codes=5) as writer:
        writer.append(np.zeros(mask.shape, int), decoded, mask, store.labels, positions=order)
    return TokenStore(folder)


def cells(x: np.ndarray, width: float = 0.2) -> np.ndarray:
    """Every constituent becomes the mean of its cell of the angles: what squared errors ask for."""
    real = x[..., 0] > 0
    found = x.copy()
    for feature in (1, 2):
        cell = np.digitize(x[..., feature], np.arange(-2, 2, width))
        for one in np.unique(cell[real]):
            here = real & (cell == one)
            found[..., feature][here] = x[..., feature][here].mean()
    return found


@settings(max_examples=20)
@given(pt=st.floats(0.8, 1.25), angle=st.floats(0.8, 1.25))
def test_known_factors_are_found_and_undone(tmp_path_factory, pt, angle):
    """Jets of 0, 1, 2 and more than 128 constituents among them."""
    folder = tmp_path_factory.mktemp("scale")
    store = jets_of(folder / "jets", LENGTHS * 4, seed=3)
    original_observables(store, folder / "original", 200)
    tokens = tokens_of(store, folder / "tokens", lambda x: x / (pt, angle, angle))
    scale = measure_scale(store, tokens, Preprocessing())
    assert (scale.pt, scale.angle) == pytest.approx((pt, angle), rel=1e-5)
    found = compare_scaled(tokens, Preprocessing(), scale, folder / "original")
    assert found["scale"] == {"pt": scale.pt, "angle": scale.angle}
    for fit in found["fits"].values():
        # (0, 1, 2, 3, 30, 130) twice over in each class: 8 is at even places
        assert abs(fit["bias"]) < 1e-3 and fit["n_undefined"] == 4


def test_energy_and_width_close_whatever_was_lost(tmp_path):
    store = jets_of(tmp_path / "jets", LENGTHS * 20, seed=4)
    rng = np.random.default_rng(5)
    tokens = tokens_of(store, tmp_path / "tokens", lambda x: x * rng.uniform(0.5, 1.2, x.shape))
    preprocessing = Preprocessing()
    before = store.constituents[:, :3].astype(np.float64)
    after = measure_scale(store, tokens, preprocessing).apply(
        measurement.decoded_jets(tokens, preprocessing)
    )
    for moment in (lambda x: x[:, 0], lambda x: x[:, 0] * (x[:, 1:] ** 2).sum(1)):
        assert moment(after).sum() == pytest.approx(moment(before).sum(), rel=1e-6)


def test_means_of_cells_are_too_light_and_are_mended_on_other_jets(tmp_path):
    preprocessing = Preprocessing()
    val, test = (
        jets_of(tmp_path / name, np.full(800, 40), seed=i) for i, name in enumerate(("val", "test"))
    )
    tokens = {store: tokens_of(store, store.folder / "tokens", cells) for store in (val, test)}
    original_observables(test, tmp_path / "original")
    plain = compare(test, tokens[test], preprocessing, tmp_path / "original", tmp_path / "plain")
    scale = measure_scale(val, tokens[val], preprocessing)
    scaled = compare_scaled(tokens[test], preprocessing, scale, tmp_path / "original")
    assert scale.pt == pytest.approx(1, abs=1e-6) and 1.01 < scale.angle < 1.1
    before, after = (found["fits"]["jet_mass"] for found in (plain, scaled))
    assert before["bias"] < -10 * before["bias_error"]
    assert abs(after["bias"]) < 0.2 * abs(before["bias"])
    assert after["sigma"] == pytest.approx(before["sigma"], rel=0.1)


def test_no_scale_changes_nothing(tmp_path):
    """Beside `compare`, and chunk by chunk."""
    store = jets_of(tmp_path / "jets", LENGTHS * 30, seed=6)
    original_observables(store, tmp_path / "original", 200)
    tokens = tokens_of(store, tmp_path / "tokens", lambda x: x * 1.05)
    options = (Preprocessing(), tmp_path / "original")
    plain = compare(store, tokens, *options, tmp_path / "plain", max_constituents=200)
    found = compare_scaled(tokens, Preprocessing(), JetScale(1, 1), tmp_path / "original")
    assert found["fits"] == {name: plain["fits"][name] for name in found["fits"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measurement, "_CHUNK", 7)
        again = compare_scaled(tokens, Preprocessing(), JetScale(1, 1), tmp_path / "original")
        scale = measure_scale(store, tokens, Preprocessing())
    assert again == found
    assert scale.pt == pytest.approx(measure_scale(store, tokens, Preprocessing()).pt, rel=1e-12)


def test_ratios_of_subjettiness_do_not_see_a_scale():
    rng = np.random.default_rng(7)
    jet = np.column_stack([rng.exponential(20, 300) + 1, rng.normal(0, 0.2, (300, 2))])
    offsets = np.arange(0, 301, 30)
    before, after = (
        jet_observables(x, offsets, axes="kt") for x in (jet, JetScale(1.02, 1.03).apply(jet))
    )
    for ratio in ("tau21", "tau32"):
        # kt axes of the E scheme follow all but a fraction of what a longitudinal boost leaves
        assert np.nanmedian(np.abs(after[ratio] / before[ratio] - 1)) < 1e-3
    assert fit_residuals(after["pt"] / before["pt"])["bias"] == pytest.approx(1.02, rel=0.01)


def test_jets_on_their_axes_have_no_scale(tmp_path):
    store = jets_of(tmp_path / "jets", (1, 2, 3), seed=8)
    tokens = tokens_of(store, tmp_path / "tokens", lambda x: x * (1, 0, 0))
    with pytest.raises(JetfmError, match=r"tokens: .*beside the axes"):
        measure_scale(store, tokens, Preprocessing())
