"""Real jets through readers, tokenizers and observables, and simulated jets held against them."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
import torch

from jetfm import load_classifier
from jetfm.data import jetclass
from jetfm.data.own_jets import store_of
from jetfm.data.store import JetStore
from jetfm.judging.compare import compare, quantities
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.samples import original_sample
from jetfm.physics.statistics import roc_auc
from jetfm.pretraining.shipped import shipped_classifier
from jetfm.schema import CLASSES, KINEMATICS
from jetfm.simulation.calibration import reference
from jetfm.simulation.simulate import simulate
from jetfm.storage.paths import shipped_folder
from tests import real_jets
from tests.tokenizers.test_interface import KINDS, made
from tests.trees import separation

pytestmark = real_jets.needed


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    return {
        "jetclass": real_jets.jetclass_file(folder / "jets.root"),
        "toplandscape": real_jets.toplandscape_file(folder / "jets.h5"),
    }


@pytest.fixture(scope="module")
def stores(files) -> dict[str, JetStore]:
    return {
        name: store_of(path, path.parent / name, progress=False) for name, path in files.items()
    }


@pytest.mark.parametrize(
    ("name", "arrays"),
    [("jetclass", real_jets.JETCLASS), ("toplandscape", real_jets.TOPLANDSCAPE)],
)
def test_readers_give_the_same_momenta(stores, name, arrays):
    """pt, and angles about the jet's axis, which the momenta alone decide."""
    real, store = real_jets.load(arrays), stores[name]
    px, py, pz = (real[n].astype(float) for n in ("px", "py", "pz"))
    np.testing.assert_array_equal(np.sort(store.n_constituents), np.sort(real["N"]))
    physical, mask = store.dense(np.arange(store.n_jets), 200, KINEMATICS)
    np.testing.assert_allclose(np.sort(physical[mask][:, 0]), np.sort(np.hypot(px, py)), rtol=1e-6)
    offsets = np.concatenate([[0], np.cumsum(real["N"])])
    x, y, z = (np.add.reduceat(values, offsets[:-1]) for values in (px, py, pz))
    eta = np.arcsinh(pz / np.hypot(px, py)) - np.repeat(np.arcsinh(z / np.hypot(x, y)), real["N"])
    np.testing.assert_allclose(np.sort(physical[mask][:, 1]), np.sort(eta), atol=2e-6)


def test_the_files_own_angles_are_those_of_the_reader(files):
    """Sign and wrap included, but for the axis, which jets have from momenta and not from files."""
    real, jets = real_jets.load(real_jets.JETCLASS), jetclass.read(files["jetclass"])
    offsets = np.concatenate([[0], np.cumsum(real["N"])])[:-1]
    for name, ours in (("deta", jetclass.file_deta(jets)), ("dphi", jetclass.file_dphi(jets))):
        shift = real[name] - ak.to_numpy(ak.flatten(ours))
        spread = np.maximum.reduceat(shift, offsets) - np.minimum.reduceat(shift, offsets)
        assert spread.max() < 5e-6, name
        assert np.median(np.abs(shift)) < 1e-3, name


def test_real_jets_have_the_published_statistics(stores):
    """Means of the classes, from the constituents; the stored soft-drop mass knows of more.

    Three and a half standard errors of 33 to 65 jets a class, and the 3 % of the digitisation.
    """
    published, store = reference()["stored"], stores["jetclass"]
    for jet_class in CLASSES:
        sample = original_sample(store, 200, (jet_class.name,))
        found = quantities(sample)
        for name in ("n_constituents", "pt", "tau1", "tau2", "tau3", "tau4"):
            mean, expected = found[name].mean(), published[jet_class.name][name][0]
            error = found[name].std() / np.sqrt(len(sample))
            assert abs(mean - expected) < 3.5 * error + 0.03 * expected, (jet_class.name, name)


@pytest.mark.parametrize("name", ["jetclass", "toplandscape"])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "full"])
def test_real_jets_go_through_every_tokenizer(stores, name, kind):
    """All but those of 14 features, of which the files hold three."""
    tokenizer, store = made(kind), stores[name]
    physical, mask = (torch.as_tensor(a) for a in store.dense(np.arange(20), 128, KINEMATICS))
    x = tokenizer.preprocessing.forward(physical.float(), mask)
    ids = tokenizer.encode(x, mask)
    assert torch.equal(ids >= 0, mask) and ids.max() < tokenizer.n_codes
    decoded = tokenizer.decode(ids)
    assert torch.isfinite(decoded).all()
    if kind == "binned":
        again = tokenizer.encode(decoded, mask)
        assert torch.equal(again, ids), "the middle of a cell lies in it"


def _real(store: JetStore, *classes: str) -> JetSample:
    return original_sample(store, 200, classes)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> dict[str, JetStore]:
    """Jets that ship: of JetClass, of the Top Landscape, and of it as it is described."""
    folder = tmp_path_factory.mktemp("simulated")
    return {
        name: store_of(shipped_folder() / name / "test", folder / name, progress=False)
        for name in ("jetclass", "toplandscape", "toplandscape-described")
    }


@pytest.mark.parametrize(
    ("name", "classes"),
    [("jetclass", tuple(c.name for c in CLASSES if c.name != "QCD"))]
    + [("jetclass", ("QCD",)), ("toplandscape", ("QCD",)), ("toplandscape", ("Tbqq",))],
)
def test_trees_do_not_tell_simulated_jets_from_real_ones(stores, simulated, name, classes):
    jets = _real(simulated[name], *classes)
    some = jets.take(np.arange(0, len(jets), len(jets) // 1600 + 1))  # three times the real ones
    auc, chance = separation(some, _real(stores[name], *classes))
    assert auc < 0.5 + 3 * chance


def test_trees_tell_jets_without_multi_parton_interactions(stores, simulated):
    """As the Top Landscape is described, and was not made; q/g alone, where they see it best."""
    described, real = simulated["toplandscape-described"], stores["toplandscape"]
    auc, chance = separation(_real(described, "QCD"), _real(real, "QCD"))
    assert auc > 0.5 + 2.5 * chance


def test_a_classifier_finds_real_jets_as_hard_as_simulated_ones(stores, simulated):
    """The one that ships, which learned from simulated jets: accuracy of ten classes, and area
    under the ROC curve of t->bqq' against q/g."""
    known = load_classifier(shipped_classifier())
    signal, background = (known.classes.index(name) for name in ("Tbqq", "QCD"))
    found = {}
    for name, store in (("real", stores), ("simulated", simulated)):
        jets = store["jetclass"]
        p = known.probabilities_of(jets, any_pt=True)
        right = p.argmax(1) == jets.labels
        tagged = np.isin(jets.labels, (signal, background))
        score = p[tagged, signal] / p[tagged][:, (signal, background)].sum(1)
        found[name] = right, roc_auc(jets.labels[tagged] == signal, score)
    accuracy, error = ([f(right) for right, _ in found.values()] for f in (np.mean, _binomial))
    assert abs(accuracy[0] - accuracy[1]) < 3 * np.hypot(*error), (accuracy, error)
    (_, real), (_, ours) = found.values()
    assert abs(real.value - ours.value) < 3 * np.hypot(real.uncertainty, ours.uncertainty)


def _binomial(right: np.ndarray) -> float:
    return float(right.std() / np.sqrt(len(right)))


@pytest.mark.soak
@pytest.mark.parametrize("class_name", ["QCD", "Tbqq"])
def test_simulated_jets_of_the_top_landscape_pass_for_real_ones(stores, tmp_path, class_name):
    simulate(
        tmp_path / "jets", "toplandscape", [class_name], 1000, seed=12345, progress=False,
        jets_per_file=250,
    )  # fmt: skip
    jets = _real(store_of(tmp_path / "jets", tmp_path / "store", progress=False), class_name)
    result = compare(jets, _real(stores["toplandscape"], class_name), progress=False)
    assert np.mean(result["classifier"]["auc"]) <= 0.55
    for name in ("n_constituents", "mass", "sdmass", "tau1", "tau2", "tau3", "leading_share"):
        one = result["quantities"][name]
        assert abs(one["ratio"] - 1) < max(0.02, 2 * one["ratio_error"]), (name, one)
