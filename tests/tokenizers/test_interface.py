"""What every tokenizer promises: closure, padding, symmetry, order of decoding, learning, files."""

from __future__ import annotations

import copy
import json
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.schema import KINEMATICS
from jetfm.settings import OptimizerSettings, TokenizerSettings
from jetfm.tokenizers import interface, load_tokenizer, make_tokenizer
from jetfm.tokenizers.interface import Tokenizer
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.toys import randomise, training_settings

SMALL = dict(dim=16, n_blocks=2, n_heads=2, n_codes=64, latent_dim=4, replace_after=20)
KINDS = {
    "binned": TokenizerSettings(preset="binned", bins=(9, 11, 13)),
    "unconditional": TokenizerSettings(preset="omnijet-unconditional", **SMALL),
    "conditional": TokenizerSettings(preset="omnijet", **SMALL),
    "causal": TokenizerSettings(**SMALL),
    "fsq": TokenizerSettings(quantizer="fsq", levels=(5, 4, 3), dim=16, n_blocks=2, n_heads=2),
    "residual": TokenizerSettings(quantizer="residual", **SMALL),
    "full": TokenizerSettings(features="full", **SMALL),
}
TRAINABLE = [name for name in KINDS if name != "binned"]
COUNTS = (0, 1, 2, 9, 140)


def toy_physical(counts, n_features: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Constituents (B, T, F) in physical space, zero where padded, and their mask (B, T)."""
    rng = np.random.default_rng(seed)
    shape = (len(counts), max(*counts, 0))
    columns = [rng.exponential(20, shape) + 0.5, *rng.normal(0, 0.2, (2, *shape)).clip(-0.7, 0.7)]
    if n_features > 3:
        flag = rng.integers(0, 5, shape)
        columns += [rng.exponential(0.1, shape), rng.integers(-1, 2, shape)]
        columns += [flag == kind for kind in range(5)]
        for _ in range(2):  # impact parameter and its error
            columns += [rng.standard_cauchy(shape), rng.exponential(0.05, shape)]
    mask = torch.arange(shape[1]) < torch.tensor(counts)[:, None]
    physical = torch.as_tensor(np.stack(columns, -1)).float()
    return torch.where(mask[..., None], physical, 0), mask


def toy_batch(tokenizer: Tokenizer, counts, seed: int = 0) -> dict[str, torch.Tensor]:
    """Jets in the tokenizer's network space."""
    physical, mask = toy_physical(counts, tokenizer.n_features, seed)
    return {"x": tokenizer.preprocessing.forward(physical, mask), "mask": mask}


def made(kind: str) -> Tokenizer:
    """A small tokenizer of this kind that can encode: a range or codebooks from toy jets."""
    tokenizer = make_tokenizer(KINDS[kind], seed=1)
    if kind == "binned":
        tokenizer.low[0], tokenizer.high[0] = -2.6, 3.5
        return tokenizer.eval()
    batch = toy_batch(randomise(tokenizer), [30] * 8, seed=5)
    with torch.no_grad():  # latents as wide as the codes, so that many of them are in use
        z = tokenizer._latents(**batch)[batch["mask"]]
        tokenizer.latent_in.weight /= z.std(0)[:, None]
        tokenizer.latent_in.bias.sub_(z.mean(0)).div_(z.std(0))
    torch.manual_seed(0)
    tokenizer.train().loss(batch)  # residual: k-means
    return tokenizer.eval()


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request) -> Tokenizer:
    return made(request.param)


# Encoding and decoding ---------------------------------------------------------------------------


def test_ids_are_in_range_and_minus_one_where_padded(tokenizer):
    batch = toy_batch(tokenizer, COUNTS)
    ids = tokenizer.encode(**batch)
    assert ids.shape == batch["mask"].shape and ids.dtype == torch.int64
    assert torch.equal(ids >= 0, batch["mask"])
    assert ids.max() < tokenizer.n_codes
    assert len(ids.unique()) > 5  # not all the same
    decoded = tokenizer.decode(ids)
    assert decoded.shape == batch["x"].shape and decoded.dtype == torch.float32
    assert torch.isfinite(decoded).all() and (decoded[~batch["mask"]] == 0).all()
    usage = tokenizer.usage(ids)
    assert len(usage) == tokenizer.n_codes and usage.sum() == sum(COUNTS)


@settings(max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    counts=st.lists(st.sampled_from(COUNTS), min_size=1, max_size=4),
    extra=st.integers(0, 30),
    seed=st.integers(0, 9),
)
def test_neighbours_padding_and_order_change_nothing(tokenizer, counts, extra, seed):
    """Every jet of a padded batch, its constituents shuffled, gets what it gets alone."""
    alone = {n: toy_batch(tokenizer, [n], seed=n) for n in set(counts)}
    rng = np.random.default_rng(seed)
    orders = [torch.as_tensor(rng.permutation(n)) for n in counts]
    length = max(counts) + extra
    x = torch.full((len(counts), length, tokenizer.n_features), 7.0)  # what must not be seen
    mask = torch.arange(length) < torch.tensor(counts)[:, None]
    for row, (n, order) in enumerate(zip(counts, orders, strict=True)):
        x[row, :n] = alone[n]["x"][0, order]
    ids = tokenizer.encode(x, mask)
    decoded = tokenizer.decode(ids)
    assert (ids[~mask] == -1).all() and (decoded[~mask] == 0).all()
    for row, (n, order) in enumerate(zip(counts, orders, strict=True)):
        expected = tokenizer.encode(**alone[n])[0, order]
        assert torch.equal(ids[row, :n], expected)
        torch.testing.assert_close(
            decoded[row, :n], tokenizer.decode(expected[None])[0], rtol=1e-5, atol=1e-5
        )


@settings(max_examples=100)
@given(
    rows=st.lists(st.lists(st.booleans(), min_size=6, max_size=6), max_size=8),
    held=st.integers(1, 30),
)
def test_pieces_of_a_batch_hold_every_constituent_once(rows, held):
    """And no more slots than allowed, unless one jet alone needs them."""
    mask = torch.tensor(rows, dtype=torch.bool).view(len(rows), 6)
    seen = torch.zeros_like(mask, dtype=torch.int64)
    with patch.object(interface, "_SLOTS", held), patch("torch.get_num_threads", lambda: 1):
        for piece in interface._pieces(mask):
            seen[piece] += 1
            size = seen[piece].shape
            assert 0 < seen[piece].numel() <= held or size[0] == 1
            assert mask[piece][:, -1].any()  # cut to its longest jet
    assert (seen[mask] == 1).all() and (seen <= 1).all()


def test_pieces_of_a_batch_do_not_matter(tokenizer, monkeypatch):
    batch = toy_batch(tokenizer, [*COUNTS, 3, 77, 0, 20])
    found = []
    for held in (1, 200, 10**9):
        monkeypatch.setattr(interface, "_SLOTS", held)
        ids = tokenizer.encode(**batch)
        found.append((ids, tokenizer.decode(ids)))
    for ids, decoded in found[1:]:
        assert torch.equal(ids, found[0][0])
        torch.testing.assert_close(decoded, found[0][1], rtol=1e-5, atol=1e-5)


def test_a_jet_without_slots_is_no_trouble(tokenizer):
    ids = tokenizer.encode(torch.zeros(3, 0, tokenizer.n_features), torch.zeros(3, 0).bool())
    assert ids.shape == (3, 0) and tokenizer.decode(ids).shape == (3, 0, tokenizer.n_features)


def test_the_mask_may_hide_ids(tokenizer):
    ids = torch.arange(12).reshape(2, 6)
    mask = torch.arange(6) < torch.tensor([4, 1])[:, None]
    hidden = torch.where(mask, ids, -1)
    torch.testing.assert_close(tokenizer.decode(ids, mask), tokenizer.decode(hidden))


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_id_depends_on(kind):
    """Conditional: on the whole jet. Unconditional and binned: on its constituent alone."""
    tokenizer = made(kind)
    batch = toy_batch(tokenizer, [12] * 40, seed=3)
    others = batch["x"].clone()
    others[:, 1:] = toy_batch(tokenizer, [11] * 40, seed=4)["x"]
    first = tokenizer.encode(**batch)[:, 0]
    again = tokenizer.encode(others, batch["mask"])[:, 0]
    alone_counts = tokenizer.settings.family in ("binned", "unconditional")
    assert torch.equal(first, again) == alone_counts


# The order of decoding ---------------------------------------------------------------------------


def test_later_tokens_matter_only_where_the_decoder_is_not_sequential(tokenizer):
    """Earlier positions stay exactly what they are, or every one of them moves."""
    n_codes = min(tokenizer.n_codes, 60)
    ids = torch.randint(0, n_codes, (5, 8), generator=torch.Generator().manual_seed(2))
    before = tokenizer.decode(ids)
    for position in (1, 4, 7):
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 1) % n_codes
        difference = (tokenizer.decode(changed) - before).abs().amax(-1)  # (B, T)
        assert (difference[:, position] > 1e-5).all()
        if tokenizer.sequential:
            assert difference[:, :position].max() < 1e-6
        else:
            assert (difference[:, :position] > 1e-7).any(0).all()
    assert tokenizer.sequential == (tokenizer.settings.family != "conditional")


def test_decoding_token_by_token(tokenizer):
    n_codes = tokenizer.n_codes
    ids = torch.randint(0, n_codes, (3, 40), generator=torch.Generator().manual_seed(5))
    caches = tokenizer.new_caches()
    if not tokenizer.sequential:
        with pytest.raises(JetfmError, match="causal_decoder: found False"):
            tokenizer.decode_next(ids[:, 0], caches)
        return
    steps = torch.stack([tokenizer.decode_next(column, caches) for column in ids.T], 1)
    torch.testing.assert_close(steps, tokenizer.decode(ids), rtol=1e-5, atol=1e-5)
    with pytest.raises(JetfmError, match=f"token ids: found ids from 0 to {n_codes}"):
        tokenizer.decode_next(torch.tensor([0, n_codes, 1]), caches)


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-2, 10**6])
def test_an_id_outside_the_codebook(tokenizer, wrong):
    with pytest.raises(JetfmError, match=f"token ids.*{wrong}.*0..{tokenizer.n_codes - 1}"):
        tokenizer.decode(torch.tensor([[0, wrong, -1]]))


def test_columns_that_are_not_the_tokenizers(tokenizer):
    batch, names = toy_batch(tokenizer, [3, 2]), list(tokenizer.preprocessing.features)
    assert torch.equal(tokenizer.encode(**batch, features=names), tokenizer.encode(**batch))
    names[1], names[2] = names[2], names[1]
    with pytest.raises(JetfmError, match="found phi_rel in column 1; expected eta_rel"):
        tokenizer.encode(**batch, features=names)
    with pytest.raises(JetfmError, match=f"in column {len(names)}; expected nothing"):
        tokenizer.encode(**batch, features=[*tokenizer.preprocessing.features, "energy"])


def test_shapes_that_do_not_fit(tokenizer):
    batch, width = toy_batch(tokenizer, [3, 2]), tokenizer.n_features
    for x, mask in (
        (batch["x"][..., :-1], batch["mask"]),
        (batch["x"], batch["mask"][:, :-1]),
        (batch["x"][0], batch["mask"][0]),
    ):
        with pytest.raises(JetfmError, match=rf"tokenizer input.*\(B, T, {width}\)"):
            tokenizer.encode(x, mask)


# Learning ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TRAINABLE)
def test_a_short_training_improves_the_reconstruction(kind):
    tokenizer = make_tokenizer(KINDS[kind], seed=2)
    batch = toy_batch(tokenizer, [6] * 16, seed=2)
    plan = training_settings(
        max_steps=20, validate_every=10,
        optimizer=OptimizerSettings(name="adamw", lr=1e-2, clip=5.0, warmup_steps=0),
    )  # fmt: skip
    training = Training(tokenizer, lambda step: batch, plan, validation=[batch], progress=False)
    result = fit(training)
    rows = [row["reconstruction"] for row in result.history if row["split"] == "train"]
    assert min(rows) < 0.7 * rows[0]
    with torch.no_grad():
        _, metrics = tokenizer.loss(batch)
    assert metrics["reconstruction"].item() == pytest.approx(result.best_metric, rel=1e-5)
    decoded = tokenizer.decode(tokenizer.encode(**batch))
    squares = (decoded - batch["x"]).square().sum() / batch["mask"].sum()
    assert squares.item() == pytest.approx(result.best_metric, rel=1e-4)


@pytest.mark.parametrize("kind", TRAINABLE)
def test_the_loss_counts_real_constituents_only(kind):
    """A padded batch has the mean loss of its constituents, whatever stands in the padding."""
    tokenizer, counts = made(kind), [3, 1, 6, 0]
    batch = toy_batch(tokenizer, counts)
    x = torch.cat([batch["x"], torch.zeros(4, 5, tokenizer.n_features)], 1)
    mask = torch.cat([batch["mask"], torch.zeros(4, 5).bool()], 1)
    x = torch.where(mask[..., None], x, 1e3).requires_grad_()
    loss, metrics = tokenizer.loss({"x": x, "mask": mask})
    losses = [
        tokenizer.loss({"x": batch["x"][i : i + 1, :n], "mask": batch["mask"][i : i + 1, :n]})[0]
        for i, n in enumerate(counts)
        if n
    ]
    expected = (torch.stack(losses) * torch.tensor([3.0, 1.0, 6.0])).sum() / 10
    torch.testing.assert_close(loss, expected)
    assert metrics["weight"] == 10
    loss.backward()
    assert (x.grad[~mask] == 0).all() and (x.grad[mask] != 0).any(-1).all()


# Files -------------------------------------------------------------------------------------------


def test_saved_and_loaded(tokenizer, tmp_path):
    batch = toy_batch(tokenizer, COUNTS)
    ids = tokenizer.encode(**batch)
    own_hash = tokenizer.save(tmp_path, usage=tokenizer.usage(ids), training_data="abc")
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer) and not loaded.training
    assert loaded.hash == own_hash == tokenizer.hash
    assert loaded.config == tokenizer.config
    assert torch.equal(loaded.encode(**batch), ids)
    torch.testing.assert_close(loaded.decode(ids), tokenizer.decode(ids), rtol=0, atol=0)
    np.testing.assert_array_equal(np.load(tmp_path / "usage.npy"), tokenizer.usage(ids))
    assert json.loads((tmp_path / "tokenizer.json").read_text())["training_data"] == "abc"


def test_the_hash_is_that_of_settings_preprocessing_and_weights(tokenizer):
    first = tokenizer.hash
    tokenizer.encode(**toy_batch(tokenizer, COUNTS))  # use is not change
    assert tokenizer.hash == first
    other = copy.deepcopy(tokenizer)
    other.preprocessing = other.preprocessing.model_copy(update={"pt_shift": 1.7})
    assert other.hash != first
    other = copy.deepcopy(tokenizer)
    name, value = next(iter(other.state_dict().items()))
    value.view(-1)[0] += 1
    assert other.hash != first, name


def overwrite(path, change):
    data = bytearray(path.read_bytes())
    path.write_bytes(change(data))


DAMAGE = {
    "weights missing": ("weights.safetensors", lambda f: (f / "weights.safetensors").unlink()),
    "weights altered": (
        "weights.safetensors",
        lambda f: overwrite(f / "weights.safetensors", lambda d: d[:-1] + bytes([d[-1] ^ 1])),
    ),
    "settings altered": (
        "tokenizer.json",
        lambda f: overwrite(f / "tokenizer.json", lambda d: d.replace(b'"nu": 1.0', b'"nu": 2.0')),
    ),
    "preprocessing altered": (
        "tokenizer.json",
        lambda f: overwrite(f / "tokenizer.json", lambda d: d.replace(b"1.8", b"1.7")),
    ),
    "no description": ("tokenizer.json", lambda f: (f / "tokenizer.json").unlink()),
    "half a description": (
        "tokenizer.json",
        lambda f: overwrite(f / "tokenizer.json", lambda d: d[: len(d) // 2]),
    ),
    "foreign description": (
        "tokenizer.json",
        lambda f: (f / "tokenizer.json").write_text('{"kind": "something else"}'),
    ),
    "a list": ("tokenizer.json", lambda f: (f / "tokenizer.json").write_text("[1, 2]")),
    "usage altered": (
        "usage.npy",
        lambda f: overwrite(f / "usage.npy", lambda d: d[:-8] + bytes([d[-8] ^ 1]) + d[-7:]),
    ),
    "usage missing": ("usage.npy", lambda f: (f / "usage.npy").unlink()),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("kind", ["binned", "causal"])
def test_files_that_are_not_as_they_were_saved(kind, damage, tmp_path):
    tokenizer = made(kind)
    tokenizer.save(tmp_path, usage=np.arange(tokenizer.n_codes))
    load_tokenizer(tmp_path)
    name, break_it = DAMAGE[damage]
    break_it(tmp_path)
    with pytest.raises(JetfmError, match=name):
        load_tokenizer(tmp_path)


def test_another_models_files_are_refused(tmp_path):
    """A well-formed description of something that is no tokenizer, hashes and all."""
    from jetfm.storage.weights import save_weights

    save_weights(tmp_path, "tokenizer", {"a": torch.zeros(2)}, {"n_codes": 5})
    with pytest.raises(JetfmError, match="tokenizer.json.*a tokenizer's settings"):
        load_tokenizer(tmp_path)


def test_weights_of_another_size_are_refused(tmp_path):
    from jetfm.storage.weights import save_weights

    tokenizer = made("causal")
    state = tokenizer.state_dict()
    state["features_in.weight"] = state["features_in.weight"][:, :2]
    save_weights(tmp_path, "tokenizer", state, tokenizer.config)
    with pytest.raises(JetfmError, match=r"features_in.weight of shape \(16, 2\)"):
        load_tokenizer(tmp_path)


# From a store ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["binned", "conditional"])
def test_fit_from_a_store_keeps_only_what_it_learned(kind, tmp_path):
    """The one entry point: metrics to record, and a tokenizer that encodes."""
    tokenizer = make_tokenizer(KINDS[kind])
    values = tokenizer.settings.model_dump()
    values["training"] |= {"batch_size": 8, "max_steps": 2, "validate_every": 1}
    tokenizer.settings = TokenizerSettings.model_validate(values)
    counts = [5, 0, 130, 1, 2, 7, 8, 9]
    physical, mask = toy_physical(counts, 3)
    with JetStoreWriter(tmp_path / "jets", KINEMATICS) as writer:
        writer.append(physical[mask].numpy(), counts, np.zeros(len(counts), JET_DTYPE))
    store = JetStore(tmp_path / "jets")
    found = tokenizer.fit(store, store, tmp_path / "fit", seed=1, progress=False)
    assert set(found) == {"metrics", "history"}
    json.dumps(found, allow_nan=False)
    assert all(np.isfinite(value) for value in found["metrics"].values())
    assert not tokenizer.eval().training
    ids = tokenizer.encode(**toy_batch(tokenizer, counts))
    assert torch.equal(ids >= 0, mask)
