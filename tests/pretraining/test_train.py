"""Next-token prediction: targets, weights, causality, learning, files."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from jetfm.data.batches import InOrderBatches, LengthBucketedBatches
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.models.jet_model import JetModel, load_backbone
from jetfm.models.objectives import next_token_targets
from jetfm.models.transformer import n_parameters
from jetfm.pretraining import train as module
from jetfm.pretraining.train import TokenBatches, pretrain, some_jets, token_batch
from jetfm.settings import BackboneSettings, OptimizerSettings, PretrainingSettings
from jetfm.tokenizers.kinds import load_tokenizer
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.toys import (
    randomise,
    small_pretraining_settings,
    small_tokenizer_settings,
    token_batch_of,
    training_settings,
)

K = 64
SMALL = BackboneSettings(dim=16, n_blocks=1, n_heads=2, n_registers=2, dropout=0.2)


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


@pytest.fixture(scope="module")
def model() -> JetModel:
    torch.manual_seed(0)
    return randomise(JetModel(small_pretraining_settings(), K)).eval()


def test_targets_by_hand():
    ids = torch.tensor([[5, 0, 63], [7, 1, 0], [0, 0, 0], [4, 4, 4]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()
    n = torch.tensor([3, 2, 0, 9])  # the last jet was truncated from 9: no stop
    expected = [[6, 1, 64, 65], [8, 2, 65, -1], [65, -1, -1, -1], [5, 5, 5, -1]]
    assert next_token_targets(ids, mask, n, K).tolist() == expected


@given(
    counts=st.lists(st.sampled_from([0, 1, 2, 40, 128, 129, 200]), min_size=1, max_size=6),
    cap=st.sampled_from([1, 2, 128]),
    seed=st.integers(0, 100),
)
def test_targets_hold_every_token_once_and_one_stop_per_whole_jet(counts, cap, seed):
    rng = np.random.default_rng(seed)
    n = np.array(counts)
    kept = np.minimum(n, cap)
    mask = torch.as_tensor(np.arange(max(kept.max(), 1)) < kept[:, None])
    ids = torch.where(mask, torch.as_tensor(rng.integers(0, K, mask.shape)), 0)
    targets = next_token_targets(ids, mask, torch.as_tensor(n), K)
    for row, jet, size, full in zip(targets, ids, kept, n, strict=True):
        ends = [] if full > cap else [K + 1]
        assert row[row >= 0].tolist() == (jet[:size] + 1).tolist() + ends
    assert (targets != 0).all()  # the start id is nobody's target


def test_paper_size():
    """Backbone, one token head and the start vector of the official example configuration."""
    assert n_parameters(JetModel(PretrainingSettings())) == 1_590_144 + 1_322_754 + 3


def test_loss_is_the_mean_over_real_predictions(model, tokenizer):
    counts = [6, 1, 0, 3]
    batch = token_batch_of(tokenizer, counts, extra_padding=4)
    with torch.no_grad():
        loss, metrics = model.loss(batch)
        logits = model(batch["decoded"], batch["mask"], batch["n_constituents"])
    total, n, correct = 0.0, 0, 0
    for i, size in enumerate(counts):
        wanted = torch.cat([batch["ids"][i, :size] + 1, torch.tensor([K + 1])])
        total += F.cross_entropy(logits[i, : size + 1], wanted, reduction="sum").item()
        correct += (logits[i, : size + 1].argmax(-1) == wanted).sum().item()
        n += size + 1
    assert loss.item() == pytest.approx(total / n, rel=1e-5)
    assert metrics["weight"] == n == 14
    assert metrics["ntp_accuracy"][0] == correct and metrics["ntp_accuracy"][1] == n


def test_padding_does_not_change_the_loss_or_its_gradient(tokenizer):
    counts = [6, 1, 0, 3]
    results = []
    for extra in (0, 17):
        torch.manual_seed(0)
        model = randomise(JetModel(small_pretraining_settings(), K))
        batch = token_batch_of(tokenizer, counts, extra_padding=extra)
        batch["decoded"] = torch.where(batch["mask"][..., None], batch["decoded"], 99.0)
        loss, _ = model.loss(batch)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_prediction_sees_only_what_came_before(model, tokenizer):
    batch = token_batch_of(tokenizer, [9, 9])
    n, mask = batch["n_constituents"], batch["mask"]
    logits = model(batch["decoded"], mask, n)
    for position in range(9):
        changed = batch["decoded"].clone()
        changed[:, position:] += 1.0
        after = model(changed, mask, n)
        # logits k predict token k+1 from d_s, d_1..d_k
        kept = slice(0, position + 1)
        torch.testing.assert_close(after[:, kept], logits[:, kept], rtol=0, atol=1e-5)
        assert (after[:, position + 1] - logits[:, position + 1]).abs().max() > 1e-3


def test_decoded_input_does_not_leak_the_target(model, tokenizer):
    """Through the causal decoder too: changing token k leaves predictions up to k untouched."""
    batch = token_batch_of(tokenizer, [9, 9])
    n, mask, ids = batch["n_constituents"], batch["mask"], batch["ids"]
    logits = model(tokenizer.decode(ids), mask, n)
    for position in range(9):
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 1) % K
        after = model(tokenizer.decode(changed), mask, n)
        kept = slice(0, position + 1)
        torch.testing.assert_close(after[:, kept], logits[:, kept], rtol=0, atol=1e-5)


@pytest.mark.parametrize("n_codes", [512, 8192])
def test_loss_starts_at_the_uniform_guess(tokenizer, n_codes):
    torch.manual_seed(1)
    settings = PretrainingSettings(backbone=BackboneSettings(dim=64, n_blocks=2, n_heads=4))
    model = JetModel(settings, n_codes).eval()
    batch = token_batch_of(tokenizer, [20] * 16)
    batch["ids"] = torch.randint(0, n_codes, batch["ids"].shape)
    loss = model.loss(batch)[0].item()
    assert loss == pytest.approx(math.log(n_codes + 2), rel=0.05)


def test_it_learns_a_few_jets_by_heart(tokenizer):
    """Of 8 different jets nothing stays unknown but which one it is: ln 8 for a whole jet."""
    torch.manual_seed(0)
    batch = token_batch_of(tokenizer, [4] * 8)
    batch["ids"] = torch.randint(0, K, (8, 4))
    assert len(batch["ids"].unique(dim=0)) == 8
    batch["decoded"] = tokenizer.decode(batch["ids"])
    model = JetModel(small_pretraining_settings(), K)
    plan = training_settings(
        max_steps=110,
        validate_every=55,
        optimizer=OptimizerSettings(
            name="adamw", lr=1e-2, betas=(0.9, 0.999), schedule=((0.0, 1.0), (1.0, 0.02))
        ),
    )
    fit(Training(model, lambda step: batch, plan, validation=[batch], progress=False))
    whole_jet = 5 * model.loss(batch)[0].item()
    assert np.log(8) - 1e-4 < whole_jet < np.log(8) + 0.25


class Store:
    """What `token_batch` needs of a token store."""

    def __init__(self, counts, cap):
        rng = np.random.default_rng(0)
        self.multiplicity = np.asarray(counts)
        self.n_constituents = np.minimum(counts, cap)
        self.jets = [rng.integers(0, K, n) for n in self.n_constituents]

    def dense(self, indices, max_constituents=None):
        jets = [self.jets[i][:max_constituents] for i in indices]
        mask = np.arange(max(map(len, jets))) < np.array([len(jet) for jet in jets])[:, None]
        ids = np.zeros(mask.shape, np.int64)
        ids[mask] = np.concatenate(jets)
        return ids, np.zeros((*mask.shape, 3), np.float32), mask


def test_batches_keep_the_uncapped_count():
    store = Store([3, 10, 2], cap=5)
    batch = token_batch(store, np.array([1, 0]))
    assert batch["n_constituents"].tolist() == [10, 3]
    targets = next_token_targets(batch["ids"], batch["mask"], batch["n_constituents"], K)
    assert (targets == K + 1).sum(1).tolist() == [0, 1]
    batch = token_batch(store, np.array([0]), max_constituents=2)
    assert batch["mask"].sum() == 2 and batch["n_constituents"].tolist() == [3]


def test_batches_follow_the_schedule():
    store = Store(np.arange(1, 30), cap=100)
    schedule = LengthBucketedBatches(store.n_constituents, 4, seed=1)
    batch = TokenBatches(store, schedule)(5)
    assert batch["mask"].sum(1).tolist() == store.n_constituents[schedule.indices(5)].tolist()


def test_saved_and_loaded(model, tokenizer, tmp_path):
    model.tokenizer_hash = tokenizer.hash
    own_hash = model.save(tmp_path, best_loss=1.5)
    loaded = JetModel.load(tmp_path)
    assert loaded.hash == own_hash and loaded.tokenizer_hash == tokenizer.hash
    batch = token_batch_of(tokenizer, [5, 2])
    assert torch.equal(loaded.loss(batch)[0], model.loss(batch)[0])
    backbone = load_backbone(tmp_path)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value)
    assert "start" in backbone.state_dict()


def test_foreign_files_are_refused(model, tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    with pytest.raises(JetfmError, match="model.json"):
        JetModel.load(tmp_path)
    model.save(tmp_path)
    with pytest.raises(JetfmError, match="SHA-256"):  # the weights are the model's now
        load_tokenizer(tmp_path)
    (tmp_path / "weights.safetensors").write_bytes(b"")
    with pytest.raises(JetfmError, match="weights.safetensors"):
        load_backbone(tmp_path)


def test_limits_draw_jets_at_random_and_grow_by_adding(tmp_path):
    folder = tmp_path / "tokens"
    with TokenStoreWriter(folder, K, tokenizer="none") as writer:
        for jet in range(50):
            one = [[jet]], np.zeros((1, 1, 3), np.float32), np.ones((1, 1), bool)
            writer.append(*one, labels=[jet % 2])
    store = TokenStore(folder)
    assert some_jets(store, 0, seed=1) is None
    few, more = some_jets(store, 10, seed=1), some_jets(store, 30, seed=1)
    assert len(few) == 10 and len(more) == 30 and set(few) < set(more)
    assert len(some_jets(store, 80, seed=1)) == 50
    assert set(few) != set(range(10)) and set(few) != set(some_jets(store, 10, seed=2))
    of_class = some_jets(store, 0, seed=1, classes=("Hbb",))
    assert of_class.tolist() == list(range(1, 50, 2))
    few_of_class = some_jets(store, 10, seed=1, classes=("Hbb",))
    assert len(few_of_class) == 10 and set(few_of_class) < set(of_class)
    values = {
        "limit_train_jets": 10,
        "limit_val_jets": 7,
        "backbone": {"dim": 8, "n_blocks": 1, "n_heads": 2},
        "training": {"batch_size": 5, "max_steps": 4, "validate_every": 2},
    }
    seen = []
    original = module.token_batch

    def spy(store, indices, limit=None):
        seen.append(set(indices.tolist()))
        return original(store, indices, limit)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "token_batch", spy)
        options = PretrainingSettings.model_validate(values)
        pretrain(store, store, options, tmp_path / "training", seed=1, progress=False)
    seven = set(some_jets(store, 7, seed=1).tolist())
    assert set().union(*seen) == set(few.tolist()) | seven


@pytest.fixture(scope="module")
def token_store(tmp_path_factory) -> TokenStore:
    folder = tmp_path_factory.mktemp("tokens")
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder, K, tokenizer="none") as writer:
        for n in rng.integers(1, 12, 60):
            decoded = rng.normal(size=(1, n, 3)).astype(np.float32)
            writer.append(rng.integers(0, K, (1, n)), decoded, np.ones((1, n), bool))
    return TokenStore(folder)


def test_a_pair_bias_takes_its_preprocessing_from_the_tokenizer(tokenizer, tmp_path):
    with TokenStoreWriter(tmp_path / "tokens", K, tokenizer=tokenizer.hash) as writer:
        batch = token_batch_of(tokenizer, [3, 8, 5, 1])
        writer.append(*(batch[key].numpy() for key in ("ids", "decoded", "mask")))
    store = TokenStore(tmp_path / "tokens")
    backbone = SMALL.model_copy(update={"pair_bias": True})
    plan = training_settings(batch_size=2, max_steps=2, validate_every=1)
    wanted = PretrainingSettings(objective="joint", backbone=backbone, training=plan)

    def trained(with_tokenizer):
        return pretrain(store, store, wanted, tmp_path / "t", 1, False, with_tokenizer)[0]

    assert trained(tokenizer).backbone.preprocessing == tokenizer.preprocessing
    with pytest.raises(JetfmError, match="backbone.pair_bias: found no tokenizer"):
        trained(None)
    torch.manual_seed(1)
    with pytest.raises(JetfmError, match="its own"):
        trained(VQVAE(small_tokenizer_settings()))


def test_masks_depend_on_seed_and_step_alone(token_store):
    schedule = InOrderBatches(np.full(60, 5), 20)  # the order of the store
    plan = JetModel(PretrainingSettings(objective="joint", backbone=SMALL), K).plan

    def masked(step=0, seed=(3, 0), jets=schedule, **part):
        batch = TokenBatches(token_store, jets, plan=plan, seed=seed, **part)(step)
        return batch["mpm_targets"].tolist()

    torch.manual_seed(0)
    first = masked()
    torch.rand(7)
    assert masked() == first
    again = InOrderBatches(np.full(20, 5), 20, np.arange(20))
    assert masked(jets=again) == first
    assert masked(seed=(3, 1)) != first and masked(seed=(4, 0)) != first
    same_jets = InOrderBatches(np.full(60, 5), 20, np.tile(np.arange(20), 3))
    assert masked(0, jets=same_jets) == first != masked(1, jets=same_jets)


@pytest.mark.parametrize("world", [2, 3, 7])
def test_a_jet_has_the_same_mask_however_many_processes_share_its_batch(token_store, world):
    schedule = InOrderBatches(token_store.n_constituents, 20)
    plan = JetModel(PretrainingSettings(objective="joint", backbone=SMALL), K).plan

    def visible(**part) -> list[list[int]]:
        batch = TokenBatches(token_store, schedule, plan=plan, seed=(3, 0), **part)(2)
        rows = zip(batch["mpm_slots"], batch["mpm_visible"], strict=True)
        return [slots[kept].tolist() for slots, kept in rows]

    whole, shared = visible(), [visible(rank=rank, world=world) for rank in range(world)]
    assert len(whole) == 20 and len({len(jet) for jet in whole}) > 1
    for rank, jets in enumerate(shared):
        assert jets == whole[rank::world]


@pytest.mark.parametrize("patience", [100, 1])
def test_batches_made_ahead_train_to_the_same_bits(token_store, tmp_path, monkeypatch, patience):
    """With masks and dropout, through validations and an early stop; no thread is left."""
    settings = PretrainingSettings(
        objective="joint",
        backbone=SMALL,
        training=training_settings(
            max_steps=13,
            validate_every=3,
            patience=patience,
            optimizer=OptimizerSettings(name="adamw", lr=1.0, warmup_steps=0),  # gets worse soon
        ),
    )
    results = []
    for ahead in (False, True):
        if ahead:
            _make_ahead(monkeypatch)
        folder = tmp_path / str(ahead)
        results.append(pretrain(token_store, token_store, settings, folder, 3, progress=False))
        assert not _helpers()
    (plain, first), (ahead, second) = results
    assert first.stopped_early == (patience == 1)
    assert first.history == second.history and len(first.history) > 5
    assert all(map(torch.equal, plain.state_dict().values(), ahead.state_dict().values()))


def test_a_damaged_batch_made_ahead_stops_the_training(token_store, monkeypatch):
    schedule = LengthBucketedBatches(token_store.n_constituents, 20, seed=0)
    good = TokenBatches(token_store, schedule)

    def batches(step):
        if step == 7:
            raise JetfmError("ids.npy", "damaged", "a whole file")
        return good(step)

    _make_ahead(monkeypatch)
    model = JetModel(PretrainingSettings(backbone=SMALL), K)
    with pytest.raises(JetfmError, match="ids.npy"):
        fit(Training(model, batches, training_settings(), progress=False))
    assert not _helpers()


def _make_ahead(monkeypatch) -> None:
    """As on a GPU, but for the page-locked memory."""
    from jetfm.training import lightning_task

    monkeypatch.setattr(lightning_task, "pinned", lambda batch: batch)
    for name in ("_Steps", "_Again"):
        make = getattr(lightning_task, name)
        monkeypatch.setattr(lightning_task, name, lambda *a, ahead, make=make: make(*a, ahead=True))


def _helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]
