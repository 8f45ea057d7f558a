"""Settings: presets, values that follow from others, refusals; and rates that training follows."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from jetfm.errors import JetfmError
from jetfm.settings import (
    TOKENIZER_PRESETS,
    BaselineSettings,
    FinetuningSettings,
    OptimizerSettings,
    TokenizerSettings,
    TokenQualitySettings,
    TrainingSettings,
    merged,
)
from jetfm.settings.profiles import available_profiles, load_profile
from jetfm.tokenizers import make_tokenizer
from jetfm.training.fit import fit
from jetfm.training.job import Training
from jetfm.training.optimizer import rate_factor
from tests.toys import training_settings

# Learning-rate schedule --------------------------------------------------------------------------

PAPER_1 = TOKENIZER_PRESETS["omnijet"]["training"]["optimizer"]["schedule"]


def plan(schedule=(), max_steps=100, warmup_steps=0, **changes) -> TrainingSettings:
    optimizer = OptimizerSettings(schedule=schedule, warmup_steps=warmup_steps, **changes)
    return training_settings(max_steps=max_steps, validate_every=max_steps, optimizer=optimizer)


def factor_by_hand(schedule, share: float) -> float:
    """Straight lines between the points, constant before the first and after the last."""
    if share <= schedule[0][0]:
        return schedule[0][1]
    for (left, low), (right, high) in zip(schedule[:-1], schedule[1:], strict=True):
        if share <= right:
            return low + (high - low) * (share - left) / (right - left)
    return schedule[-1][1]


def test_the_schedule_of_paper_1_epoch_by_epoch():
    """One cycle of its code: 5e-4 to 1e-3 in 4 epochs, to 5e-4 in 20, to 3e-4 in 50."""
    settings = TokenizerSettings(preset="omnijet").training
    assert (settings.batch_size, settings.max_steps) == (512, 100 * 5850)
    expected = {0: 5e-4, 2: 7.5e-4, 4: 1e-3, 14: 7.5e-4, 24: 5e-4, 49: 4e-4, 74: 3e-4, 99: 3e-4}
    for epoch, rate in expected.items():
        found = settings.optimizer.lr * rate_factor(settings, epoch * 5850)
        assert found == pytest.approx(rate, rel=1e-12)


@given(
    shares=st.lists(st.floats(0, 1), min_size=1, max_size=6, unique=True).map(sorted),
    factors=st.lists(st.floats(0, 10), min_size=6, max_size=6),
    step=st.integers(0, 99),
    warmup=st.integers(0, 20),
)
def test_straight_lines_between_the_points(shares, factors, step, warmup):
    schedule = tuple(zip(shares, factors, strict=False))
    expected = factor_by_hand(schedule, step / 100) / (3 if step < warmup else 1)
    found = rate_factor(plan(schedule, warmup_steps=warmup), step)
    assert math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-12)


def test_without_a_schedule_only_the_warm_up_counts():
    settings = plan(warmup_steps=5)
    assert [rate_factor(settings, step) for step in (0, 4, 5, 99)] == [1 / 3, 1 / 3, 1, 1]


class Recorder(nn.Module):
    """Two groups of parameters; writes down the rates that the optimiser steps with."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        self.rates = []

    def parameter_groups(self):
        return [{"params": [self.a]}, {"params": [self.b], "lr": 1e-4}]

    def loss(self, batch):
        return ((self.a + self.b) - batch).square().sum(), {}

    def after_step(self, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])


@pytest.mark.parametrize("name", ["adamw", "ranger", "muon"])
def test_training_follows_the_schedule(name):
    """Every step of a fit, in every group in proportion to its own rate."""
    rates = {"lr": 2e-3} | ({"lr_others": 2e-3} if name == "muon" else {})
    module, settings = Recorder(), plan(PAPER_1, 50, warmup_steps=3, name=name, **rates)
    fit(Training(module, lambda step: torch.ones(2), settings, progress=False))
    expected = [factor_by_hand(PAPER_1, step / 50) / (3 if step < 3 else 1) for step in range(50)]
    assert [a for a, _ in module.rates] == pytest.approx([2e-3 * f for f in expected])
    assert [b for _, b in module.rates] == pytest.approx([1e-4 * f for f in expected])


def test_an_interrupted_training_finds_its_place_in_the_schedule(tmp_path):
    def batches(step):
        if step == 40 and not resumed:
            raise KeyError("stop")
        return torch.ones(2)

    settings = plan(PAPER_1, 60)
    settings = settings.model_copy(update={"validate_every": 20})
    options = dict(folder=tmp_path, progress=False, say=lambda text: None)
    resumed = False
    with pytest.raises(KeyError):
        fit(Training(Recorder(), batches, settings, **options))
    resumed, module = True, Recorder()
    fit(Training(module, batches, settings, **options))
    expected = [1e-3 * factor_by_hand(PAPER_1, step / 60) for step in range(40, 60)]
    assert [a for a, _ in module.rates] == pytest.approx(expected)


@pytest.mark.parametrize(
    "schedule",
    [
        ((0.0, 1.0), (0.5, 1.0), (0.4, 1.0)),  # back
        ((0.0, 1.0), (0.0, 2.0)),  # twice
        ((0.0, 1.0), (1.1, 1.0)),  # beyond the end
        ((-0.1, 1.0),),
        ((0.0, -1.0),),  # a negative rate
        ((0.0,),),
    ],
)
def test_schedules_that_make_no_sense(schedule):
    with pytest.raises(ValidationError, match="schedule"):
        OptimizerSettings(schedule=schedule)


# Presets -----------------------------------------------------------------------------------------


def test_presets_are_the_papers():
    """P1 A.1 and II.B, P2's example configuration."""
    causal, conditional, alone, binned = (
        TokenizerSettings(preset=name)
        for name in ("hybrid", "omnijet", "omnijet-unconditional", "binned")
    )
    assert causal == TokenizerSettings() and causal.training.max_steps == 1_000_000
    kinds = [(s.network, s.causal_decoder, s.family) for s in (causal, conditional, alone, binned)]
    assert kinds == [
        ("transformer", True, "causal"),
        ("normformer", False, "conditional"),
        ("mlp", True, "unconditional"),
        ("binned", True, "binned"),
    ]
    assert [s.pt_map for s in (causal, conditional, alone, binned)] == ["log1p"] + 3 * ["log"]
    assert [s.order for s in (causal, conditional, alone, binned)] == ["random"] + 3 * ["pt"]
    assert [s.latent_dim for s in (causal, conditional, alone)] == [8, 4, 4]
    assert [s.n_blocks for s in (causal, conditional, alone)] == [4, 4, 3]
    assert [s.dropout for s in (causal, conditional, alone)] == [0, 0.1, 0]
    assert [s.replace_after for s in (causal, conditional, alone)] == [500, 10, 10]
    assert (conditional.alpha, conditional.beta, conditional.nu) == (10, 0.9, 1)
    assert conditional.zero_gain == "before"
    assert conditional.training.optimizer.name == "adamw"
    assert conditional.training == alone.training
    assert binned.n_codes == 21**3


@pytest.mark.parametrize("name", TOKENIZER_PRESETS)
def test_a_preset_can_be_written_down_and_read_again(name):
    settings = TokenizerSettings(preset=name, dim=32, n_heads=4)
    text = json.dumps(settings.model_dump(mode="json"))
    assert TokenizerSettings.model_validate_json(text) == settings


def test_what_stands_beside_a_preset_wins_entry_by_entry():
    settings = TokenizerSettings(
        preset="omnijet", n_codes=512, training={"max_steps": 7, "optimizer": {"lr": 2e-3}}
    )
    preset = TokenizerSettings(preset="omnijet")
    assert settings.n_codes == 512 and settings.latent_dim == 4
    assert settings.training.max_steps == 7 and settings.training.batch_size == 512
    assert settings.training.optimizer == preset.training.optimizer.model_copy(update={"lr": 2e-3})
    assert TokenizerSettings(preset="omnijet") == preset, "a preset stays what it is"


@pytest.mark.parametrize("name", ["nothing", "", None, 3, ["omnijet"]])
def test_an_unknown_preset_lists_the_known_ones(name):
    with pytest.raises(ValidationError, match="preset should be one of hybrid, omnijet, binned"):
        TokenizerSettings(preset=name)


def test_merged_changes_neither_side():
    base, changes = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "e": {"f": 6}}
    assert merged(base, changes) == {"a": {"b": 5, "c": 2}, "d": 3, "e": {"f": 6}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3} and changes == {"a": {"b": 5}, "e": {"f": 6}}


# Values that follow from others ------------------------------------------------------------------


def test_cells_and_levels_say_how_many_codes():
    assert TokenizerSettings(preset="binned", bins=(3, 4, 5)).n_codes == 60
    assert TokenizerSettings(preset="binned", bins=(3, 4, 5), n_codes=60).n_codes == 60
    settings = TokenizerSettings(quantizer="fsq", levels=(8, 5, 5, 5))
    assert (settings.n_codes, settings.latent_dim, settings.family) == (1000, 4, "fsq")
    settings = TokenizerSettings(quantizer="fsq")
    assert (settings.levels, settings.n_codes, settings.latent_dim) == ((8, 8, 8), 512, 3)


@pytest.mark.parametrize("preset", ["omnijet", "omnijet-unconditional"])
def test_levels_win_over_the_latents_of_a_preset(preset):
    """Only what somebody wrote beside them can contradict the levels."""
    settings = TokenizerSettings(preset=preset, quantizer="fsq", levels=(5, 4, 3))
    assert (settings.n_codes, settings.latent_dim) == (60, 3)
    make_tokenizer(settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "binned", "n_codes": 8192}, "n_codes 8192 should be 9261"),
        ({"quantizer": "fsq", "levels": (8, 8), "n_codes": 65}, "n_codes 65 should be 64"),
        ({"quantizer": "fsq", "levels": (8, 8), "latent_dim": 3}, "latent_dim 3 should be 2"),
        ({"quantizer": "fsq", "levels": (8, 2)}, "greater than 2"),
        ({"quantizer": "fsq", "levels": 8}, "levels"),
        ({"quantizer": "fsq", "levels": "888"}, "levels"),
        ({"preset": "binned", "bins": (21, 21, "a")}, r"bins\.2"),
        ({"preset": "binned", "bins": (21, 21)}, "bins"),
        ({"preset": "binned", "bins": (21, 0, 21)}, r"bins\.1"),
        ({"preset": "binned", "features": "full"}, "features 'kinematics' only"),
        ({"quantizer": "residual"}, "n_codes 8192 should be a power of n_residual = 2, e.g. 8281"),
        ({"quantizer": "residual", "n_codes": 100, "n_residual": 3}, "e.g. 125"),
        ({"quantizer": "residual", "n_codes": 64, "n_residual": 1}, "n_residual"),
        ({"quantizer": "vq"}, "quantizer"),
        ({"network": "cnn"}, "network"),
        ({"n_kodes": 8}, "n_kodes"),
        ({"dropout": 1.0}, "dropout"),
        ({"beta": 1.1}, "beta"),
    ],
)
def test_settings_that_contradict_themselves(values, message):
    with pytest.raises(ValidationError, match=message):
        TokenizerSettings(**values)


@pytest.mark.parametrize(("n_codes", "stages", "size"), [(4096, 2, 64), (512, 3, 8), (8000, 3, 20)])
def test_residual_stages_share_the_codes(n_codes, stages, size):
    settings = TokenizerSettings(quantizer="residual", n_codes=n_codes, n_residual=stages)
    assert settings.codes_per_stage == size and settings.family == "residual"


def test_a_decoder_of_single_tokens_is_sequential_whatever_is_asked():
    for preset in ("omnijet-unconditional", "binned"):
        assert TokenizerSettings(preset=preset, causal_decoder=False).causal_decoder


def test_labels_tell_tokenizers_apart():
    found = [
        TokenizerSettings(**values).label
        for values in (
            {},
            {"preset": "omnijet", "n_codes": 512},
            {"preset": "omnijet-unconditional"},
            {"quantizer": "fsq"},
            {"quantizer": "residual", "n_codes": 4096},
            {"features": "full", "n_codes": 32768},
        )
    ]
    assert found == [
        "Conditional (causal), 8192",
        "Conditional, 512",
        "Unconditional, 8192",
        "FSQ, 512",
        "Residual VQ, 4096",
        "Conditional (causal), 32768, 14 features",
    ]


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        TokenizerSettings().dim = 64


def test_classified_tokenizers_must_exist():
    tokenizers = {"small": TokenizerSettings(n_codes=512)}
    assert TokenQualitySettings(tokenizers=tokenizers, classified=("small",)).classified
    with pytest.raises(ValidationError, match="'large', which is not among"):
        TokenQualitySettings(tokenizers=tokenizers, classified=("large",))


def test_the_papers_recipe_wins_over_what_stands_beside_it():
    own = {"max_steps": 7, "optimizer": {"name": "muon"}, "ema": 0.9, "rates": {"scratch": 0.1}}
    found = FinetuningSettings.model_validate(own | {"recipe": "paper", "n_seeds": 2})
    paper = FinetuningSettings(n_seeds=2)
    assert found.model_copy(update={"recipe": None}) == paper
    assert found.optimizer_of("finetuned").lr == 1e-4 and found.optimizer.name == "adamw"
    kept = FinetuningSettings.model_validate(own)
    assert (kept.max_steps, kept.ema, kept.optimizer.name) == (7, 0.9, "muon")


def test_a_later_baseline_leaves_the_hashes_of_fits_alone():
    """Of the others, too: all sizes together are part of what names a fit."""
    usual, larger = BaselineSettings(), BaselineSettings(lgatr={"n_blocks": 12})
    assert set(usual.model_dump()) == {"dim", "n_blocks", "n_heads", "deepsets"}
    assert larger.model_dump()["lgatr"]["n_blocks"] == 12 and larger.lgatr.n_vectors == 16
    for settings in (usual, larger):
        assert BaselineSettings.model_validate_json(settings.model_dump_json()) == settings
    listed = {
        name: [task for task, one in profile.finetuning.tasks.items() if "lgatr" in one.contenders]
        for name in available_profiles()
        for profile in [load_profile(name)]
    }
    for name in ("paper", "overnight"):
        assert listed.pop(name) == ["ten-classes", "landscape"]
    assert not any(listed.values())


def test_each_start_has_its_rate():
    optimizer = {"name": "muon", "lr": 0.01, "lr_others": 0.002}
    settings = FinetuningSettings.model_validate({"rates": {"finetuned": 0.005},
                                                  "optimizer": optimizer})  # fmt: skip
    rates = {
        weights: (one.lr, one.rate_of_others)
        for weights in ("scratch", "fixed", "finetuned")
        for one in [settings.optimizer_of(weights)]
    }
    assert rates["scratch"] == rates["fixed"] == (0.01, 0.002)
    assert rates["finetuned"] == (0.005, 0.001)


@pytest.mark.parametrize("where", ["pretraining", "strategies.other", "generative_quality.model"])
def test_tokens_of_a_tokenizer_that_is_not_there_are_refused(where):
    settings = {"tokenizer": "conditional-7"}
    for key in reversed(where.split(".")):
        settings = {key: settings}
    with pytest.raises(JetfmError, match=f"tokenizer of '{where.removeprefix('strategies.')}'"):
        load_profile("smoke", **settings)
