"""Blocks, and the cross-entropy over the codebook, compiled by torch one by one.

On a GPU a step's time is memory traffic: norms, activations, sums of gradients and the passes over
the logits, each of which reads what the one before it has just written. `torch.compile` makes a few
kernels of them. A whole loss was not through after a minute of compiling (docs/gpu.md), so what is
compiled is what repeats: one graph of a kind of block serves all blocks of its size and all lengths
of jets, so that their number is bounded: two sizes of blocks, with a mask and without, with
gradients and without.

The results are those of the plain form up to rounding; dropout draws other numbers. What does not
compile runs as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import nn

BACKEND = "inductor"  # torch's compiler; tests take one that makes graphs and runs them as they are
_MOST_GRAPHS = 64  # of one function: sizes of blocks, with a mask and without, by kind of pass


@contextmanager
def compiled(module: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Whatever can be compiled in the module is, inside the block."""
    parts = [part for part in module.modules() if hasattr(part, "compiled")] if wanted else []
    if not parts:
        yield
        return
    for part in parts:
        part.compiled = True
    try:
        with torch._dynamo.config.patch(recompile_limit=_MOST_GRAPHS, suppress_errors=True):
            yield
    finally:
        for part in parts:
            part.compiled = False


@cache
def compiled_form(function: Callable) -> Callable:
    """One function for all shapes; compiled when it is first called."""
    return torch.compile(function, dynamic=True, backend=BACKEND)
