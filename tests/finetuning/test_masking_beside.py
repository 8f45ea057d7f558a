"""Masked particles beside classification: which token belongs to which constituent, the loss, and
fits that without weight are those of fine-tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from jetfm.data.labelled import LabelledJets
from jetfm.data.store import JET_DTYPE, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.finetuning import Contender, Finetuning, Jets, Runner, run_study, study
from jetfm.models.jet_model import JetModel
from jetfm.models.masking import pt_ranks
from jetfm.physics.features import Preprocessing
from jetfm.settings import FinetuningSettings, PretrainingSettings, TokenizerSettings
from jetfm.settings.profiles import load_profile
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.encoding import tokenize
from tests.finetuning.test_study import (
    CLASSES,
    KINEMATICS,
    N_CODES,
    SHORT,
    SMALL,
    jets,  # noqa: F401
    toy_tokens,
)

BACKBONE = SMALL.model_copy(update={"dropout": 0.0})
COUNTS = [0, 1, 2, 150, 17, 40]
CAP = 128


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each objective."""
    found = {}
    for objective in ("ntp", "mpm", "mpm-causal", "joint"):
        torch.manual_seed(5)
        found[objective] = tmp_path_factory.mktemp(objective)
        settings = PretrainingSettings(objective=objective, backbone=BACKBONE, head={"n_blocks": 1})
        JetModel(settings, n_codes=N_CODES, n_features=3).save(found[objective])
    return found


@pytest.fixture(scope="module")
def sides(jets, tmp_path_factory):  # noqa: F811
    """As the study gives them: training jets alone have tokens."""
    tokens = toy_tokens(jets.train.store, tmp_path_factory.mktemp("targets"))
    return Jets(replace(jets.train, targets=tokens), jets.val, jets.test)


def module_of(folder, weight=0.3, n_classes=2):
    torch.manual_seed(8)
    return Contender("mpm", "beside", folder=folder).beside(n_classes, Preprocessing(), weight)


@pytest.mark.parametrize("order", ["pt", "random"])
def test_a_token_belongs_to_the_constituent_that_it_decodes_to(tmp_path, order):
    """Of a fine grid, whose tokens are near their constituents; those beyond its width, and beyond
    the leading 128, have none."""
    rng, n = np.random.default_rng(3), sum(COUNTS)
    rows = np.column_stack([rng.exponential(20, n) + 0.5, rng.uniform(-1, 1, (n, 2))]).astype("f4")
    labels = np.zeros(len(COUNTS), JET_DTYPE)
    labels["label"] = np.resize([0, 8], len(COUNTS))
    with JetStoreWriter(tmp_path / "jets", KINEMATICS) as writer:
        writer.append(rows, COUNTS, labels)
    plain = LabelledJets(tmp_path / "jets", CLASSES)
    tokenizer = make_tokenizer(TokenizerSettings(preset="binned", bins=(40, 40, 40), order=order))
    tokenizer.fit(plain.store)
    tokens = tokenize(tokenizer, plain.store, tmp_path / "tokens", (1,), CAP, progress=False)
    places = [np.diff(tokens.positions[a:b]) for a, b in zip(tokens.offsets, tokens.offsets[1:],
                                                            strict=False)]  # fmt: skip
    assert any((steps < 0).any() for steps in places) == (order == "random")
    space = tokenizer.preprocessing
    side = LabelledJets(tmp_path / "jets", CLASSES, space, CAP, targets=tmp_path / "tokens")
    some = np.array([4, 3, 0, 1, 5, 2])
    batch = side.batch(some)
    assert batch["ids"].shape == batch["mask"].shape == (6, CAP)
    has_token = batch["ids"] >= 0
    physical = space.inverse(batch["x"], batch["mask"])
    inside = (physical[..., 1:].abs() <= 0.8).all(-1) & batch["mask"]
    assert torch.equal(has_token, inside) and 0 < inside.sum() < batch["mask"].sum()
    decoded = tokenizer.decode(batch["ids"], has_token)
    far = (decoded - batch["x"])[has_token].abs()
    cells = [(batch["x"][has_token][:, i].max() - batch["x"][has_token][:, i].min()) / 40
             for i in range(3)]  # fmt: skip
    assert (far <= torch.stack(cells) * 0.6).all(), "half a cell, and rounding"
    shorter = replace(side, max_constituents=10).batch(some)
    assert torch.equal(shorter["ids"], batch["ids"][:, :10])


def test_masks_follow_from_seed_and_step_and_leave_what_has_no_token(sides, folders):
    module = module_of(folders["mpm"])
    batch = sides.train.batch(sides.train.indices[:60])
    batch["ids"][:, 3] = -1

    def masked(*seed) -> torch.Tensor:
        planned = module.planned(batch, *seed)
        length = batch["mask"].shape[1] + 1
        found = torch.zeros(len(batch["mask"]) * length, dtype=torch.bool)
        found[planned["mpm_positions"]] = True
        assert (planned["mpm_targets"] == F.pad(batch["ids"] + 1, (1, 0)).flatten()[found]).all()
        return found.view(-1, length)[:, 1:]

    first, again, other = masked(1, 0), masked(1, 0), masked(1, 1)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not (first & (batch["ids"] < 0)).any() and not (first & ~batch["mask"]).any()
    share = first.sum() / (batch["ids"] >= 0).sum()
    assert abs(share - module._model[0].settings.mask_fraction) < 0.03


@pytest.mark.parametrize("objective", ["mpm", "mpm-causal", "joint"])
def test_the_loss_by_hand_a_jet_at_a_time(sides, folders, objective):
    """Mean over jets of the classes', plus the weight times the mean over masked particles, of
    constituents as they are."""
    module = module_of(folders[objective], weight=0.3)
    model = module._model[0]
    batch = sides.train.batch(sides.train.indices[:7])
    batch["ids"][2, :4] = -1
    planned = module.planned(batch, 4, 2)
    loss, metrics = module.train().loss(planned)
    length = batch["mask"].shape[1] + 1
    everywhere = torch.zeros(7 * length, dtype=torch.bool)
    everywhere[planned["mpm_positions"]] = True
    masked = everywhere.view(7, length)[:, 1:]
    classes, particles = [], []
    ranks = pt_ranks(batch["x"][..., 0], masked)
    with torch.no_grad():
        for jet in range(7):
            n = int(batch["mask"][jet].sum())
            x, lost, count = batch["x"][jet, :n], masked[jet, :n], batch["n_constituents"][[jet]]
            alone = {"x": x[None], "mask": torch.ones(1, n, dtype=bool), "n_constituents": count}
            classes.append(F.cross_entropy(module(alone), batch["label"][[jet]]))
            seen = x[~lost][None]
            hidden, _ = module.backbone(
                seen, torch.ones(seen.shape[:2], dtype=bool), count, objective == "mpm-causal"
            )
            whole = torch.zeros(1, n + 1, hidden.shape[-1])
            whole[0, 0], whole[0, 1:][~lost] = hidden[0, 0], hidden[0, 1:]
            whole[0, 1:][lost] = model.mask_vectors[ranks[jet, :n][lost]]
            logits = model.mpm_head(whole, torch.ones(1, n + 1, dtype=bool), False)[0, 1:]
            target = batch["ids"][jet, :n][lost] + 1
            particles.append(F.cross_entropy(logits[lost], target, reduction="none"))
    expected = torch.stack(classes).mean() + 0.3 * torch.cat(particles).mean()
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-5, atol=1e-5)
    total, n_masked = metrics["mpm"]
    torch.testing.assert_close(total / n_masked, torch.cat(particles).mean(), rtol=1e-5, atol=1e-5)
    assert metrics["weight"] == 7


def test_masked_particles_teach_the_backbone_and_not_the_class_head(sides, folders):
    """Gradients are those of the classes plus weight times those of the masked particles."""
    batch = sides.train.batch(sides.train.indices[:20])
    gradients = {}
    for weight in (0.0, 1.0, 3.0):
        module = module_of(folders["mpm"], weight)
        module.loss(module.planned(batch, 1))[0].backward()
        gradients[weight] = {
            name: torch.zeros(1) if p.grad is None else p.grad
            for name, p in module.named_parameters()
        }
    added = 0
    for name, none in gradients[0.0].items():
        one, three = gradients[1.0][name], gradients[3.0][name]
        torch.testing.assert_close(three - none, 3 * (one - none), rtol=1e-3, atol=1e-5)
        if name.startswith("head."):
            assert torch.equal(one, none), name
        elif name.startswith("backbone.transformer") and "attention" in name:
            added += int((one - none).abs().max() > 1e-6)
        elif name.startswith(("mpm_head", "mask_vectors")):
            assert not none.any() and one.any(), name
    assert added > 0


def test_validation_and_test_mask_nothing(sides, folders):
    module = module_of(folders["joint"]).eval()
    batch = sides.val.batch(sides.val.indices[:20])
    assert "ids" not in batch
    loss, metrics = module.loss(batch)
    torch.testing.assert_close(loss, F.cross_entropy(module(batch), batch["label"]))
    assert "mpm" not in metrics


@pytest.mark.parametrize("ema", [None, 0.9])
def test_without_weight_it_is_fine_tuning_bit_for_bit(sides, folders, ema, tmp_path):
    """From the same seeds, no clipping: the same backbone, head and scores."""
    settings = SHORT.model_copy(
        update={"mpm_weight": 0.0, "ema": ema, "rates": {"finetuned": 3e-3}}
    )
    assert settings.optimizer_of("beside").lr == 3e-3
    found = {}
    for weights in ("finetuned", "beside"):
        runner = Runner("tagging", Contender("mpm", weights, "MPM", folders["mpm"]), sides)
        found[weights] = study.trained(runner, 20, 0, settings, tmp_path / weights, 1)
    (plain, first, scores), (beside, second, again) = found.values()
    assert np.array_equal(scores, again)
    weights = beside.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in plain.state_dict().items())
    for key in ("best_step", "last_step", "cut", "auc", "calibration_error"):
        assert first[key] == second[key], key


def test_with_weight_the_backbone_still_predicts_what_is_masked(sides, folders, tmp_path):
    """In the study, beside fine-tuning: another fit, which learns both."""
    settings = SHORT.model_copy(
        update={"sizes": (60,), "max_steps": 60, "mpm_weight": 1.0, "validate_every": 60}
    )
    runners = [
        Runner("tagging", Contender("mpm", weights, "MPM", folders["mpm"]), sides)
        for weights in ("finetuned", "beside")
    ]
    run_study(runners, settings, tmp_path, 1, progress=False, workers=1)
    task = Finetuning(tmp_path)["tagging"]
    plain, beside = (task.row("mpm", weights, 60) for weights in ("finetuned", "beside"))
    assert beside.keys() == plain.keys() and beside["text"] == "MPM, fine-tuned, MPM beside"
    assert beside["auc"][0] > 0.9
    assert beside["calibration_error"] != plain["calibration_error"]
    _, result, _ = study.trained(runners[1], 60, 0, settings, tmp_path, 1)
    learned = [row["mpm"] for row in result["history"] if row["split"] == "train"]
    assert learned[-1] < 0.8 * np.log(N_CODES) and learned[-1] < learned[0]


def test_a_model_of_next_tokens_has_no_masks_to_go_on_with(folders):
    with pytest.raises(JetfmError, match="objective 'ntp'; expected 'mpm'"):
        module_of(folders["ntp"])
    task = {"classes": ["QCD", "Tbqq"], "contenders": {"main": ["scratch", "beside"]}}
    with pytest.raises(JetfmError, match=r"'main' of task 'mine' starts 'beside'.*mpm, .*joint"):
        load_profile("smoke", finetuning={"tasks": {"mine": task}})
    fits = {"classes": ["QCD", "Tbqq"], "contenders": {"joint": ["beside"]}}
    profile = load_profile("smoke", finetuning={"tasks": {"mine": fits}})
    assert profile.finetuning.tasks["mine"].contenders == {"joint": ("beside",)}
    with pytest.raises(ValidationError, match="mpm_weight"):
        FinetuningSettings(mpm_weight=-1)


def test_tokens_of_another_tokenizer_are_not_predicted(folders, tmp_path):
    settings = PretrainingSettings(objective="mpm", backbone=BACKBONE)
    JetModel(settings, n_codes=N_CODES, n_features=3, tokenizer_hash="mine").save(tmp_path)
    contender = Contender("mpm", "beside", folder=tmp_path)
    contender.beside(2, Preprocessing(), 0.1, "mine")
    with pytest.raises(JetfmError, match="trained with tokenizer mine; expected tokenizer other"):
        contender.beside(2, Preprocessing(), 0.1, "other")
