"""Operations of a training step at the papers' sizes, counted without a GPU.

Each is at least one kernel that a GPU has to be told to launch: a step of few jets takes as long as
its launches. Counted on torch's device without data; views and memory that is not written are free.
With `optimizer` the step includes it, in the form that it has on a CUDA device where torch has one
fused kernel for all weights (AdamW, and the part of Muon that is AdamW).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, nullcontext
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.pretraining import STRATEGIES
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import JetClassifier
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.settings import OptimizerSettings, PretrainingSettings, TokenizerSettings
from jetfm.tokenizers.quantizer import rows_of
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.optimizer import make_optimizer

N_JETS, N_CONSTITUENTS, N_CODES = 1000, 50, 8192
_FREE = ("empty", "new_empty", "detach", "lift_fresh", "alias", "_unsafe_view", "set_", "resize")
OPTIMIZERS = ("adamw", "ranger", "muon")


class Launches(TorchDispatchMode):
    """Counts operations that write something."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        result = function._schema.returns
        is_view = any(one.alias_info and not one.alias_info.is_write for one in result)
        if not is_view and not name.startswith(_FREE) and result:
            self.n += 1
        return function(*args, **(kwargs or {}))


def run() -> Iterator[dict]:
    """Rows of the benchmark: operations."""
    with ExitStack() as stack:  # which the device without data does not know
        stack.enter_context(patch.object(torch, "is_autocast_enabled", lambda *_: False))
        stack.enter_context(patch.object(torch, "autocast", lambda *_, **__: nullcontext()))
        for name, values in STRATEGIES.items():
            settings = PretrainingSettings.model_validate(values)
            model = JetModel(settings, N_CODES, 3, preprocessing=Preprocessing())
            yield _row(f"pre-training: {name}, loss and gradients", model, model.plan(_tokens()))
        joint = PretrainingSettings.model_validate(STRATEGIES["NTP + MPM"])
        for optimizer in OPTIMIZERS:
            model = JetModel(joint, N_CODES, 3, preprocessing=Preprocessing())
            yield _row(f"{optimizer}: joint, step alone", model, model.plan(_tokens()), optimizer)
        for preset in ("hybrid", "omnijet"):
            tokenizer = VQVAE(TokenizerSettings.model_validate({"preset": preset}))
            yield _row(f"tokenizer: {preset}, loss and gradients", tokenizer, _jets())
        yield _row("classifier: backbone, loss and gradients", _classifier(), _labelled())


def count(module: nn.Module, batch: dict, optimizer: str | None = None) -> int:
    """Operations of the loss and its gradients, or of the optimiser's step alone."""
    module = module.to("meta").train()
    batch = {name: tensor.to("meta") for name, tensor in batch.items()}
    with Launches() as counted:
        loss, _ = module.loss(batch)
        loss.backward()
    if optimizer is None:
        return counted.n
    stepper = make_optimizer(module, OptimizerSettings(name=optimizer))
    for group in stepper.param_groups:
        group["foreach"] = True  # as torch chooses on CUDA; fused it is one more for all
    stepper.step()  # makes its state
    with Launches() as counted:
        stepper.step()
    return counted.n


def _tokens() -> dict:
    mask = torch.ones(N_JETS, N_CONSTITUENTS, dtype=torch.bool)
    return {
        "ids": torch.randint(0, N_CODES, mask.shape),
        "decoded": torch.randn(*mask.shape, 3),
        "mask": mask,
        "n_constituents": mask.sum(1),
    }


def _jets() -> dict:
    mask = torch.ones(N_JETS, N_CONSTITUENTS, dtype=torch.bool)
    return {"x": torch.randn(*mask.shape, 3), "mask": mask, "rows": rows_of(mask)}


def _labelled() -> dict:
    jets = _jets()
    n = jets["mask"].sum(1)
    return {"x": jets["x"], "mask": jets["mask"], "n_constituents": n, "label": n % 2}


def _classifier() -> JetClassifier:
    return JetClassifier(Backbone(PretrainingSettings().backbone), 10)


def _row(name: str, module: nn.Module, batch: dict, optimizer: str | None = None) -> dict:
    n = count(module, batch, optimizer)
    return {"name": name, "value": n, "unit": "operations", "reference": None, "ratio": None}
