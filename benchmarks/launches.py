"""Operations of a training step at the papers' sizes, counted without a GPU.

Each is at least one kernel that a GPU has to be told to launch: a step of few jets takes as long as
its launches. Counted on torch's device without data; views and memory that is not written are free.
With `optimizer` the step includes it, in the form that it has on a CUDA device where torch has one
fused kernel for all weights (AdamW, and the part of Muon that is AdamW).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from unittest.mock import patch

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks._batches import jets, labelled, tokens
from benchmarks._rows import row
from benchmarks.pretraining import STRATEGIES
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import JetClassifier
from jetfm.models.jet_model import JetModel
from jetfm.physics.features import Preprocessing
from jetfm.settings import OptimizerSettings, PretrainingSettings, TokenizerSettings
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.optimizer import make_optimizer

N_JETS, N_CONSTITUENTS, N_CODES = 1000, 50, 8192
_FREE = ("empty", "new_empty", "detach", "lift_fresh", "alias", "_unsafe_view", "set_", "resize")
OPTIMIZERS = ("adamw", "ranger", "muon")


class Launches(TorchDispatchMode):
    """Counts operations that write something on the device; counters of steps are the host's."""

    def __init__(self) -> None:
        super().__init__()
        self.n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function._schema.name.removeprefix("aten::")
        result = function._schema.returns
        is_view = any(one.alias_info and not one.alias_info.is_write for one in result)
        found = function(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves((args, kwargs, found)) if isinstance(x, torch.Tensor)]
        there = any(x.device.type == "meta" for x in tensors)
        writes = result or name.startswith("_f")  # on lists of tensors, in place
        if there and not is_view and not name.startswith(_FREE) and writes:
            self.n += 1
        return found


@contextmanager
def without_autocast() -> Iterator[None]:
    """Which the device without data does not know."""
    with (
        patch.object(torch, "is_autocast_enabled", lambda *_: False),
        patch.object(torch, "autocast", lambda *_, **__: nullcontext()),
    ):
        yield


def run() -> Iterator[dict]:
    """Rows of the benchmark: operations."""
    with without_autocast():
        for name, values in STRATEGIES.items():
            settings = PretrainingSettings.model_validate(values)
            model = JetModel(settings, N_CODES, 3, preprocessing=Preprocessing())
            yield _row(
                f"pre-training: {name}, loss and gradients",
                model,
                model.plan(tokens(N_JETS, N_CONSTITUENTS, N_CODES)),
            )
        joint = PretrainingSettings.model_validate(STRATEGIES["NTP + MPM"])
        for optimizer in OPTIMIZERS:
            model = JetModel(joint, N_CODES, 3, preprocessing=Preprocessing())
            yield _row(
                f"{optimizer}: joint, step alone",
                model,
                model.plan(tokens(N_JETS, N_CONSTITUENTS, N_CODES)),
                optimizer,
            )
        for preset in ("hybrid", "omnijet"):
            tokenizer = VQVAE(TokenizerSettings.model_validate({"preset": preset}))
            yield _row(
                f"tokenizer: {preset}, loss and gradients", tokenizer, jets(N_JETS, N_CONSTITUENTS)
            )
        yield _row(
            "classifier: backbone, loss and gradients",
            _classifier(),
            labelled(N_JETS, N_CONSTITUENTS),
        )


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


def _classifier() -> JetClassifier:
    return JetClassifier(Backbone(PretrainingSettings().backbone), 10)


def _row(name: str, module: nn.Module, batch: dict, optimizer: str | None = None) -> dict:
    return row(name, count(module, batch, optimizer), "operations")
