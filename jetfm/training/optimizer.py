"""What changes weights in a step: the optimiser, its learning rate, and the weights' average."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from jetfm.errors import JetfmError
from jetfm.settings import OptimizerSettings, TrainingSettings
from jetfm.training.muon import Muon, muon_groups
from jetfm.training.ranger import Ranger

SOAP_WIDEST = 1024  # our choice: wider sides of a matrix, codebooks above all, are not rotated


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Ranger (RAdam with lookahead, k = 6, alpha = 0.5), AdamW, Muon or SOAP, on all that is
    trainable.

    On CUDA AdamW, Muon's part of it too, is one fused kernel for all of them. torch has none for
    Ranger, which works through lists of tensors; its counters of steps stay on the CPU, so that
    none of these asks the device for a number.

    Raises
    ------
    JetfmError
        SOAP without the package that has it.
    """
    trainable = [p for p in module.parameters() if p.requires_grad]
    groups = module.parameter_groups() if hasattr(module, "parameter_groups") else trainable
    options = {}
    if settings.name in ("adamw", "muon") and all(p.device.type == "cuda" for p in trainable):
        options["fused"] = True
    if settings.name == "muon":
        if groups is trainable:
            groups = [{"params": trainable}]
        groups = muon_groups(module, groups, settings.lr, settings.rate_of_others)
    kinds = {"ranger": Ranger, "adamw": torch.optim.AdamW, "muon": Muon}
    if settings.name == "soap":
        kinds["soap"] = _soap()
        options["max_precondition_dim"] = SOAP_WIDEST
    return kinds[settings.name](
        groups,
        lr=settings.lr,
        weight_decay=settings.weight_decay,
        betas=settings.betas,
        eps=settings.eps,
        **options,
    )


def _soap() -> Callable[..., torch.optim.Optimizer]:
    """Adam in the eigenbasis of Shampoo's preconditioner (N. Vyas and others, arXiv 2409.11321)."""
    try:
        from pytorch_optimizer import SOAP  # seconds, which no other training must pay
    except ModuleNotFoundError:
        wanted = "it installed: pip install pytorch-optimizer"
        raise JetfmError("optimizer.name: soap", "no package pytorch-optimizer", wanted) from None
    return SOAP


def rate_factor(settings: TrainingSettings, step: int) -> float:
    """Factor on the learning rate in a step.

    A third in the first `warmup_steps` (official code of paper 2: a scheduler default), times the
    schedule: straight lines between its points. `lightning_task.Task` sets it before each step.
    """
    factor = 1 / 3 if step < settings.optimizer.warmup_steps else 1.0
    if not settings.optimizer.schedule:
        return factor
    shares, factors = zip(*settings.optimizer.schedule, strict=True)
    return factor * float(np.interp(step / settings.max_steps, shares, factors))


class Average:
    """Exponential moving average of a module's parameters, w <- d w + (1 - d) p, from its start.

    Parameters
    ----------
    module : whose parameters are averaged; buffers are the module's own
    decay : d
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.swapped = module, decay, False
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """After each step of the optimiser."""
        for name, parameter in self.module.named_parameters():
            average = self.weights[name] = self.weights[name].to(parameter.device)
            average.lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's parameters and their averages; a second call undoes it."""
        for name, parameter in self.module.named_parameters():
            average = self.weights[name].to(parameter.device)
            self.weights[name] = parameter.clone()
            parameter.copy_(average)
        self.swapped = not self.swapped
