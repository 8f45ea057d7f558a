"""Training without tokens: batches and their order, a source of known entropy, resuming."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jetfm.data.batches import InOrderBatches, LengthBucketedBatches
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.generation.density import generate_continuous
from jetfm.generation.density_training import ContinuousBatches, continuous_batch, train_continuous
from jetfm.models.continuous_model import ContinuousModel, stop_positions
from jetfm.physics.features import Preprocessing
from jetfm.schema import KINEMATICS
from jetfm.settings import BackboneSettings, ContinuousSettings, OptimizerSettings
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.toys import training_settings

COUNTS = (3, 0, 40, 1, 2, 150, 17, 25, 60, 9)
RAW = Preprocessing(pt_map="log", angle_scale=1.0, pt_shift=0.0)


def store_of(folder, counts=COUNTS, features=KINEMATICS, seed=0) -> JetStore:
    rng = np.random.default_rng(seed)
    n = sum(counts)
    x = np.column_stack([np.exp(rng.normal(1, 1, n)), rng.normal(0, 0.2, (n, 2))]).astype("f4")
    with JetStoreWriter(folder, features) as writer:
        writer.append(x[:, : len(features)], counts, np.zeros(len(counts), JET_DTYPE))
    return JetStore(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> JetStore:
    return store_of(tmp_path_factory.mktemp("jets"))


def small_settings(**changes) -> ContinuousSettings:
    values = {
        "backbone": BackboneSettings(dim=16, n_blocks=1, n_heads=2, n_registers=2, dropout=0.1),
        "n_components": 2,
        "training": training_settings(batch_size=4, max_steps=6, validate_every=3),
    }
    return ContinuousSettings(**(values | changes))


# --- batches ---


def test_batches_hold_the_jets_at_full_resolution(store):
    batch = continuous_batch(store, np.arange(len(store)), Preprocessing(), 128)
    physical = Preprocessing().inverse(batch["x"].double().numpy())
    for i, count in enumerate(COUNTS):
        kept = min(count, 128)
        jet = store.constituents[store.offsets[i] :][:kept]
        assert batch["mask"][i].sum() == kept and batch["n_constituents"][i] == count
        np.testing.assert_allclose(physical[i, :kept], jet, rtol=1e-5, atol=1e-5)
    stops = stop_positions(batch["mask"], batch["n_constituents"])
    assert stops.sum(1).tolist() == [int(count <= 128) for count in COUNTS]


def test_a_random_order_changes_the_order_alone(store):
    falling = continuous_batch(store, np.arange(len(store)), Preprocessing(), 128)
    random = continuous_batch(store, np.arange(len(store)), Preprocessing(), 128,
                              np.random.default_rng(1))  # fmt: skip
    assert torch.equal(random["mask"], falling["mask"])
    assert (falling["x"][2, 1:40, 0] <= falling["x"][2, :39, 0]).all()
    assert (random["x"][2, 1:40, 0] > random["x"][2, :39, 0]).any()
    for a, b, mask in zip(random["x"], falling["x"], falling["mask"], strict=True):
        assert torch.equal(a[mask][a[mask][:, 0].argsort(descending=True, stable=True)], b[mask])
        assert not a[~mask].any()


def test_order_is_new_for_every_step_and_fixed_in_validation(store):
    schedule = LengthBucketedBatches(store.n_constituents, 10, seed=1)
    batches = ContinuousBatches(store, schedule, Preprocessing(), 128, (1, 0))
    first, again, later = batches(0)["x"], batches(0)["x"], batches(1)["x"]
    assert torch.equal(first, again)
    longest = first.any(-1).sum(1).argmax(), later.any(-1).sum(1).argmax()
    assert not torch.equal(first[longest[0]], later[longest[1]])
    assert first[longest[0], :, 0].sum().item() == pytest.approx(
        later[longest[1], :, 0].sum().item(), rel=1e-5
    )
    judged = ContinuousBatches(
        store, InOrderBatches(store.n_constituents, 4), Preprocessing(), 128, (1, 1)
    )
    for a, b in zip(judged, judged, strict=True):
        assert torch.equal(a["x"], b["x"])
    sorted_in_pt = ContinuousBatches(store, schedule, Preprocessing(), 128, None)
    assert torch.equal(sorted_in_pt(0)["x"][longest[0]], sorted_in_pt(1)["x"][longest[1]])


@pytest.mark.parametrize("world", [2, 3, 15])
def test_parts_of_a_batch_are_together_the_whole(store, world):
    schedule = LengthBucketedBatches(store.n_constituents, 10, seed=1)
    batches = ContinuousBatches(store, schedule, Preprocessing(), 128, (1, 0))
    whole, parts = batches(3), [batches.shard(rank, world)(3) for rank in range(world)]
    torch.manual_seed(0)
    model = ContinuousModel(small_settings()).eval()
    total = sum(loss.item() * metrics["weight"] for loss, metrics in map(model.loss, parts))
    loss, metrics = model.loss(whole)
    assert sum(model.loss(part)[1]["weight"] for part in parts) == metrics["weight"]
    assert total.item() == pytest.approx(loss.item() * metrics["weight"].item(), rel=1e-4)
    assert sum("silent" in part for part in parts) == max(world - 10, 0)


# --- a source whose entropy is known ---

P_STOP, CAP, MEMORY = 0.1, 18, 0.6


def source(n_jets, seed) -> dict:
    """Jets that stop with probability 0.1 before each constituent, or are cut at 18.

    Feature 0 follows its predecessor, x' = 0.6 x + 0.8 e, stationary and normal; feature 1 is
    +-1.5 + 0.5 e with equal chances; feature 2 is 0.7 times feature 0 + 0.4 e.
    """
    rng = np.random.default_rng(seed)
    full = rng.geometric(P_STOP, n_jets) - 1
    x = rng.normal(size=(n_jets, CAP, 3))
    for k in range(1, CAP):
        x[:, k, 0] = MEMORY * x[:, k - 1, 0] + np.sqrt(1 - MEMORY**2) * x[:, k, 0]
    x[..., 1] = rng.choice([-1.5, 1.5], (n_jets, CAP)) + 0.5 * x[..., 1]
    x[..., 2] = 0.7 * x[..., 0] + 0.4 * x[..., 2]
    mask = torch.as_tensor(np.arange(CAP) < full[:, None])
    values = torch.as_tensor(x, dtype=torch.float32)
    return {"x": values * mask[..., None], "mask": mask, "n_constituents": torch.as_tensor(full)}


def surprise(batch) -> tuple[float, float]:
    """Mean -ln p of the source's own constituents, and of its decisions to go on or stop."""
    x, mask = batch["x"].double(), batch["mask"]
    before = torch.cat([torch.zeros(len(x), 1).double(), MEMORY * x[:, :-1, 0]], 1)
    width = torch.full_like(before, np.sqrt(1 - MEMORY**2))
    width[:, 0] = 1.0

    def log_normal(value, mean, sigma):
        return torch.distributions.Normal(mean, sigma).log_prob(value)

    half = torch.as_tensor(0.5).double()
    log_p = log_normal(x[..., 0], before, width)
    log_p += torch.logaddexp(
        log_normal(x[..., 1], -3 * half, half), log_normal(x[..., 1], 3 * half, half)
    ) + half.log()  # fmt: skip
    log_p += log_normal(x[..., 2], 0.7 * x[..., 0], 0.4 * torch.ones_like(width))
    n, n_stops = mask.sum().item(), (batch["n_constituents"] <= mask.sum(1)).sum().item()
    decisions = n * np.log1p(-P_STOP) + n_stops * np.log(P_STOP)
    return -log_p[mask].sum().item() / n, -decisions / (n + n_stops)


@pytest.fixture(scope="module")
def learned():
    """A model of the source, not told the multiplicity, and its metrics on new jets."""
    settings = ContinuousSettings(
        backbone=BackboneSettings(
            dim=32, n_blocks=1, n_heads=2, n_registers=2, dropout=0.0, told_multiplicity=False
        ),
        head={"n_blocks": 0},
        n_components=4,
    )
    torch.manual_seed(0)
    model = ContinuousModel(settings, RAW)
    plan = training_settings(
        max_steps=150,
        validate_every=150,
        optimizer=OptimizerSettings(
            name="adamw", lr=2e-2, betas=(0.9, 0.999), schedule=((0.0, 1.0), (1.0, 0.01))
        ),
    )
    validation = source(4000, seed=10**6)
    training = Training(
        model, lambda step: source(64, step), plan, validation=[validation], progress=False
    )
    result = fit(training)
    return model, result.history[-1], validation


def test_loss_falls_to_the_entropy_of_the_source(learned):
    """Density and stop, each against the source's own surprise at the same jets."""
    _, found, validation = learned
    density, stop = surprise(validation)
    assert -0.002 < found["density"] - density < 0.015
    assert -0.001 < found["stop"] - stop < 0.002
    # and the source's surprise is its entropy, up to the sample: the check checks itself
    assert stop == pytest.approx(-0.1 * np.log(0.1) - 0.9 * np.log(0.9), abs=0.01)


def test_samples_have_the_moments_of_the_source(learned):
    model, _, _ = learned
    n_jets = 4000
    jets = generate_continuous(model, np.ones(n_jets, int), seed=1, max_constituents=CAP,
                               batch_size=2000, progress=False)  # fmt: skip
    x = jets.decoded.astype(float)
    expected = np.array([[1.0, 0, 0.7], [0, 1.5**2 + 0.25, 0], [0.7, 0, 0.49 + 0.16]])
    # memory multiplies a bias of one step by 1 / (1 - 0.6)
    np.testing.assert_allclose(x.mean(0), 0, atol=0.08)
    np.testing.assert_allclose(np.cov(x.T), expected, atol=0.09)
    assert (np.abs(x[:, 1]) < 0.5).mean() == pytest.approx(0.0228, abs=0.01)  # between the modes
    jet = np.repeat(np.arange(n_jets), jets.n_constituents)
    same = jet[1:] == jet[:-1]
    memory = np.corrcoef(x[1:, 0][same], x[:-1, 0][same])[0, 1]
    assert memory == pytest.approx(MEMORY, abs=0.03)
    capped = 0.9 * (1 - 0.9**CAP) / 0.1  # mean of min(geometric, 18)
    assert jets.n_constituents.mean() == pytest.approx(capped, abs=0.5)
    assert (~jets.finished).mean() == pytest.approx(0.9 ** (CAP + 1), abs=0.03)


# --- the training function ---


@pytest.mark.parametrize("order", ["random", "pt"])
def test_one_seed_one_model_and_resuming_is_exact(store, tmp_path, order):
    def train(folder, steps=6, seed=3):
        plan = training_settings(batch_size=4, max_steps=steps, validate_every=3)
        settings = small_settings(order=order, training=plan)
        return train_continuous(store, store, settings, Preprocessing(), tmp_path / folder, seed,
                                progress=False)  # fmt: skip

    model, result = train("a")
    again, _ = train("b")
    other, _ = train("c", seed=4)
    assert model.hash == again.hash != other.hash
    assert result.history[-1]["split"] == "validation" and np.isfinite(result.best_metric)
    resumed, second = train("a")
    assert second.resumed_from == 6 and resumed.hash == model.hash


def test_bad_requests_are_refused(store, tmp_path):
    def train(preprocessing=None, cap=128, of=store):
        train_continuous(of, of, small_settings(), preprocessing or Preprocessing(), tmp_path / "f",
                         0, cap, progress=False)  # fmt: skip

    with pytest.raises(JetfmError, match="max_constituents"):
        train(cap=0)
    with pytest.raises(JetfmError, match="alone"):
        train(Preprocessing(features=(*KINEMATICS, "charge")))
    with pytest.raises(JetfmError, match="phi_rel"):
        train(of=store_of(tmp_path / "two", (3, 2), KINEMATICS[:2]))
