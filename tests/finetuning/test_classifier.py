"""A classifier that was made once is used again: alone in a folder, and as an ONNX file."""

from __future__ import annotations

import errno
import re
import shutil
import sys
from pathlib import Path

import awkward as ak
import numpy as np
import onnxruntime
import pytest
import torch
from pyarrow import parquet

import jetfm
from jetfm import cli
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.finetuning import Contender, classifier, own_jets
from jetfm.finetuning.classifier import Classifier
from jetfm.finetuning.contenders import baseline
from jetfm.finetuning.export import export_classifier
from jetfm.finetuning.own_jets import SCORES, OwnJets, finetune_files
from jetfm.finetuning.scoring import score_files
from jetfm.models import onnx_file
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.schema import CLASS_NAMES, CONSTITUENT_FEATURES
from jetfm.settings import BackboneSettings, PretrainingSettings, TokenizerSettings
from jetfm.storage import weights as weights_of
from jetfm.storage.weights import load_weights
from jetfm.tokenizers import kinds as kinds_of
from jetfm.tokenizers import make_tokenizer
from tests.data.jetclass_files import dense_arrays, jetclass_file, random_jets, write
from tests.data.toplandscape_files import toplandscape_file
from tests.finetuning.test_study import GPT, SHORT, SMALL, toy_store
from tests.toys import randomise, small_tokenizer_settings

CLASSES = ("Tbqq", "QCD")  # not in the schema's order
LONGEST = 20  # of what is read; the toys have up to 29 constituents
PROJECT = Path(__file__).parents[2]
COUNTS = (3, 40, 1, 2, 131, 17, 25, 60, 9, 33)

#: Kinds of classifiers: pre-trained model (or baseline) and weights.
KINDS = {
    "finetuned": ("continuous", "finetuned"),
    "fixed": ("continuous", "fixed"),
    "pairs": ("pairs", "scratch"),
    "tokens": ("tokens", "finetuned"),
    "omnijet": ("omnijet", "finetuned"),
    "omnijet-fixed": ("omnijet", "fixed"),
    "omnijet-shuffled": ("omnijet-shuffled", "finetuned"),
    "deepsets": ("deepsets", "scratch"),
    "transformer": ("transformer", "scratch"),
    "part": ("part", "scratch"),
    "lgatr": ("lgatr", "scratch"),
}
BACKBONES = {
    "continuous": SMALL,
    "pairs": SMALL.model_copy(update={"pair_bias": True}),
    "tokens": BackboneSettings.model_validate(SMALL.model_dump() | {"input": "token-id"}),
    "omnijet": GPT,
    "omnijet-shuffled": GPT,
}

SHUFFLED = ("tokens", "omnijet-shuffled")  # tokens in random order


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Jets, tokenizers and pre-trained models."""
    folder = tmp_path_factory.mktemp("inputs")
    toy_store(folder / "train", 120, 1, labels=(0, 8))
    toy_store(folder / "test", 60, 3, labels=(0, 8), empty=1)
    toy_store(folder / "others", 60, 4, labels=(0, 8, 1, -1))
    # odd: the only constituent of a jet lies on its axis, where no edge should be
    grid = make_tokenizer(TokenizerSettings(preset="binned", bins=(5, 5, 5)))
    grid.fit(JetStore(folder / "train"))
    shuffled = randomise(make_tokenizer(small_tokenizer_settings(dim=16), seed=2))
    for name, tokenizer in (("grid", grid), ("shuffled", shuffled)):
        tokenizer.save(folder / name)
    torch.manual_seed(5)
    for name, backbone in BACKBONES.items():
        tokenizer = shuffled if name in SHUFFLED else grid
        settings = PretrainingSettings(backbone=backbone, head={"n_blocks": 0})
        model = JetModel(settings, tokenizer.n_codes, 3, tokenizer.hash, tokenizer.preprocessing)
        randomise(model).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def trained(inputs, tmp_path_factory):
    """What a short fine-tuning of a kind leaves; each is made when asked for."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind)
            model, weights = KINDS[kind]
            contender = Contender(model, weights, model)
            tokenizer = None
            if model in BACKBONES:
                contender = Contender(model, weights, model, inputs / model)
                tokenizer = inputs / ("shuffled" if model in SHUFFLED else "grid")
            own = OwnJets(inputs / "train", inputs / "test", classes=CLASSES)
            with pytest.MonkeyPatch.context() as patched:  # the figure takes longer than the fit
                patched.setattr(own_jets, "roc", lambda **_: None)
                patched.setattr(own_jets.style, "save", lambda *_: None)
                finetune_files(
                    own, contender, SHORT, made[kind], 3, tokenizer, LONGEST, progress=False
                )
        return made[kind]

    return of


@pytest.fixture(scope="module")
def complete(trained, tmp_path_factory):
    """The two files of a classifier, and nothing else."""
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(f"{kind}-alone")
            for name in ("classifier.json", "weights.safetensors"):
                shutil.copy(trained(kind) / name, made[kind])
        return made[kind]

    return of


def columns(path) -> dict:
    return parquet.read_table(path).to_pydict()


def probabilities(path, classes=CLASSES) -> np.ndarray:
    table = columns(path)
    return np.column_stack([table[f"p_{name}"] for name in classes])


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_of_the_test_jets_come_out_again(inputs, trained, complete, tmp_path, kind):
    found = score_files(complete(kind), inputs / "test", tmp_path / "s.parquet", progress=False)
    before, again = columns(trained(kind) / SCORES), columns(tmp_path / "s.parquet")
    assert list(again) == list(before) == ["jet", "label", "class", "p_Tbqq", "p_QCD"]
    if "fixed" in kind:  # tested on jets that were encoded in other batches
        paths = (tmp_path / "s.parquet", trained(kind) / SCORES)
        np.testing.assert_allclose(*map(probabilities, paths), rtol=0, atol=2e-6)
    else:
        assert again == before
    assert {key: again[key] for key in ("jet", "label", "class")} == {
        key: before[key] for key in ("jet", "label", "class")
    }
    assert np.ptp(probabilities(tmp_path / "s.parquet")[:, 0]) > 1e-3  # jets differ
    right = probabilities(tmp_path / "s.parquet").argmax(1) == before["label"]
    assert found.accuracy.value == right.mean() and found.n_jets == found.n_labelled == 60
    assert list(tmp_path.iterdir()) == [tmp_path / "s.parquet"]


def test_chunks_change_nothing(inputs, complete, tmp_path, monkeypatch):
    classifier_of = jetfm.load_classifier(complete("tokens"))
    whole = classifier_of.probabilities_of(inputs / "test")
    monkeypatch.setattr(classifier, "_AT_ONCE", 7)
    found = score_files(classifier_of, inputs / "test", tmp_path / "s.parquet", progress=False)
    assert found.n_jets == 60 and columns(tmp_path / "s.parquet")["jet"] == list(range(60))
    np.testing.assert_allclose(probabilities(tmp_path / "s.parquet"), whole, rtol=0, atol=1e-6)


def test_jets_of_other_classes_and_of_none_are_scored(inputs, complete, tmp_path):
    found = score_files(complete("part"), inputs / "others", tmp_path / "s.parquet", progress=False)
    table, labels = columns(tmp_path / "s.parquet"), JetStore(inputs / "others").labels
    assert table["jet"] == list(range(60))
    names = {0: "QCD", 8: "Tbqq", 1: "Hbb", -1: None}
    assert table["class"] == [names[label] for label in labels]
    assert table["label"] == [{0: 1, 8: 0}.get(label) for label in labels]
    assert found.n_labelled == 30 == found.accuracy.n
    known = {names[label] for label in labels.tolist()} & set(CLASSES)
    assert found.labelled_classes == tuple(name for name in CLASSES if name in known)


def test_jets_are_not_replaced_by_their_scores(complete, tmp_path):
    path = write(tmp_path / "jets.root", random_jets(COUNTS))
    before = path.read_bytes()
    for jets in (path, tmp_path):
        with pytest.raises(JetfmError, match="jets.root: found a file that is there, among"):
            score_files(complete("deepsets"), jets, path, progress=False)
    assert path.read_bytes() == before


def test_a_folder_that_takes_no_files_is_named(complete, inputs, monkeypatch, tmp_path):
    def refused(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(JetfmError, match="s.parquet: found 'no space left on device'"):
        score_files(complete("deepsets"), inputs / "test", tmp_path / "s.parquet", progress=False)


def without_labels(columns):
    return {name: values for name, values in columns.items() if not name.startswith("label_")}


def test_files_need_neither_labels_nor_features_that_are_not_asked_for(complete, tmp_path):
    whole = jetclass_file(tmp_path / "whole.root", COUNTS)
    kinds = ("part_is", "part_d0", "part_dz", "part_charge")
    lean = write(
        tmp_path / "lean.root",
        {k: v for k, v in without_labels(random_jets(COUNTS)).items() if not k.startswith(kinds)},
    )
    found = [
        score_files(complete("finetuned"), path, tmp_path / f"{path.stem}.parquet", progress=False)
        for path in (whole, lean)
    ]
    assert (found[0].n_labelled, found[1].n_labelled) == (2, 0) and found[1].accuracy is None
    assert set(columns(tmp_path / "lean.parquet")["class"]) == {None}
    np.testing.assert_array_equal(
        *(probabilities(tmp_path / f"{name}.parquet") for name in ("whole", "lean"))
    )


def test_top_landscape_files_need_no_labels(complete, tmp_path):
    paths = [
        toplandscape_file(tmp_path / "with.h5", COUNTS),
        toplandscape_file(tmp_path / "without.h5", COUNTS, is_signal_new=None),
    ]
    for path in paths:
        score_files(complete("deepsets"), path, path.with_suffix(".parquet"), progress=False)
    one, other = (columns(path.with_suffix(".parquet")) for path in paths)
    assert set(one["class"]) == {"QCD", "Tbqq"} and set(other["class"]) == {None}
    assert one["p_QCD"] == other["p_QCD"]


def test_files_with_some_of_the_labels_are_damaged(complete, tmp_path):
    path = jetclass_file(tmp_path / "a.root", label_QCD=None)
    with pytest.raises(JetfmError, match="a.root.*label_QCD"):
        score_files(complete("deepsets"), path, tmp_path / "s.parquet", progress=False)
    assert not (tmp_path / "s.parquet").exists()


@pytest.fixture(scope="module")
def file_and_arrays(tmp_path_factory):
    """A JetClass file, and pt, eta and phi of its constituents, shuffled, as lists."""
    path = jetclass_file(tmp_path_factory.mktemp("jets") / "jets.root", COUNTS)
    of_file = random_jets(COUNTS)
    px, py, pz = (
        ak.values_astype(of_file[name], np.float64) for name in ("part_px", "part_py", "part_pz")
    )
    pt = np.hypot(px, py)
    arrays = {"pt": pt, "eta": np.arcsinh(pz / pt), "phi": np.arctan2(py, px)}
    order = ak.argsort(ak.unflatten(np.random.default_rng(1).random(sum(COUNTS)), COUNTS))
    return path, {name: values[order] for name, values in arrays.items()}


def test_all_features_of_a_model_are_asked_for(file_and_arrays):
    path, _ = file_and_arrays
    preprocessing = Preprocessing(features=CONSTITUENT_FEATURES)
    settings = {"kind": "deepsets", "settings": SHORT.baselines.model_dump(mode="json")}
    network = baseline("deepsets", 2, preprocessing, SHORT.baselines)
    classifier = Classifier(
        randomise(network), settings, CLASSES, preprocessing, LONGEST, (500, 1000)
    ).eval()
    arrays = dense_arrays(random_jets(COUNTS))
    assert classifier.input.names == tuple(arrays)
    found = classifier.probabilities(**arrays)
    np.testing.assert_allclose(found, classifier.probabilities_of(path), rtol=0, atol=1e-4)
    assert np.ptp(found[:, 0]) > 1e-2
    del arrays["d0val"]
    with pytest.raises(JetfmError, match="expected pt, eta, phi, mass, .*d0val"):
        classifier.probabilities(**arrays)


def padded(arrays, length=None, dtype=np.float64):
    """Zero where there is no constituent."""
    length = length or max(COUNTS)
    return {
        name: ak.to_numpy(ak.fill_none(ak.pad_none(values, length, clip=True), 0)).astype(dtype)
        for name, values in arrays.items()
    }


def test_a_causal_network_of_shuffled_tokens_gets_them_shuffled(complete, file_and_arrays):
    """In an order that depends on the jet, and not on how its constituents come."""
    path, arrays = file_and_arrays
    known = jetfm.load_classifier(complete("omnijet-shuffled"))
    expected = known.probabilities(**arrays)
    order = ak.argsort(ak.unflatten(np.random.default_rng(2).random(sum(COUNTS)), COUNTS))
    again = {name: values[order] for name, values in arrays.items()}
    np.testing.assert_allclose(known.probabilities(**again), expected, rtol=0, atol=1e-6)
    few = np.array(COUNTS) == 1  # there the order of files is the same
    files = known.probabilities_of(path)
    np.testing.assert_allclose(files[few], expected[few], rtol=0, atol=1e-6)
    assert np.abs(files - expected).max() > 1e-4  # else this test shows nothing
    pt = torch.arange(20.0).flip(0).expand(2000, -1) + 1
    ids = torch.randint(0, 64, pt.shape, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(20) < 18
    keys = known._random_key(torch.where(mask, pt, 0), ids, mask.expand_as(pt))
    assert not keys[:, 18:].any() and keys[:, :18].min() > 0
    assert all(len(row.unique()) == 18 for row in keys[:, :18])
    first = keys.argmax(1).bincount(minlength=18)[:18]  # uniform, from a thousand orders
    assert first.sum() == 2000 and 30 < first.min() and first.max() < 250


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "omnijet-shuffled"])
def test_arrays_of_an_analysis_score_as_its_files(complete, file_and_arrays, kind):
    path, arrays = file_and_arrays
    classifier = jetfm.load_classifier(complete(kind))
    assert classifier.classes == CLASSES
    expected = classifier.probabilities_of(path)
    assert expected.shape == (len(COUNTS), 2) and np.ptp(expected[:, 0]) > 1e-3
    np.testing.assert_allclose(expected.sum(1), 1, rtol=1e-6)
    lists = classifier.probabilities(**arrays)
    np.testing.assert_allclose(lists, expected, rtol=0, atol=2e-6)
    dense = classifier.probabilities(**padded(arrays, 140))
    np.testing.assert_allclose(dense, lists, rtol=0, atol=1e-6)


def test_arrays_that_do_not_fit_are_refused(complete, file_and_arrays):
    classifier = jetfm.load_classifier(complete("deepsets"))
    arrays = padded(file_and_arrays[1])
    with pytest.raises(JetfmError, match="found pt, eta, phi, charge; expected pt, eta, phi"):
        classifier.probabilities(**arrays, charge=arrays["pt"])
    with pytest.raises(JetfmError, match=r"phi: found shape \(10, 5\)"):
        classifier.probabilities(**arrays | {"phi": arrays["phi"][:, :5]})
    for name, value in (("pt", np.nan), ("pt", -1.0), ("eta", np.inf)):
        bad = {key: values.copy() for key, values in arrays.items()}
        bad[name][4, 7] = value
        with pytest.raises(JetfmError, match=f"{name}: found {value} in jet 4"):
            classifier.probabilities(**bad)
    with pytest.raises(JetfmError, match="phi: found an azimuth of size .* expected radians"):
        classifier.probabilities(**arrays | {"phi": np.degrees(arrays["phi"])})
    lists = file_and_arrays[1]
    with pytest.raises(JetfmError, match="eta: found lists of another length"):
        classifier.probabilities(**lists | {"eta": lists["eta"][:, :1]})
    assert classifier.probabilities(*np.zeros((3, 0, 4))).shape == (0, 2)
    assert np.isfinite(classifier.probabilities(*np.zeros((3, 2, 0)))).all()


def test_jets_of_another_pt_are_refused_unless_asked_for(complete, file_and_arrays, tmp_path):
    """MeV for GeV; by files as by arrays. The range is that of the training jets."""
    classifier = jetfm.load_classifier(complete("deepsets"))
    low, high = classifier.pt_range
    assert 10 < low < high < 2000
    arrays = padded(file_and_arrays[1])
    in_mev = arrays | {"pt": 1000 * arrays["pt"]}
    with pytest.raises(JetfmError, match="it looks like MeV"):
        classifier.probabilities(**in_mev)
    assert np.isfinite(classifier.probabilities(**in_mev, any_pt=True)).all()
    momenta = ("part_px", "part_py", "part_pz", "part_energy", "jet_pt", "jet_energy")
    columns = random_jets(COUNTS)
    path = write(tmp_path / "mev.root", columns | {k: 1000 * columns[k] for k in momenta})
    for score in (score_files, lambda known, jets, *_, **__: known.probabilities_of(jets)):
        with pytest.raises(JetfmError, match="it looks like MeV") as refused:
            score(classifier, path, tmp_path / "s.parquet", progress=False)
        assert refused.value.where == str(path)  # not the store, which is gone
    score_files(classifier, path, tmp_path / "s.parquet", any_pt=True, progress=False)
    assert len(columns_of := parquet.read_table(tmp_path / "s.parquet")) == len(COUNTS), columns_of


@pytest.mark.parametrize("kind", ["omnijet", "fixed", "deepsets"])
def test_model_and_tokenizer_are_loaded_once(inputs, monkeypatch, tmp_path, kind):
    loads = []

    def counted(folder, name):
        loads.append(name)
        return load_weights(folder, name)

    for module in (weights_of, kinds_of):
        monkeypatch.setattr(module, "load_weights", counted)
    monkeypatch.setattr(own_jets, "roc", lambda **_: None)
    monkeypatch.setattr(own_jets.style, "save", lambda *_: None)
    model, weights = KINDS[kind]
    own = OwnJets(inputs / "train", inputs / "test", classes=CLASSES, n_train=20)
    contender = Contender(model, weights, model, inputs / model if model in BACKBONES else None)
    finetune_files(own, contender, SHORT, tmp_path, 1, inputs / "grid", progress=False)
    assert sorted(loads) == (["model", "tokenizer"] if model in BACKBONES else [])


def test_a_classifier_does_not_overwrite_a_model(inputs, tmp_path):
    shutil.copytree(inputs / "continuous", tmp_path / "model")
    own = OwnJets(inputs / "train", inputs / "test", classes=CLASSES)
    with pytest.raises(JetfmError, match="the folder of a model"):
        finetune_files(
            own, Contender("deepsets", "scratch"), SHORT, tmp_path / "model", 1, progress=False
        )
    JetModel.load(tmp_path / "model")


def test_damaged_and_foreign_folders_are_refused(inputs, complete, tmp_path):
    with pytest.raises(JetfmError, match="classifier.json"):
        jetfm.load_classifier(inputs / "continuous")
    shutil.copytree(complete("deepsets"), tmp_path / "damaged")
    weights = tmp_path / "damaged" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    with pytest.raises(JetfmError, match="other bytes"):
        Classifier.load(tmp_path / "damaged")


def command(monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["jetfm", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capsys.readouterr()


def test_the_command_scores(inputs, complete, tmp_path, monkeypatch, capsys):
    folder, out = complete("deepsets"), tmp_path / "scores.parquet"
    of_test = ("--jets", inputs / "test", "--out", out)
    code, said, _ = command(monkeypatch, capsys, "score", "--classifier", folder, *of_test)
    assert code == 0 and "60 jets, 2 classes" in said and "accuracy 0." in said
    one = tmp_path / "one.root"
    write(one, random_jets(COUNTS) | {f"label_{name}": np.full(len(COUNTS), name == "QCD")
                                      for name in CLASS_NAMES})  # fmt: skip
    of_one = ("--jets", one, "--any-pt", "--out", out)
    _, said, _ = command(monkeypatch, capsys, "score", "--classifier", folder, *of_one)
    assert f"({len(COUNTS)} jets of QCD)" in said


def test_a_package_that_is_missing_is_named(complete, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None if name == "onnx" else name)
    with pytest.raises(JetfmError, match="no package onnx;.*pip install onnx onnxscript"):
        export_classifier(complete("deepsets"), tmp_path / "c.onnx")


# --- ONNX ---


def run_onnx(path, arrays) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return session.run(None, {i.name: arrays[i.name] for i in session.get_inputs()})[0]


# one kind takes seconds to write; of tokens, with cuts, in order, of pairs, and of four-vectors
FIRST = ("omnijet", "part", "lgatr")
LONG = [pytest.param(kind, marks=pytest.mark.soak) for kind in KINDS if kind not in FIRST]


@pytest.mark.parametrize("kind", [*FIRST, *LONG])
def test_onnx_gives_the_same_probabilities(
    complete, file_and_arrays, tmp_path, kind, monkeypatch, capsys, record_property
):
    """Written by the command, run by ONNX Runtime."""
    folder, out = complete(kind), tmp_path / "classifier.onnx"
    code, said, _ = command(monkeypatch, capsys, "export", "--classifier", folder, "--onnx", out)
    assert code == 0
    assert "takes pt, eta, phi (jets, constituents); gives probabilities of Tbqq, QCD" in said
    classifier = jetfm.load_classifier(folder)
    arrays, largest = file_and_arrays[1], 0.0
    for n_jets, length in ((1, 1), (10, 2), (3, LONGEST), (10, 131), (2, 140)):
        whole = padded(arrays, length, np.float32)
        some = {name: values[:n_jets].copy() for name, values in whole.items()}
        if n_jets > 1:
            some["pt"][1] = 0  # a jet without constituents
        expected = classifier.probabilities(**some, any_pt=True)
        found = run_onnx(out, some)
        assert found.shape == (n_jets, 2) and found.dtype == np.float32
        largest = max(largest, float(np.abs(found - expected).max()))
        if (n_jets, length) == (10, 131):
            assert np.ptp(expected[:, 0]) > 1e-3
    monkeypatch.chdir(tmp_path)
    page = (PROJECT / "docs" / "onnx.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], as_documented := {})
    assert as_documented["classes"] == list(CLASSES)
    assert as_documented["probabilities"].shape == (1, 2)
    record_property("largest difference", largest)
    assert largest < (5e-5 if kind == "lgatr" else 2e-6)  # products of momenta cancel
