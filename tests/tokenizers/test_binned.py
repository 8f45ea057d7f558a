"""The regular grid: where its cells are, what lies outside, and that it knows its range."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.schema import KINEMATICS
from jetfm.settings import TokenizerSettings
from jetfm.tokenizers import load_tokenizer, make_tokenizer
from jetfm.tokenizers.binned import BinnedTokenizer
from jetfm.tokenizers.encoding import tokenize

COUNTS = [0, 1, 2, 150, 17, 40]
BINS = (9, 11, 13)


def toy_constituents(counts, lowest: float, highest: float, seed: int = 0) -> np.ndarray:
    """(n, 3) within the angular cut, with pt from `lowest` to `highest` GeV, both present."""
    rng = np.random.default_rng(seed)
    n = sum(counts)
    pt = np.exp(rng.uniform(np.log(lowest), np.log(highest), n))
    pt[rng.permutation(n)[:2]] = lowest, highest
    return np.column_stack([pt, rng.uniform(-0.7999, 0.7999, (n, 2))]).astype("f4")


def store_of(folder, constituents, counts=COUNTS) -> JetStore:
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(constituents, counts, np.zeros(len(counts), JET_DTYPE))
    return JetStore(folder)


def binned(pt_map: str = "log", bins=BINS) -> BinnedTokenizer:
    """Without cuts, so that what is outside reaches the cells at the edge."""
    settings = TokenizerSettings(preset="binned", pt_map=pt_map, bins=bins, half_width=None)
    return make_tokenizer(settings)


@pytest.fixture(scope="module")
def train(tmp_path_factory) -> JetStore:
    return store_of(tmp_path_factory.mktemp("train"), toy_constituents(COUNTS, 0.51, 873.0))


@pytest.fixture(scope="module", params=["log", "log1p"])
def tokenizer(request, train) -> BinnedTokenizer:
    made = binned(request.param)
    made.fit(train)
    return made


def edges(tokenizer) -> list[np.ndarray]:
    """Edges of the cells along each axis, from the definition."""
    ends = np.log([0.51, 873.0]) - 1.8
    if tokenizer.preprocessing.pt_map == "log1p":
        ends = np.log1p(np.array([0.51, 873.0]) + 1e-5) - 1.8
    reach = [ends, (-2.4, 2.4), (-2.4, 2.4)]  # 3 x 0.8
    return [np.linspace(*r, n + 1) for r, n in zip(reach, tokenizer.settings.bins, strict=True)]


def test_ids_are_row_major_cells_of_a_regular_grid(tokenizer, train):
    """Against numpy's digitize, constituent by constituent."""
    physical, mask = train.dense(slice(None))
    x = tokenizer.preprocessing.forward(physical, mask)
    ids = tokenizer.encode(torch.as_tensor(x), torch.as_tensor(mask))[mask].numpy()
    cells = [
        np.clip(np.digitize(x[mask][:, axis], edges(tokenizer)[axis]) - 1, 0, BINS[axis] - 1)
        for axis in range(3)
    ]
    np.testing.assert_array_equal(ids, np.ravel_multi_index(cells, BINS))
    assert len(np.unique(ids)) > 100


def test_all_cells_are_decoded_to_their_centres(tokenizer):
    """Equal spacing along every axis; centre and id are one to one."""
    assert tokenizer.n_codes == np.prod(BINS) == tokenizer.settings.n_codes
    ids = torch.arange(tokenizer.n_codes)[None]
    centres = tokenizer.decode(ids)
    expected = np.stack(
        np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges(tokenizer)], indexing="ij"), -1
    )
    np.testing.assert_allclose(centres[0].numpy().reshape(*BINS, 3), expected, atol=1e-5)
    assert torch.equal(tokenizer.encode(centres, ids >= 0), ids)


@settings(max_examples=40)
@given(data=st.data(), counts=st.lists(st.sampled_from([0, 1, 2, 131]), min_size=1, max_size=3))
def test_closure_within_half_a_cell(tokenizer, data, counts):
    """|decode(encode(x)) - x| is at most half a cell, and encoding the centre changes nothing."""
    seed = data.draw(st.integers(0, 2**32 - 1))
    low, high = (torch.tensor([e[end] for e in edges(tokenizer)]).float() for end in (0, -1))
    shape = (len(counts), max(counts) + 1, 3)
    share = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    x = low + (high - low) * (1e-5 + 0.99998 * share)  # never on the very edge
    mask = torch.arange(shape[1]) < torch.tensor(counts)[:, None]
    ids = tokenizer.encode(x, mask)
    decoded = tokenizer.decode(ids)
    half = (high - low) / torch.tensor(BINS) / 2
    assert ((decoded - x).abs()[mask] <= half + 1e-5).all()
    assert torch.equal(tokenizer.encode(decoded, mask), ids)
    assert not tokenizer.out_of_range(x, mask).any()


def test_a_constituent_does_not_see_its_jet(tokenizer, train):
    physical, mask = train.dense(slice(None))
    x = torch.as_tensor(tokenizer.preprocessing.forward(physical, mask))
    alone = tokenizer.encode(x[torch.as_tensor(mask)][:, None], torch.ones(mask.sum(), 1).bool())
    assert torch.equal(tokenizer.encode(x, torch.as_tensor(mask))[mask], alone[:, 0])
    assert torch.equal(tokenizer.decode(alone), tokenizer.decode(alone.T).transpose(0, 1))


def test_the_range_is_that_of_the_training_jets(train):
    tokenizer = binned()
    found = tokenizer.fit(train)
    assert found["metrics"]["lowest_pt"] == pytest.approx(0.51, rel=1e-6)
    assert found["metrics"]["highest_pt"] == pytest.approx(873.0, rel=1e-6)
    expected = np.log([0.51, 873.0]) - 1.8
    np.testing.assert_allclose([tokenizer.low[0], tokenizer.high[0]], expected, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("pt_map", ["log", "log1p"])
def test_no_training_constituent_is_outside(pt_map, seed, tmp_path):
    """Not even the softest and the hardest, whose logarithm is rounded to float32."""
    rng = np.random.default_rng(seed)
    constituents = toy_constituents(COUNTS, rng.uniform(0.5, 1), rng.uniform(500, 900), seed)
    store = store_of(tmp_path / "jets", constituents)
    tokenizer = binned(pt_map)
    tokenizer.fit(store)
    tokens = tokenize(tokenizer, store, tmp_path / "tokens", seed=(1,), progress=False)
    assert tokens.info["out_of_range"] == {"constituents": 0, "jets": 0}


def test_outside_is_clipped_to_the_cell_at_the_edge_and_counted(tokenizer, tmp_path):
    counts = [3, 2, 1, 0, 2]
    constituents = np.array(
        [
            [900, 0.1, 0.2], [500, 0, 0], [0.5, -0.1, 0.3],  # too hard, inside, too soft
            [90, 0.81, 0], [80, -0.3, -0.9],  # outside in either angle
            [70, -5, 7],  # in both: one constituent
            [60, 0.79, -0.79], [50, 0, 0],  # inside
        ],
        "f4",
    )  # fmt: skip
    store = store_of(tmp_path / "jets", constituents, counts)
    tokens = tokenize(tokenizer, store, tmp_path / "tokens", seed=(1,), progress=False)
    assert tokens.info["out_of_range"] == {"constituents": 5, "jets": 3}
    cells = np.stack(np.unravel_index(tokens.ids, BINS), -1)
    top, n_eta, n_phi = np.array(BINS) - 1
    assert cells[0, 0] == top and cells[2, 0] == 0
    assert cells[3, 1] == n_eta and cells[4, 2] == 0
    assert cells[5, 1] == 0 and cells[5, 2] == n_phi
    centres = tokens.decoded[5, 1:] / 3
    np.testing.assert_allclose(centres, [-0.8 + 0.8 / 11, 0.8 - 0.8 / 13], rtol=1e-5)


def test_padding_is_not_outside(tokenizer):
    x = torch.full((1, 3, 3), 99.0)
    mask = torch.tensor([[True, False, False]])
    assert tokenizer.out_of_range(x, mask).tolist() == [[True, False, False]]


def test_without_a_range_it_refuses(tmp_path):
    tokenizer = binned()
    x, mask = torch.zeros(1, 2, 3), torch.ones(1, 2).bool()
    for use in (
        lambda: tokenizer.encode(x, mask),
        lambda: tokenizer.decode(torch.zeros(1, 2, dtype=torch.int64)),
        lambda: tokenizer.out_of_range(x, mask),
    ):
        with pytest.raises(JetfmError, match="no range of pt; expected a call of fit"):
            use()


def test_jets_without_a_range_of_pt_are_refused(tmp_path):
    one = store_of(tmp_path / "one", np.array([[5, 0, 0]], "f4"), [1])
    with pytest.raises(JetfmError, match="pt from 5.0 to 5.0 GeV"):
        binned().fit(one)
    none = store_of(tmp_path / "none", np.zeros((0, 3), "f4"), [0, 0])
    with pytest.raises(JetfmError, match="a range of pt"):
        binned().fit(none)


def test_the_range_is_saved(tokenizer, tmp_path):
    unfitted = binned(tokenizer.preprocessing.pt_map)
    assert unfitted.hash != tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert torch.equal(loaded.low, tokenizer.low) and torch.equal(loaded.high, tokenizer.high)
    assert loaded.hash == tokenizer.hash


def test_paper_1_has_21_cells_along_each_axis():
    settings = TokenizerSettings(preset="binned")
    assert settings.n_codes == 21**3 == 9261 and settings.label == "Binned, 9261"
