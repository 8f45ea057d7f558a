"""Every network of `paper` and `gpu` takes a step at its size; `make soak` runs the stages."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from jetfm.finetuning.contenders import baseline
from jetfm.models.continuous_model import ContinuousModel
from jetfm.models.flow_matching import FlowModel
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.settings.profiles import load_profile
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.interface import preprocessing_of
from jetfm.training.optimizer import make_optimizer

MASK = torch.arange(8) < torch.tensor([[3], [8]])  # two jets
PAPER, GPU = load_profile("paper"), load_profile("gpu")
TOKENIZERS = PAPER.token_quality.tokenizers | {"main": PAPER.tokenizer}
MODELS = PAPER.strategies | {
    "main": PAPER.pretraining,
    "omnijet of a type": PAPER.generative_quality.model,
}


def random_jets(n_features: int) -> torch.Tensor:
    torch.manual_seed(0)
    return 0.3 * torch.randn(*MASK.shape, n_features)


def take_a_step(module: torch.nn.Module, batch: dict, optimizer) -> None:
    """The loss is finite and every weight that has a gradient moves; some do."""
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    loss, _ = module.train().loss(batch)
    loss.backward()
    make_optimizer(module, optimizer).step()
    assert torch.isfinite(loss)
    moved = {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}
    assert len(moved) > len(before) / 2


@cache
def trained(name: str):
    """A tokenizer after a step, and a batch of its tokens."""
    settings = TOKENIZERS[name]
    tokenizer = make_tokenizer(settings)
    x = random_jets(tokenizer.n_features)
    take_a_step(tokenizer, {"x": x, "mask": MASK}, settings.training.optimizer)
    ids = tokenizer.eval().encode(x, MASK)
    batch = {
        "ids": torch.where(MASK, ids, 0),
        "decoded": tokenizer.decode(ids),
        "mask": MASK,
        "n_constituents": MASK.sum(1),
    }
    return tokenizer, batch


@pytest.mark.parametrize("name", [n for n, one in TOKENIZERS.items() if one.network != "binned"])
def test_a_tokenizer(name):
    tokenizer, batch = trained(name)
    assert 0 <= batch["ids"].min() and batch["ids"].max() < tokenizer.n_codes
    assert torch.isfinite(batch["decoded"]).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_pretraining(name):
    settings = MODELS[name]
    tokenizer, batch = trained(settings.tokenizer)
    space = tokenizer.preprocessing
    model = JetModel(settings, tokenizer.n_codes, tokenizer.n_features, tokenizer.hash, space)
    take_a_step(model, batch, settings.training.optimizer)


def test_generators_without_tokens():
    space = preprocessing_of(PAPER.tokenizer)
    batch = {"x": random_jets(3), "mask": MASK, "n_constituents": MASK.sum(1)}
    model = ContinuousModel(PAPER.continuous, space)
    take_a_step(model, batch, PAPER.continuous.training.optimizer)
    take_a_step(FlowModel(PAPER.flow), batch, PAPER.flow.training.optimizer)


def test_the_lorentz_equivariant_baseline():
    """Its blocks' weights by hand, for 32 vectors and 96 scalars: products with vectors and with
    scalars, biases of the latter, and two norms."""
    v, s = 32, 96
    attention = 3 * (v * v + s * s) + (v * v + s * s + s)
    mlp = 4 * (3 * v * v + 2 * (s * s + s)) + 4 * (v * v + s * s) + s
    network = baseline("lgatr", 10, Preprocessing(), PAPER.finetuning.baselines)
    found = sum(p.numel() for p in network.network.blocks.parameters())
    assert found == 12 * (attention + mlp + 2 * (v + s))
    batch = {"x": random_jets(3), "mask": MASK, "label": torch.tensor([0, 9])}
    take_a_step(network, batch, PAPER.finetuning.optimizer)


def test_gpu_has_the_networks_of_paper():
    assert GPU.pretraining.backbone == PAPER.pretraining.backbone
    for name, settings in (GPU.token_quality.tokenizers | {"main": GPU.tokenizer}).items():
        assert (
            settings.model_copy(update={"training": TOKENIZERS[name].training}) == TOKENIZERS[name]
        )
