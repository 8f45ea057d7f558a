"""Generated jets in files: closure through our JetClass reader, and what is refused."""

from __future__ import annotations

import json

import awkward as ak
import numpy as np
import pytest
import torch
from pyarrow import parquet

from jetfm.data import jetclass
from jetfm.data.store import build_store
from jetfm.errors import JetfmError
from jetfm.generation import to_file
from jetfm.generation.autoregressive import GeneratedJets
from jetfm.generation.file_format import generated_columns, write_generated
from jetfm.generation.sampling import Choice
from jetfm.generation.to_file import Request, generate_file, multiplicities_of
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import FEATURE_SETS, Preprocessing
from jetfm.physics.observables import jet_observables
from jetfm.schema import BRANCHES, KINEMATICS, is_jagged
from jetfm.tokenizers.vqvae import VQVAE
from tests.toys import randomise, small_pretraining_settings, small_tokenizer_settings

COUNTS = np.array([30, 1, 128, 2, 55])


def physical_jets(counts=COUNTS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) pt, eta_rel, phi_rel of jets of 500 to 1000 GeV, and offsets."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    pt = rng.exponential(1, offsets[-1]) + 0.1
    jet_of = np.repeat(np.arange(len(counts)), counts)
    pt *= rng.uniform(600, 900, len(counts))[jet_of] / np.bincount(jet_of, pt)[jet_of]
    return np.column_stack([pt, rng.normal(0, 0.2, (2, len(pt))).T]), offsets


def generated(physical: np.ndarray, offsets: np.ndarray, preprocessing=None) -> GeneratedJets:
    decoded = (preprocessing or Preprocessing()).forward(physical).astype(np.float32)
    n_jets = len(offsets) - 1
    ids = np.zeros(len(decoded), np.int32)
    return GeneratedJets(ids, decoded, offsets, np.diff(offsets), np.ones(n_jets, bool))


def test_a_root_file_reads_back_as_what_was_generated(tmp_path):
    physical, offsets = physical_jets()
    written = write_generated(tmp_path / "g.root", generated(physical, offsets), Preprocessing())
    assert written == (5, 0, 0)
    jets = jetclass.read(tmp_path / "g.root")
    assert ak.num(jets.constituents).tolist() == COUNTS.tolist()
    assert jets.label.tolist() == [-1] * 5
    order = np.lexsort((-physical[:, 0], np.repeat(np.arange(5), COUNTS)))
    pt, eta, phi = physical[order].T
    flat = ak.flatten(jets.constituents)
    for found, expected in ((flat.pt, pt), (flat.eta, eta), (flat.phi, phi)):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert (abs(ak.to_numpy(flat.mass)) < 1e-2 * ak.to_numpy(flat.energy)).all()
    for name in ("pt", "eta", "phi", "energy"):
        np.testing.assert_allclose(getattr(jets.jet, name), getattr(jets.axis, name), rtol=1e-4,
                                   atol=1e-5)  # fmt: skip


def test_observables_of_the_file_are_those_of_the_jets(tmp_path):
    """Mass is not touched by where the axis lies; tau_N as FastJet gives it for both."""
    physical, offsets = physical_jets()
    write_generated(tmp_path / "g.root", generated(physical, offsets), Preprocessing())
    jets = jetclass.read(tmp_path / "g.root")
    expected = jet_observables(physical, offsets)
    table, new_offsets = jetclass.features_of(jets, KINEMATICS)
    found = jet_observables(table, new_offsets)
    for name in ("pt", "mass", "tau1", "tau2", "tau3"):
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-3, atol=1e-3)
    several = COUNTS > 1
    for n in (1, 2, 3):
        np.testing.assert_allclose(jets[f"tau{n}"][several], expected[f"tau{n}"][several],
                                   rtol=2e-3, atol=1e-4)  # fmt: skip
    assert (ak.to_numpy(jets.sdmass) <= expected["mass"] * 1.001 + 0.1).all()


def test_columns_have_jetclass_names_types_and_conventions(tmp_path):
    physical, offsets = physical_jets()
    columns = generated_columns(physical, offsets, KINEMATICS)
    assert list(columns) == list(BRANCHES)
    for name, dtype in BRANCHES.items():
        values = ak.flatten(columns[name]) if is_jagged(name) else columns[name]
        assert np.asarray(values).dtype == np.dtype(dtype), name
    for name in BRANCHES:
        if name.startswith(("label_", "aux_")) or name == "part_charge":
            assert not np.any(ak.flatten(columns[name], axis=None)), name
    write_generated(tmp_path / "g.root", generated(physical, offsets), Preprocessing())
    jets = jetclass.read(tmp_path / "g.root")
    deta, dphi = jetclass.file_deta(jets), jetclass.file_dphi(jets)
    np.testing.assert_allclose(ak.flatten(columns["part_deta"]), ak.flatten(deta), atol=1e-4)
    np.testing.assert_allclose(ak.flatten(columns["part_dphi"]), ak.flatten(dphi), atol=1e-4)


def test_all_features_are_written_where_the_tokenizer_has_them(tmp_path):
    names = FEATURE_SETS["full"]
    preprocessing = Preprocessing(features=names)
    physical, offsets = physical_jets(np.array([2, 3]))
    rng = np.random.default_rng(0)
    full = np.column_stack([physical, rng.uniform(0, 1, (5, len(names) - 3))])
    write_generated(tmp_path / "g.root", generated(full, offsets, preprocessing), preprocessing)
    table, _ = jetclass.features_of(jetclass.read(tmp_path / "g.root"), names)
    order = np.lexsort((-physical[:, 0], np.repeat(np.arange(2), [2, 3])))
    for column, name in enumerate(names[3:], 3):
        expected = full[order, column]
        if name.startswith("is_"):
            expected = np.rint(expected)
        tolerance = 0.05 if name == "mass" else 1e-4  # of large energies in float32
        np.testing.assert_allclose(table[:, column], expected, atol=tolerance, err_msg=name)


def test_what_jetclass_would_not_have_is_left_out(tmp_path):
    """Constituents without pt or too forward, and jets without constituents."""
    physical = np.array([[600, 0.1, 0.1], [0, 0, 0], [10, 6.0, 0], [0, 0, 0], [700, 0.0, -0.2]])
    offsets = np.array([0, 0, 3, 4, 5])
    written = write_generated(tmp_path / "g.root", generated(physical, offsets), Preprocessing())
    assert written == (2, 2, 3)
    jets = jetclass.read(tmp_path / "g.root")
    np.testing.assert_allclose(jets.axis.pt, [600, 700], rtol=1e-5)
    none = generated(np.zeros((0, 3)), np.array([0, 0, 0]))
    for name in ("none.root", "none.parquet"):
        with pytest.raises(JetfmError, match="no jet with constituents"):
            write_generated(tmp_path / name, none, Preprocessing())
    assert [path.name for path in tmp_path.iterdir()] == ["g.root"]


def test_parquet_holds_the_same_columns(tmp_path):
    physical, offsets = physical_jets()
    write_generated(
        tmp_path / "g.parquet", generated(physical, offsets), Preprocessing(), {"seed": 4}
    )
    told = parquet.read_schema(tmp_path / "g.parquet").metadata[b"jetfm"]
    assert json.loads(told) == {"seed": 4, "unlabelled": True}
    found = ak.from_parquet(tmp_path / "g.parquet")
    expected = generated_columns(
        Preprocessing().inverse(generated(physical, offsets).decoded.astype(float)),
        offsets,
        KINEMATICS,
    )
    assert found.fields == list(BRANCHES)
    for name in BRANCHES:
        assert found[name].tolist() == ak.to_list(expected[name]), name


def test_other_kinds_of_file_are_refused(tmp_path):
    with pytest.raises(JetfmError, match="'.h5'.*.root, .parquet"):
        write_generated(tmp_path / "g.h5", generated(*physical_jets()), Preprocessing())


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer and a model that generate jets of some constituents."""
    folder = tmp_path_factory.mktemp("pair")
    torch.manual_seed(0)
    tokenizer = randomise(VQVAE(small_tokenizer_settings()))
    model = randomise(JetModel(small_pretraining_settings(), 64, 3, tokenizer.hash))
    with torch.no_grad():
        model.ntp_head.unembedding.bias[65] += 2
    tokenizer.save(folder / "tokenizer")
    model.save(folder / "model")
    return folder / "model", folder / "tokenizer"


def test_a_model_and_a_tokenizer_make_a_file(folders, tmp_path):
    made = []
    for name in ("a", "b"):
        request = Request(
            tmp_path / f"{name}.root", 50, seed=3, choice=Choice(top_k=60, top_p=0.99)
        )
        written = generate_file(request, *folders, held_out=np.arange(1, 40), progress=False)
        made.append(jetclass.read(request.out, pt_range=None))
        assert 30 < written.n_jets == len(made[-1]) == 50 - written.n_empty
    assert ak.array_equal(made[0].constituents.px, made[1].constituents.px)


def test_a_place_that_cannot_be_is_said_before_jets_are_made(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(to_file, "generate", None)
    (tmp_path / "file").write_text("")
    request = Request(tmp_path / "file" / "g.root", 3, seed=1, n_constituents=5)
    with pytest.raises(JetfmError, match="a folder, not a file"):
        generate_file(request, *folders, progress=False)


def test_multiplicities_come_from_a_store_of_jets(tmp_path):
    physical, offsets = physical_jets()
    write_generated(tmp_path / "g.root", generated(physical, offsets), Preprocessing())
    store = build_store([tmp_path / "g.root"], tmp_path / "store", progress=False)
    assert store.labels.tolist() == [-1] * 5
    assert multiplicities_of(tmp_path / "store").tolist() == COUNTS.tolist()
    with pytest.raises(JetfmError, match="no such folder"):
        multiplicities_of(tmp_path / "absent")


@pytest.mark.parametrize(
    "values, message",
    [
        ({"n_jets": 0}, "n_jets: found 0"),
        ({"n_jets": -5}, "n_jets: found -5"),
        ({"n_constituents": 0}, "from 0 to 0"),
        ({"n_constituents": 129}, "from 129 to 129; expected 1 to 128"),
        ({"out": "jets.txt"}, "'.txt'"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_loaded(tmp_path, values, message):
    with pytest.raises(JetfmError, match=message):
        Request(**({"out": tmp_path / "g.root", "n_jets": 3, "seed": 1} | values))


def test_multiplicities_must_come_from_somewhere(folders, tmp_path):
    with pytest.raises(JetfmError, match="neither a number nor jets"):
        generate_file(Request(tmp_path / "g.root", 3, seed=1), *folders)


def test_another_models_tokenizer_is_refused(folders, tmp_path):
    torch.manual_seed(5)
    VQVAE(small_tokenizer_settings()).save(tmp_path / "other")
    request = Request(tmp_path / "g.root", 3, seed=1, n_constituents=5)
    with pytest.raises(JetfmError, match="the model's own"):
        generate_file(request, folders[0], tmp_path / "other", progress=False)
    assert not request.out.exists()
