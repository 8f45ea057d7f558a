"""Jets on their way to tokens: cuts, mirror images, and the constituents that tokens stand for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.physics.features import within_cuts
from jetfm.physics.observables import jet_observables
from jetfm.schema import CLASSES, KINEMATICS
from jetfm.settings import PretrainingSettings, TokenizerSettings
from jetfm.token_quality.measurement import original_jets
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.encoding import jet_batch, outside_cuts, tokenize, tokenize_mirrored

SMALL = {"n_codes": 16, "dim": 8, "n_blocks": 1, "n_heads": 2}


def tokenizer_of(**more):
    return make_tokenizer(TokenizerSettings.model_validate(SMALL | more), seed=1).eval()


def store_of(folder, rows, counts, labels=None) -> JetStore:
    jets = np.zeros(len(counts), JET_DTYPE)
    jets["label"] = 0 if labels is None else labels
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(np.reshape(rows, (-1, 3)), counts, jets)
    return JetStore(folder)


def wide_store(folder, counts, seed=0, **more):
    """Falling pt, angles up to 1.2 from the axis: a quarter and more is outside of 0.8."""
    rng = np.random.default_rng(seed)
    rows = rng.uniform(-1.2, 1.2, (sum(counts), 3)).astype("f4")
    rows[:, 0] = np.concatenate([np.sort(rng.uniform(1, 90, n))[::-1] for n in counts] or [[]])
    return store_of(folder, rows, counts, **more)


def plain(store, jet, half_width, limit):
    """Constituents that are kept, one by one."""
    rows = store.constituents[store.offsets[jet] : store.offsets[jet + 1]][:limit]
    return [row for row in rows if abs(row[1]) < half_width and abs(row[2]) < half_width]


@settings(max_examples=30)
@given(st.lists(st.sampled_from([0, 1, 2, 7, 130]), min_size=1, max_size=6), st.integers(0, 99))
def test_cuts_keep_what_a_loop_keeps(tmp_path_factory, counts, seed):
    store = wide_store(tmp_path_factory.mktemp("jets"), counts, seed)
    tokenizer = tokenizer_of(preset="omnijet")
    batch = jet_batch(store, tokenizer, np.arange(len(counts)), 128, (1,))
    removed = outside_cuts(store, 0.8, 128)
    for jet, n in enumerate(counts):
        expected = plain(store, jet, 0.8, 128)
        mask = batch["mask"][jet]
        assert mask.sum() == len(expected) == min(n, 128) - removed[jet]
        assert mask[: len(expected)].all()  # no holes
        found = tokenizer.preprocessing.inverse(batch["x"][jet, mask])
        np.testing.assert_allclose(found, np.array(expected).reshape(-1, 3), rtol=1e-4, atol=1e-5)
        places = store.offsets[jet] + batch["positions"][jet, mask].numpy()
        np.testing.assert_array_equal(store.constituents[places], np.reshape(expected, (-1, 3)))


@pytest.mark.parametrize("order", ["pt", "random"])
def test_tokens_say_which_constituents_they_stand_for(tmp_path, order):
    counts = [5, 0, 130, 1, 40]
    store = wide_store(tmp_path / "jets", counts)
    tokenizer = tokenizer_of(preset="omnijet", order=order)
    tokens = tokenize(tokenizer, store, tmp_path / "tokens", (1,), progress=False)
    removed = outside_cuts(store, 0.8, 128)
    assert removed.sum() > 20
    assert tokens.info["removed"] == {"constituents": removed.sum(), "jets": (removed > 0).sum()}
    np.testing.assert_array_equal(tokens.multiplicity, np.array(counts) - removed)
    np.testing.assert_array_equal(tokens.n_constituents, np.minimum(counts, 128) - removed)
    before = original_jets(store, tokens, slice(0, len(counts)))
    assert within_cuts(before).all()
    kept = np.concatenate([np.reshape(plain(store, j, 0.8, 128), (-1, 3)) for j in range(5)])
    if order == "pt":
        np.testing.assert_array_equal(before, kept)
    else:
        assert not np.array_equal(before, kept)
        np.testing.assert_array_equal(np.sort(before[:, 0]), np.sort(kept[:, 0]))


def test_without_cuts_every_constituent_has_a_token(tmp_path):
    store = wide_store(tmp_path / "jets", [5, 0, 130, 1])
    tokens = tokenize(tokenizer_of(), store, tmp_path / "tokens", (1,), progress=False)
    assert tokens.n_constituents.tolist() == [5, 0, 128, 1]
    assert tokens.info["removed"] == {"constituents": 0, "jets": 0}
    assert not outside_cuts(store, None).any()


def test_papers_presets_have_their_cuts():
    found = {name: TokenizerSettings(preset=name).half_width for name in
             ("hybrid", "omnijet", "omnijet-unconditional", "binned")}  # fmt: skip
    expected = {"omnijet": 0.8, "omnijet-unconditional": 0.8, "binned": 0.8, "hybrid": None}
    assert found == expected


def test_mirror_images_have_the_jets_observables(tmp_path):
    """Mass, pt and substructure; and reflected axes, in the order that is promised."""
    store = wide_store(tmp_path / "jets", [6, 30, 9])
    tokenizer, n = tokenizer_of(order="pt"), np.arange(3)
    jets = {
        signs: jet_batch(store, tokenizer, n, 128, (1,), signs)
        for signs in ((1, 1), (-1, 1), (1, -1), (-1, -1))
    }
    mask = jets[1, 1]["mask"].numpy()
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
    seen = {}
    for signs, batch in jets.items():
        physical = tokenizer.preprocessing.inverse(batch["x"].double().numpy())[mask]
        kept = store.constituents * np.array([1, *signs])
        np.testing.assert_allclose(physical, kept, rtol=1e-4, atol=1e-5)
        seen[signs] = jet_observables(physical, offsets, axes="kt")
    for found in seen.values():
        for name in ("pt", "mass", "tau1", "tau21", "tau32"):
            np.testing.assert_allclose(found[name], seen[1, 1][name], rtol=1e-3)


def test_mirrored_tokens_are_those_of_mirrored_jets(tmp_path):
    """Four tokens of a jet of the class, one a mirror image; the first are the jet's own."""
    labels = [0, 8, 0, 8]
    store = wide_store(tmp_path / "jets", [6, 30, 1, 9], labels=labels)
    tokenizer = tokenizer_of(preset="omnijet")
    classes = (CLASSES[8].name,)
    found = tokenize_mirrored(tokenizer, store, tmp_path / "m", (1,), classes, progress=False)
    assert len(found) == 8 and (found.labels == 8).all()
    own = tokenize(tokenizer, store, tmp_path / "own", (1,), progress=False)
    ids, _, mask = own.dense(np.array([1, 3]))
    mirrored_ids, _, mirrored_mask = found.dense(np.arange(2))
    assert np.array_equal(ids[mask], mirrored_ids[mirrored_mask])
    for number, signs in enumerate(((1, 1), (-1, 1), (1, -1), (-1, -1))):
        rows = np.array(store.constituents)
        rows[:, 1:] *= signs
        image = store_of(tmp_path / f"image{number}", rows, [6, 30, 1, 9], labels=labels)
        expected = tokenize(tokenizer, image, tmp_path / f"t{number}", (1,), progress=False)
        jets = np.arange(2 * number, 2 * number + 2)
        for one, other in zip(found.dense(jets), expected.dense(np.array([1, 3])), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
    assert not np.array_equal(found.dense(np.arange(2))[0], found.dense(np.arange(2, 4))[0])


def test_more_than_the_kinematics_is_not_mirrored(tmp_path):
    store = wide_store(tmp_path / "jets", [3])
    with pytest.raises(JetfmError, match="mirror images: found a tokenizer of 14 features"):
        tokenize_mirrored(tokenizer_of(features="full"), store, tmp_path / "m", (1,))


def test_a_limit_and_mirror_images_do_not_go_together():
    with pytest.raises(ValueError, match="mirrored is for all jets"):
        PretrainingSettings(mirrored=True, limit_train_jets=10)


def test_causal_order_is_kept_by_the_cuts(tmp_path):
    """In falling pt before, in falling pt after."""
    store = wide_store(tmp_path / "jets", [40, 60])
    batch = jet_batch(store, tokenizer_of(preset="omnijet"), np.arange(2), 128, (1,))
    for x, mask in zip(batch["x"], batch["mask"], strict=True):
        assert (torch.diff(x[mask, 0]) <= 0).all()
