"""The model of all strategies: sizes, what each objective sees, weighting, learning, files."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

import jetfm
from jetfm.errors import JetfmError
from jetfm.models import masking
from jetfm.models.jet_model import JetModel
from jetfm.models.transformer import n_parameters
from jetfm.physics.features import Preprocessing
from jetfm.settings import (
    BackboneSettings,
    OptimizerSettings,
    PretrainingSettings,
    TokenizerSettings,
)
from jetfm.storage.files import read_json
from jetfm.tokenizers.binned import BinnedTokenizer
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.toys import randomise, small_tokenizer_settings, token_batch_of, training_settings

K = 64
SMALL = dict(dim=32, n_blocks=2, n_heads=4, n_registers=3, dropout=0.0)
STRATEGIES = {
    "omnijet": dict(preset="omnijet", backbone={"dim": 32, "n_blocks": 2, "n_heads": 4}),
    "token-id": dict(objective="ntp", backbone=SMALL | {"input": "token-id"}),
    "ntp": dict(objective="ntp", backbone=SMALL),
    "mpm": dict(objective="mpm", backbone=SMALL),
    "mpm-causal": dict(objective="mpm-causal", backbone=SMALL),
    "joint": dict(objective="joint", backbone=SMALL),
    "pairs": dict(objective="joint", backbone=SMALL | {"pair_bias": True}),
}


def settings_of(name: str, **changes) -> PretrainingSettings:
    return PretrainingSettings.model_validate(STRATEGIES[name] | changes)


def model_of(name: str, **changes) -> JetModel:
    torch.manual_seed(0)
    model = JetModel(settings_of(name, **changes), K, preprocessing=Preprocessing())
    return randomise(model).eval()


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


def loss_of(model, batch, seed: int = 5):
    torch.manual_seed(seed)  # of the masks
    return model.loss(batch)


def test_paper_sizes():
    """The official example configuration: joint model, and its parts."""
    joint = JetModel(PretrainingSettings(objective="joint"))
    assert n_parameters(joint) == 4_248_455
    assert n_parameters(joint.backbone) == 1_590_144 + 3
    assert n_parameters(joint.ntp_head) == n_parameters(joint.mpm_head) == 1_322_754


def test_omnijet_by_hand():
    """Embedding, three post-norm ReLU blocks 256 wide without q/k/v bias, one linear layer."""
    model = JetModel(PretrainingSettings.model_validate({"preset": "omnijet"}))
    d, vocabulary = 256, 8194
    block = 3 * d * d + (d * d + d) + (4 * d * d + 4 * d) + (4 * d * d + d) + 4 * d
    assert n_parameters(model) == (vocabulary - 1) * d + 3 * block + (d + 1) * vocabulary
    assert (
        "registers" not in dict(model.named_parameters()) or model.backbone.registers.numel() == 0
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_padding_and_company_change_nothing(name, tokenizer, monkeypatch):
    """The same jet alone, in a batch, and with more padding: the same loss and gradients."""
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", _every_third)
    counts = [6, 1, 2, 9]
    results = []
    for extra in (0, 13):
        model = model_of(name)
        batch = token_batch_of(tokenizer, counts, extra_padding=extra)
        batch["decoded"] = torch.where(batch["mask"][..., None], batch["decoded"], 99.0)
        loss, metrics = model.loss(batch)
        loss.backward()
        results.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    whole = metrics
    sums = {key: [0.0, 0] for key in whole if isinstance(whole[key], tuple)}
    for jet in range(len(counts)):
        alone = {key: value[jet : jet + 1, ...] for key, value in batch.items()}
        _, metrics = model.loss(alone)
        for key, parts in sums.items():
            parts[0] += float(metrics[key][0])
            parts[1] += int(metrics[key][1])
    for key, (total, n) in sums.items():
        assert n == int(whole[key][1])
        assert total == pytest.approx(float(whole[key][0]), rel=1e-4, abs=1e-5)


def _every_third(mask, *_):
    return mask & (torch.arange(mask.shape[1]) % 3 == 1)


@pytest.mark.parametrize("name", ["omnijet", "token-id", "ntp", "joint", "pairs"])
def test_the_next_token_does_not_see_the_future(name, tokenizer):
    model = model_of(name)
    batch = token_batch_of(tokenizer, [9, 9])
    n, mask, ids = batch["n_constituents"], batch["mask"], batch["ids"]

    def logits(tokens):
        x = tokens if model.backbone.reads_ids else tokenizer.decode(tokens)
        return model(x, mask, n)

    before = logits(ids)
    for position in range(9):
        changed = ids.clone()
        changed[:, position:] = (changed[:, position:] + 7) % K
        after = logits(changed)
        kept = slice(0, position + 1)
        torch.testing.assert_close(after[:, kept], before[:, kept], rtol=0, atol=1e-5)
        assert (after[:, position + 1] - before[:, position + 1]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["mpm", "mpm-causal", "joint", "pairs"])
def test_masked_constituents_are_not_seen(name, tokenizer, monkeypatch):
    """Their features change, their order in pt does not: hidden states stay bit for bit."""
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", _every_third)
    model = model_of(name)
    batch = token_batch_of(tokenizer, [9, 5, 1])
    asked = model.asked("mpm", batch)
    masked = _every_third(batch["mask"], 0.4)
    slots = F.pad(masked, (1, 0))  # the start slot is never a target
    assert torch.equal(asked.positions, slots.flatten().nonzero().squeeze(1))
    assert torch.equal(asked.targets, batch["ids"][masked] + 1)
    changed = dict(batch, decoded=batch["decoded"].clone())
    changed["decoded"][masked] *= torch.tensor([2.0, -3.0, 5.0])  # pt times two: same ranks
    again = model.asked("mpm", changed)
    assert torch.equal(again.hidden, asked.hidden)
    changed["decoded"][~masked] += 1.0
    assert not torch.equal(model.asked("mpm", changed).hidden, asked.hidden)


def test_masked_constituents_are_told_apart_by_their_rank(tokenizer, monkeypatch):
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", _every_third)
    model = model_of("mpm")
    batch = token_batch_of(tokenizer, [9])
    slots = _every_third(batch["mask"], 0.4)[0].nonzero().squeeze(1)
    hidden = model.asked("mpm", batch).hidden[0, slots + 1]
    swapped = dict(batch, decoded=batch["decoded"].clone())
    order = swapped["decoded"][0, slots, 0].argsort()
    swapped["decoded"][0, slots[order]] = swapped["decoded"][0, slots[order.flip(0)]]
    turned = model.asked("mpm", swapped).hidden[0, slots + 1]
    torch.testing.assert_close(turned[order], hidden[order.flip(0)])
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3


def test_causal_and_bidirectional_masking_differ_where_they_should(tokenizer, monkeypatch):
    """With a causal backbone a visible constituent is not touched by those behind it."""
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", _every_third)
    for name, untouched in (("mpm-causal", True), ("mpm", False)):
        model = model_of(name)
        batch = token_batch_of(tokenizer, [9])
        before = model.asked("mpm", batch).hidden[0, 1]
        changed = dict(batch, decoded=batch["decoded"].clone())
        changed["decoded"][0, 8] += 1.0
        after = model.asked("mpm", changed).hidden[0, 1]
        assert torch.allclose(after, before, atol=1e-5) == untouched


def test_the_leak_of_masked_particles_and_the_option_without(tokenizer, monkeypatch):
    """Changing a masked token changes visible decoded vectors, unless they are decoded alone."""
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", _every_third)
    batch = token_batch_of(tokenizer, [9])
    masked = _every_third(batch["mask"], 0.4)
    ids = torch.where(masked, (batch["ids"] + 5) % K, batch["ids"])
    changed = dict(batch, ids=ids, decoded=tokenizer.decode(ids))
    changed["decoded"][masked] = batch["decoded"][masked]  # the ranks are not what is tested
    for leak_free in (False, True):
        model = model_of("mpm", leak_free=leak_free)
        model.visible_decoder = tokenizer.decode
        before, after = (model.asked("mpm", b).hidden for b in (batch, changed))
        assert torch.equal(before, after) == leak_free
    model.visible_decoder = None
    with pytest.raises(JetfmError, match="leak_free"):
        model.loss(batch)


def test_weighting_of_the_joint_loss(tokenizer):
    """Per token: sums over the number of next tokens. Per objective: the two means."""
    batch = token_batch_of(tokenizer, [6, 3, 12])
    per_token, metrics = loss_of(model_of("joint"), batch)
    (ntp, n_g), (mpm, n_m) = metrics["ntp"], metrics["mpm"]
    assert n_g == 6 + 3 + 12 + 3 and n_m in range(7, 11)
    assert per_token.item() == pytest.approx(float(ntp + mpm) / int(n_g), rel=1e-5)
    separate, _ = loss_of(model_of("joint", weighting="per-objective"), batch)
    assert separate.item() == pytest.approx(float(ntp / n_g + mpm / n_m), rel=1e-5)


def test_joint_is_the_sum_of_its_two_passes(tokenizer):
    """One backward of the joint loss equals the two objectives' own, with shared weights."""
    batch = token_batch_of(tokenizer, [6, 3, 12])
    joint = model_of("joint", weighting="per-objective")
    loss_of(joint, batch)[0].backward()
    total = {name: 0.0 for name, _ in joint.named_parameters()}
    for objective in ("ntp", "mpm"):
        joint_again = model_of("joint")
        torch.manual_seed(5)
        asked = joint_again.asked(objective, batch)
        joint_again.head(objective).loss(*asked)[0].backward()
        for name, p in joint_again.named_parameters():
            total[name] = total[name] + (p.grad if p.grad is not None else 0.0)
    for name, p in joint.named_parameters():
        torch.testing.assert_close(p.grad, total[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_loss_starts_at_the_uniform_guess(name, tokenizer):
    torch.manual_seed(1)
    backbone = {"dim": 64, "n_blocks": 2, "n_heads": 4}
    values = STRATEGIES[name] | {"backbone": STRATEGIES[name]["backbone"] | backbone}
    settings = PretrainingSettings.model_validate(values)
    model = JetModel(settings, 8192, preprocessing=Preprocessing()).eval()
    batch = token_batch_of(tokenizer, [20] * 16)
    batch["ids"] = torch.where(batch["mask"], torch.randint(0, 8192, batch["ids"].shape), 0)
    _, metrics = loss_of(model, batch)
    for objective in model.objectives:
        total, n = metrics[objective]
        assert float(total / n) == pytest.approx(math.log(8194), rel=0.05)


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - {"pairs"}))  # as 'joint', but slow
def test_it_learns_8_jets_by_heart(name):
    """Nothing stays unknown of 8 jets that their first token, or the visible ones, tell apart.

    Each stands in the batch eight times, with masks of its own.
    """
    torch.manual_seed(0)
    grid = BinnedTokenizer(
        TokenizerSettings.model_validate({"preset": "binned", "bins": [4, 4, 4]})
    )
    grid.low[0], grid.high[0] = -2.0, 4.0
    ids = torch.randint(0, K, (8, 3))
    ids[:, 0] = torch.randperm(K)[:8]
    ids = ids.repeat(8, 1)
    batch = {
        "ids": ids,
        "decoded": grid.decode(ids),
        "mask": torch.ones_like(ids, dtype=torch.bool),
        "n_constituents": torch.full((64,), 3),
    }
    backbone = STRATEGIES[name]["backbone"] | {"n_blocks": 1}
    model = JetModel(settings_of(name, backbone=backbone, mask_fraction=0.34), K)
    plan = training_settings(
        max_steps=80 if model.settings.masks else 60,
        validate_every=40,
        optimizer=OptimizerSettings(
            name="adamw", lr=1e-2, betas=(0.9, 0.999), warmup_steps=0,
            schedule=((0.0, 1.0), (1.0, 0.02)),
        ),
    )  # fmt: skip
    fit(Training(model, lambda step: batch, plan, validation=[batch], progress=False))
    _, metrics = loss_of(model, batch)
    if model.settings.predicts_next:  # the first token is a fair die with 8 sides: ln 8 a jet
        total, _ = metrics["ntp"]
        assert float(total) / 64 < math.log(8) + 0.6
    if model.settings.masks:
        total, n = metrics["mpm"]
        assert float(total / n) < 0.5


def test_heads_per_target_agree_with_the_loss(tokenizer):
    model = model_of("joint")
    batch = token_batch_of(tokenizer, [6, 3])
    for objective in ("ntp", "mpm"):
        torch.manual_seed(2)
        asked = model.asked(objective, batch)
        loss, n, n_correct = model.head(objective).loss(*asked)
        losses, correct = model.head(objective).per_target(*asked)
        assert losses.mean().item() == pytest.approx(loss.item(), rel=1e-5)
        assert int(n) == len(losses) and int(correct.sum()) == int(n_correct)


@pytest.mark.parametrize("name", STRATEGIES)
def test_saved_and_loaded(name, tokenizer, tmp_path):
    model = model_of(name)
    model.tokenizer_hash = tokenizer.hash
    own = model.save(tmp_path)
    loaded = JetModel.load(tmp_path)
    assert loaded.hash == own
    batch = token_batch_of(tokenizer, [5, 2])
    assert torch.equal(loss_of(loaded, batch)[0], loss_of(model, batch)[0])
    assert jetfm.load_backbone(tmp_path, tokenizer.hash).settings == model.settings.backbone
    with pytest.raises(JetfmError, match="tokenizer"):
        jetfm.load_backbone(tmp_path, "0" * 64)


def test_a_pair_bias_is_saved_with_its_preprocessing(tmp_path):
    model = JetModel(settings_of("pairs"), K, preprocessing=Preprocessing(pt_map="log"))
    model.save(tmp_path / "pairs")
    loaded = JetModel.load(tmp_path / "pairs")
    assert loaded.backbone.preprocessing == Preprocessing(pt_map="log")
    assert loaded.backbone.pair_bias.preprocessing == loaded.backbone.preprocessing
    with pytest.raises(JetfmError, match="backbone.pair_bias"):
        JetModel(settings_of("pairs"), K)


def test_files_of_models_without_a_pair_bias_are_those_of_before(tmp_path):
    """Neither settings nor preprocessing appear, so that hashes of earlier models stay valid."""
    model_of("joint").save(tmp_path)
    config = read_json(tmp_path / "model.json")["config"]
    assert set(config) == {"settings", "n_codes", "n_features", "tokenizer_hash"}
    assert set(config["settings"]["backbone"]) == {
        "network", "input", "dim", "n_blocks", "n_heads", "mlp_ratio", "n_registers",
        "told_multiplicity", "dropout", "layer_scale",
    }  # fmt: skip
    assert not JetModel.load(tmp_path).settings.backbone.pair_bias
    assert "pair_bias" not in PretrainingSettings().model_dump()["backbone"]
    assert settings_of("pairs").model_dump()["backbone"]["pair_bias"] is True


def test_masking_by_token_ids_is_refused():
    with pytest.raises(ValidationError, match="continuous"):
        PretrainingSettings(objective="mpm", backbone=BackboneSettings(input="token-id"))


def test_the_mask_is_drawn_per_jet(tokenizer, monkeypatch):
    """Not over the whole batch, as the official code does: every jet loses its own 40 %."""
    drawn = []
    real = masking.draw_masked
    monkeypatch.setattr(
        "jetfm.models.jet_model.draw_masked", lambda *a: drawn.append(real(*a)) or drawn[-1]
    )
    batch = token_batch_of(tokenizer, [10] * 30)
    loss_of(model_of("joint"), batch)
    assert (drawn[0].sum(1) == 4).all() or set(drawn[0].sum(1).tolist()) <= {4, 5}


def test_the_bidirectional_pass_is_blind_to_order(tokenizer, monkeypatch):
    """MPM has no order but pt's: shuffled constituents, the same loss."""
    masked = torch.zeros(1, 8, dtype=torch.bool)
    masked[0, [1, 4]] = True
    model = model_of("mpm")
    batch = token_batch_of(tokenizer, [8])
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", lambda *_: masked)
    before = model.loss(batch)[0]
    order = torch.randperm(8)
    shuffled = {key: batch[key][:, order] for key in ("ids", "decoded", "mask")}
    shuffled["n_constituents"] = batch["n_constituents"]
    monkeypatch.setattr("jetfm.models.jet_model.draw_masked", lambda *_: masked[:, order])
    torch.testing.assert_close(model.loss(shuffled)[0], before)
