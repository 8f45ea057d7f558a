"""Muon: steps of momentum whose matrices are made orthogonal; AdamW for what is no such matrix.

Source: K. Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024),
whose polynomial and momentum these are. `torch.optim.Muon` takes one matrix after another, nothing
but matrices, and computes in bfloat16 on every machine: ten times slower than float32 on CPUs that
emulate it. This one takes matrices of equal shape together, in float32 on CPUs.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

_POLYNOMIAL, _ROUNDS = (3.4445, -4.7750, 2.0315), 5
_OF_A_BLOCK = re.compile(r"(^|\.)(\w*blocks|layers)\.\d+\.")


class Muon(torch.optim.AdamW):
    """Muon on the groups marked ``muon``, AdamW on the others, in one optimiser.

    A matrix W with gradient G takes M <- m M + G, then
    W <- (1 - lr decay) W - lr sqrt(max(1, rows / columns)) `orthogonal` (G + m M)  (Nesterov).

    Parameters
    ----------
    groups : dictionaries of 'params' and 'muon', and 'lr' where it is not AdamW's
    momentum : m
    others : options of AdamW, for all groups; Muon's take its 'weight_decay' alone
    """

    def __init__(self, groups: Iterable[dict], momentum: float = 0.95, **others) -> None:
        super().__init__(groups, **others)
        for group in self.param_groups:
            group.setdefault("momentum", momentum)

    def __setstate__(self, state: dict) -> None:
        torch.optim.Optimizer.__setstate__(self, state)  # AdamW's asks every parameter for its step

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all groups; returns what the closure does."""
        loss = None
        if closure is not None:  # it sets gradients to zero, of all groups
            with torch.enable_grad():
                loss = closure()
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["muon"]]
        try:
            super().step()
        finally:
            self.param_groups = groups
        for group in groups:
            if group["muon"]:
                self._step_matrices(group)
        return loss

    def _step_matrices(self, group: dict) -> None:
        weights = [weight for weight in group["params"] if weight.grad is not None]
        if not weights:
            return
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        alike = defaultdict(list)
        for weight, direction in zip(weights, self._directions(weights, group), strict=True):
            alike[weight.shape].append((weight, direction))
        for (rows, columns), pairs in alike.items():
            turned, directions = zip(*pairs, strict=True)
            changes = orthogonal(torch.stack(directions)).unbind()
            changes = [
                _like(change, weight) for change, weight in zip(changes, turned, strict=True)
            ]
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            torch._foreach_add_(list(turned), changes, alpha=-rate)

    def _directions(self, weights: list[Tensor], group: dict) -> list[Tensor]:
        """Nesterov's; whole matrices, also where every process holds a share of them."""
        for weight in weights:
            if "momentum" not in self.state[weight]:
                self.state[weight]["momentum"] = torch.zeros_like(weight)
        grads = [weight.grad for weight in weights]
        averages = [self.state[weight]["momentum"] for weight in weights]
        torch._foreach_mul_(averages, group["momentum"])
        torch._foreach_add_(averages, grads)
        directions = torch._foreach_add(grads, averages, alpha=group["momentum"])
        return [d.full_tensor() if isinstance(d, DTensor) else d for d in directions]


def orthogonal(matrices: Tensor) -> Tensor:
    """Nearly the nearest matrices of orthonormal rows or columns: singular values of .7 to 1.2.

    Five rounds of an odd polynomial (Newton-Schulz) on the singular values, in float32 on CPUs and
    in bfloat16 on a GPU, which is enough for a direction, and faster there. In float32 long
    matrices X meet only their product X X^T, of which all rounds are polynomials: half the
    arithmetic.

    Parameters
    ----------
    matrices : (..., rows, columns)
    """
    x = matrices.float() if matrices.device.type == "cpu" else matrices.bfloat16()
    x = x.reshape(-1, *matrices.shape[-2:])
    tall = x.shape[-2] > x.shape[-1]
    x = (x.mT if tall else x).contiguous()
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    long = x.shape[-1] >= 2 * x.shape[-2] and x.dtype == torch.float32
    x = _rounds_on_the_square(x) if long else _rounds(x)
    return (x.mT if tall else x).reshape(matrices.shape).to(matrices.dtype)


def _rounds(x: Tensor) -> Tensor:
    a, b, c = _POLYNOMIAL
    for _ in range(_ROUNDS):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x


def _rounds_on_the_square(x: Tensor) -> Tensor:
    """P x, where P is the product of all rounds' polynomials in x x^T, which commute."""
    a, b, c = _POLYNOMIAL
    square, product = x @ x.mT, None
    for number in range(_ROUNDS):
        factor = torch.baddbmm(square, square, square, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = factor if product is None else factor @ product
        if number < _ROUNDS - 1:
            square = factor @ square @ factor
    return product @ x


def muon_groups(
    module: nn.Module, groups: Iterable[dict], lr: float, lr_others: float
) -> list[dict]:
    """Groups of parameters, each split into matrices inside blocks and all else.

    A module without blocks (DeepSets, a head alone) is AdamW's altogether.

    Parameters
    ----------
    module : its names tell what is inside a block: lists called 'blocks', '..._blocks', 'layers'
    groups : of its parameters; a group's own 'lr' holds for its matrices, its others keep the ratio
    lr, lr_others : of matrices and of all else, in groups without a rate of their own
    """
    inside = {
        weight
        for name, weight in module.named_parameters()
        if _OF_A_BLOCK.search(name) and weight.ndim == 2 and min(weight.shape) > 1
    }
    split = []
    for group in groups:
        own = group.get("lr", lr)
        for muon, rate in ((True, own), (False, own * lr_others / lr)):
            chosen = [p for p in group["params"] if (p in inside) == muon and p.requires_grad]
            if chosen:
                split.append(group | {"params": chosen, "muon": muon, "lr": rate})
    return split


def _like(whole: Tensor, weight: Tensor) -> Tensor:
    """A matrix that all processes have computed alike; this one's part where `weight` is shared."""
    if not isinstance(weight, DTensor):
        return whole
    everywhere = [Replicate()] * weight.device_mesh.ndim
    shared = DTensor.from_local(whole, weight.device_mesh, everywhere, run_check=False)
    return shared.redistribute(placements=weight.placements)
