"""Muon: the polynomial on singular values, one step by hand, torch's own, groups, resume."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import nn

from jetfm.finetuning.contenders import Contender
from jetfm.models.flow_matching import FlowModel
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.settings import (
    BaselineSettings,
    FlowSettings,
    OptimizerSettings,
    PretrainingSettings,
    TokenizerSettings,
    TrainingSettings,
)
from jetfm.tokenizers import make_tokenizer
from jetfm.training.fit import fit
from jetfm.training.job import Training
from jetfm.training.muon import Muon, orthogonal
from jetfm.training.optimizer import make_optimizer
from tests.training.interrupted import whole_and_resumed

MUON = OptimizerSettings(name="muon", lr=0.01, betas=(0.9, 0.99), eps=1e-8, warmup_steps=0)
SMALL = {"dim": 16, "n_blocks": 2, "n_heads": 2}


def by_singular_values(matrix: np.ndarray) -> np.ndarray:
    """The polynomial on the singular values themselves, in float64."""
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    s = s / np.sqrt((s**2).sum())
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ np.diag(s) @ vt


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 2**32 - 1), st.floats(-3, 3))
def test_orthogonal_is_the_polynomial_on_the_singular_values(rows, columns, seed, scale):
    matrices = np.random.default_rng(seed).normal(0, 10.0**scale, (3, rows, columns))
    found = orthogonal(torch.tensor(matrices, dtype=torch.float32)).double().numpy()
    expected = np.stack([by_singular_values(matrix) for matrix in matrices])
    # the first round's factor on the smallest singular values, five times over, is below 500
    np.testing.assert_allclose(found, expected, atol=500 * 2e-6)


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 256)])
def test_matrices_of_nearly_low_rank_come_out_right(shape):
    """Like gradients: of the smallest singular values float32 keeps no trace in the square."""
    rng = np.random.default_rng(2)
    u, _, vt = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    matrix = u @ np.diag(np.geomspace(1, 1e-6, 64)) @ vt
    found = orthogonal(torch.tensor(matrix, dtype=torch.float32)).numpy()
    np.testing.assert_allclose(found, by_singular_values(matrix), atol=500 * 2e-6)


@pytest.mark.parametrize("shape", [(64, 64), (192, 64), (64, 256)])
def test_matrices_of_networks_become_nearly_orthogonal(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    values = torch.linalg.svdvals(orthogonal(matrix))
    assert values.max() < 1.25 and values.median() > 0.65


class Block(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(shape[1], shape[0]) for _ in range(2)])
        self.out = nn.Linear(shape[0], 1)


@pytest.mark.parametrize("shape", [(12, 12), (12, 48), (48, 12)])
def test_agrees_with_torch_and_with_adamw(shape):
    """Matrices as `torch.optim.Muon` (bfloat16, Nesterov), all else as `torch.optim.AdamW`."""
    torch.manual_seed(3)
    module = Block(shape)
    other = copy.deepcopy(module)
    optimizer = make_optimizer(module, MUON)
    matrices = [layer.weight for layer in other.blocks]
    rest = [p for p in other.parameters() if not any(p is m for m in matrices)]
    theirs = [
        torch.optim.Muon(matrices, lr=0.01, weight_decay=0.01, momentum=0.95, nesterov=True),
        torch.optim.AdamW(rest, lr=4e-3, weight_decay=0.01, betas=(0.9, 0.99), eps=1e-8),
    ]
    before = [m.detach().clone() for m in matrices]
    for step in range(4):
        for a, b in zip(module.parameters(), other.parameters(), strict=True):
            generator = torch.Generator().manual_seed(100 * step + a.numel())
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        optimizer.step()
        for one in theirs:
            one.step()
    for ours, expected, start in zip(module.blocks, matrices, before, strict=True):
        moved = (expected - start).norm()
        assert (ours.weight - expected).norm() < 0.03 * moved  # bfloat16 has 8 bits
    for ours, expected in zip(module.parameters(), other.parameters(), strict=True):
        if not any(expected is m for m in matrices):
            assert torch.equal(ours, expected)


def parameters_of_muon(module) -> set[str]:
    groups = make_optimizer(module, MUON).param_groups
    chosen = {id(p) for group in groups if group["muon"] for p in group["params"]}
    trainable = [p for p in module.parameters() if p.requires_grad]
    assert sum(len(group["params"]) for group in groups) == len(trainable)
    assert [group["lr"] for group in groups] == [
        pytest.approx(0.01 if group["muon"] else 0.004) for group in groups
    ]
    return {name for name, p in module.named_parameters() if id(p) in chosen}


@pytest.mark.parametrize(
    "module",
    [
        JetModel(PretrainingSettings(objective="joint", backbone=SMALL), 32, 3, "x"),
        JetModel(PretrainingSettings(preset="omnijet", backbone=SMALL), 32, 3, "x"),
        make_tokenizer(TokenizerSettings(n_codes=32, **SMALL), seed=1),
        make_tokenizer(TokenizerSettings(preset="omnijet-unconditional", n_codes=32), seed=1),
        FlowModel(FlowSettings(n_layers=2, dim=8, global_dim=4)),
    ],
    ids=["joint", "omnijet", "tokenizer", "unconditional", "flow"],
)
def test_hidden_matrices_are_muons_and_nothing_else(module):
    named = dict(module.named_parameters())
    chosen = parameters_of_muon(module)
    assert chosen
    for name in chosen:
        assert named[name].ndim == 2 and min(named[name].shape) > 1
    kept = ("embedding", "codebook", "features_", "latent_", "registers", "mask_vectors", "bias")
    assert not [name for name in chosen if any(word in name for word in kept)]
    hidden = [n for n, p in named.items() if ("blocks." in n or "layers." in n) and p.ndim == 2]
    assert chosen == {n for n in hidden if min(named[n].shape) > 1}


@pytest.mark.parametrize("name", ["deepsets", "transformer", "lgatr"])
def test_baselines_train_with_it_too(name):
    module = Contender(name, "scratch").module(2, Preprocessing(), BaselineSettings(**SMALL))
    assert bool(parameters_of_muon(module)) == (name != "deepsets")


class Regression(Block):
    """y = 3 x_0 from two hidden layers, with random gradients enough for a resume to go wrong."""

    def __init__(self):
        super().__init__((6, 6))

    def loss(self, x):
        hidden = x
        for layer in self.blocks:
            hidden = torch.tanh(layer(hidden))
        return (self.out(hidden) - 3 * x[:, :1]).square().mean(), {"weight": float(len(x))}


def batches(step):
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(step))


def trained(folder, batches=batches):
    torch.manual_seed(1)
    module = Regression()
    settings = TrainingSettings(batch_size=16, max_steps=40, validate_every=10, optimizer=MUON)
    fit(Training(module, batches, settings, folder=folder, progress=False, restore_best=False))
    return module.state_dict()


@pytest.mark.parametrize("at", [5, 25])
def test_an_interrupted_training_continues_to_the_same_bits(tmp_path, at):
    expected, found = whole_and_resumed(trained, batches, tmp_path, at)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert any((expected[name] - weight).abs().max() > 0.01 for name, weight in
               Regression().state_dict().items())  # fmt: skip


def test_a_training_takes_the_steps_of_a_plain_loop(tmp_path):
    """Gradients of one batch each, clipped all together."""
    found = trained(tmp_path)
    torch.manual_seed(1)
    module = Regression()
    optimizer = make_optimizer(module, MUON)
    clipped = [p for group in optimizer.param_groups for p in group["params"]]  # order of a sum
    for step in range(40):
        optimizer.zero_grad()
        module.loss(batches(step))[0].backward()
        nn.utils.clip_grad_norm_(clipped, MUON.clip)
        optimizer.step()
    assert all(torch.equal(found[name], weight) for name, weight in module.state_dict().items())


def test_its_second_rate_is_its_own():
    with pytest.raises(ValidationError, match="lr_others belongs to name 'muon'"):
        OptimizerSettings(name="adamw", lr_others=1e-3)
    assert OptimizerSettings(name="muon", lr=0.02, lr_others=1e-3).rate_of_others == 1e-3
    assert "lr_others" not in OptimizerSettings().model_dump(mode="json")  # older hashes hold


def test_its_name_is_enough():
    found = OptimizerSettings(name="muon")
    assert (found.lr, found.rate_of_others) == (0.01, pytest.approx(0.004))
    assert OptimizerSettings(name="muon", lr=0.5).lr == 0.5
    assert OptimizerSettings().lr == 1e-3


def test_parameters_without_a_gradient_stay():
    module = Block((4, 4))
    before = copy.deepcopy(module.state_dict())
    optimizer = make_optimizer(module, MUON)
    assert isinstance(optimizer, Muon)
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
