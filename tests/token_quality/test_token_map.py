"""The token map decodes exactly the jets it says, and its panel stays small."""

from __future__ import annotations

import json

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from jetfm import figures
from jetfm.physics.features import Preprocessing
from jetfm.settings import TokenizerSettings
from jetfm.token_quality import token_map
from jetfm.token_quality.token_map import map_data, token_spread
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.interface import Tokenizer
from tests.toys import randomise, small_tokenizer_settings

DESCRIPTOR = {"name": "a", "label": "A, 64", "family": "conditional", "n_codes": 64}


def tokenizer_of(**changes) -> Tokenizer:
    return randomise(make_tokenizer(small_tokenizer_settings(**changes))).eval()


@pytest.fixture
def conditional() -> Tokenizer:
    return tokenizer_of(preset="omnijet")


def physical(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    decoded = tokenizer.decode(torch.as_tensor(ids))
    return tokenizer.preprocessing.inverse(decoded).numpy()


@pytest.mark.parametrize("n_last", [24, 64, 500])
def test_causal_tokens_are_decoded_as_the_last_of_51(monkeypatch, n_last):
    """Caches and chunks, also of a size that does not divide the codebook, change nothing."""
    monkeypatch.setattr(token_map, "_LAST", n_last)
    monkeypatch.setattr(token_map, "_JETS", 2)
    tokenizer = tokenizer_of()
    points = token_map.token_map(tokenizer, 5, 50, seed=3)
    assert points.shape == (64, 5, 3) and points.dtype == np.float32
    rng = np.random.default_rng(3)
    for repetition in range(5):
        others = rng.choice(64, 50, replace=False)
        jets = np.column_stack([np.tile(others, (64, 1)), np.arange(64)])
        expected = physical(tokenizer, jets)[:, -1]
        np.testing.assert_allclose(points[:, repetition], expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize(("n_codes", "n_conditioning"), [(64, 50), (64, 6), (64, 63), (20, 50)])
@pytest.mark.parametrize("slots", [64, 2**14])
def test_every_token_is_decoded_once_a_repetition(monkeypatch, n_codes, n_conditioning, slots):
    """Of a decoder that sees the whole jet; the jets are recorded as they are decoded."""
    monkeypatch.setattr(token_map, "_SLOTS", slots)
    tokenizer = tokenizer_of(preset="omnijet", n_codes=n_codes)
    decode, jets = tokenizer.decode, []
    monkeypatch.setattr(tokenizer, "decode", lambda ids: jets.append(ids.numpy()) or decode(ids))
    points = token_map.token_map(tokenizer, 7, n_conditioning)
    monkeypatch.undo()
    length = n_conditioning + 1
    jets = np.concatenate(jets)
    assert jets.shape == (7 * -(-n_codes // length), length)
    if n_codes >= length:  # no token beside itself
        assert all(len(np.unique(jet)) == length for jet in jets)
    places = physical(tokenizer, jets).reshape(7, -1, 3)[:, :n_codes]
    orders = jets.reshape(7, -1)[:, :n_codes]
    for repetition, (order, place) in enumerate(zip(orders, places, strict=True)):
        np.testing.assert_array_equal(np.sort(order), np.arange(n_codes))
        np.testing.assert_allclose(points[order, repetition], place, rtol=1e-5, atol=1e-5)
    assert len({tuple(order) for order in orders}) == 7


def test_neighbours_move_conditional_tokens_only(conditional):
    spread = token_spread(token_map.token_map(conditional, 20, 50))
    assert all(value > 0 for value in spread.values())
    again = [token_spread(token_map.token_map(conditional, 20, 50, seed=s)) for s in range(2, 12)]
    drawn = np.std([one["volume"] for one in again], ddof=1)
    assert drawn < 2 * spread["volume_error"] and spread["volume_error"] < spread["volume"] / 5
    assert spread == token_spread(token_map.token_map(conditional, 20, 50))
    assert spread != token_spread(token_map.token_map(conditional, 20, 50, seed=1))


@pytest.mark.parametrize("preset", ["omnijet-unconditional", "binned"])
def test_pointwise_tokens_have_one_place(preset):
    if preset == "binned":
        tokenizer = make_tokenizer(TokenizerSettings(preset=preset, bins=(4, 3, 5)))
        tokenizer.low[0], tokenizer.high[0] = -2.0, 4.0
    else:
        tokenizer = tokenizer_of(preset=preset)
    points = token_map.token_map(tokenizer, 500, 50)
    assert points.shape == (tokenizer.n_codes, 1, 3)
    rows = np.arange(tokenizer.n_codes)[:, None]
    np.testing.assert_allclose(points, physical(tokenizer, rows), rtol=1e-6)
    spread = token_spread(points)
    cells = np.unique(np.floor(Preprocessing().forward(points[:, 0]) / token_map.CELL), axis=0)
    assert spread.pop("volume") == pytest.approx(len(cells) * token_map.CELL**3, rel=1e-3)
    assert spread.pop("volume_error") == 0
    assert spread == {"pt": 0, "eta_rel": 0, "phi_rel": 0, "over_distance": 0}


def test_a_known_cloud_has_the_known_spread():
    rng = np.random.default_rng(0)
    centres = np.array([[10.0, -0.3, 0.0], [10.0, 0.1, 0.0]])
    points = centres[:, None] + rng.normal(size=(2, 40_000, 3)) * (0.5, 0.01, 0.02)
    spread = token_spread(points.astype(np.float32))
    assert spread["pt"] == pytest.approx(0.05, rel=0.02)
    assert spread["eta_rel"] == pytest.approx(0.01, rel=0.02)
    assert spread["phi_rel"] == pytest.approx(0.02, rel=0.02)
    # in network space: d ln(1 + pt) = 0.5 / 11, and angles times three
    radius = np.sqrt((0.5 / 11) ** 2 + 0.03**2 + 0.06**2)
    assert spread["over_distance"] == pytest.approx(radius / 1.2, rel=0.02)


def test_two_clouds_in_boxes_cover_the_volume_of_two_boxes():
    """Boxes of 2 x .4 x .4 in network space, whatever their places, filled by many points."""
    rng = np.random.default_rng(0)
    corners = np.array([[0.0, -1.0, -0.5], [0.5, 0.6, 0.4]])
    box = np.array([2.0, 0.4, 0.4])
    network = corners[:, None] + rng.random((2, 60_000, 3)) * (box - 1e-3) + 5e-4
    spread = token_spread(Preprocessing().inverse(network).astype(np.float32))
    assert spread["volume"] == pytest.approx(2 * box.prod(), rel=1e-3)


def test_one_token_has_no_nearest_neighbour():
    assert token_spread(np.ones((1, 3, 3), np.float32))["over_distance"] == 0
    assert token_spread(np.ones((2, 3, 3), np.float32))["over_distance"] is None


@pytest.mark.parametrize(
    ("shape", "max_points", "n_tokens", "n_drawn"),
    [
        ((64, 10), 20_000, 64, 10),
        ((64, 500), 20_000, 64, 312),
        ((8192, 50), 20_000, 8192, 2),
        ((300, 5), 250, 250, 1),
        ((9261, 1), 20_000, 9261, 1),
    ],
)
def test_panels_are_thinned_and_small(shape, max_points, n_tokens, n_drawn):
    rng = np.random.default_rng(0)
    points = rng.normal(size=(*shape, 3)).astype(np.float32)
    points[..., 0] = np.exp(3 * points[..., 0])
    panel = map_data(points, DESCRIPTOR, 50, max_points)
    counts = (panel["n_tokens"], panel["n_drawn"], panel["n_reconstructions"])
    assert counts == (n_tokens, n_drawn, shape[1])
    tokens = np.array(panel["token"])
    assert len(tokens) == n_tokens * n_drawn <= max_points
    assert (np.unique(tokens, return_counts=True)[1] == n_drawn).all()
    for column, name in enumerate(("pt", "eta_rel", "phi_rel")):
        expected = points[tokens[::n_drawn], :n_drawn, column].ravel()
        np.testing.assert_allclose(panel[name], expected, rtol=5.1e-4)
    text = json.dumps(panel, allow_nan=False)
    assert len(text) < 500 + 42 * len(tokens)


def test_figures_take_the_panels(conditional):
    panels = []
    for tokenizer in (conditional, tokenizer_of(preset="omnijet-unconditional")):
        points = token_map.token_map(tokenizer, 10, 50)
        panels.append(map_data(points, DESCRIPTOR, 50))
    plt.close(figures.token_map(json.loads(json.dumps(panels))))


def test_the_whole_feature_set_keeps_three_columns():
    tokenizer = tokenizer_of(features="full")
    assert tokenizer.preprocessing != Preprocessing()
    assert token_map.token_map(tokenizer, 2, 5).shape == (64, 2, 3)
