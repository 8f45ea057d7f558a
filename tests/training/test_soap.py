"""SOAP, by the package that has it: exact resume, and one error where it is not installed."""

import sys

import pytest
import torch
from torch import nn

from jetfm.errors import JetfmError
from jetfm.settings import OptimizerSettings, TrainingSettings
from jetfm.training.fit import fit
from jetfm.training.job import Training
from jetfm.training.optimizer import SOAP_WIDEST, make_optimizer
from tests.training.interrupted import whole_and_resumed

SOAP = OptimizerSettings(name="soap", lr=0.02, betas=(0.95, 0.95), eps=1e-8, warmup_steps=0)


class Regression(nn.Module):
    """Two layers that learn a rotation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 12), nn.Linear(12, 6)

    def loss(self, batch):
        found = self.second(torch.tanh(self.first(batch)))
        loss = (found - batch.flip(1)).square().mean()
        return loss, {"weight": torch.tensor(len(batch))}


def batches(step: int) -> torch.Tensor:
    return torch.randn(16, 6, generator=torch.Generator().manual_seed(step))


def trained(folder, batches=batches) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    module = Regression()
    plan = TrainingSettings(batch_size=16, max_steps=60, validate_every=15, optimizer=SOAP)
    fit(Training(module, batches, plan, folder=folder, seed=1, progress=False, restore_best=False))
    return module.state_dict()


def test_a_killed_training_continues_with_the_same_bits(tmp_path):
    expected, found = whole_and_resumed(trained, batches, tmp_path, 40)
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    start = Regression()
    start.load_state_dict(found)
    assert start.loss(batches(1000))[0] < 0.5  # of 1 for no prediction at all


def test_a_rotation_of_the_inputs_rotates_the_steps():
    """What SOAP is for: its steps do not depend on the basis, while AdamW's do. The first step only
    makes the basis; the second is a plain Adam's in it."""
    generator = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator))[0]
    grads = torch.randn(2, 4, 5, generator=generator)
    differences = {}
    for name in ("soap", "adamw"):
        settings = SOAP.model_copy(update={"name": name, "weight_decay": 0.0})
        steps = []
        for basis in (torch.eye(5), turn):
            layer = nn.Linear(5, 4, bias=False)
            nn.init.zeros_(layer.weight)
            optimizer = make_optimizer(layer, settings)
            for grad in grads:
                layer.weight.grad = grad @ basis
                optimizer.step()
            steps.append(layer.weight.detach() @ basis.T)
        differences[name] = (steps[1] - steps[0]).norm() / steps[0].norm()
    assert differences["soap"] < 1e-3 and differences["adamw"] > 0.1


def test_codebooks_are_not_rotated():
    table = nn.Embedding(SOAP_WIDEST + 1, 4)
    optimizer = make_optimizer(table, SOAP)
    table.weight.grad = torch.randn_like(table.weight)
    optimizer.step()
    sizes = [len(side) for side in optimizer.state[table.weight]["GG"]]
    assert sizes == [0, 4]


def test_without_the_package_one_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(JetfmError, match="pip install pytorch-optimizer"):
        make_optimizer(nn.Linear(2, 2), SOAP)
