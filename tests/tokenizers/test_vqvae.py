"""The tokenizer: size, padding, causality, symmetry, caches, learning, files."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.models.transformer import n_parameters
from jetfm.physics.features import Preprocessing
from jetfm.settings import OptimizerSettings, TokenizerSettings
from jetfm.tokenizers.kinds import load_tokenizer
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.toys import randomise, small_tokenizer_settings, toy_jets, training_settings


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


def test_paper_size():
    """Trainable parameters of the official example configuration, 3 features, 8192 codes."""
    assert n_parameters(VQVAE(TokenizerSettings())) == 1_656_859


@settings(max_examples=20)
@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 5, 17, 131]), min_size=1, max_size=5),
    extra=st.integers(0, 40),
)
def test_padding_never_changes_a_result(tokenizer, counts, extra):
    x, mask = toy_jets(counts, seed=3)
    x_long, mask_long = toy_jets(counts, seed=3, extra_padding=extra)
    x_long[~mask_long] = 7.0  # what must not be seen
    ids, ids_long = tokenizer.encode(x, mask), tokenizer.encode(x_long, mask_long)
    length = x.shape[1]
    assert torch.equal(ids, ids_long[:, :length]) and (ids_long[~mask_long] == -1).all()
    assert ((ids >= 0) == mask).all() and ids.max() < tokenizer.n_codes
    decoded, decoded_long = tokenizer.decode(ids), tokenizer.decode(ids_long)
    torch.testing.assert_close(decoded, decoded_long[:, :length], rtol=1e-5, atol=1e-5)
    assert (decoded_long[~mask_long] == 0).all() and torch.isfinite(decoded_long).all()


def test_loss_of_a_padded_batch_is_that_of_the_jets_alone(tokenizer):
    counts = np.array([3, 1, 6, 0])
    x, mask = toy_jets(counts, extra_padding=9)
    with torch.no_grad():
        loss, metrics = tokenizer.loss({"x": x, "mask": mask})
        alone = [
            tokenizer.loss({"x": x[i : i + 1, :n], "mask": mask[i : i + 1, :n]})
            for i, n in enumerate(counts)
            if n
        ]
    weights = torch.tensor([float(m["weight"]) for _, m in alone])
    losses = torch.stack([value for value, _ in alone])
    torch.testing.assert_close(loss, (losses * weights).sum() / 10)
    assert metrics["weight"] == 10


def test_loss_is_equation_a1(tokenizer):
    x, mask = toy_jets([4, 4, 4])
    with torch.no_grad():
        loss, _ = tokenizer.loss({"x": x, "mask": mask})
        decoded = tokenizer.decode(tokenizer.encode(x, mask))
        z = tokenizer._latents(x, mask).numpy()
        codes = tokenizer.quantizer.codes().numpy()
    q = codes[((z[..., None, :] - codes) ** 2).sum(-1).argmin(-1)]
    reconstruction = ((x - decoded) ** 2).sum().item() / 12
    expected = reconstruction + 10 * np.mean((z - q) ** 2)  # beta splits gradients, not the value
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_loss_does_not_see_padding_in_its_gradients(tokenizer):
    x, mask = toy_jets([5, 2], extra_padding=4)
    x = x.clone().requires_grad_()
    tokenizer.loss({"x": x, "mask": mask})[0].backward()
    assert (x.grad[~mask] == 0).all() and (x.grad[mask].abs().sum(-1) > 0).all()
    tokenizer.zero_grad()


def test_encoder_is_permutation_equivariant_and_sees_the_whole_jet(tokenizer):
    x, mask = toy_jets([12, 12, 12])
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    assert torch.equal(tokenizer.encode(x[:, order], mask), tokenizer.encode(x, mask)[:, order])
    changed = x.clone()
    changed[:, -1, 0] += 5
    with torch.no_grad():  # conditional: the first constituent's latent depends on the last
        difference = tokenizer._latents(changed, mask) - tokenizer._latents(x, mask)
    assert (difference[:, 0].abs().max(-1).values > 1e-4).all()


def test_decoder_is_causal(tokenizer):
    ids = torch.randint(0, 64, (4, 10), generator=torch.Generator().manual_seed(2))
    for position in range(10):
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 1) % 64
        before, after = tokenizer.decode(ids), tokenizer.decode(changed)
        torch.testing.assert_close(before[:, :position], after[:, :position], rtol=0, atol=1e-6)
        assert (before[:, position] != after[:, position]).any()


def test_other_decoder_sees_the_future():
    torch.manual_seed(0)
    model = randomise(VQVAE(small_tokenizer_settings(causal_decoder=False))).eval()
    ids = torch.arange(10)[None]
    changed = ids.clone()
    changed[:, -1] = 60
    assert (model.decode(ids)[:, 0] - model.decode(changed)[:, 0]).abs().max() > 1e-5
    with pytest.raises(JetfmError, match="causal_decoder"):
        model.decode_next(ids[:, 0], model.new_caches())


def test_decoding_token_by_token_equals_decoding_at_once(tokenizer):
    ids = torch.randint(0, 64, (3, 70), generator=torch.Generator().manual_seed(5))
    caches = tokenizer.new_caches()
    steps = torch.stack([tokenizer.decode_next(ids[:, k], caches) for k in range(70)], 1)
    torch.testing.assert_close(steps, tokenizer.decode(ids), rtol=1e-5, atol=1e-5)


def test_it_learns_a_few_jets_by_heart():
    """With codes enough, 64 jets come back nearly exactly."""
    torch.manual_seed(0)
    x, mask = toy_jets([4] * 64, seed=2)
    model = VQVAE(small_tokenizer_settings(n_codes=256, latent_dim=8, n_blocks=1))
    batch = {"x": x, "mask": mask}
    before = model.loss(batch)[1]["reconstruction"].item()
    adamw = OptimizerSettings(name="adamw", lr=1e-2, clip=5.0, warmup_steps=0)
    plan = training_settings(max_steps=100, validate_every=50, optimizer=adamw)
    fit(Training(model, lambda step: batch, plan, validation=[batch], progress=False))
    difference = model.decode(model.encode(x, mask)) - x
    assert difference.square().sum(-1).mean() < 0.02 * before
    usage = model.usage(model.encode(x, mask))
    assert usage.sum() == 256 and (usage > 0).sum() > 100


def test_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.preprocessing = Preprocessing(pt_map="log")
    own_hash = tokenizer.save(tmp_path, training_data="abc", usage=[1, 2])
    assert own_hash == tokenizer.hash
    loaded = load_tokenizer(tmp_path)
    tokenizer.preprocessing = Preprocessing()
    x, mask = toy_jets([9, 3])
    assert torch.equal(loaded.encode(x, mask), tokenizer.encode(x, mask))
    assert loaded.hash == own_hash and loaded.preprocessing.pt_map == "log"
    assert not loaded.training
    assert json.loads((tmp_path / "tokenizer.json").read_text())["training_data"] == "abc"


@pytest.mark.parametrize("damage", ["flip", "truncate", "missing", "config", "foreign"])
def test_damaged_files_are_refused(tokenizer, tmp_path, damage):
    tokenizer.save(tmp_path)
    weights, description = tmp_path / "weights.safetensors", tmp_path / "tokenizer.json"
    data = bytearray(weights.read_bytes())
    if damage == "flip":
        data[-1] ^= 1
        weights.write_bytes(data)
    elif damage == "truncate":
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "missing":
        weights.unlink()
    elif damage == "config":
        text = description.read_text().replace('"alpha": 10.0', '"alpha": 9.0')
        description.write_text(text)
    else:
        description.write_text("{}")
    with pytest.raises(JetfmError, match="tokenizer.json|weights.safetensors"):
        load_tokenizer(tmp_path)


def test_wrong_shapes_are_refused(tokenizer):
    x, mask = toy_jets([3, 2])
    with pytest.raises(JetfmError, match="tokenizer input"):
        tokenizer.encode(x[..., :2], mask)
    with pytest.raises(JetfmError, match="tokenizer input"):
        tokenizer.encode(x, mask[:, :1])
