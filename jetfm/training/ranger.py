"""Ranger, RAdam with lookahead, on all weights together.

The mathematics and the state are those of `rangerlite.RangerLite`, which paper 2's official code
uses. Its step goes through the weights one by one for the lookahead, and asks each for its number
of steps again and again: a GPU spent 43 % of a joint step's rate on it (docs/gpu.md). Here a step
is nine operations on lists of tensors, and four more every sixth step.
"""

from __future__ import annotations

import math
from collections import defaultdict

import torch
from rangerlite import RangerLite

_TRACTABLE = 5  # of the variance: below, RAdam is plain momentum (arXiv 1908.03265, algorithm 2)


class Ranger(RangerLite):
    """`RangerLite` in operations on lists; weights that had as many steps go together."""

    @torch.no_grad()
    def step(self, closure=None):
        """One step of all groups; returns what the closure does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._init_group(group, [], [], [], [], [])
            alike = defaultdict(list)
            for weight in group["params"]:
                if weight.grad is not None:
                    state = self.state[weight]
                    state["step"] += 1  # on the CPU: nothing waits
                    alike[round(state["step"].item())].append(weight)
            for n_steps, weights in alike.items():
                self._step(group, weights, n_steps)
        return loss

    def _step(self, group: dict, weights: list[torch.Tensor], n_steps: int) -> None:
        grads = [weight.grad for weight in weights]
        means, squares, slow = (
            [self.state[weight][name] for weight in weights]
            for name in ("exp_avg", "exp_avg_sq", "cached_params")
        )
        (beta1, beta2), rate = group["betas"], group["lr"]
        torch._foreach_mul_(weights, 1 - rate * group["weight_decay"])
        torch._foreach_lerp_(means, grads, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, grads, grads, 1 - beta2)
        rate = rate / (1 - beta1**n_steps)
        rectified = rectification(beta2, n_steps)
        if rectified is None:
            torch._foreach_add_(weights, means, alpha=-rate)
        else:
            scales = torch._foreach_sqrt(squares)
            torch._foreach_add_(scales, group["eps"])
            rate *= rectified * math.sqrt(1 - beta2**n_steps)
            torch._foreach_addcdiv_(weights, means, scales, -rate)
        if n_steps % group["lookahead_steps"] == 0:
            alpha = group["lookahead_alpha"]
            torch._foreach_mul_(weights, alpha)
            torch._foreach_add_(weights, slow, alpha=1 - alpha)
            torch._foreach_zero_(slow)  # shared-out weights know no copy of a list
            torch._foreach_add_(slow, weights)


def rectification(beta2: float, n_steps: int) -> float | None:
    """RAdam's factor on the step; None while the variance of its scales is not tractable.

    Source: arXiv 1908.03265, algorithm 2, with torch's threshold.
    """
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * n_steps * beta2**n_steps / (1 - beta2**n_steps)
    if length <= _TRACTABLE:
        return None
    share = (length - 4) * (length - 2) * longest
    return math.sqrt(share / ((longest - 4) * (longest - 2) * length))
