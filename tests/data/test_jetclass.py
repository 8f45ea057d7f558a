"""The reader against files of random jets, whose physics is computed independently."""

from __future__ import annotations

import shutil
import tracemalloc

import awkward as ak
import numpy as np
import pytest
import uproot

from jetfm.data import jetclass
from jetfm.errors import JetfmError
from jetfm.schema import BRANCHES, CLASSES, CONSTITUENT_FEATURES
from tests.data.jetclass_files import jetclass_file, random_jets, write

COUNTS = (3, 40, 1, 2, 131, 17, 25, 60, 9, 33, 12, 5)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return jetclass_file(tmp_path_factory.mktemp("jetclass") / "good.root", COUNTS)


@pytest.fixture(scope="module")
def columns():
    return random_jets(COUNTS)


@pytest.fixture(scope="module")
def jets(path):
    return jetclass.read(path)


def flat(array):
    return ak.to_numpy(ak.flatten(array))


def error_of(path, **options) -> str:
    with pytest.raises(JetfmError) as caught:
        for _ in jetclass.iterate(path, **options):
            pass
    assert "\n" not in str(caught.value) and path.name in str(caught.value)
    return str(caught.value)


def test_file_has_the_mixed_types_of_jetclass(path):
    types = {name: branch.typename for name, branch in uproot.open(path)["tree"].items()}
    assert set(BRANCHES) <= set(types)
    assert [types[f"label_{n}"] for n in ("QCD", "Hbb", "Tbqq")] == ["float", "bool", "int32_t"]


def test_labels_of_three_types_become_one_index(jets):
    np.testing.assert_array_equal(jets.label, np.arange(len(COUNTS)) % 10)


def test_momenta_and_counts(jets, columns):
    np.testing.assert_array_equal(ak.num(jets.constituents), COUNTS)
    for name in ("px", "py", "pz", "energy"):
        np.testing.assert_array_equal(
            flat(getattr(jets.constituents, name)), flat(columns[f"part_{name}"])
        )
    np.testing.assert_array_equal(jets.jet.pt, columns["jet_pt"])
    for name in ("sdmass", "tau1", "tau2", "tau3", "tau4"):
        np.testing.assert_array_equal(jets[name], columns[f"jet_{name}"])


def test_axis_is_the_vector_sum(jets, columns):
    np.testing.assert_allclose(jets.axis.pt, columns["jet_pt"], rtol=1e-6)
    np.testing.assert_allclose(jets.axis.eta, columns["jet_eta"], atol=1e-6)
    np.testing.assert_allclose(jets.axis.deltaphi(jets.jet), 0, atol=1e-6)
    np.testing.assert_allclose(jets.axis.energy, columns["jet_energy"], rtol=1e-6)


def test_sign_convention_of_the_file(jets, columns):
    """part_deta is flipped to point outwards; ours is not, and refers to the axis."""
    for ours, theirs in ((jetclass.file_deta, "part_deta"), (jetclass.file_dphi, "part_dphi")):
        np.testing.assert_allclose(flat(ours(jets)), flat(columns[theirs]), atol=2e-6)
    backward = ak.to_numpy(jets.jet.eta) < 0
    assert 3 < backward.sum() < len(COUNTS) - 3  # both signs are tested
    ours, theirs = jets.constituents.eta_rel, columns["part_deta"]
    np.testing.assert_allclose(flat(ours[~backward]), flat(theirs[~backward]), atol=3e-6)
    np.testing.assert_allclose(flat(ours[backward]), -flat(theirs[backward]), atol=3e-6)


def test_phi_is_wrapped_across_the_seam(tmp_path):
    columns = random_jets([20] * 200, seed=3)
    assert (np.abs(columns["jet_phi"]) > 3.0).any()
    jets = jetclass.read(write(tmp_path / "a.root", columns))
    assert np.abs(flat(jets.constituents.phi_rel)).max() < 1.5  # drawn with a width of 0.2


def test_weighted_angles_sum_to_zero_in_phi(jets):
    """About the vector sum the transverse momenta balance: sum pt sin(phi_rel) = 0."""
    constituents = jets.constituents
    balance = ak.sum(constituents.pt * np.sin(constituents.phi_rel), axis=1)
    np.testing.assert_allclose(balance, 0, atol=1e-9)


def test_feature_table(jets, columns):
    table, offsets = jetclass.features_of(jets)
    assert table.dtype == np.float32 and table.shape == (sum(COUNTS), 14)
    np.testing.assert_array_equal(offsets, np.concatenate([[0], np.cumsum(COUNTS)]))
    of = {name: table[:, i] for i, name in enumerate(CONSTITUENT_FEATURES)}
    np.testing.assert_allclose(
        of["pt"], np.hypot(flat(columns["part_px"]), flat(columns["part_py"])), rtol=1e-6
    )
    for feature, branch in (("charge", "part_charge"), ("d0val", "part_d0val"),
                            ("is_photon", "part_isPhoton"), ("dzerr", "part_dzerr")):  # fmt: skip
        np.testing.assert_array_equal(of[feature], flat(columns[branch]))
    assert of["mass"].min() >= 0
    # float32 momenta know the squared mass to about E^2 * 2^-23
    energy = flat(columns["part_energy"]).astype("f8")
    nearest = np.min([np.abs(of["mass"] ** 2.0 - m**2) for m in (0, 0.1396, 0.4977)], axis=0)
    assert (nearest <= 4 * energy**2 * 2.0**-23 + 1e-6).all()


def test_rows_without_any_flag_pass(jets):
    flags = [name for name in CONSTITUENT_FEATURES if name.startswith("is_")]
    total = sum(flat(jets.constituents[name]) for name in flags)
    assert set(total) == {0, 1}


def test_unsorted_constituents_come_out_by_falling_pt(tmp_path, columns, jets):
    def turned(array):
        return array[:, ::-1] if array.ndim == 2 else array

    path = write(tmp_path / "a.root", {name: turned(array) for name, array in columns.items()})
    table, _ = jetclass.features_of(jetclass.read(path))
    np.testing.assert_allclose(table, jetclass.features_of(jets)[0], atol=1e-6)


@pytest.mark.parametrize("step", [1, 5, 12, 100])
def test_chunks_add_up(path, jets, step):
    chunks = list(jetclass.iterate([path, path], step))
    assert max(map(len, chunks)) <= step
    both = np.concatenate([jetclass.features_of(chunk)[0] for chunk in chunks])
    np.testing.assert_array_equal(both, np.tile(jetclass.features_of(jets)[0], (2, 1)))


def test_ranges_and_fewer_features(path, jets):
    part = jetclass.read(path, 3, 8, features=("pt", "eta_rel", "phi_rel"))
    assert "charge" not in ak.fields(part.constituents)
    np.testing.assert_array_equal(flat(part.constituents.pt), flat(jets.constituents.pt[3:8]))
    assert jetclass.count_jets(path) == len(COUNTS)


# --- bad input: one clear error, naming file and cause ---


@pytest.mark.parametrize("name", ["a::b.root", "a::b/x.root", "file:x.root", "ünï code #1?.root"])
def test_any_name_of_a_file(path, jets, tmp_path, name):
    """To uproot and its file systems colons mean other protocols."""
    renamed = tmp_path / name
    renamed.parent.mkdir(exist_ok=True)
    shutil.copy(path, renamed)
    assert ak.array_equal(jetclass.read(renamed), jets)


def test_truncated_file(path, tmp_path):
    whole = path.read_bytes()
    for share in (0.999, 0.5, 0.05):
        cut = tmp_path / "cut.root"
        cut.write_bytes(whole[: int(share * len(whole))])
        assert f"{len(whole)} bytes" in error_of(cut) and "truncated" in error_of(cut)


def test_damaged_bytes(path, tmp_path):
    """Same length, but a stretch inside overwritten: uproot cannot decode it."""
    data = bytearray(path.read_bytes())
    data[4000:-4000] = b"\xff" * len(data[4000:-4000])
    bad = tmp_path / "bad.root"
    bad.write_bytes(bytes(data))
    assert "truncated or damaged" in error_of(bad)


@pytest.mark.parametrize("content", [b"", b"ro", b"PK\x03\x04 a zip file, not ROOT", b"root"])
def test_not_a_root_file(tmp_path, content):
    bad = tmp_path / "bad.root"
    bad.write_bytes(content)
    assert "a ROOT file" in error_of(bad)


def test_no_such_file(tmp_path):
    assert "no such file" in error_of(tmp_path / "none.root")


def test_missing_branch(tmp_path):
    message = error_of(jetclass_file(tmp_path / "a.root", part_energy=None))
    assert "expected also branch part_energy" in message and "part_px" in message
    message = error_of(jetclass_file(tmp_path / "b.root", label_QCD=None, jet_tau3=None))
    assert "branches label_QCD, jet_tau3" in message


def test_a_file_without_any_label_has_jets_of_unknown_class(tmp_path):
    path = jetclass_file(tmp_path / "a.root", **{f"label_{c.name}": None for c in CLASSES})
    assert set(jetclass.read(path).label.tolist()) == {-1}
    assert jetclass.count_classes(path).tolist() == [0] * 10 + [10]


def test_missing_feature_branch_matters_only_if_asked_for(tmp_path):
    path = jetclass_file(tmp_path / "a.root", part_d0val=None)
    assert "part_d0val" in error_of(path)
    assert len(jetclass.read(path, features=("pt", "charge"))) == 10


def test_tree_with_another_name(tmp_path):
    message = error_of(write(tmp_path / "a.root", random_jets([3, 4]), tree="Events"))
    assert "Events (TTree)" in message and "a tree named 'tree'" in message


def test_tree_that_is_something_else(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file["tree"] = np.histogram([1.0, 2.0])
    assert "a tree named 'tree'" in error_of(tmp_path / "a.root")


def test_zero_jets(tmp_path):
    assert "zero jets" in error_of(write(tmp_path / "a.root", random_jets([])))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("branch", ["part_px", "part_energy", "part_dzerr"])
def test_values_that_are_not_finite(tmp_path, columns, branch, value):
    values = flat(columns[branch]).copy()
    values[sum(COUNTS[:7]) + 4] = value  # jet 7
    bad = {branch: ak.unflatten(values, COUNTS)}
    message = error_of(jetclass_file(tmp_path / "a.root", COUNTS, **bad), step=5)
    assert f"branch '{branch}'" in message and f"found {value} in jet 7" in message


def test_constituent_without_transverse_momentum(tmp_path, columns):
    px, py = flat(columns["part_px"]).copy(), flat(columns["part_py"]).copy()
    px[sum(COUNTS[:4]) + 2] = py[sum(COUNTS[:4]) + 2] = 0
    bad = {"part_px": ak.unflatten(px, COUNTS), "part_py": ak.unflatten(py, COUNTS)}
    assert "in jet 4" in error_of(jetclass_file(tmp_path / "a.root", COUNTS, **bad))


def test_jet_without_constituents(tmp_path):
    message = error_of(jetclass_file(tmp_path / "a.root", (5, 8, 0, 7)))
    assert "no constituents in jet 2" in message


def test_momenta_in_mev(tmp_path, columns):
    def mev(*names):
        return {name: columns[name] * np.float32(1000) for name in names}

    momenta = ("part_px", "part_py", "part_pz", "part_energy")
    for changed in (mev("jet_pt", "jet_energy"), mev(*momenta), mev("jet_pt", *momenta)):
        message = error_of(jetclass_file(tmp_path / "a.root", COUNTS, **changed))
        assert "looks like MeV" in message and "500 to 1000 GeV" in message
    assert len(jetclass.read(tmp_path / "a.root", pt_range=None)) == len(COUNTS)


def test_pt_outside_the_selection_that_is_not_mev(tmp_path, columns):
    path = jetclass_file(tmp_path / "a.root", COUNTS, jet_pt=columns["jet_pt"] * np.float32(0.2))
    assert "median jet_pt" in error_of(path) and "MeV" not in error_of(path)


@pytest.mark.parametrize(
    ("value", "jet", "found"),
    [(1, 3, "label_Hgg=1, label_Tbqq=1"), (0.5, 3, "label_Tbqq=0.5"), (0, 8, "no label set")],
)
def test_label_not_one_hot(tmp_path, columns, value, jet, found):
    labels = columns["label_Tbqq"].astype(np.float32)
    labels[jet] = value
    message = error_of(jetclass_file(tmp_path / "a.root", COUNTS, label_Tbqq=labels))
    assert f"in jet {jet}" in message and found in message


def test_branches_of_different_length(tmp_path, columns):
    shorter = columns["part_pz"][:, :30]  # jets 1, 4, 7 and 9 are longer
    message = error_of(jetclass_file(tmp_path / "a.root", COUNTS, part_pz=shorter))
    assert "branch 'part_pz'" in message
    assert "30 values in jet 1; expected 40, as many as in 'part_px'" in message


def test_counts_against_the_stated_number(tmp_path, columns):
    stated = columns["jet_nparticles"].copy()
    stated[6] = 1e6
    message = error_of(jetclass_file(tmp_path / "a.root", COUNTS, jet_nparticles=stated))
    assert "25 constituents in jet 6; expected 1e+06, as 'jet_nparticles' says" in message


def test_flat_branch_where_a_jagged_one_belongs(tmp_path, columns):
    path = tmp_path / "a.root"
    changed = {n: a for n, a in columns.items() if n != "part_charge"}
    with uproot.recreate(path) as file:
        file["tree"] = changed | {"part_charge": np.zeros(len(COUNTS), np.float32)}
    assert "branch 'part_charge'" in error_of(path)


# --- absurd lengths: a clear error, and no memory for what a damaged file announces ---


def peak_of(call) -> float:
    """MB that a call allocates at its peak."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("branch", ["part_px", "part_d0val", "jet_pt"])
def test_a_basket_of_two_gigabytes(tmp_path, branch):
    path = jetclass_file(tmp_path / "a.root", COUNTS)
    with uproot.open(path) as file:
        at = int(file["tree"][branch].member("fBasketSeek")[0])
    data = bytearray(path.read_bytes())
    data[at + 6 : at + 10] = (2**31 - 100).to_bytes(4, "big")  # fObjlen of the basket's key
    path.write_bytes(data)
    messages = []
    assert peak_of(lambda: messages.append(error_of(path))) < 50
    assert f"branch '{branch}': found 2147 MB announced for 12 jets from 0" in messages[0]


def test_more_entries_than_bytes(tmp_path):
    path = jetclass_file(tmp_path / "a.root", np.full(199, 5))
    absurd = path.read_bytes().replace((199).to_bytes(8, "big"), (10**12).to_bytes(8, "big"))
    path.write_bytes(absurd)
    messages = []
    assert peak_of(lambda: messages.append(error_of(path))) < 50
    assert "1000000000000 jets in" in messages[0]


def test_a_jet_of_many_thousand_constituents(tmp_path):
    message = error_of(jetclass_file(tmp_path / "a.root", (5, 8, 20_000, 7)))
    assert "20000 constituents in jet 2; expected at most 10000" in message


def test_unknown_feature(path):
    with pytest.raises(JetfmError, match="'pT'"):
        next(jetclass.iterate(path, features=("pT",)))
