"""Stores give back what was written, in batches of any jets, and are never half there."""

from __future__ import annotations

import pickle
import shutil

import awkward as ak
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data import jetclass
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter, build_store
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.schema import BRANCHES, CLASSES, CONSTITUENT_FEATURES, JET_COLUMNS
from tests.data.jetclass_files import jetclass_file, random_jets

COUNTS = (3, 40, 1, 2, 150, 17, 25, 60, 9, 33, 12, 5)
LENGTHS = st.lists(st.one_of(st.integers(0, 3), st.integers(120, 140)), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("root")
    return [jetclass_file(folder / f"{i}.root", COUNTS, seed=i) for i in (0, 1)]


@pytest.fixture(scope="module")
def store(sources, tmp_path_factory):
    return build_store(sources, tmp_path_factory.mktemp("store"), progress=False, step=5)


def write_store(folder, lengths, features=("pt", "eta_rel", "phi_rel")):
    """A store of random constituents; returns them as one list of (n, F) arrays per jet."""
    rng = np.random.default_rng(len(lengths))
    constituents = rng.normal(size=(sum(lengths), len(features))).astype("f4")
    constituents[:, 0] = rng.permutation(len(constituents)) + 1.0  # distinct pt
    rows = np.zeros(len(lengths), JET_DTYPE)
    rows["label"] = np.arange(len(lengths)) % 10
    with JetStoreWriter(folder, features) as writer:
        half = len(lengths) // 2  # two appends, as a stream comes
        cut = sum(lengths[:half])
        writer.append(constituents[:cut], lengths[:half], rows[:half])
        writer.append(constituents[cut:], lengths[half:], rows[half:])
    jets = np.split(constituents, np.cumsum(lengths)[:-1])
    return JetStore(folder), [jet[np.argsort(-jet[:, 0])] for jet in jets]


# --- the jets store ---


def test_store_holds_what_the_reader_reads(store, sources):
    chunks = [jetclass.read(path) for path in sources]
    tables = [jetclass.features_of(chunk)[0] for chunk in chunks]
    np.testing.assert_array_equal(store.constituents, np.concatenate(tables))
    assert store.features == CONSTITUENT_FEATURES and len(store) == store.n_jets == 2 * len(COUNTS)
    np.testing.assert_array_equal(store.n_constituents, COUNTS * 2)
    np.testing.assert_array_equal(store.labels, np.tile(np.arange(len(COUNTS)) % 10, 2))
    assert store.labels.dtype == np.int64 and store.jets.dtype.names == JET_COLUMNS


def test_jet_columns(store, sources):
    columns = random_jets(COUNTS, seed=1)
    second = store.jets[len(COUNTS) :]
    for name in ("pt", "eta", "phi", "energy", "sdmass", "tau1", "tau2", "tau3", "tau4"):
        np.testing.assert_array_equal(second[name], columns[f"jet_{name}"])
    axis = jetclass.read(sources[1]).axis
    for name in ("pt", "eta", "phi"):
        np.testing.assert_allclose(second[f"axis_{name}"], getattr(axis, name), rtol=1e-6)


def test_bytes_depend_on_the_sources_alone(store, sources, tmp_path):
    """Other chunks, another folder: the same store, hashes included."""
    moved = [shutil.copy(path, tmp_path) for path in sources]
    again = build_store(moved, tmp_path / "store", progress=False, step=100)
    assert again.info == store.info
    store.verify()


def test_manifest(store, sources):
    assert store.info["jets_per_class"]["QCD"] == 4 and store.info["jets_per_class"]["Tbl"] == 2
    assert sum(store.info["jets_per_class"].values()) == len(store)
    assert [source["name"] for source in store.info["sources"]] == ["0.root", "1.root"]
    assert [source["n_jets"] for source in store.info["sources"]] == [len(COUNTS)] * 2


def test_fewer_features(store, sources, tmp_path):
    names = ("pt", "eta_rel", "phi_rel")
    small = build_store(sources, tmp_path, progress=False, features=names)
    assert small.constituents.shape[1] == 3
    for a, b in zip(small.dense(slice(None)), store.dense(slice(None)), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(JetfmError, match="no feature charge"):
        small.dense([0], features=("pt", "charge"))


def test_indices_of_classes(store):
    np.testing.assert_array_equal(store.indices_of("Tbqq"), [8, 20])
    np.testing.assert_array_equal(store.indices_of("QCD", "TTBar"), [0, 8, 10, 12, 20, 22])
    with pytest.raises(JetfmError, match="'Tqq'"):
        store.indices_of("Tqq")


def test_jets_of_no_class_in_particular_are_all(store):
    np.testing.assert_array_equal(store.jets_of(()), np.arange(len(store)))
    np.testing.assert_array_equal(store.jets_of(("Tbqq",)), [8, 20])


def test_a_store_without_a_class_is_named(tmp_path):
    rows = np.zeros(3, JET_DTYPE)
    with JetStoreWriter(tmp_path, ("pt", "eta_rel", "phi_rel")) as writer:
        writer.append(np.ones((3, 3)), [1, 1, 1], rows)
    with pytest.raises(JetfmError, match=f"{tmp_path}.*no jets of Hbb"):
        JetStore(tmp_path).jets_of(("Hbb",))


def test_longer_than_128_is_kept_whole_and_cut_in_batches(store):
    x, mask = store.dense([4, 0], 128)
    assert store.n_constituents[4] == 150 and x.shape == (2, 128, 3)
    assert store.n_truncated(128) == 2 and store.n_truncated(150) == 0
    whole, _ = store.dense([4])
    np.testing.assert_array_equal(x[0], whole[0, :128])
    assert whole[0, :128, 0].min() >= whole[0, 128:, 0].max()  # leading in pt
    assert mask.sum() == 128 + 3


@settings(max_examples=60)
@given(lengths=LENGTHS, data=st.data(), longest=st.sampled_from([None, 1, 2, 128, 500]))
def test_dense_gives_every_jet_back(tmp_path_factory, lengths, data, longest):
    store, jets = write_store(tmp_path_factory.mktemp("store"), lengths)
    drawn = st.lists(st.integers(0, len(lengths) - 1), max_size=10)
    indices = data.draw(drawn, label="indices")
    x, mask = store.dense(np.array(indices, np.int64), longest)
    expected = [jets[i][:longest] for i in indices]
    assert x.dtype == np.float32 and mask.dtype == bool
    assert x.shape == (len(indices), max(map(len, expected), default=0), 3)
    np.testing.assert_array_equal(mask.sum(axis=1), [len(jet) for jet in expected])
    for row, row_mask, jet in zip(x, mask, expected, strict=True):
        np.testing.assert_array_equal(row[: len(jet)], jet)
        assert row_mask[: len(jet)].all() and not row[len(jet) :].any()


def test_columns_come_in_the_order_asked_for(store):
    x, _ = store.dense([1, 7], features=("charge", "pt", "dzerr"))
    everything, _ = store.dense([1, 7], features=store.features)
    at = [CONSTITUENT_FEATURES.index(name) for name in ("charge", "pt", "dzerr")]
    np.testing.assert_array_equal(x, everything[..., at])


def test_a_slice_and_a_single_jet(store):
    np.testing.assert_array_equal(store.dense(slice(2, 9, 3))[0], store.dense([2, 5, 8])[0])
    assert store.dense(1)[0].shape == (1, 40, 3)


@pytest.mark.parametrize("indices", [[-1], [24], [0, 100]])
def test_indices_out_of_range(store, indices):
    with pytest.raises(JetfmError, match="0 to 23"):
        store.dense(indices)


def test_store_travels_to_a_worker(store):
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.dense([4, 2])[0], store.dense([4, 2])[0])
    assert len(pickle.dumps(store)) < 1000  # the path, not the arrays


def test_store_of_unlabelled_jets_without_columns(tmp_path):
    """Generated jets have momenta only."""
    with JetStoreWriter(tmp_path, ("pt", "eta_rel", "phi_rel"), tokenizer="abc") as writer:
        writer.append(np.ones((5, 3)), [2, 0, 3], np.empty(3, [("pt", "f4")]))
    store = JetStore(tmp_path)
    np.testing.assert_array_equal(store.labels, -1)
    assert np.isnan(store.jets["tau1"]).all() and store.info["tokenizer"] == "abc"
    assert store.info["jets_of_unknown_class"] == 3


# --- never half there ---


def test_source_that_fails_midway_leaves_no_store(sources, tmp_path):
    bad = tmp_path / "bad.root"
    bad.write_bytes(sources[1].read_bytes()[:-200])
    with pytest.raises(JetfmError, match=r"bad\.root"):
        build_store([sources[0], bad], tmp_path / "store", progress=False)
    assert not list((tmp_path / "store").iterdir())
    with pytest.raises(JetfmError, match=r"no store\.json; expected a complete jets store"):
        JetStore(tmp_path / "store")


def test_rebuilding_invalidates_the_old_store_first(tmp_path):
    write_store(tmp_path, [3, 4])
    with pytest.raises(KeyError), JetStoreWriter(tmp_path):
        raise KeyError
    with pytest.raises(JetfmError, match=r"no store\.json"):
        JetStore(tmp_path)
    write_store(tmp_path, [5])
    assert len(JetStore(tmp_path)) == 1


def test_no_sources_and_no_jets(tmp_path):
    with pytest.raises(JetfmError, match="no source files"):
        build_store([], tmp_path)
    with pytest.raises(JetfmError, match="zero jets"), JetStoreWriter(tmp_path):
        pass
    with pytest.raises(JetfmError, match="no such folder"):
        JetStore(tmp_path / "none")


def test_arrays_that_disagree_with_the_manifest(tmp_path):
    store, _ = write_store(tmp_path, [3, 4])
    np.save(tmp_path / "jets.npy", np.zeros(1, JET_DTYPE))
    with pytest.raises(JetfmError, match=r"jets\.npy: found 1 rows; expected 2"):
        JetStore(tmp_path)
    with pytest.raises(JetfmError, match="sha256"):
        store.verify()
    (tmp_path / "jets.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(JetfmError, match=r"jets\.npy: found damaged"):
        JetStore(tmp_path)


def test_counts_that_disagree(tmp_path):
    with pytest.raises(JetfmError, match="5 constituents; expected"):
        with JetStoreWriter(tmp_path, ("pt",)) as writer:
            writer.append(np.ones((5, 1)), [2, 2], np.empty(2, [("pt", "f4")]))


# --- the token store ---


def random_tokens(lengths, n_codes=16, seed=0):
    """Dense batch with rubbish where padded: ids (B, T), decoded (B, T, 3), mask, labels."""
    rng = np.random.default_rng(seed)
    mask = np.arange(max(lengths, default=0)) < np.array(lengths)[:, None]
    ids = np.where(mask, rng.integers(0, n_codes, mask.shape), -1)
    return ids, rng.normal(size=(*mask.shape, 3)).astype("f4"), mask, np.arange(len(lengths)) % 10


@settings(max_examples=40)
@given(lengths=LENGTHS)
def test_tokens_come_back(tmp_path_factory, lengths):
    folder = tmp_path_factory.mktemp("tokens")
    ids, decoded, mask, labels = random_tokens(lengths)
    with TokenStoreWriter(folder, 16, tokenizer_sha256="abc") as writer:
        for start in range(0, len(lengths), 3):
            part = slice(start, start + 3)
            writer.append(ids[part], decoded[part], mask[part], labels[part])
    store = TokenStore(folder)
    got_ids, got_decoded, got_mask = store.dense(slice(None))
    assert got_ids.dtype == np.int64 and got_decoded.dtype == np.float32
    np.testing.assert_array_equal(got_mask, mask)
    np.testing.assert_array_equal(got_ids, np.where(mask, ids, 0))
    np.testing.assert_array_equal(got_decoded, np.where(mask[..., None], decoded, 0))
    np.testing.assert_array_equal(store.labels, labels)
    assert store.n_codes == 16 and store.info["tokenizer_sha256"] == "abc"
    store.verify()


@settings(max_examples=40)
@given(lengths=LENGTHS, seed=st.integers(0, 100))
def test_any_order_of_batches_gives_the_same_store(tmp_path_factory, lengths, seed):
    folder = tmp_path_factory.mktemp("tokens")
    ids, decoded, mask, labels = random_tokens(lengths)
    with TokenStoreWriter(folder / "a", 16) as writer:
        writer.append(ids, decoded, mask, labels)
    with TokenStoreWriter(folder / "b", 16, n_constituents=np.array(lengths)) as writer:
        order = np.random.default_rng(seed).permutation(len(lengths))
        for some in np.array_split(order, 3):
            writer.put(some, ids[some], decoded[some], mask[some], labels[some])
    a, b = TokenStore(folder / "a"), TokenStore(folder / "b")
    assert a.info == b.info  # hashes of the arrays included
    assert sorted(p.name for p in (folder / "b").iterdir()) == [
        "decoded.npy", "ids.npy", "labels.npy", "multiplicity.npy", "offsets.npy",
        "positions.npy", "store.json",
    ]  # fmt: skip


def test_multiplicity_is_that_before_the_cap(tmp_path):
    """A jet of 200 constituents capped at 6 tokens keeps its 200; by default, tokens count."""
    ids, decoded, mask, labels = random_tokens([4, 6])
    before = np.array([4, 200])
    with TokenStoreWriter(tmp_path / "a", 16) as writer:
        writer.append(ids, decoded, mask, labels, before)
        writer.append(ids, decoded, mask, labels)
    with TokenStoreWriter(tmp_path / "b", 16, n_constituents=[4, 6]) as writer:
        writer.put([1, 0], ids[::-1], decoded[::-1], mask[::-1], labels[::-1], before[::-1])
    np.testing.assert_array_equal(TokenStore(tmp_path / "a").multiplicity, [4, 200, 4, 6])
    np.testing.assert_array_equal(TokenStore(tmp_path / "b").multiplicity, [4, 200])
    np.testing.assert_array_equal(TokenStore(tmp_path / "b").n_constituents, [4, 6])


def test_positions_are_kept_and_count_up_by_default(tmp_path):
    ids, decoded, mask, _ = random_tokens([4, 6])
    positions = np.array([[3, 0, 2, 1, 9, 9], [5, 4, 3, 2, 1, 0]])  # 9 stands at padding
    with TokenStoreWriter(tmp_path / "a", 16) as writer:
        writer.append(ids, decoded, mask, positions=positions)
        writer.append(ids, decoded, mask)
    with TokenStoreWriter(tmp_path / "b", 16, n_constituents=[4, 6]) as writer:
        writer.put([1, 0], ids[::-1], decoded[::-1], mask[::-1], positions=positions[::-1])
    expected = [3, 0, 2, 1, 5, 4, 3, 2, 1, 0]
    np.testing.assert_array_equal(TokenStore(tmp_path / "b").positions, expected)
    expected += [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(TokenStore(tmp_path / "a").positions, expected)


def test_positions_beyond_int16(tmp_path):
    ids, decoded, mask, _ = random_tokens([4, 6])
    with pytest.raises(JetfmError, match="positions 40000 to 40000; expected 0 to 32767"):
        with TokenStoreWriter(tmp_path, 16) as writer:
            writer.append(ids, decoded, mask, positions=np.full(mask.shape, 40_000))


@pytest.mark.parametrize("bad", [-1, 16])
def test_id_outside_the_codebook(tmp_path, bad):
    ids, decoded, mask, labels = random_tokens([4, 6])
    ids[1, 2] = bad
    with pytest.raises(JetfmError, match=rf"id {bad} at slot 2 of jet 1 .*expected 0 to 15"):
        with TokenStoreWriter(tmp_path, 16) as writer:
            writer.append(ids, decoded, mask, labels)
    assert not list(tmp_path.iterdir())


def test_jets_left_out_or_of_another_length(tmp_path):
    ids, decoded, mask, _ = random_tokens([4, 6])
    with pytest.raises(JetfmError, match="1 jets never written, the first 0"):
        with TokenStoreWriter(tmp_path, 16, n_constituents=[4, 6]) as writer:
            writer.put([1], ids[1:], decoded[1:], mask[1:])
    with pytest.raises(JetfmError, match="6 tokens for jet 0; expected 4"):
        with TokenStoreWriter(tmp_path, 16, n_constituents=[4, 6]) as writer:
            writer.put([0], ids[1:], decoded[1:], mask[1:])
    assert not list(tmp_path.iterdir())


def test_shapes_that_disagree(tmp_path):
    ids, decoded, mask, _ = random_tokens([4, 6])
    with pytest.raises(JetfmError, match="agree with the mask"):
        with TokenStoreWriter(tmp_path, 16) as writer:
            writer.append(ids, decoded[:, :3], mask)


def test_a_jets_store_is_not_a_token_store(tmp_path):
    write_store(tmp_path, [3])
    with pytest.raises(JetfmError, match="found a jets store; expected a token store"):
        TokenStore(tmp_path)


def test_no_room_for_tokens_is_known_at_once(tmp_path, monkeypatch):
    """A memory map on a full disk would kill the process; room is reserved beforehand."""
    import errno
    import os

    def refuse(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(JetfmError, match=r"ids\.npy: found 'no space left"):
        TokenStoreWriter(tmp_path, 16, n_constituents=[4, 6])


def test_empty_jets_reach_awkward(tmp_path):
    """Offsets with empty jets unflatten as they should."""
    store, jets = write_store(tmp_path, [2, 0, 3])
    jagged = ak.unflatten(store.constituents[:, 0], store.n_constituents)
    assert [list(jet) for jet in jagged] == [list(jet[:, 0]) for jet in jets]


def test_a_limit_per_class_keeps_the_first_jets_of_each(tmp_path):
    files = {
        "HToBB_000.root": ("Hbb", 7),
        "HToBB_001.root": ("Hbb", 9),
        "TTBar_000.root": ("Tbqq", 3),
    }
    paths = []
    for seed, (name, (label, n_jets)) in enumerate(files.items()):
        labels = {
            f"label_{c.name}": np.full(n_jets, c.name == label, BRANCHES[f"label_{c.name}"])
            for c in CLASSES
        }
        counts = np.arange(n_jets) + 3
        paths.append(jetclass_file(tmp_path / name, counts, seed, **labels))
    whole = build_store(paths, tmp_path / "whole", progress=False)
    some = build_store(paths, tmp_path / "some", progress=False, step=4, jets_per_class=10)
    assert some.info["jets_per_class"] == whole.info["jets_per_class"] | {"Hbb": 10}
    kept = np.r_[np.arange(10), np.arange(16, 19)]
    assert np.array_equal(some.jets, whole.jets[kept])
    assert np.array_equal(some.n_constituents, whole.n_constituents[kept])
    exact = build_store(paths, tmp_path / "exact", progress=False, jets_per_class=7)
    opened = [source["name"] for source in exact.info["sources"]]
    assert opened == ["HToBB_000.root", "TTBar_000.root"]
