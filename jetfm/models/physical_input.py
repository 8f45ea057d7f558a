"""From the constituents that an analysis has, pt, eta and phi, to what networks read.

The same as reading a file, a store and a batch of it, in one piece that torch can write down for
another runtime: the axis of a jet is the vector sum of all its constituents, angles are taken about
it, longer jets keep their leading constituents, and the rest is the preprocessing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jetfm.physics.features import Preprocessing, within_cuts

ANGLES = {"eta_rel": "eta", "phi_rel": "phi"}  # what is asked for instead: absolute ones


class PhysicalInput(nn.Module):
    """Constituents as networks read them.

    Parameters
    ----------
    preprocessing : of the network
    max_constituents : longer jets keep their leading ones in pt
    half_width : cut on the angles about the axis (`within_cuts`); None is no cut

    Attributes
    ----------
    names : of the arrays that `forward` takes: pt [GeV], eta, phi, and the other features of the
        preprocessing, in its order
    """

    def __init__(
        self, preprocessing: Preprocessing, max_constituents: int, half_width: float | None = None
    ) -> None:
        super().__init__()
        self.preprocessing, self.half_width = preprocessing, half_width
        self.max_constituents = max_constituents
        self.names = tuple(ANGLES.get(name, name) for name in preprocessing.features)

    def forward(self, pt: Tensor, eta: Tensor, phi: Tensor, *others: Tensor):
        """Map (B, T) arrays, in any order of the constituents; pt is 0 where there is none.

        Returns
        -------
        x : (B, T, F) float32 in network space, zero where masked out
        mask : (B, T) the constituents that are read, in the places where they were
        n_constituents : (B,) int64, all that there are
        """
        real = pt > 0
        eta_rel, phi_rel = about_axis(pt, eta, phi)
        physical = torch.stack([pt, eta_rel, phi_rel, *others], -1)
        # stores keep float32, and so networks have learned
        physical = torch.where(real.unsqueeze(-1), physical, 0).float()
        mask = real & (falling_rank(pt) < self.max_constituents)
        if self.half_width is not None:
            mask = mask & within_cuts(physical, self.half_width)
        return self.preprocessing.forward_known(physical, mask), mask, real.sum(1)


def about_axis(pt: Tensor, eta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """eta_rel and phi_rel (B, T) about the vector sum of each jet's constituents.

    Masses do not enter: they change no momentum. phi_rel is wrapped to [-pi, pi]; pt is 0 where
    there is no constituent, and the angles there are 0 and have no meaning.
    """
    real = pt > 0
    eta, phi = torch.where(real, eta, 0), torch.where(real, phi, 0)
    px, py, pz = (pt * part for part in (torch.cos(phi), torch.sin(phi), torch.sinh(eta)))
    px, py, pz = (part.sum(1, keepdim=True) for part in (px, py, pz))  # (B, 1)
    sum_pt = (px.square() + py.square()).sqrt()  # ONNX has no hypot
    tiny = torch.finfo(torch.float32).tiny
    eta_rel = eta - torch.asinh(pz / sum_pt.clamp(min=tiny))
    phi_rel = phi - torch.atan2(py, px)
    phi_rel = phi_rel - 2 * math.pi * torch.round(phi_rel / (2 * math.pi))
    return torch.where(real, eta_rel, 0), torch.where(real, phi_rel, 0)


def falling_rank(values: Tensor) -> Tensor:
    """(B, T) int64, each value's place if the row were sorted by falling value; of equals the first
    comes first.

    Counted and not sorted: runtimes differ in what their sorting does with equals.
    """
    here, there = values.unsqueeze(2), values.unsqueeze(1)  # (B, T, 1), (B, 1, T)
    place = torch.arange(values.shape[1], device=values.device)
    first = place[None, :] < place[:, None]  # (T, T): the other one comes before
    return ((there > here) | ((there == here) & first)).sum(2)


def sorted_by(key: Tensor, *arrays: Tensor) -> list[Tensor]:
    """Rows (B, T) or (B, T, F) in the order of a falling `key` (B, T)."""
    rank = falling_rank(key)
    found = []
    for array in arrays:
        places = rank if array.ndim == 2 else rank.unsqueeze(-1).expand_as(array)
        found.append(torch.zeros_like(array).scatter(1, places, array))
    return found
