"""EPiC layers (arXiv 2301.08128): point clouds without pairs, equivariant under permutations.

Every constituent has a vector h_i, the jet one g. A layer pools, updates g, then every h_i:

    g'   = s(g   + G2 s(G1 [mean_i h_i, a sum_i h_i, g, c])),
    h_i' = s(h_i + L2 s(L1 [h_i, g', c])),

with s the leaky ReLU, linear maps under weight normalisation (arXiv 1602.07868), a scale `a` of the
sum, and a condition c of the jet. Constituents meet in g alone, so that the cost is linear in their
number. As a velocity field (EPiC-FM, arXiv 2310.00049) the network is told the time t, and how many
constituents the jet has, through c in every layer; the last linear map gives each constituent's
velocity.

Axes: B jets, T slots, F features, C width, D condition.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from jetfm.errors import JetfmError
from jetfm.settings import FlowSettings

_SLOPE = 0.01  # of the leaky ReLU below zero: torch's default, as in the official codes


def linear(n_in: int, n_out: int) -> nn.Linear:
    """Linear map under weight normalisation."""
    return weight_norm(nn.Linear(n_in, n_out))


class JetLinear(nn.Module):
    """Linear map of [h_i, c], where c is the same for all constituents of a jet.

    Equal to a map of the concatenation, but the jet's part is computed once a jet.
    """

    def __init__(self, n_local: int, n_jet: int, n_out: int) -> None:
        super().__init__()
        self.n_local = n_local
        self.linear = linear(n_local + n_jet, n_out)

    def forward(self, local: Tensor, jet: Tensor) -> Tensor:
        """(B, T, n_local) and (B, n_jet) to (B, T, n_out)."""
        weight = self.linear.weight  # normalised anew at each access
        of_jet = F.linear(jet, weight[:, self.n_local :], self.linear.bias)
        return F.linear(local, weight[:, : self.n_local]) + of_jet.unsqueeze(1)


class EPiCLayer(nn.Module):
    """One layer, see the head of this module.

    Parameters
    ----------
    dim, global_dim : of h_i, which is also the width of the hidden layers, and of g
    condition_dim : of c
    """

    def __init__(self, dim: int, global_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.global_in = linear(2 * dim + global_dim + condition_dim, dim)
        self.global_out = linear(dim, global_dim)
        self.local_in = JetLinear(dim, global_dim + condition_dim, dim)
        self.local_out = linear(dim, dim)

    def forward(
        self, local: Tensor, jet: Tensor, condition: Tensor, pooling: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Update h (B, T, C) and g (B, global_dim); `condition` (B, D); `pooling` as in `pool`."""
        inputs = torch.cat([pool(local, pooling), jet, condition], 1)
        jet = _leaky(self.global_out(_leaky(self.global_in(inputs))) + jet)
        hidden = _leaky(self.local_in(local, torch.cat([jet, condition], 1)))
        return _leaky(self.local_out(hidden) + local), jet


class EPiCNetwork(nn.Module):
    """Velocity of every constituent of a jet at time t.

    Parameters
    ----------
    settings : sizes
    n_features : F
    """

    def __init__(self, settings: FlowSettings, n_features: int) -> None:
        super().__init__()
        self.settings, self.n_features = settings, n_features
        dim, global_dim = settings.dim, settings.global_dim
        condition_dim = 2 * settings.n_frequencies + 1
        self.local_in = JetLinear(n_features, condition_dim, dim)
        self.local_out = linear(dim, dim)
        self.global_in = linear(2 * dim + condition_dim, dim)
        self.global_out = linear(dim, global_dim)
        self.layers = nn.ModuleList(
            EPiCLayer(dim, global_dim, condition_dim) for _ in range(settings.n_layers)
        )
        self.out = linear(dim, n_features)

    def forward(self, x: Tensor, mask: Tensor, t: Tensor) -> Tensor:
        """Velocities (B, T, F), zero where padded.

        Parameters
        ----------
        x : (B, T, F); what stands in padded slots does not matter
        mask : (B, T) True at real constituents, in any slots
        t : (B,) time, 0 to 1

        Raises
        ------
        JetfmError
            Shapes that do not fit.
        """
        good = x.ndim == 3 and x.shape[-1] == self.n_features and mask.shape == x.shape[:2]
        if not good or t.shape != x.shape[:1]:
            found = f"{tuple(x.shape)}, {tuple(mask.shape)}, {tuple(t.shape)}"
            raise JetfmError("EPiC input", found, f"(B, T, {self.n_features}), (B, T), (B,)")
        real = mask.unsqueeze(-1)
        counts = mask.sum(1)
        condition = self._condition(t, counts)
        pooling = pooling_weights(mask, counts, self.settings.sum_scale, x.dtype)
        local = _leaky(self.local_in(torch.where(real, x, 0), condition))
        local = _leaky(self.local_out(local) + local)
        jet = torch.cat([pool(local, pooling), condition], 1)
        jet = _leaky(self.global_out(_leaky(self.global_in(jet))))
        for layer in self.layers:
            local, jet = layer(local, jet, condition, pooling)
        return torch.where(real, self.out(local), 0)

    def _condition(self, t: Tensor, counts: Tensor) -> Tensor:
        """(B, D): time, and the number of constituents in units of 50 about 50 (our choice)."""
        multiplicity = (counts.to(t.dtype) - 50) / 50
        return torch.cat([embed_time(t, self.settings.n_frequencies), multiplicity[:, None]], 1)


def embed_time(t: Tensor, n_frequencies: int) -> Tensor:
    """cos and sin of 2^k pi t, k = 0 ... n_frequencies - 1: (B,) to (B, 2 n_frequencies)."""
    angles = t[:, None] * (math.pi * 2.0 ** torch.arange(n_frequencies, device=t.device))
    return torch.cat([angles.cos(), angles.sin()], 1)


def pooling_weights(mask: Tensor, counts: Tensor, sum_scale: float, dtype: torch.dtype) -> Tensor:
    """(B, 2, T): what each slot weighs in the mean and in the scaled sum, zero where padded."""
    real = mask.to(dtype)
    mean = real / counts.clamp(min=1).unsqueeze(1)
    return torch.stack([mean, sum_scale * real], 1)


def pool(local: Tensor, weights: Tensor) -> Tensor:
    """Mean and scaled sum over the real constituents: (B, T, C) to (B, 2 C)."""
    return (weights @ local).flatten(1)


def _leaky(x: Tensor) -> Tensor:
    return F.leaky_relu(x, _SLOPE)
