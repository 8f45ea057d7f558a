"""A store in parts reads as the same jets in one folder do."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data import ragged
from jetfm.data.batches import BlockShuffledBatches
from jetfm.data.joined import JoinedArray, blocks
from jetfm.data.ragged import PARTS, join_parts
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.pretraining.train import TokenBatches, token_batch
from jetfm.storage.files import map_npy

FEATURES = ("pt", "eta_rel", "phi_rel")
PART = st.lists(st.one_of(st.integers(0, 3), st.just(60)), max_size=5)
PARTS_OF = st.lists(PART, min_size=1, max_size=5).filter(lambda parts: any(map(len, parts)))


def write_jets(folder, lengths, seed=0, features=FEATURES):
    rng = np.random.default_rng(seed)
    rows = np.zeros(len(lengths), JET_DTYPE)
    rows["label"] = rng.integers(0, 10, len(lengths))
    rows["pt"] = rng.normal(size=len(lengths))
    sources = [{"name": f"{seed}.root"}]
    with JetStoreWriter(folder, features, may_be_empty=True, sources=sources) as writer:
        writer.append(rng.normal(size=(sum(lengths), len(features))), lengths, rows)
    return JetStore(folder)


def write_tokens(folder, lengths, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths, default=0)) < np.array(lengths, int)[:, None]
    ids, decoded = rng.integers(0, 16, mask.shape), rng.normal(size=(*mask.shape, 3))
    labels = rng.integers(0, 10, len(lengths))
    with TokenStoreWriter(folder, 16, may_be_empty=True, n_truncated=1) as writer:
        writer.append(ids, decoded.astype("f4"), mask, labels, np.array(lengths, int) + 1)
    return TokenStore(folder)


def in_parts(folder, write, parts):
    names = [f"part{i}" for i in range(len(parts))]
    stores = [write(folder / PARTS / names[i], part, seed=i) for i, part in enumerate(parts)]
    return join_parts(folder, type(stores[0]), names), stores


def together(stores, name):
    return np.concatenate([getattr(store, name) for store in stores])


@settings(max_examples=50)
@given(parts=PARTS_OF, data=st.data(), longest=st.sampled_from([None, 1, 2, 100]))
@pytest.mark.parametrize("write", [write_jets, write_tokens])
def test_parts_give_the_jets_of_their_stores(tmp_path_factory, write, parts, data, longest):
    """Parts without jets, and jets without constituents, included."""
    store, stores = in_parts(tmp_path_factory.mktemp("store"), write, parts)
    n_jets = sum(map(len, parts))
    assert len(store) == store.n_jets == len(store.n_constituents) == n_jets
    lengths = np.concatenate([np.array(p, int) for p in parts])
    np.testing.assert_array_equal(store.n_constituents, lengths)
    np.testing.assert_array_equal(store.offsets, np.concatenate([[0], np.cumsum(lengths)]))
    for name in (*store.flat_arrays, *store.jet_arrays, "labels"):
        np.testing.assert_array_equal(np.asarray(getattr(store, name)), together(stores, name))
    drawn = st.lists(st.integers(0, n_jets - 1), max_size=12)
    jets = np.array(data.draw(drawn, label="jets"), np.int64)
    got = store.dense(jets, longest)
    before = np.cumsum([0] + [len(p) for p in parts])
    width = got[-1].shape[1]
    assert width == np.minimum(lengths[jets], longest or 1000).max(initial=0)
    for row, jet in enumerate(jets):
        part = np.searchsorted(before, jet, side="right") - 1
        alone = stores[part].dense([jet - before[part]], longest)
        for a, b in zip(got, alone, strict=True):
            np.testing.assert_array_equal(a[row, : b.shape[1]], b[0])
            assert not a[row, b.shape[1] :].any()
    for class_name in ("QCD", "Tbqq"):
        index = {"QCD": 0, "Tbqq": 8}[class_name]
        expected = np.flatnonzero(together(stores, "labels") == index)
        np.testing.assert_array_equal(store.indices_of(class_name), expected)
    assert store.n_truncated(2) == (lengths > 2).sum()
    store.verify()


@settings(max_examples=100)
@given(sizes=st.lists(st.integers(0, 4), min_size=1, max_size=6), data=st.data())
def test_a_joined_array_indexes_as_numpy_does(sizes, data):
    parts = [np.arange(2 * n).reshape(n, 2) + 100 * i for i, n in enumerate(sizes)]
    joined = JoinedArray(np.cumsum([0, *sizes]), lambda part, rows: parts[part][rows])
    whole = np.concatenate(parts)
    np.testing.assert_array_equal(joined, whole)
    assert joined.shape == whole.shape and joined.dtype == whole.dtype
    place = st.integers(-len(whole), len(whole)) | st.none()
    some = slice(data.draw(place), data.draw(place), data.draw(st.sampled_from([None, 1, 2, -1])))
    np.testing.assert_array_equal(joined[some], whole[some])
    np.testing.assert_array_equal(joined[some, 1], whole[some, 1])
    if len(whole):
        at = data.draw(st.integers(-len(whole), len(whole) - 1))
        np.testing.assert_array_equal(joined[at], whole[at])
        assert joined[at, 1] == whole[at, 1]
        rows = np.array(data.draw(st.lists(st.integers(0, len(whole) - 1))), np.int64)
        np.testing.assert_array_equal(joined[rows], whole[rows])
        np.testing.assert_array_equal(np.take(joined, rows, axis=0), whole[rows])
        assert joined.max() == whole.max() and joined.min() == whole.min()
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(whole), max_size=len(whole))))
    np.testing.assert_array_equal(joined[mask.astype(bool)], whole[mask.astype(bool)])
    np.testing.assert_array_equal(
        np.minimum(joined, 3) * 2 + joined, np.minimum(whole, 3) * 2 + whole
    )
    np.testing.assert_array_equal(list(joined), list(whole))
    assert sum(len(block) for _, block in blocks(joined)) == len(whole)


def test_rows_out_of_range():
    joined = JoinedArray([0, 2, 3], lambda part, rows: np.arange(2 - part)[rows])
    for bad in (3, -4, [0, 3]):
        with pytest.raises(IndexError):
            joined[bad]


def test_the_manifest_sums_what_the_parts_counted(tmp_path):
    store, parts = in_parts(tmp_path, write_jets, [[3, 4], [], [5]])
    assert [part["n_jets"] for part in store.info["parts"]] == [2, 0, 1]
    assert sum(store.info["jets_per_class"].values()) == 3
    assert [source["name"] for source in store.info["sources"]] == ["0.root", "1.root", "2.root"]
    tokens, _ = in_parts(tmp_path / "tokens", write_tokens, [[3, 4], [5]])
    assert tokens.info["n_truncated"] == 2 and tokens.n_codes == 16
    np.testing.assert_array_equal(tokens.count_ids(), np.bincount(tokens.ids, minlength=16))


def test_parts_can_be_added(tmp_path):
    store, _ = in_parts(tmp_path, write_jets, [[3, 4], [5]])
    first = store.dense([0, 1, 2])[0]
    write_jets(tmp_path / PARTS / "new", [7, 1], seed=9)
    longer = join_parts(tmp_path, JetStore, [path.name for path in store.parts] + ["new"])
    np.testing.assert_array_equal(longer.dense([0, 1, 2])[0], first)
    np.testing.assert_array_equal(longer.n_constituents, [3, 4, 5, 7, 1])
    longer.verify()


def test_parts_that_do_not_fit_together(tmp_path):
    in_parts(tmp_path, write_jets, [[3, 4]])
    write_jets(tmp_path / PARTS / "other", [7], features=("pt", "charge"))
    with pytest.raises(JetfmError, match=r"other: found features .*charge.*as in part0"):
        join_parts(tmp_path, JetStore, ["part0", "other"])
    with pytest.raises(JetfmError, match="no parts"):
        join_parts(tmp_path, JetStore, [])
    with pytest.raises(JetfmError, match="no such folder"):
        join_parts(tmp_path, JetStore, ["part0", "none"])
    with pytest.raises(JetfmError, match="a jets store; expected a token store"):
        TokenStore(tmp_path)


def test_a_missing_or_damaged_part_is_named(tmp_path):
    store, _ = in_parts(tmp_path, write_jets, [[3, 4], [5, 6]])
    path = tmp_path / PARTS / "part1" / "constituents.npy"
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(JetfmError, match=r"parts/part1/constituents\.npy: found sha256"):
        store.verify()
    path.write_bytes(damaged[:-1])
    with pytest.raises(JetfmError, match=r"parts/part1/constituents\.npy: found damaged"):
        JetStore(tmp_path).dense([3])
    JetStore(tmp_path).dense([0])  # the other part is none the worse
    (path.parent / "store.json").unlink()
    with pytest.raises(JetfmError, match=r"part1: found no store\.json"):
        JetStore(tmp_path)


def test_a_store_in_parts_travels_to_a_worker(tmp_path):
    store, _ = in_parts(tmp_path, write_jets, [[3, 4], [5]])
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.dense([2, 0])[0], store.dense([2, 0])[0])


def test_reading_is_lazy_and_keeps_no_files_open(tmp_path):
    """A process may have 1024 open files or so; a store has thousands."""
    import psutil

    store, _ = in_parts(tmp_path, write_jets, [[1]] * 20)
    n_before = psutil.Process().num_fds()
    for jet in range(20):
        store.dense([jet])
    assert psutil.Process().num_fds() == n_before
    array = map_npy(tmp_path / PARTS / "part3" / "constituents.npy")
    assert not array.flags.writeable and array.shape == (1, 3)


@settings(max_examples=50)
@given(parts=PARTS_OF, data=st.data(), gap=st.sampled_from([0, 1, 256]))
@pytest.mark.parametrize("write", [write_jets, write_tokens])
def test_jets_held_in_memory_are_those_of_the_store(tmp_path_factory, write, parts, data, gap):
    store, stores = in_parts(tmp_path_factory.mktemp("store"), write, parts)
    chosen = data.draw(st.sets(st.integers(0, len(store) - 1), min_size=1), label="jets")
    jets = np.array(sorted(chosen))
    filled = next(s for s in stores if len(s))  # a store in one folder, too
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ragged, "GAP", gap)
        both = [(store, jets, store.hold(jets))]
        both.append((filled, np.arange(len(filled)), filled.hold(np.arange(len(filled)))))
    for whole, indices, held in both:
        assert len(held) == len(indices) and not held.parts
        np.testing.assert_array_equal(held.n_constituents, whole.n_constituents[indices])
        for name in (*held.jet_arrays, "labels"):
            np.testing.assert_array_equal(getattr(held, name), getattr(whole, name)[indices])
        places = np.arange(len(indices))[::-1]
        for a, b in zip(held.dense(places), whole.dense(indices[::-1]), strict=True):
            np.testing.assert_array_equal(a, b)


def test_batches_of_blocks_are_read_by_group(tmp_path, monkeypatch):
    """The same batches as from the store, one process's part of them included."""
    lengths = np.random.default_rng(0).integers(1, 9, 1000).tolist()
    store, _ = in_parts(tmp_path, write_tokens, [lengths[:300], lengths[300:310], lengths[310:]])
    schedule = BlockShuffledBatches(store.n_constituents, 32, 1, block_jets=16, group_blocks=10)
    plain = TokenStore(tmp_path)
    monkeypatch.setattr(store, "dense", lambda *a: pytest.fail("asked the store itself"))
    for world in (1, 3):
        for rank in range(world):
            batches = TokenBatches(store, schedule, rank=rank, world=world)
            for step in (0, 1, 5, 4, 20, 31):
                expected = token_batch(plain, schedule.indices(step)[rank::world])
                found = batches(step)
                assert found.keys() == expected.keys()
                assert all(torch.equal(found[key], expected[key]) for key in found)


def test_a_part_that_ends_early_is_named_when_read(tmp_path):
    store, _ = in_parts(tmp_path, write_jets, [[3, 4], [5, 6]])
    path = tmp_path / PARTS / "part1" / "constituents.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(JetfmError, match=r"part1/constituents\.npy: found damaged \(it ends"):
        store.hold(np.arange(4))
