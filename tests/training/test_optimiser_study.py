"""The study of docs/optimisers.md: what it varies, what it keeps, and what it calls equal."""

import importlib.util
from pathlib import Path

import pytest

from jetfm.settings.profiles import load_profile

PROJECT = Path(__file__).parents[2]

SPEC = importlib.util.spec_from_file_location("study", PROJECT / "examples/optimisers.py")
study = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(study)

#: Last losses of the three rates of every optimiser, the best one in another place each time.
LOSSES = {"adamw": (3, 1, 2), "ranger": (1, 2, float("nan")), "muon": (2, 3, 1), "soap": (4, 3, 5)}
SECONDS = {"adamw": 100.0, "ranger": 125.0, "muon": 100.0, "soap": 200.0}


@pytest.fixture
def found():
    return {
        f"{objective}-{name}-{rate:g}": {"loss": [9.0, loss], "seconds": [0.0, SECONDS[name]]}
        for objective in ("ntp", "mpm", "tokenizer")
        for name, losses in LOSSES.items()
        for rate, loss in zip(study.RATES[name], losses, strict=True)
    }


@pytest.mark.parametrize("name", study.RATES)
def test_nothing_but_the_optimiser_and_the_steps_differs(name):
    training = load_profile("laptop").pretraining.training
    other = study.optimised(training, name, 0.02, 333)
    assert (other.max_steps, other.validate_every) == (330, 33)
    assert (other.optimizer.name, other.optimizer.lr) == (name, 0.02)
    kept = {"max_steps", "validate_every", "optimizer"}
    assert other.model_dump(exclude=kept) == training.model_dump(exclude=kept)
    same = ("schedule", "clip", "weight_decay")
    ours, theirs = other.optimizer, training.optimizer
    assert all(getattr(ours, key) == getattr(theirs, key) for key in same)


def test_the_best_rate_has_the_lowest_last_loss_and_is_finite(found):
    assert study.best_rate(found, "ntp", "adamw") == study.RATES["adamw"][1]
    assert study.best_rate(found, "ntp", "ranger") == study.RATES["ranger"][0]
    assert study.best_rate(found, "tokenizer", "muon") == study.RATES["muon"][2]


def test_a_slower_optimiser_gets_fewer_steps(found):
    profile = load_profile("laptop")
    n_steps = profile.pretraining.training.max_steps
    models = study.equal_seconds(profile, found)
    assert set(models) == {f"{o}-{name}" for o in ("ntp", "mpm", "joint") for name in study.RATES}
    for objective in ("ntp", "mpm", "joint"):
        assert models[f"{objective}-muon"] == (objective, "muon", study.RATES["muon"][2], n_steps)
        assert models[f"{objective}-soap"][3] == n_steps // 2
        assert models[f"{objective}-ranger"][3] == pytest.approx(0.8 * n_steps, abs=5)
