"""EPiC-FM as a generator: it learns known distributions; one seed, one sample; bad requests."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.generation.flow import generate_flow, normals
from jetfm.generation.flow_training import flow_batch, moments, train_flow
from jetfm.generation.sampling import stream
from jetfm.judging.distances import Values, Wasserstein, judge
from jetfm.models.flow_matching import FlowModel
from jetfm.physics.features import Preprocessing
from jetfm.schema import class_by_name
from jetfm.settings import FlowSettings, OptimizerSettings, TrainingSettings
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.toys import randomise

SMALL = FlowSettings(n_layers=2, dim=16, global_dim=4, n_steps=5)
PREPROCESSING = Preprocessing()
ADAM = OptimizerSettings(
    name="adamw",
    lr=1e-2,
    weight_decay=0.0,
    betas=(0.9, 0.999),
    eps=1e-8,
    warmup_steps=0,
    schedule=((0.0, 1.0), (0.5, 1.0), (1.0, 0.0)),
)


@pytest.fixture(scope="module")
def model() -> FlowModel:
    torch.manual_seed(0)
    made = randomise(FlowModel(SMALL)).eval()
    made.set_standardisation([0.5, 0.0, 0.0], [1.2, 0.4, 0.4])
    return made


def toy_store(folder, counts, classes=("Tbqq",), seed: int = 0) -> JetStore:
    rng = np.random.default_rng(seed)
    n = int(np.sum(counts))
    angles = rng.normal(0, [[0.1, 0.3]], (n, 2))
    constituents = np.column_stack([np.exp(rng.normal(1.0, 1.0, n)), angles])
    rows = np.zeros(len(counts), JET_DTYPE)
    names = [classes[i % len(classes)] for i in range(len(counts))]
    rows["label"] = [class_by_name(name).index for name in names]
    with JetStoreWriter(folder, ("pt", "eta_rel", "phi_rel")) as writer:
        writer.append(constituents, counts, rows)
    return JetStore(folder)


# --- what it learns ---


def test_learns_a_ring_that_jets_share():
    """Constituents near one point of a ring, the same point for all constituents of a jet.

    The ring needs a non-linear flow, the shared point needs the jet's global vector. Judged by
    distances in units of what true samples of the same size would score.
    """
    n_jets, scatter = 512, 0.2

    def truth(rng, counts):
        angle = rng.uniform(0, 2 * np.pi, (len(counts), 1, 1))
        centre = np.concatenate([np.cos(angle), np.sin(angle)], -1)
        return centre + scatter * rng.normal(size=(len(counts), counts.max(), 2))

    def batch(step):
        rng = np.random.default_rng([1, step])
        counts = rng.integers(2, 5, 512)
        x = torch.as_tensor(truth(rng, counts), dtype=torch.float32)
        return {"x": x, "mask": torch.as_tensor(np.arange(counts.max()) < counts[:, None])}

    torch.manual_seed(0)
    model = FlowModel(FlowSettings(n_layers=2, dim=32, global_dim=8, n_steps=25), 2)
    spread = np.sqrt(0.5 + scatter**2)
    model.set_standardisation([0, 0], [spread, spread])
    training = Training(
        model,
        batch,
        TrainingSettings(batch_size=512, max_steps=140, validate_every=140, optimizer=ADAM),
        seed=1,
        device="cpu",
        progress=False,
    )
    fit(training)
    rng = np.random.default_rng(5)
    counts = rng.integers(2, 5, n_jets)
    jets = generate_flow(model, counts, seed=2, progress=False)
    starts = jets.offsets[:-1]
    expected = truth(rng, counts)
    features = {
        "radius": (np.hypot(*jets.decoded[starts].T), np.hypot(*expected[:, 0].T)),
        "x": (jets.decoded[starts, 0], expected[:, 0, 0]),
        "y": (jets.decoded[starts, 1], expected[:, 0, 1]),
        "within a jet": (
            (jets.decoded[starts] - jets.decoded[starts + 1])[:, 0],
            (expected[:, 0] - expected[:, 1])[:, 0],
        ),
    }
    for name, (values, true) in features.items():
        found = judge(Wasserstein, Values.of_jets(values), Values.of_jets(true), seed=1)
        limit = found.floor.value + 10 * found.floor.uncertainty
        assert found.measured.value < limit, name
        # and independent constituents, or a filled disk, would be seen
    blob = np.hypot(*rng.normal(0, spread, (2, n_jets)))
    sides = Values.of_jets(blob), Values.of_jets(features["radius"][1])
    assert judge(Wasserstein, *sides, n_bootstrap=2).measured.value > 0.2


def test_train_on_a_store_and_generate(tmp_path):
    """A second call finds the same model; its jets have the truth's means and spreads."""
    counts = np.random.default_rng(0).integers(1, 9, 400)
    counts[:4] = 0, 1, 2, 150
    train = toy_store(tmp_path / "train", counts, classes=("Tbqq", "QCD"))
    validation = toy_store(tmp_path / "val", counts[:100], seed=1)
    settings = SMALL.model_copy(
        update={
            "n_steps": 20,
            "training": TrainingSettings(
                batch_size=64, max_steps=150, validate_every=75, ema=0.97, optimizer=ADAM
            ),
        }
    )
    model, result = train_flow(
        train, validation, settings, PREPROCESSING, tmp_path / "fit", seed=3, progress=False
    )
    losses = [row["loss"] for row in result.history if row["split"] == "validation"]
    assert losses[1] < losses[0]
    again, _ = train_flow(
        train, validation, settings, PREPROCESSING, tmp_path / "fit", seed=3, progress=False
    )
    assert again.hash == model.hash  # found finished
    mean, std = moments(train, train.indices_of("Tbqq"), PREPROCESSING)
    np.testing.assert_allclose(model.mean, mean, rtol=1e-5)
    jets = generate_flow(model, np.full(400, 5), seed=0, progress=False)
    np.testing.assert_allclose(jets.decoded.mean(0) / std, mean / std, atol=0.15)
    np.testing.assert_allclose(jets.decoded.std(0), std, rtol=0.15)


def test_moments_and_batches_against_the_arrays(tmp_path):
    """Over the chosen jets alone, capped, padding left out."""
    store = toy_store(tmp_path, [0, 1, 150, 2, 3], classes=("Tbqq", "QCD"))
    chosen = store.indices_of("Tbqq")
    rows = np.concatenate(
        [store.constituents[store.offsets[j] :][: min(n, 128)] for j, n in ((2, 150), (4, 3))]
    )
    x = PREPROCESSING.forward(rows.astype(np.float64))
    mean, std = moments(store, chosen, PREPROCESSING)
    np.testing.assert_allclose(mean, x.mean(0))
    np.testing.assert_allclose(std, x.std(0))
    batch = flow_batch(store, chosen, PREPROCESSING)
    assert batch["mask"].sum(1).tolist() == [0, 128, 3] and batch["x"].dtype == torch.float32
    np.testing.assert_allclose(batch["x"][batch["mask"]], x, rtol=1e-5, atol=1e-6)


def test_store_without_the_classes_or_without_constituents_is_refused(tmp_path):
    store = toy_store(tmp_path, [0, 3], classes=("QCD", "Tbl"))
    with pytest.raises(JetfmError, match="no jets of Tbqq"):
        train_flow(store, store, SMALL, PREPROCESSING, tmp_path / "fit", seed=0, progress=False)
    with pytest.raises(JetfmError, match="no constituents"):
        moments(store, store.indices_of("QCD"), PREPROCESSING)


# --- sampling ---


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_one_seed_gives_the_same_jets_whatever_the_batch_size(model, batch_size):
    requested = np.random.default_rng(0).integers(1, 41, 30)
    requested[:4] = 1, 2, 128, 127
    expected = generate_flow(model, requested, seed=5, batch_size=11, progress=False)
    got = generate_flow(model, requested, seed=5, batch_size=batch_size, progress=False)
    np.testing.assert_array_equal(got.offsets, expected.offsets)
    np.testing.assert_allclose(got.decoded, expected.decoded, rtol=1e-4, atol=1e-4)
    other = generate_flow(model, requested, seed=6, progress=False)
    assert not np.isclose(other.decoded, expected.decoded, atol=1e-3).all(1).any()


@settings(max_examples=20)
@given(st.lists(st.one_of(st.integers(1, 3), st.integers(120, 128)), min_size=1, max_size=6))
def test_each_jet_is_the_transport_of_its_own_noise(model, requested):
    jets = generate_flow(model, np.array(requested), seed=9, batch_size=2, progress=False)
    assert jets.requested.tolist() == requested == jets.n_constituents.tolist()
    assert jets.offsets[-1] == len(jets.decoded) and jets.decoded.dtype == np.float32
    for j, n in enumerate(requested):
        noise = torch.from_numpy(normals(9, np.array([j]), np.array([n]), 3))[None]
        with torch.no_grad():
            alone = model.transport(noise, torch.ones(1, n).bool())[0]
        own = jets.decoded[jets.offsets[j] : jets.offsets[j + 1]]
        np.testing.assert_allclose(own, alone, rtol=1e-4, atol=1e-4)


def test_noise_is_normal_and_each_jets_own():
    counts = np.full(200, 30)
    noise = normals(3, np.arange(200), counts, 3)
    assert noise.shape == (6000, 3) and noise.dtype == np.float32
    np.testing.assert_allclose(noise.mean(0), 0, atol=0.07)
    np.testing.assert_allclose(np.cov(noise.T), np.eye(3), atol=0.07)
    np.testing.assert_array_equal(noise[30:60], normals(3, np.array([1]), np.array([30]), 3))
    np.testing.assert_array_equal(noise[30], stream(3, 1).standard_normal(3, np.float32))


def test_generation_leaves_the_model_as_it_was(model):
    model.train()
    try:
        generate_flow(model, np.array([3]), seed=0, progress=False)
        assert model.training and model.network.out.weight.requires_grad
    finally:
        model.eval()


@pytest.mark.parametrize(
    "requested, options, message",
    [
        ([], {}, "n_constituents: found shape"),
        ([3, 0], {}, "multiplicities from 0 to 3; expected 1 to 128"),
        ([129], {}, "129 to 129; expected 1 to 128"),
        ([41], {"max_constituents": 40}, "expected 1 to 40"),
        ([2.5], {}, "found float64; expected integers"),
        ([2], {"n_steps": 0}, "n_steps: found 0"),
        ([2], {"batch_size": 0}, "batch_size: found 0"),
        ([2], {"seed": -1}, "seed: found -1"),
    ],
)
def test_impossible_requests_are_refused(model, requested, options, message):
    with pytest.raises(JetfmError, match=message):
        generate_flow(model, np.array(requested), **({"seed": 0, "progress": False} | options))


def test_another_model_is_refused():
    with pytest.raises(JetfmError, match="model: found Linear"):
        generate_flow(torch.nn.Linear(1, 1), np.array([3]), seed=0)
