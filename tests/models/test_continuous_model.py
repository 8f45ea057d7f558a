"""Exact likelihood, causality, padding, cut jets, caches, files."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.models.continuous_model import ContinuousModel, stop_positions
from jetfm.models.jet_model import JetModel
from jetfm.models.objectives import next_token_targets
from jetfm.models.transformer import n_parameters
from jetfm.physics.features import Preprocessing
from jetfm.schema import CONSTITUENT_FEATURES
from jetfm.settings import BackboneSettings, ContinuousSettings
from tests.toys import randomise, small_pretraining_settings, toy_jets


def small_settings(**changes) -> ContinuousSettings:
    values = {
        "backbone": BackboneSettings(dim=32, n_blocks=2, n_heads=4, n_registers=3, dropout=0.0),
        "n_components": 3,
    }
    return ContinuousSettings(**(values | changes))


def batch_of(counts, full=None, seed=0, extra_padding=0) -> dict:
    """Toy jets; `full` are their uncapped counts, default the same."""
    x, mask = toy_jets(counts, seed, extra_padding)
    return {"x": x, "mask": mask, "n_constituents": torch.as_tensor(np.asarray(full or counts))}


@pytest.fixture(scope="module")
def model() -> ContinuousModel:
    torch.manual_seed(0)
    return randomise(ContinuousModel(small_settings())).eval()


def test_loss_is_the_likelihood_written_out(model):
    """Jet by jet, position by position, from the distributions alone."""
    counts, full = [6, 1, 0, 3, 4], [6, 1, 0, 3, 9]  # the last was cut from 9
    batch = batch_of(counts, full, extra_padding=4)
    total, density, n = 0.0, 0.0, 0
    with torch.no_grad():
        loss, metrics = model.loss(batch)
        following = model(batch["x"], batch["mask"], batch["n_constituents"])
    for i, size in enumerate(counts):
        for k in range(size):
            one = type(following)(*(t[i, k].double() for t in following))
            p_go_on = 1 - 1 / (1 + math.exp(-one.stop_logit.item()))
            log_density = one.log_prob(batch["x"][i, k].double()).item()
            total -= math.log(p_go_on) + log_density
            density -= log_density
            n += 1
        if full[i] == size:
            total += math.log1p(math.exp(-following.stop_logit[i, size].item()))
            n += 1
    assert n == 14 + 4 == metrics["weight"]
    assert loss.item() == pytest.approx(total / n, rel=1e-5)
    assert metrics["density"][0].item() == pytest.approx(density, rel=1e-5)
    assert metrics["density"][1] == 14 and metrics["stop"][1] == n
    parts = metrics["density"][0] + metrics["stop"][0]
    assert parts.item() == pytest.approx(total, rel=1e-5)


@settings(max_examples=30)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 40, 128, 129, 200]), min_size=1, max_size=6),
    cap=st.sampled_from([1, 2, 128]),
)
def test_stops_are_where_the_token_models_are(counts, cap):
    n = torch.tensor(counts)
    kept = n.clamp(max=cap)
    mask = torch.arange(max(int(kept.max()), 1)) < kept[:, None]
    stop_token = 5
    targets = next_token_targets(torch.zeros_like(mask, dtype=torch.int64), mask, n, 4)
    assert torch.equal(stop_positions(mask, n), targets == stop_token)


@settings(max_examples=15)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 40, 129]), min_size=1, max_size=4),
    cap=st.sampled_from([1, 128, 200]),
)
def test_jets_of_any_length_have_a_likelihood(model, counts, cap):
    kept = np.minimum(counts, cap)
    batch = batch_of(kept.tolist(), counts)
    found = model.log_probabilities(batch)
    loss, _ = model.loss(batch)
    whole = (kept == np.array(counts)).sum()
    assert found.predicted.sum() == kept.sum() + whole
    assert torch.isfinite(loss) and torch.isfinite(found.constituents).all()
    total = -(found.constituents.sum() + found.stops.sum()).item()
    assert loss.item() * max(kept.sum() + whole, 1) == pytest.approx(total, rel=1e-4, abs=1e-4)


def test_an_empty_batch_of_slots(model):
    """Jets without constituents, laid out over no slot at all."""
    batch = {
        "x": torch.zeros(2, 0, 3),
        "mask": torch.zeros(2, 0, dtype=torch.bool),
        "n_constituents": torch.tensor([0, 4]),  # one is whole, one was cut
    }
    loss, metrics = model.loss(batch)
    logit = model(**batch).stop_logit[0, 0]
    assert metrics["weight"] == 1
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(logit))


def test_padding_does_not_change_the_loss_or_its_gradient():
    results = []
    for extra in (0, 17):
        torch.manual_seed(0)
        model = randomise(ContinuousModel(small_settings()))
        batch = batch_of([6, 1, 0, 3], extra_padding=extra)
        batch["x"] = torch.where(batch["mask"][..., None], batch["x"], 99.0)
        loss, _ = model.loss(batch)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_jets_likelihood_does_not_depend_on_its_company(model):
    batch = batch_of([6, 1, 0, 30])
    together = model.log_probabilities(batch)
    for i, size in enumerate([6, 1, 0, 30]):
        alone = model.log_probabilities(
            {
                "x": batch["x"][i : i + 1, :size],
                "mask": batch["mask"][i : i + 1, :size],
                "n_constituents": batch["n_constituents"][i : i + 1],
            }
        )
        for a, b in zip(alone[:2], together[:2], strict=True):
            torch.testing.assert_close(a[0], b[i, : size + 1], rtol=1e-4, atol=1e-5)


def test_prediction_sees_only_what_came_before(model):
    batch = batch_of([9, 9])
    n, mask = batch["n_constituents"], batch["mask"]
    before = model(batch["x"], mask, n)
    for position in range(9):
        changed = batch["x"].clone()
        changed[:, position:] += 1.0
        after = model(changed, mask, n)
        for a, b in zip(after, before, strict=True):
            kept = slice(0, position + 1)
            torch.testing.assert_close(a[:, kept], b[:, kept], rtol=0, atol=1e-5)
            assert (a[:, position + 1] - b[:, position + 1]).abs().max() > 1e-3


def test_cached_density_equals_the_plain_forward_at_every_step(model):
    """While jets leave the batch."""
    x, _ = toy_jets([40] * 6)
    n = torch.tensor([40, 40, 3, 40, 17, 40])
    lengths = torch.tensor([40, 12, 3, 40, 17, 30])
    caches, rows, newest = model.new_caches(), torch.arange(6), None
    for position in range(41):
        mask = torch.ones(len(rows), position, dtype=torch.bool)
        with torch.no_grad():
            expected = model(x[rows, :position], mask, n[rows])
            found = model.next_constituent(newest, n[rows], caches)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b[:, -1], rtol=1e-4, atol=1e-4)
        keep = (lengths[rows] > position).nonzero().squeeze(1)
        for cache in (*caches[0], *caches[1]):
            cache.keep(keep)
        rows = rows[keep]
        if not len(rows):
            break
        newest = x[rows, position]
    assert position == 40


def test_a_silent_batch_predicts_nothing():
    torch.manual_seed(0)
    model = randomise(ContinuousModel(small_settings()))
    batch = batch_of([4]) | {"silent": torch.ones(1, dtype=torch.bool)}
    loss, metrics = model.loss(batch)
    loss.backward()
    assert loss == 0 and metrics["weight"] == 0 and metrics["density"][1] == 0
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_size_is_the_token_models_but_for_the_last_layer():
    """And the last layer: stop, and per Gaussian a weight, 3 means, 3 widths, 3 couplings."""
    token, ours = JetModel(small_pretraining_settings(), 64), ContinuousModel(small_settings())
    last = (32 + 1) * (1 + 3 * 10), (32 + 1) * (64 + 2)
    assert n_parameters(ours) - last[0] == n_parameters(token) - last[1]


def test_saved_and_loaded(model, tmp_path):
    own_hash = model.save(tmp_path, best_loss=1.5)
    loaded = ContinuousModel.load(tmp_path)
    batch = batch_of([5, 2])
    assert loaded.hash == own_hash == model.hash and not loaded.training
    assert loaded.settings.n_components == 3 and loaded.preprocessing == model.preprocessing
    assert torch.equal(loaded.loss(batch)[0], model.loss(batch)[0])
    other = ContinuousModel(small_settings(), Preprocessing(pt_map="log"))
    other.load_state_dict(model.state_dict())
    assert other.hash != own_hash  # the network space is part of what it is


def test_foreign_files_are_refused(model, tmp_path):
    JetModel(small_pretraining_settings(), 64).save(tmp_path)
    with pytest.raises(JetfmError, match="continuous.json"):
        ContinuousModel.load(tmp_path)
    model.save(tmp_path)
    with pytest.raises(JetfmError, match="SHA-256"):  # the weights are the other model's now
        JetModel.load(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(JetfmError, match="weights.safetensors"):
        ContinuousModel.load(tmp_path)


def test_features_without_a_density_are_refused():
    with pytest.raises(JetfmError, match="pt, eta_rel, phi_rel alone"):
        ContinuousModel(small_settings(), Preprocessing(features=CONSTITUENT_FEATURES))
    with pytest.raises(ValueError, match="no tokens to read"):
        ContinuousSettings(backbone={"input": "token-id"})
    with pytest.raises(JetfmError, match="backbone input"):
        ContinuousModel(small_settings()).loss(batch_of([3]) | {"x": torch.zeros(1, 3, 4)})
