"""Ranger on lists of tensors: the same steps as the library's, which takes weights one by one."""

from __future__ import annotations

import copy

import pytest
import torch
from rangerlite import RangerLite
from torch import nn

from jetfm.training.ranger import Ranger, rectification

OPTIONS = {"lr": 3e-2, "betas": (0.9, 0.95), "eps": 1e-5, "weight_decay": 0.1}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 2)).double()


def take_steps(module: nn.Module, optimizer, first: int, last: int) -> None:
    """On random jets of a step; every third step the last layer has no gradient."""
    for step in range(first, last):
        x = torch.randn(11, 5, generator=torch.Generator().manual_seed(step)).double()
        hidden = module[:2](x)
        (hidden if step % 3 == 2 else module[2](hidden)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("n_steps", [1, 5, 6, 20])
def test_the_same_weights_as_the_librarys(n_steps):
    """With and without rectification, between and at steps of the lookahead."""
    ours, theirs = network(), network()
    take_steps(ours, Ranger(ours.parameters(), **OPTIONS), 0, n_steps)
    take_steps(theirs, RangerLite(theirs.parameters(), **OPTIONS), 0, n_steps)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    start = network()
    assert not torch.allclose(ours[0].weight, start[0].weight, atol=1e-3)


def test_continues_from_the_librarys_state():
    ours, theirs = network(), network()
    before = RangerLite(theirs.parameters(), **OPTIONS)
    take_steps(theirs, before, 0, 8)
    ours.load_state_dict(theirs.state_dict())
    after = Ranger(ours.parameters(), **OPTIONS)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    take_steps(ours, after, 8, 15)
    take_steps(theirs, before, 8, 15)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_rectification():
    """Absent while the length is at most 5; towards one after many steps."""
    assert [rectification(0.999, n) is None for n in (1, 5, 6)] == [True, True, False]
    assert 0 < rectification(0.999, 6) < rectification(0.999, 100) < 1
    assert rectification(0.999, 100_000) == pytest.approx(1, abs=1e-3)
