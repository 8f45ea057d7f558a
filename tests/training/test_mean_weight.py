"""Constituents count the same in short jets and in long ones, whatever jets share a batch."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import jetfm.generation.density_training
import jetfm.generation.flow_training
import jetfm.pretraining.train
import jetfm.tokenizers.training
from jetfm.data.batches import LengthBucketedBatches, mean_length
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.generation.density_training import train_continuous
from jetfm.generation.flow_training import train_flow
from jetfm.physics.features import Preprocessing
from jetfm.pretraining.train import pretrain
from jetfm.schema import KINEMATICS
from jetfm.settings import (
    ContinuousSettings,
    FlowSettings,
    OptimizerSettings,
    PretrainingSettings,
    TokenizerSettings,
    TrainingSettings,
)
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.encoding import tokenize
from jetfm.training.fit import fit
from jetfm.training.job import Training

TRAINING = {"batch_size": 10, "max_steps": 20, "validate_every": 10}
SMALL = {"dim": 8, "n_blocks": 1, "n_heads": 2}


class Mean(nn.Module):
    """Learns one number, the mean of what it sees."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(0.3))

    def loss(self, x):
        return (self.value - x).square().mean(), {"weight": len(x)}


@pytest.mark.parametrize(("mean_weight", "expected"), [(5.0, 0.9), (None, 0.5)])
def test_what_is_learned_is_the_mean_over_all_and_not_over_batches(mean_weight, expected):
    """Batches in turn of one 0 and of nine 1s."""
    batches = (torch.zeros(1), torch.ones(9))
    module = Mean()
    optimizer = OptimizerSettings(name="adamw", lr=5e-3, weight_decay=0, betas=(0.9, 0.999))
    settings = TrainingSettings(
        batch_size=5, max_steps=800, validate_every=800, optimizer=optimizer, ema=0.98
    )
    fit(
        Training(
            module, lambda step: batches[step % 2], settings,
            mean_weight=mean_weight, progress=False,
        )
    )  # fmt: skip
    assert module.value.item() == pytest.approx(expected, abs=0.04)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> JetStore:
    """95 jets: the last batch of ten has five."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 60, 95)
    rows = rng.uniform(-0.7, 0.7, (counts.sum(), 3)).astype("f4")
    rows[:, 0] = rng.uniform(1, 90, len(rows))
    folder = tmp_path_factory.mktemp("jets")
    jets = np.zeros(95, JET_DTYPE)
    jets["label"] = 8
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(rows, counts, jets)
    return JetStore(folder)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(TokenizerSettings(n_codes=16, training=TRAINING, **SMALL), seed=1)


def trainings(store, tokenizer, folder):
    """By name, what trains on the store."""
    tokens = tokenize(tokenizer.eval(), store, folder / "tokens", (1,), progress=False)
    more = {"backbone": SMALL, "training": TRAINING}
    settings = {
        objective: PretrainingSettings.model_validate(more | {"objective": objective})
        for objective in ("ntp", "mpm", "joint")
    }
    found = {
        name: (jetfm.pretraining.train, lambda one=one: pretrain(tokens, tokens, one, folder, 1))
        for name, one in settings.items()
    }
    found["tokenizer"] = (
        jetfm.tokenizers.training,
        lambda: tokenizer.fit(store, store, folder, 1, 128, False),
    )
    flow = FlowSettings(n_layers=1, dim=8, global_dim=4, training=TRAINING)
    found["flow"] = (
        jetfm.generation.flow_training,
        lambda: train_flow(store, store, flow, Preprocessing(), folder, 1),
    )
    density = ContinuousSettings.model_validate(more)
    found["continuous"] = (
        jetfm.generation.density_training,
        lambda: train_continuous(store, store, density, Preprocessing(), folder, 1),
    )
    return found


@pytest.mark.parametrize("name", ["ntp", "mpm", "joint", "tokenizer", "flow", "continuous"])
def test_every_training_knows_what_its_batches_weigh(store, tokenizer, tmp_path, monkeypatch, name):
    """On average over an epoch, and for full batches; the batches do differ."""
    module, train = trainings(store, tokenizer, tmp_path)[name]
    asked = []
    done = SimpleNamespace(metrics={}, history=[])
    monkeypatch.setattr(module, "fit", lambda training: asked.append(training) or done)
    train()
    (training,) = asked
    torch.manual_seed(1)
    weights = [float(training.module.loss(training.batches(k))[1]["weight"]) for k in range(10)]
    assert max(weights) > 2.5 * sorted(weights)[1]
    rounding = 0.03 if name == "mpm" else 1e-6  # of the number that is masked
    assert sum(weights) == pytest.approx(9.5 * training.mean_weight, rel=rounding)


def test_the_mean_length_of_many_jets_is_that_of_some():
    lengths = np.random.default_rng(1).integers(1, 80, 200_000)
    assert mean_length(lengths) == pytest.approx(lengths.mean(), rel=0.02)
    assert mean_length(lengths[:50]) == pytest.approx(lengths[:50].mean(), rel=1e-12)
    assert mean_length(lengths, np.array([4, 7])) == lengths[[4, 7]].mean()


def test_an_epoch_of_bucketed_batches_weighs_every_constituent_alike():
    """The premise: their means alone, on average, are not the mean over constituents."""
    lengths = np.random.default_rng(2).integers(1, 80, 1000)
    schedule = LengthBucketedBatches(lengths, 20, 1)
    batches = [lengths[schedule.indices(step)] for step in range(schedule.steps_per_epoch)]
    # of each constituent the length of its jet
    means = np.array([(one**2).sum() / one.sum() for one in batches])
    shares = np.array([one.sum() for one in batches]) / (20 * mean_length(lengths))
    truth = (lengths**2).sum() / lengths.sum()
    assert (shares * means).mean() == pytest.approx(truth, rel=1e-12)
    assert means.mean() < 0.9 * truth
