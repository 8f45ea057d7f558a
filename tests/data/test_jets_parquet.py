"""Jets in parquet: the same jets as in ROOT, to the bit, whatever their columns are called."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from jetfm.data import conversion, jetclass, jets_parquet
from jetfm.data.conversion import convert
from jetfm.data.labelled import LabelledJets
from jetfm.data.layout import Layout, read_layout
from jetfm.data.own_jets import store_of
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.schema import BRANCHES, CLASS_NAMES, CONSTITUENT_FEATURES, KINEMATICS, is_jagged
from tests.data import jetclass_files
from tests.data.jetclass_files import jetclass_file, random_jets
from tests.data.parquet_files import KINDS, jagged, label_numbers, parquet_file, polar, write

COUNTS = (3, 40, 1, 2, 131, 17, 25, 60, 9, 33, 12, 5)
ARRAYS = ("constituents.npy", "offsets.npy", "jets.npy")
PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def columns():
    return random_jets(COUNTS)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The jets of the ROOT file."""
    return jetclass.read(jetclass_file(tmp_path_factory.mktemp("root") / "a.root", COUNTS))


def read(path, step=1000, **options) -> ak.Array:
    return ak.concatenate(list(jets_parquet.iterate(path, step, **options)))


def table(jets, features=CONSTITUENT_FEATURES):
    return jetclass.features_of(jets, features)[0]


def error_of(path, **options) -> str:
    with pytest.raises(JetfmError) as caught:
        for _ in jets_parquet.iterate(path, **options):
            pass
    assert "\n" not in str(caught.value) and Path(path).name in str(caught.value)
    return str(caught.value)


def layout_in(folder: Path, text: str) -> Layout:
    (folder / "map.yaml").write_text(text)
    return read_layout(folder / "map.yaml")


def bytes_of(store: JetStore) -> dict[str, bytes]:
    return {name: (store.folder / name).read_bytes() for name in ARRAYS}


# --- the same as ROOT ---

multiplicities = st.lists(st.sampled_from([0, 1, 2, 3, 30, 128, 129, 160]), min_size=1, max_size=8)


@settings(max_examples=4)
@given(counts=multiplicities, seed=st.integers(0, 9), kind=st.sampled_from(KINDS))
@example(counts=[0, 1, 2, 129], seed=1, kind="fixed_size_list")
@example(counts=[0, 0], seed=1, kind="list")
def test_stores_of_parquet_and_root_agree_to_the_bit(counts, seed, kind):
    """But for jets without constituents, which JetClass's files cannot have and parquet may."""
    columns, filled = random_jets(counts, seed), np.array(counts) > 0
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path = write(folder / "a.parquet", columns, kind, row_group_size=3)
        of_parquet = store_of(path, folder / "parquet", False, CONSTITUENT_FEATURES)
        assert of_parquet.n_constituents.tolist() == counts
        if not filled.any():
            return
        some = {name: array[filled] for name, array in columns.items()}
        root = jetclass_files.write(folder / "a.root", some)
        of_root = store_of(root, folder / "root", False, CONSTITUENT_FEATURES)
        for name in ("constituents", "labels"):
            array = getattr(of_parquet, name)
            array = array[filled] if name == "labels" else array
            np.testing.assert_array_equal(array, getattr(of_root, name))
            assert array.dtype == getattr(of_root, name).dtype
        assert of_parquet.jets[filled].tobytes() == of_root.jets[:].tobytes()
        if filled.all():
            assert bytes_of(of_parquet) == bytes_of(of_root)
            assert of_parquet.info["jets_per_class"] == of_root.info["jets_per_class"]


def as_structs(columns, outer: str) -> dict:
    """Constituents as awkward writes them: lists of records, or records of lists."""
    flat = {n: ak.to_numpy(ak.flatten(a)) for n, a in columns.items() if is_jagged(n)}
    counts = ak.to_numpy(ak.num(columns["part_px"]))
    jets = {name: array for name, array in columns.items() if not is_jagged(name)}
    if outer == "list":
        records = ak.unflatten(ak.zip(flat), counts)
    else:
        records = ak.Array({name: ak.unflatten(array, counts) for name, array in flat.items()})
    return jets | {"constituents": ak.to_arrow(records, extensionarray=False)}


@pytest.mark.parametrize("outer", ["list", "struct"])
def test_records_in_either_order(tmp_path, columns, reference, outer):
    path = write(tmp_path / "a.parquet", as_structs(columns, outer))
    assert pa.types.is_struct(parquet.read_schema(path).field("constituents").type) == (
        outer == "struct"
    )
    text = "\n".join(f"{name}: constituents.{name}" for name in BRANCHES if is_jagged(name)
                     and name not in ("part_deta", "part_dphi"))  # fmt: skip
    jets = read(path, layout=layout_in(tmp_path, text))
    np.testing.assert_array_equal(table(jets), table(reference))
    np.testing.assert_array_equal(jets.label, reference.label)


def test_what_awkward_writes(tmp_path, columns, reference):
    """With its own type of arrow, and without."""
    for own in (False, True):
        ak.to_parquet(ak.Array(columns), tmp_path / "a.parquet", extensionarray=own)
        np.testing.assert_array_equal(table(read(tmp_path / "a.parquet")), table(reference))


def test_what_pandas_writes(tmp_path, columns, reference):
    """Objects in cells become lists, numbers of 64 bits."""
    import pandas

    wide = {n: ak.to_list(a) if a.ndim == 2 else np.asarray(a) for n, a in columns.items()}
    pandas.DataFrame(wide).to_parquet(tmp_path / "a.parquet")
    jets = read(tmp_path / "a.parquet")
    np.testing.assert_array_equal(table(jets), table(reference))
    np.testing.assert_array_equal(jets.label, reference.label)


@pytest.mark.parametrize("step", [5, 100])
@pytest.mark.parametrize("group", [1, 5])
def test_chunks_and_ranges_over_row_groups_add_up(tmp_path, reference, step, group):
    path = parquet_file(tmp_path / "a.parquet", COUNTS, options={"row_group_size": group})
    assert parquet.ParquetFile(path).num_row_groups == -(-len(COUNTS) // group)
    chunks = list(jets_parquet.iterate([path, path], step))
    assert max(map(len, chunks)) <= step
    both = np.concatenate([table(chunk) for chunk in chunks])
    np.testing.assert_array_equal(both, np.tile(table(reference), (2, 1)))
    for rows in ((3, 9), (4, 5), (11, 99)):
        jets = read(path, step, rows=rows)
        np.testing.assert_array_equal(table(jets), table(reference[slice(*rows)]))
        counted = jets_parquet.count_classes(path, rows)
        np.testing.assert_array_equal(counted, np.bincount(jets.label, minlength=11))
    assert jets_parquet.count_jets(path) == len(COUNTS)


def test_unsorted_constituents_come_out_by_falling_pt(tmp_path, columns, reference):
    turned = {n: a[:, ::-1] if isinstance(a, ak.Array) else a for n, a in columns.items()}
    found = table(read(write(tmp_path / "a.parquet", turned)))
    np.testing.assert_allclose(found, table(reference), atol=1e-6)


# --- momenta in other variables ---


@pytest.mark.parametrize("given_as", ["energy", "mass", "massless"])
def test_pt_eta_and_phi(tmp_path, columns, reference, given_as):
    """Closure: the same momenta up to rounding; without energy or mass, those of no mass."""
    own = polar(columns)
    stored = {f"part_{name}": own[name] for name in ("pt", "eta", "phi")}
    if given_as == "mass":
        stored["part_mass"] = own["mass"]
    elif given_as == "energy":
        stored["part_energy"] = columns["part_energy"]
    path = write(tmp_path / "a.parquet", stored)
    features = KINEMATICS if given_as == "massless" else (*KINEMATICS, "mass")
    jets = read(path, features=features)
    np.testing.assert_allclose(
        table(jets, KINEMATICS), table(reference, KINEMATICS), rtol=3e-7, atol=1e-7
    )
    if given_as == "mass":
        expected = ak.to_numpy(ak.flatten(own["mass"]))
        found = ak.to_numpy(ak.flatten(jets.constituents.mass))
        energy = ak.to_numpy(ak.flatten(jets.constituents.energy))
        np.testing.assert_allclose(found**2, expected**2, atol=1e-14 * energy.max() ** 2)
        np.testing.assert_allclose(jets.axis.energy, reference.axis.energy, rtol=1e-6)
    if given_as == "massless":
        assert np.abs(ak.to_numpy(ak.flatten(jets.constituents.mass2))).max() < 1e-6
        with pytest.raises(JetfmError, match="also part_energy"):
            read(path, features=(*KINEMATICS, "mass"))
    np.testing.assert_allclose(jets.jet.pt, jets.axis.pt)  # the file has no other
    assert np.isnan(np.asarray(jets.sdmass)).all() and (np.asarray(jets.label) == -1).all()


def test_the_map_decides_which_momenta_are_meant(tmp_path, columns):
    wrong = {f"part_{n}": columns[f"part_{n}"] * 2 for n in ("px", "py", "pz", "energy")}
    own = {f"my_{name}": values for name, values in polar(columns).items()}
    path = write(tmp_path / "a.parquet", wrong | own)
    layout = layout_in(tmp_path, "part_pt: my_pt\npart_eta: my_eta\npart_phi: my_phi\n")
    found = ak.flatten(read(path, layout=layout, features=("pt",)).constituents.pt)
    np.testing.assert_allclose(found, ak.flatten(own["my_pt"]), rtol=1e-12)


def test_equal_pt_keeps_the_order_of_the_file(tmp_path):
    """pt from px and py would differ by rounding, and so would the order."""
    phi = np.linspace(-3, 3, 40)
    stored = {"part_pt": np.full(40, 15.1), "part_eta": np.zeros(40), "part_phi": phi}
    stored = {name: ak.unflatten(values, [40]) for name, values in stored.items()}
    jets = read(write(tmp_path / "a.parquet", stored), features=KINEMATICS, pt_range=None)
    np.testing.assert_allclose(ak.flatten(jets.constituents.phi), phi)


# --- names, and only what is needed ---

MAP = """
part_px: p.x
part_py: p.y
part_pz: pz
part_energy: E
jet_pt: jet.pt
jet_eta: jet.eta
jet_phi: jet.phi
part_charge: q
"""


def foreign(columns) -> dict:
    """Some of the columns by names of one's own; 'p.x' and 'jet.pt' are one name, dots and all."""
    names = dict(line.split(": ") for line in MAP.strip().splitlines())
    return {theirs: columns[ours] for ours, theirs in names.items()}


def test_names_from_a_map_with_dots_in_them(tmp_path, columns, reference):
    path = write(tmp_path / "a.parquet", foreign(columns))
    features = (*KINEMATICS, "charge")
    jets = read(path, layout=layout_in(tmp_path, MAP), features=features)
    np.testing.assert_array_equal(table(jets, features), table(reference, features))
    np.testing.assert_array_equal(jets.jet.pt, reference.jet.pt)
    assert "no columns" not in error_of(path) and "E, jet.eta" in error_of(path)


def test_root_files_are_mapped_alike(tmp_path, columns, reference):
    own = polar(columns)
    named = {"part_pt": own["pt"], "part_eta": own["eta"], "part_phi": own["phi"]}
    named |= {"part_m": own["mass"], "truth": label_numbers(columns).astype(np.int32)}
    path = jetclass_files.write(tmp_path / "a.root", named, tree="Events")
    text = "part_mass: part_m\ntree: Events\nclasses: {Hbb: truth == 1, mine: truth > 7}\n"
    layout = layout_in(tmp_path, text)
    jets = jetclass.read(path, layout=layout, features=KINEMATICS)
    np.testing.assert_allclose(
        table(jets, KINEMATICS), table(reference, KINEMATICS), rtol=3e-7, atol=1e-7
    )
    truth = label_numbers(columns)
    expected = np.select([truth == 1, truth > 7], [1, 10], -1)
    np.testing.assert_array_equal(jets.label, expected)
    counted = jetclass.count_classes(path, layout=layout)
    assert (counted[1], counted[10], counted[-1]) == tuple(
        (expected == i).sum() for i in (1, 10, -1)
    )
    parquet_path = write(tmp_path / "a.parquet", named)
    np.testing.assert_array_equal(
        table(read(parquet_path, layout=layout, features=KINEMATICS), KINEMATICS),
        table(jets, KINEMATICS),
    )


def test_a_map_leaves_files_with_jetclass_names_alone(tmp_path, columns, reference):
    """Own jets and JetClass's in one command."""
    layout = layout_in(tmp_path, MAP + "classes: {mine: kind == 1}")
    jets = read(parquet_file(tmp_path / "a.parquet", COUNTS), layout=layout)
    np.testing.assert_array_equal(table(jets), table(reference))
    np.testing.assert_array_equal(jets.label, reference.label)
    root = jetclass_file(tmp_path / "a.root", COUNTS)
    np.testing.assert_array_equal(table(jetclass.read(root, layout=layout)), table(reference))


def test_only_columns_that_are_asked_for_are_read(tmp_path, columns, monkeypatch):
    path = parquet_file(
        tmp_path / "a.parquet", COUNTS, part_d0val=None, name=np.array(["jet"] * len(COUNTS))
    )
    asked = []
    whole = parquet.ParquetFile.iter_batches

    def iter_batches(self, *arguments, **options):
        asked.extend(arguments[2])
        return whole(self, *arguments, **options)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", iter_batches)
    jets = read(path, features=("pt", "charge"))
    assert {name.partition(".")[0] for name in asked} == {
        "part_px", "part_py", "part_pz", "part_energy", "part_charge", "jet_pt", "jet_eta",
        "jet_phi", "jet_energy", "jet_sdmass", *(f"jet_tau{i}" for i in (1, 2, 3, 4)),
        *(f"label_{name}" for name in CLASS_NAMES),
    }  # fmt: skip
    assert len(jets) == len(COUNTS)
    assert "also part_d0val" in error_of(path)
    assert "d0val" not in jets_parquet.features_in(path)


def test_memory_grows_with_the_step_and_not_with_the_file(tmp_path):
    """One row group of 24 MB, in chunks of 500 jets."""
    rng, offsets = np.random.default_rng(0), np.arange(0, 10**6 + 1, 50).astype(np.int32)
    own = {"pt": rng.uniform(10, 15, 10**6), "eta": rng.normal(0, 0.1, 10**6)}
    own["phi"] = own["eta"][::-1].copy()
    lists = {f"part_{n}": pa.ListArray.from_arrays(offsets, pa.array(own[n])) for n in own}
    path = write(tmp_path / "a.parquet", lists, use_dictionary=False)
    assert parquet.ParquetFile(path).num_row_groups == 1 and path.stat().st_size > 20e6
    del lists
    before, peak = pa.total_allocated_bytes(), 0
    for _ in jets_parquet.iterate(path, 500, KINEMATICS):
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert 1e4 < peak < 12e6


# --- classes ---


def test_classes_by_expression_on_both_sides_of_the_edge(tmp_path):
    numbers = np.array([160, 161, 187, 0, 1, 2, 15, 14, 70, 127])
    path = parquet_file(tmp_path / "a.parquet", jet_label=numbers.astype(np.int32))
    layout = read_layout(PROJECT / "examples" / "jetclass2.yaml")
    names = [([*layout.class_names, None])[label] for label in read(path, layout=layout).label]
    assert names == [None, "QCD", "QCD", "bb", "cc", "ss", "YY_bbbb", None, "YY_qqb", "YY_bcs"]
    found = jets_parquet.count_classes(path, layout=layout)
    assert found[layout.class_names.index("QCD")] == 2 and found[-1] == 2 and found.sum() == 10


def test_one_hot_labels_may_be_of_some_classes_only(tmp_path, columns):
    labels = {f"label_{name}": None for name in CLASS_NAMES}
    top = np.arange(len(COUNTS)) % 3 == 0
    labels |= {"label_QCD": ~top, "label_Tbqq": top}
    path = parquet_file(tmp_path / "a.parquet", COUNTS, **labels)
    np.testing.assert_array_equal(read(path).label, np.where(top, 8, 0))
    path = parquet_file(tmp_path / "b.parquet", COUNTS, **labels | {"label_QCD": top})
    assert "label_QCD=1, label_Tbqq=1 in jet 0" in error_of(path)


def test_jets_that_say_they_are_of_no_class(tmp_path, columns):
    """As `jetfm generate` writes them."""
    zero = {f"label_{name}": np.zeros(len(COUNTS), np.int32) for name in CLASS_NAMES}
    metadata = {"jetfm": json.dumps({"unlabelled": True})}
    path = write(tmp_path / "a.parquet", columns | zero, metadata=metadata)
    assert (np.asarray(read(path).label) == -1).all()
    assert jets_parquet.count_classes(path)[-1] == len(COUNTS)
    assert "no label set" in error_of(write(tmp_path / "b.parquet", columns | zero))


def test_stores_have_classes_of_ones_own(tmp_path, columns):
    truth = label_numbers(columns)
    (tmp_path / "jets").mkdir()
    for seed, name in enumerate(("a", "b")):
        parquet_file(tmp_path / "jets" / f"{name}.parquet", COUNTS, seed, truth=truth)
    layout = layout_in(tmp_path, "classes: {QCD: truth < 5, mine: truth == 7}")
    store = store_of(tmp_path / "jets", tmp_path / "store", False, layout=layout)
    parts = convert(tmp_path / "jets", tmp_path / "parts", workers=1, layout=layout, progress=False)
    assert parts.features == CONSTITUENT_FEATURES and store.features == KINEMATICS
    expected = np.tile(np.select([truth < 5, truth == 7], [0, 10], -1), 2)
    for one in (store, parts):
        np.testing.assert_array_equal(one.labels, expected)
        assert one.class_names == (*CLASS_NAMES, "mine")
        assert one.info["jets_per_class"]["mine"] == (expected == 10).sum()
        assert one.info["jets_of_unknown_class"] == (expected == -1).sum()
        np.testing.assert_array_equal(one.indices_of("mine"), np.flatnonzero(expected == 10))
        labelled = LabelledJets(one.folder, ("mine", "QCD"))
        np.testing.assert_array_equal(labelled.labels[expected >= 0], expected[expected >= 0] == 0)
        with pytest.raises(JetfmError, match="'other'; expected one of QCD, .*, mine"):
            one.indices_of("other")
        asked = layout_in(tmp_path, "classes: {QCD: truth < 4}")
        with pytest.raises(JetfmError, match="a jets store, whose jets have their classes"):
            store_of(one.folder, tmp_path / "x", False, layout=asked)
        assert store_of(one.folder, tmp_path / "x", False, layout=layout).folder == one.folder
    again = store_of(tmp_path / "jets", tmp_path / "store", False, layout=layout)
    assert again.info == store.info
    with pytest.raises(JetfmError, match="with other names of branches or other classes"):
        store_of(tmp_path / "jets", tmp_path / "store", False, layout=asked)


def test_parts_are_made_anew_for_another_map_and_end_with_a_class_of_ones_own(tmp_path, columns):
    truth = label_numbers(columns)
    parquet_file(tmp_path / "a.parquet", COUNTS, truth=truth)

    def made(text: str, **options) -> JetStore:
        layout = layout_in(tmp_path, text)
        return convert(
            tmp_path / "a.parquet", tmp_path / "store", 1, layout=layout, progress=False, **options
        )

    first = made("classes: {mine: truth == 1, QCD: truth == 0}")
    assert first.info["jets_per_class"]["mine"] == 2
    before = (first.parts[0] / "store.json").stat().st_ino
    again = made("classes: {mine: truth == 1, QCD: truth == 0}")
    assert (again.parts[0] / "store.json").stat().st_ino == before
    second = made("classes: {mine: truth == 2, QCD: truth == 0}")
    np.testing.assert_array_equal(second.labels == 10, truth == 2)
    assert (second.parts[0] / "store.json").stat().st_ino != before
    few = made("classes: {mine: truth < 5, QCD: truth == 9}", jets_per_class=2)
    assert few.info["jets_per_class"]["mine"] == 2 and few.info["jets_per_class"]["QCD"] == 1
    assert few.info["jets_of_unknown_class"] == 2


def test_more_classes_than_a_byte_counts(tmp_path):
    numbers = np.arange(188)
    path = parquet_file(tmp_path / "a.parquet", np.full(188, 2), jet_label=numbers)
    layout = Layout(classes=tuple((f"c{i}", f"jet_label == {i}") for i in range(188)))
    store = store_of(path, tmp_path / "store", False, layout=layout)
    labelled = LabelledJets(store.folder, tuple(f"c{i}" for i in range(188)))
    np.testing.assert_array_equal(labelled.labels, numbers)


# --- bad input: one clear error, naming file and column ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("part_px: [1]", "map.yaml: part_px: found [1]; expected the name of a column"),
        ("part_px:", "map.yaml: part_px: found None"),
        ("parx_px: x", "map.yaml: found 'parx_px'; expected one of part_px, part_py"),
        ("part_deta: x", "found 'part_deta'; expected one of"),
        ("- part_px", "map.yaml: found list ['part_px']; expected a map of branches"),
        ("part_px: {", "unreadable YAML"),
        ("part_px: !!python/object/apply:os.getcwd []", "unreadable YAML"),
        ("classes: QCD", "map.yaml: classes: found 'QCD'"),
        ("classes: {QCD: 1}", "map.yaml: classes: QCD: found 1; expected an expression"),
        ("classes: {QCD: jet_label}", "map.yaml: class QCD: found 'jet_label' in"),
        ("classes: {a b: x == 1}", "map.yaml: classes: found a class 'a b'"),
        ("pt_range: 500", "map.yaml: pt_range: found 500; expected two numbers in GeV"),
        ("pt_range: [1000, 500]", "expected two numbers in GeV, rising"),
        ("tree: 3", "map.yaml: tree: found 3"),
    ],
)
def test_maps_that_are_none(tmp_path, text, message):
    with pytest.raises(JetfmError) as error:
        layout_in(tmp_path, text)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_no_such_map(tmp_path):
    with pytest.raises(JetfmError, match="none.yaml: found 'no such file"):
        read_layout(tmp_path / "none.yaml")


def test_columns_that_are_not_there(tmp_path, columns):
    path = write(tmp_path / "a.parquet", foreign(columns) | {"truth": label_numbers(columns)})
    message = error_of(path, layout=layout_in(tmp_path, MAP.replace("pz: pz", "pz: p.z")))
    assert "found columns E, jet.eta" in message and "expected also p.z, which" in message
    assert "map.yaml names" in message
    message = error_of(path, layout=layout_in(tmp_path, "classes: {QCD: thruth == 0}"))
    assert "expected also thruth" in message
    message = error_of(path, features=KINEMATICS)
    assert "also part_px, part_py, part_pz (or part_pt, part_eta, part_phi)" in message
    assert "--branches maps other names" in message
    assert "also part_energy" in error_of(parquet_file(tmp_path / "b.parquet", part_energy=None))


def some_null(array, at: int) -> pa.Array:
    values = array.to_pylist()
    values[at] = None
    return pa.array(values, array.type)


def test_nulls_and_nan(tmp_path, columns):
    def message(**changed):
        return error_of(parquet_file(tmp_path / "a.parquet", COUNTS, **changed), step=5)

    lists = jagged(columns["part_pz"])
    assert "column 'part_pz': found a null in jet 7; expected a list" in message(
        part_pz=some_null(lists, 7)
    )
    values = lists.to_pylist()
    values[7][3] = None
    assert "column 'part_pz': found a null in jet 7; expected a number" in message(
        part_pz=pa.array(values)
    )
    values[7][3] = float("nan")
    assert "column 'part_pz': found nan in jet 7; expected finite" in message(
        part_pz=pa.array(values)
    )
    jet_pt = pa.array(columns["jet_pt"])
    assert "column 'jet_pt': found a null in jet 6" in message(jet_pt=some_null(jet_pt, 6))
    assert "column 'label_Hbb': found a null in jet 2" in message(
        label_Hbb=some_null(pa.array(columns["label_Hbb"]), 2)
    )
    sdmass = some_null(pa.array(columns["jet_sdmass"]), 6)
    jets = read(parquet_file(tmp_path / "a.parquet", COUNTS, jet_sdmass=sdmass))
    assert np.flatnonzero(np.isnan(jets.sdmass)).tolist() == [6]


def test_columns_of_another_kind(tmp_path, columns):
    def message(**changed):
        return error_of(parquet_file(tmp_path / "a.parquet", COUNTS, **changed))

    n = len(COUNTS)
    assert "column 'part_charge': found type double; expected one number per constituent" in (
        message(part_charge=np.zeros(n))
    )
    nested = pa.array([[[1.0]]] * n)
    assert "found type list<element: list<element: double>>; expected one number per" in message(
        part_px=nested
    )
    assert "column 'jet_pt': found type list" in message(jet_pt=pa.array([[600.0]] * n))
    assert "column 'jet_pt': found type string; expected one number per jet" in message(
        jet_pt=np.array(["600"] * n)
    )
    lists = pa.array([["a"]] * n)
    assert "column 'part_px': found type list<element: string>" in message(part_px=lists)
    shorter = columns["part_pz"][:, :30]
    assert "column 'part_pz': found 30 values in jet 1; expected 40, as many as in 'part_px'" in (
        message(part_pz=shorter)
    )


def test_momenta_that_are_none(tmp_path, columns):
    def message(**changed):
        return error_of(
            parquet_file(tmp_path / "a.parquet", COUNTS, **changed), features=KINEMATICS
        )

    px, py = (ak.to_numpy(ak.flatten(columns[f"part_{name}"])).copy() for name in ("px", "py"))
    at = sum(COUNTS[:4]) + 2
    px[at] = py[at] = 0
    zero = {"part_px": ak.unflatten(px, COUNTS), "part_py": ak.unflatten(py, COUNTS)}
    assert "without transverse momentum in jet 4; expected pt > 0" in message(**zero)
    own = {f"part_{name}": values for name, values in polar(columns).items()}
    none = {"part_px": None, "part_energy": None}
    pt = ak.to_numpy(ak.flatten(own["part_pt"])).copy()
    pt[at] *= -1
    assert "in jet 4; expected pt > 0" in message(
        **none | own | {"part_pt": ak.unflatten(pt, COUNTS)}
    )
    eta = ak.to_numpy(ak.flatten(own["part_eta"])).copy()
    eta[at] = 800
    assert "a momentum beyond all bounds in jet 4" in message(
        **none | own | {"part_eta": ak.unflatten(eta, COUNTS)}
    )


@pytest.mark.parametrize("name", ["part_phi", "jet_phi"])
def test_azimuths_in_degrees_are_refused(tmp_path, columns, name):
    """And those of another turn, from 0 to 2 pi in single precision, are not."""
    own = {f"part_{key}": values for key, values in polar(columns).items()}
    own |= {"part_px": None, "part_energy": None, "jet_phi": columns["jet_phi"]}
    path = tmp_path / "a.parquet"
    degrees = own | {name: own[name] * (180 / np.pi)}
    found = error_of(parquet_file(path, COUNTS, **degrees), features=KINEMATICS)
    assert f"column '{name}': found an azimuth of size" in found and "expected radians" in found
    turned = np.asarray(ak.flatten(own[name], axis=None), np.float32) % np.float32(2 * np.pi)
    turned[0] = np.float32(2 * np.pi)
    turned = ak.unflatten(turned, COUNTS) if name == "part_phi" else turned
    assert len(read(parquet_file(path, COUNTS, **own | {name: turned}), features=KINEMATICS))


def test_momenta_in_mev_and_other_selections(tmp_path, columns):
    names = ("jet_pt", "part_px", "part_py", "part_pz", "part_energy")
    path = parquet_file(tmp_path / "a.parquet", COUNTS, **{n: columns[n] * 1000 for n in names})
    assert "looks like MeV" in error_of(path)
    soft = parquet_file(tmp_path / "b.parquet", COUNTS, **{n: columns[n] * 0.3 for n in names})
    assert "--any-pt takes any other" in error_of(soft)
    layout = layout_in(tmp_path, "pt_range: [100, 2500]")
    assert len(read(soft, layout=layout)) == len(read(soft, pt_range=None)) == len(COUNTS)
    assert "100 to 2500 GeV, the selection; it looks like MeV" in error_of(path, layout=layout)


def test_files_that_are_none(tmp_path, columns):
    whole = parquet_file(tmp_path / "whole.parquet", COUNTS).read_bytes()
    bad = tmp_path / "bad.parquet"
    for content, cause in (
        (b"", "an empty file"),
        (b"PK\x03\x04 a zip", "a parquet file, which starts with b'PAR1'"),
        (b"PAR1", "truncated"),
        (b"PAR1" * 3, "unreadable bytes"),
        (whole[: len(whole) // 2], "truncated"),
        (whole[:-8] + b"\xff\xff\xff\x7fPAR1", "unreadable bytes"),
        (whole[: len(whole) // 2] + whole[-8:], "unreadable bytes"),
    ):
        bad.write_bytes(content)
        assert cause in error_of(bad), cause
    assert "no such file" in error_of(tmp_path / "none.parquet")
    empty = {name: array[:0] for name, array in columns.items()}
    assert "zero jets" in error_of(write(tmp_path / "zero.parquet", empty))


def test_damaged_pages_are_an_error_or_the_same_jets(tmp_path, reference):
    """Sums of the pages, where a writer stores them, tell."""
    path = parquet_file(tmp_path / "a.parquet", COUNTS, options={"write_page_checksum": True})
    whole, rng, refused = path.read_bytes(), np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[rng.integers(4, len(whole) - 8)] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            jets = read(path)
        except JetfmError as error:
            refused += 1
            assert "a.parquet" in str(error) and "\n" not in str(error)
        else:
            np.testing.assert_array_equal(table(jets), table(reference))
    assert refused > 20


@pytest.mark.parametrize("name", ["file:x.parquet", "s3:a b.parquet", "ünï #1?.parquet"])
def test_any_name_of_a_file(tmp_path, name):
    assert len(read(parquet_file(tmp_path / name, COUNTS))) == len(COUNTS)


def test_files_of_two_kinds_are_refused(tmp_path):
    jetclass_file(tmp_path / "a.root", COUNTS)
    parquet_file(tmp_path / "b.parquet", COUNTS)
    with pytest.raises(JetfmError, match="found .parquet and .root files; expected jets of one"):
        store_of(tmp_path, tmp_path / "store", progress=False)


def test_long_files_become_several_parts(tmp_path, columns, reference, monkeypatch):
    """Ranges of rows that need not be those of the row groups."""
    monkeypatch.setattr(conversion, "PART_JETS", 5)
    path = parquet_file(tmp_path / "a.parquet", COUNTS, options={"row_group_size": 4})
    store = convert(path, tmp_path / "store", 1, progress=False)
    assert [part["n_jets"] for part in store.info["parts"]] == [5, 5, 2]
    np.testing.assert_array_equal(store.constituents[:], table(reference))
    np.testing.assert_array_equal(store.labels, reference.label)


def test_one_hot_labels_by_names_of_ones_own(tmp_path, columns):
    """In ROOT, too; and files without any label are of no class, whoever reads them."""
    top = np.arange(len(COUNTS)) % 3 == 0
    none = {name: None for name in columns if name.startswith("label_")}
    own = columns | none | {"is_top": top.astype(np.int32), "is_qcd": (~top).astype(np.int32)}
    own = {name: array for name, array in own.items() if array is not None}
    layout = layout_in(tmp_path, "label_Tbqq: is_top\nlabel_QCD: is_qcd")
    files = {
        jets_parquet: write(tmp_path / "a.parquet", own),
        jetclass: jetclass_files.write(tmp_path / "a.root", own),
    }
    for reader, path in files.items():
        (jets,) = reader.iterate(path, layout=layout)
        np.testing.assert_array_equal(jets.label, np.where(top, 8, 0))
        assert reader.count_classes(path, layout=layout)[[0, 8]].tolist() == [
            (~top).sum(),
            top.sum(),
        ]
        (jets,) = reader.iterate(path)
        assert (np.asarray(jets.label) == -1).all()
        assert reader.count_classes(path)[-1] == len(COUNTS)
