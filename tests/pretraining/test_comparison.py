"""What is said of pre-trained models: each prediction in its bin, the leak on the same masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jetfm.data.batches import InOrderBatches
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.models.jet_model import JetModel
from jetfm.models.masking import draw_masked
from jetfm.models.objectives import next_token_targets
from jetfm.pretraining.comparison import POSITION_EDGES, PT_EDGES, RESULT, judge
from jetfm.pretraining.train import token_batch
from jetfm.storage.files import read_json
from jetfm.tokenizers.vqvae import VQVAE
from tests.models.test_jet_model import K, settings_of
from tests.toys import randomise, small_tokenizer_settings, token_batch_of

COUNTS = [3, 20, 9, 1, 14, 30]
SEED = 4


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


@pytest.fixture(scope="module")
def store(tokenizer, tmp_path_factory) -> TokenStore:
    folder = tmp_path_factory.mktemp("tokens")
    with TokenStoreWriter(folder, K, tokenizer=tokenizer.hash) as writer:
        batch = token_batch_of(tokenizer, COUNTS)
        writer.append(*(batch[key].numpy() for key in ("ids", "decoded", "mask")))
    return TokenStore(folder)


def joint(**changes) -> JetModel:
    torch.manual_seed(0)
    return randomise(JetModel(settings_of("joint", **changes), K)).eval()


def pt_of(tokenizer, decoded) -> np.ndarray:
    return tokenizer.preprocessing.inverse(decoded.numpy().astype(float))[..., 0]


def test_every_next_token_is_counted_where_it_stands(store, tokenizer, tmp_path):
    """Jet by jet: the k-th prediction is of constituent k; the stop counts in the loss alone."""
    model = joint()
    found = judge(model, tokenizer, store, tmp_path, SEED)["ntp"]
    result = _read(tmp_path)["ntp"]
    losses, hits, positions, pts = [], [], [], []
    for jet, n in enumerate(COUNTS):
        batch = token_batch(store, np.array([jet]))
        with torch.no_grad():
            logits = model(batch["decoded"], batch["mask"], batch["n_constituents"])[0]
        target = next_token_targets(batch["ids"], batch["mask"], batch["n_constituents"], K)[0]
        losses += F.cross_entropy(logits[: n + 1], target[: n + 1], reduction="none").tolist()
        hits += (logits[: n + 1].argmax(-1) == target[: n + 1]).tolist()
        positions += [*range(n), np.nan]
        pts += [*pt_of(tokenizer, batch["decoded"])[0, :n], np.nan]
    assert found["n"] == len(losses) == sum(COUNTS) + len(COUNTS)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    of_constituents = np.array(hits)[~np.isnan(pts)]
    assert found["accuracy"] == pytest.approx(of_constituents.mean(), abs=1e-6)
    assert sum(result["by_position"]["n"]) == sum(result["by_pt"]["n"]) <= sum(COUNTS)
    for key, values, edges in (
        ("by_position", positions, POSITION_EDGES),
        ("by_pt", pts, PT_EDGES),
    ):
        values, losses = np.array(values, float), np.array(losses)
        of_constituents = ~np.isnan(values)
        values, of_values = values[of_constituents], losses[of_constituents]
        n, _ = np.histogram(values, edges)
        sums, _ = np.histogram(values, edges, weights=of_values)
        assert result[key]["n"] == n.tolist()
        means = [np.nan if x is None else x for x in result[key]["loss"]]
        np.testing.assert_allclose(means, np.where(n, sums / np.maximum(n, 1), np.nan), rtol=1e-4)


def test_masked_constituents_are_counted_where_they_were(store, tokenizer, tmp_path):
    model = joint()
    judge(model, tokenizer, store, tmp_path, SEED)
    result = _read(tmp_path)["mpm"]
    order = np.random.default_rng(SEED).permutation(len(store))
    (indices,) = InOrderBatches(store.n_constituents, 500, order)
    batch = token_batch(store, indices)
    generator = torch.Generator().manual_seed(SEED)
    masked = draw_masked(batch["mask"], model.settings.mask_fraction, generator).numpy()
    assert result["n"] == masked.sum()
    n, _ = np.histogram(np.nonzero(masked)[1], POSITION_EDGES)
    assert result["by_position"]["n"] == n.tolist()
    n, _ = np.histogram(pt_of(tokenizer, batch["decoded"])[masked], PT_EDGES)
    assert result["by_pt"]["n"] == n.tolist()


def test_the_leak_is_measured_on_the_same_masks(store, tokenizer, tmp_path):
    """A leak-free model of the same weights scores what the other does without its leak."""
    plain = judge(joint(), tokenizer, store, tmp_path / "plain", SEED)
    free = judge(joint(leak_free=True), tokenizer, store, tmp_path / "free", SEED)
    assert plain["mpm_leak_free"] == free["mpm"] == free["mpm_leak_free"]
    assert plain["mpm"]["loss"] != free["mpm"]["loss"]
    assert plain["ntp"] == free["ntp"]


def _read(folder) -> dict:
    return read_json(folder / RESULT)
