"""Telling every position of a jet how many constituents it has (arXiv 2512.04149)."""

from __future__ import annotations

from torch import Tensor, nn


class MultiplicityCondition(nn.Linear):
    """Adds a vector times (N - 50) * 0.1, with N the uncapped count.

    Parameters
    ----------
    dim : C, of the positions
    """

    def __init__(self, dim: int) -> None:
        super().__init__(1, dim, bias=False)

    def forward(self, embedded: Tensor, n_constituents: Tensor) -> Tensor:
        """Positions (B, T, C) of jets of (B,) constituents, conditioned."""
        condition = (n_constituents.to(self.weight.dtype) - 50) * 0.1
        return embedded + super().forward(condition[:, None]).unsqueeze(1)
