"""The Top Landscape reader against files that pandas wrote, and physics computed by vector."""

from __future__ import annotations

import pickle
import shutil

import awkward as ak
import h5py
import numpy as np
import pandas
import pytest
import vector
from hypothesis import given
from hypothesis import strategies as st

from jetfm.data import toplandscape
from jetfm.data.pandas_table import PandasTable, names_in_pickle
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.physics.observables import jet_observables
from jetfm.schema import CLASSES, KINEMATICS
from tests.data.toplandscape_files import (
    COLUMNS,
    frame,
    random_momenta,
    toplandscape_file,
    write,
)

COUNTS = (40, 1, 2, 200, 17, 0, 60, 131, 33, 55, 12)  # 11: prime, no multiple of a chunk
LABELS = np.arange(len(COUNTS)) % 2


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return toplandscape_file(tmp_path_factory.mktemp("top") / "train.h5", COUNTS)


@pytest.fixture(scope="module")
def store(path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    return toplandscape.build_toplandscape_store([path], folder, progress=False, step=4)


def read(path, **options) -> ak.Array:
    return ak.concatenate(list(toplandscape.iterate(path, with_substructure=False, **options)))


def constituents_of(momenta) -> vector.MomentumNumpy4D:
    """The real ones in float64, jet after jet."""
    e, px, py, pz = momenta[momenta[..., 0] > 0].astype(np.float64).T
    return vector.array({"px": px, "py": py, "pz": pz, "E": e})


def error_of(path, **options) -> str:
    with pytest.raises(JetfmError) as caught:
        for _ in toplandscape.iterate(path, **({"with_substructure": False} | options)):
            pass
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


# --- what is read ---


def test_momenta_labels_and_order(path):
    jets = read(path)
    np.testing.assert_array_equal(ak.num(jets.constituents), COUNTS)
    expected = constituents_of(random_momenta(COUNTS))
    found = ak.flatten(jets.constituents)
    for name in ("px", "py", "pz", "E"):  # unchanged, to the last bit
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    names = [CLASSES[index].name for index in jets.label]
    assert names == ["QCD" if label == 0 else "Tbqq" for label in LABELS]


@pytest.mark.parametrize("step", [1, 4, 5, 10, 11, 12])
def test_no_row_is_lost_at_the_borders_of_chunks(path, step):
    chunks = list(toplandscape.iterate([path, path], step, with_substructure=False))
    assert max(map(len, chunks)) <= step
    both = ak.concatenate(chunks)
    np.testing.assert_array_equal(ak.num(both.constituents), COUNTS * 2)
    whole = ak.flatten(read(path).constituents.px)
    np.testing.assert_array_equal(ak.flatten(both.constituents.px), np.tile(whole, 2))
    assert toplandscape.count_jets(path) == len(COUNTS)


def test_rows_beyond_one_hdf5_chunk(tmp_path):
    """pandas' chunks hold some 40 rows: jets on both sides of their borders come out right."""
    counts = np.arange(131) % 7 + 1
    momenta = random_momenta(counts, seed=2)
    path = write(tmp_path / "a.h5", frame(momenta, counts % 2))
    with h5py.File(path) as file:
        assert file["table/table"].chunks[0] < len(counts) // 3
    jets = ak.concatenate(list(toplandscape.iterate(path, 50, with_substructure=False)))
    np.testing.assert_array_equal(ak.flatten(jets.constituents.pz), constituents_of(momenta).pz)


def test_store_against_vector_in_float64(store):
    """pt, eta and phi relative to the vector sum, as precise as float32 can say them."""
    found = constituents_of(random_momenta(COUNTS))
    of_jet = np.repeat(np.arange(len(COUNTS)), COUNTS)
    sums = {
        name: np.bincount(of_jet, getattr(found, name), len(COUNTS))
        for name in ("px", "py", "pz", "E")
    }
    axis = vector.array(sums)
    assert (axis.eta < 0).any() and (axis.eta > 0).any()
    pt, eta_rel, phi_rel = store.constituents.T
    assert store.features == KINEMATICS and store.constituents.dtype == np.float32
    np.testing.assert_allclose(pt, found.pt, rtol=2.0**-23)
    # not flipped towards the outside, and wrapped; half a float32 digit of the largest angle
    np.testing.assert_allclose(eta_rel, found.eta - axis[of_jet].eta, rtol=2.0**-23, atol=1e-9)
    np.testing.assert_allclose(phi_rel, found.deltaphi(axis[of_jet]), rtol=2.0**-23, atol=1e-9)
    assert np.abs(phi_rel).max() < 1
    for name in ("pt", "eta", "phi"):
        np.testing.assert_allclose(store.jets[f"axis_{name}"], getattr(axis, name), rtol=1e-6)
        np.testing.assert_array_equal(store.jets[name], store.jets[f"axis_{name}"])
    np.testing.assert_allclose(store.jets["energy"], axis.E, rtol=1e-6)


def test_four_momentum_is_conserved(store):
    """Massless constituents put back around the stored axis sum to the jets of the file."""
    truth = random_momenta(COUNTS).astype(np.float64).sum(axis=1)  # (jets, 4)
    of_jet = np.repeat(np.arange(len(COUNTS)), store.n_constituents)
    pt, eta_rel, phi_rel = store.constituents.astype(np.float64).T
    eta = eta_rel + store.jets["axis_eta"][of_jet]
    phi = phi_rel + store.jets["axis_phi"][of_jet]
    components = pt * np.stack([np.cosh(eta), np.cos(phi), np.sin(phi), np.sinh(eta)])
    sums = np.stack([np.bincount(of_jet, c, len(COUNTS)) for c in components], axis=1)
    scale = np.maximum(truth[:, :1], 1.0)
    np.testing.assert_allclose(sums / scale, truth / scale, atol=5e-7)


def test_substructure_of_the_stored_constituents(store):
    """tau_N of the store equal those of its own constituents; the empty jet has none."""
    offsets = np.concatenate([[0], np.cumsum(store.n_constituents)])
    again = jet_observables(store.constituents, offsets, axes="onepass")
    some = np.array(COUNTS) >= 3
    ratio = store.jets["tau2"][some] / store.jets["tau1"][some]
    np.testing.assert_allclose(ratio, again["tau21"][some], rtol=2e-3)
    empty = np.array(COUNTS) == 0
    assert np.isnan(store.jets["tau1"][empty]).all()
    assert np.isfinite(store.jets["sdmass"][~empty]).all()
    assert (store.jets["sdmass"][some] > 0).all()


def test_jets_with_no_one_two_and_200_constituents(store):
    x, mask = store.dense([5, 1, 2, 3])
    assert list(mask.sum(axis=1)) == [0, 1, 2, 200] and x.shape == (4, 200, 3)
    assert (x[0] == 0).all()
    np.testing.assert_allclose(x[1, 0], [600, 0, 0], atol=1e-4)  # a lone one is its own axis
    two_eta, two_phi = x[2, :2, 1], x[2, :2, 2]
    assert two_eta[0] * two_eta[1] < 0 and two_phi[0] * two_phi[1] < 0  # on either side
    assert store.jets[5]["axis_pt"] == 0


def test_unsorted_constituents_come_out_by_falling_pt(path, tmp_path):
    momenta = random_momenta(COUNTS)
    turned = write(tmp_path / "a.h5", frame(momenta[:, ::-1], LABELS))  # padding first
    found = [read(p).constituents.pt for p in (path, turned)]
    np.testing.assert_array_equal(ak.flatten(found[0]), ak.flatten(found[1]))


@pytest.mark.parametrize(
    "options",
    [{"complib": "zlib"}, {"complib": "blosc:lz4"}, {"complevel": 0}, {"complib": "bzip2"},
     {"data_columns": ["is_signal_new", "E_0"]}],
)  # fmt: skip
def test_other_ways_in_which_pandas_writes(path, tmp_path, options):
    table = frame(random_momenta(COUNTS), LABELS)
    other = write(tmp_path / "a.h5", table, **options)
    np.testing.assert_array_equal(
        ak.flatten(read(other).constituents.energy), ak.flatten(read(path).constituents.energy)
    )


def test_order_of_columns_and_double_precision(path, tmp_path):
    table = frame(random_momenta(COUNTS), LABELS)
    table = table[np.random.default_rng(1).permutation(table.columns)]
    table[COLUMNS[:400]] = table[COLUMNS[:400]].astype(np.float64)  # two blocks
    other = write(tmp_path / "a.h5", table)
    np.testing.assert_array_equal(
        ak.flatten(read(other).constituents.py), ak.flatten(read(path).constituents.py)
    )
    np.testing.assert_array_equal(read(other).label, read(path).label)


# --- the store ---


def test_store_is_a_jets_store_of_both_classes(store, path):
    assert isinstance(store, JetStore)
    np.testing.assert_array_equal(store.n_constituents, COUNTS)
    assert store.info["jets_per_class"]["QCD"] == 6 and store.info["jets_per_class"]["Tbqq"] == 5
    assert store.info["sources"][0] | {"sha256": ""} == {
        "name": "train.h5", "n_jets": 11, "sha256": "",
    }  # fmt: skip
    store.verify()


def test_store_does_not_depend_on_chunks(store, path, tmp_path):
    moved = shutil.copy(path, tmp_path)
    again = toplandscape.build_toplandscape_store([moved], tmp_path / "b", progress=False)
    assert again.info == store.info


def test_a_limit_per_class_ends_the_reading(tmp_path):
    """The first 3 of each class; bad rows far behind them are never met."""
    values = random_momenta([9] * 30)
    values[25, 0, 1] = np.nan
    path = write(tmp_path / "a.h5", frame(values, np.arange(30) // 4 % 2))
    store = toplandscape.build_toplandscape_store(
        [path, path], tmp_path / "b", progress=False, step=5, jets_per_class=3
    )
    assert list(store.labels) == [0] * 3 + [8] * 3


def test_a_file_without_labels_has_jets_of_unknown_class(tmp_path):
    path = toplandscape_file(tmp_path / "b.h5", (3, 4), is_signal_new=None)
    assert read(path).label.tolist() == [-1, -1]
    assert toplandscape.count_classes(path).tolist() == [0] * 10 + [2]


# --- bad input: one clear error, naming file and cause ---


def test_missing_columns(tmp_path):
    bad = toplandscape_file(tmp_path / "a.h5", (3, 4), PX_199=None)
    assert "PX_199" in error_of(bad) and "805 columns" in error_of(bad)
    names = {f"col{i}": np.ones(3, np.float32) for i in range(5)}
    bad = write(tmp_path / "c.h5", pandas.DataFrame(names))
    assert "5 columns, col0, col1, col2, col3 and 1 more" in error_of(bad)
    assert "expected also PX_0, PX_1, PX_2, PX_3 and 796 more" in error_of(bad)


@pytest.mark.parametrize("share", [0.999, 0.5, 0.05])
def test_truncated_file(path, tmp_path, share):
    cut = tmp_path / "cut.h5"
    cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert "truncated" in error_of(cut)


def test_damaged_bytes(path, tmp_path):
    with h5py.File(path) as file:
        chunk = file["table/table"].id.get_chunk_info(0)
    data = bytearray(path.read_bytes())
    data[chunk.byte_offset : chunk.byte_offset + 64] = b"\xff" * 64
    (tmp_path / "bad.h5").write_bytes(bytes(data))
    assert "damaged" in error_of(tmp_path / "bad.h5")


@pytest.mark.parametrize("content", [b"", b"\x89H", b"root and so on", b"<html>busy</html>"])
def test_not_an_hdf5_file(tmp_path, content):
    (tmp_path / "a.h5").write_bytes(content)
    assert "expected an HDF5 file" in error_of(tmp_path / "a.h5")


def test_no_such_file(tmp_path):
    assert "no such file" in error_of(tmp_path / "none.h5")


def test_another_layout(tmp_path):
    table = frame(random_momenta((3, 4)), (0, 1))
    fixed = tmp_path / "fixed.h5"
    table.to_hdf(fixed, key="table", format="fixed")
    assert "fixed format" in error_of(fixed) and "format='table'" in error_of(fixed)
    other = write(tmp_path / "other.h5", table, key="jets")
    assert "found jets; expected a table named 'table'" in error_of(other)
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["table"] = table.to_numpy()
    assert "a bare array of shape (2, 806)" in error_of(tmp_path / "plain.h5")
    with h5py.File(tmp_path / "group.h5", "w") as file:
        file["table/table"] = table.to_numpy()
    assert "a group of table" in error_of(tmp_path / "group.h5")


def test_no_jets(tmp_path):
    path = toplandscape_file(tmp_path / "a.h5", (3, 4))
    with h5py.File(path, "r+") as file:  # pandas itself writes nothing for an empty frame
        file["table/table"].resize((0,))
    assert "zero jets" in error_of(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    momenta = random_momenta(COUNTS)
    momenta[7, 4, 3] = value
    bad = write(tmp_path / "a.h5", frame(momenta, LABELS))
    assert "in jet 7" in error_of(bad, step=3) and "finite" in error_of(bad)
    momenta = random_momenta(COUNTS)
    momenta[5, 0, 3] = value  # alone in an empty jet: not taken for padding
    assert "in jet 5" in error_of(write(tmp_path / "b.h5", frame(momenta, LABELS)))


def test_constituent_without_transverse_momentum(tmp_path):
    momenta = random_momenta(COUNTS)
    momenta[4, 2, 1:3] = 0
    bad = write(tmp_path / "a.h5", frame(momenta, LABELS))
    assert "without transverse momentum in jet 4" in error_of(bad, step=3)


@pytest.mark.parametrize("value", [2, -1])
def test_label_that_is_neither(tmp_path, value):
    labels = LABELS.copy()
    labels[8] = value
    message = error_of(toplandscape_file(tmp_path / "a.h5", COUNTS, labels=labels), step=5)
    assert f"'is_signal_new': found {value} in jet 8" in message


def test_momenta_in_mev(tmp_path):
    bad = write(tmp_path / "a.h5", frame(random_momenta(COUNTS) * 1000, LABELS))
    assert "looks like MeV" in error_of(bad) and "550 to 650 GeV" in error_of(bad)
    assert len(read(bad, pt_range=None)) == len(COUNTS)


def test_features_that_the_files_lack(path):
    with pytest.raises(JetfmError, match="features: found 'charge'; expected some of pt, eta_rel"):
        next(toplandscape.iterate(path, features=("pt", "charge")))


# --- pickled names are read, never run ---


class Malicious:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_does_not_run(path, tmp_path, protocol):
    witness = tmp_path / "witness"
    pickled = pickle.dumps([*COLUMNS, Malicious(witness)], protocol)
    bad = shutil.copy(path, tmp_path / "bad.h5")
    with h5py.File(bad, "r+") as file:
        # opaque, since the binary protocols hold bytes of zero
        file["table/table"].attrs["values_block_1_kind"] = np.void(pickled)
    message = error_of(bad)
    assert "attribute 'values_block_1_kind': found the pickle opcode" in message
    assert not witness.exists()
    pickle.loads(pickled)[-1].close()  # it would have
    assert witness.exists()


@given(st.lists(st.text(max_size=5), unique=True), st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_names_of_any_protocol(names, protocol):
    assert names_in_pickle(pickle.dumps(names, protocol)) == names


@given(st.binary(max_size=60))
def test_other_bytes_are_names_or_an_error(content):
    try:
        assert all(isinstance(name, str) for name in names_in_pickle(content))
    except JetfmError:
        pass


def test_names_of_python_2():
    assert names_in_pickle(b"(lp1\nS'ttv'\np2\naS'is_signal_new'\np3\na.") == [
        "ttv", "is_signal_new",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [[1], [["a"], ("b",)], {"a": "b"}, [None], [b"a"], np.ones(1)])
def test_pickles_of_something_else(value):
    with pytest.raises(JetfmError, match="a list of text"):
        names_in_pickle(pickle.dumps(value))


@pytest.mark.parametrize(
    ("names", "found"),
    [(["ttv"], "1 names; expected 2"), (["ttv", "E_0"], "'E_0' a second time"), (None, "nothing")],
)
def test_names_that_do_not_fit(path, tmp_path, names, found):
    bad = shutil.copy(path, tmp_path / "bad.h5")
    with h5py.File(bad, "r+") as file:
        attributes = file["table/table"].attrs
        del attributes["values_block_1_kind"]
        if names is not None:
            attributes["values_block_1_kind"] = np.bytes_(pickle.dumps(names, 0))
    assert found in error_of(bad)


def test_names_as_text_of_variable_length(path, tmp_path):
    other = shutil.copy(path, tmp_path / "text.h5")
    with h5py.File(other, "r+") as file:
        attributes = file["table/table"].attrs
        attributes["values_block_1_kind"] = bytes(attributes["values_block_1_kind"]).decode()
        assert isinstance(attributes["values_block_1_kind"], str)
    np.testing.assert_array_equal(read(other).label, read(path).label)


def test_rows_beyond_the_table(path):
    with PandasTable(path) as table, pytest.raises(JetfmError, match="a range in 0 to 11"):
        table.read(5, 12, [["E_0"]])
