"""What pairs of constituents tell an attention, after Particle Transformer (arXiv 2202.03772).

For constituents a and b, massless, with dR^2 = deta^2 + dphi^2 and pt in GeV,

    ln dR,    ln kT = ln(min(pt_a, pt_b) dR),    ln z = ln(min(pt_a, pt_b) / (pt_a + pt_b)),
    ln m^2 = ln(2 pt_a pt_b (cosh deta - cos dphi)),

each of dR, kT, z, m^2 at least 1e-8 (official code), which also is what a constituent's pair with
itself has. An MLP makes of the four a number per attention head, the *pair bias*, that all blocks
add to their scores. It depends on differences of angles only, and is symmetric.

The angles are small differences of numbers near each other, so cosh deta - cos dphi, which cancels,
is computed as 2 (sinh^2(deta/2) + sin^2(dphi/2)).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jetfm.models.exporting import exporting
from jetfm.physics.features import Preprocessing
from jetfm.schema import KINEMATICS

FEATURES = ("ln dR", "ln kT", "ln z", "ln m^2")
FLOOR = 1e-8  # of dR, kT [GeV], z and m^2 [GeV^2]; official code
HIDDEN = (64, 64, 64)  # widths of the MLP, official code

# Mean and standard deviation over pairs of different constituents of simulated JetClass-like jets.
_MEANS = (-1.4, -0.2, -1.6, 0.9)
_SPREADS = (1.0, 1.1, 0.9, 2.3)
_PIECE = 4096  # pairs; 1 MB for each of the MLP's layers
_LIMIT = 5.0  # standard deviations: down to dR of 0.002, where no detector tells two apart


def pair_features(x: Tensor, mask: Tensor, preprocessing: Preprocessing, pairs: Tensor) -> Tensor:
    """The four features of some pairs of constituents.

    Parameters
    ----------
    x : (B, T, F) network space, the kinematics first; more columns are not looked at
    mask : (B, T) True at real constituents
    preprocessing : the map that `x` came through
    pairs : (2, P) int64, positions of the constituents a and b

    Returns
    -------
    (B, P, 4) in float32, in float64 for such `x`; zero where a or b is padding
    """
    kinematics = preprocessing.model_copy(update={"features": KINEMATICS})
    with torch.autocast(x.device.type, enabled=False):
        x = x[..., :3].to(torch.promote_types(x.dtype, torch.float32))
        # padding may hold anything, and 0 * inf is no gradient
        physical = kinematics.inverse(torch.where(mask.unsqueeze(-1), x, 0))
        (pt_a, eta_a, phi_a), (pt_b, eta_b, phi_b) = (
            physical[:, positions].unbind(-1) for positions in pairs
        )
        deta, dphi = eta_a - eta_b, phi_a - phi_b
        dphi = dphi - 2 * math.pi * torch.round(dphi / (2 * math.pi))  # exact within half a turn
        softer, distance2 = torch.minimum(pt_a, pt_b), deta.square() + dphi.square()
        opening = torch.sinh(deta / 2).square() + torch.sin(dphi / 2).square()
        features = torch.stack(
            [
                _log(distance2, FLOOR**2) / 2,  # a root has no gradient at zero
                _log(softer.square() * distance2, FLOOR**2) / 2,
                _log(softer / (pt_a + pt_b).clamp(min=FLOOR), FLOOR),
                _log(4 * pt_a * pt_b * opening, FLOOR),
            ],
            -1,
        )
    real = mask[:, pairs[0]] & mask[:, pairs[1]]
    return torch.where(real.unsqueeze(-1), features, 0)


def _log(values: Tensor, least: float) -> Tensor:
    return values.clamp(min=least).log()


class PairBias(nn.Module):
    """MLP from the four features of a pair to what is added to the attention scores of each head.

    Particle Transformer's widths and activation, 4 - 64 - 64 - 64 - heads with GELU. The rest is
    our choice. Its batch norms would let a jet's output depend on the others of its batch, and a
    causal pass see the future through their averages; here the features are scaled by fixed
    numbers instead (mean and spread over simulated jets) and clipped at five spreads, so that a
    constituent's pair with itself does not drown the others. Nothing is normalised between the
    layers, and no activation follows the last one.

    Every pair is evaluated once: a and b, b and a share it.

    Parameters
    ----------
    n_heads : of the attention
    preprocessing : the map from physical to network space that constituents come through
    """

    def __init__(self, n_heads: int, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.n_heads, self.preprocessing = n_heads, preprocessing
        layers: list[nn.Module] = []
        for n_in, n_out in zip((len(FEATURES), *HIDDEN), (*HIDDEN, n_heads), strict=True):
            layers += [nn.Linear(n_in, n_out), nn.GELU()]
        self.mlp = nn.Sequential(*layers[:-1])
        for name, values in (("means", _MEANS), ("spreads", _SPREADS)):
            self.register_buffer(name, torch.tensor(values), persistent=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Bias (B, H, T, T) of constituents (B, T, F) in network space, zero where padded."""
        n_jets, length = mask.shape
        if exporting():  # no runtime knows half a matrix
            return self._per_pair(x, mask, _every_pair(length)).mT.unflatten(2, (length, length))
        pairs = torch.triu_indices(length, length, device=x.device)  # (2, P), a <= b
        # rows of heads are copied, and summed up in the gradient, faster than numbers of (B, H, P)
        both = self._per_pair(x, mask, pairs).index_select(1, _pair_of(pairs, length))
        return both.mT.contiguous().view(n_jets, self.n_heads, length, length)

    def newest(self, x: Tensor) -> Tensor:
        """Bias (B, H, 1, T) of the last of T real constituents (B, T, F) to all of them."""
        others = torch.arange(x.shape[1], device=x.device)
        pairs = torch.stack([others, others.new_full(others.shape, x.shape[1] - 1)])
        mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        return self._per_pair(x, mask, pairs).mT.unsqueeze(2)

    def _per_pair(self, x: Tensor, mask: Tensor, pairs: Tensor) -> Tensor:
        """(B, P, H), zero where a constituent of the pair is padding."""
        features = pair_features(x, mask, self.preprocessing, pairs)
        scaled = (features - self.means) / self.spreads
        rows = scaled.clamp(-_LIMIT, _LIMIT).flatten(0, 1)  # (B P, 4)
        # on a CPU in pieces that stay in a core's cache, which takes half the time
        on_cpu = rows.device.type == "cpu"
        size = _PIECE * torch.get_num_threads() if on_cpu else max(rows.shape[0], 1)
        pieces = [rows] if exporting() else rows.split(size)
        per_pair = torch.cat([self.mlp(piece) for piece in pieces])
        per_pair = per_pair.to(features.dtype).unflatten(0, features.shape[:2])
        real = mask[:, pairs[0]] & mask[:, pairs[1]]
        return torch.where(real.unsqueeze(-1), per_pair, 0)


def _every_pair(length: int) -> Tensor:
    """(2, T T) int64: every a with every b."""
    positions = torch.arange(length)
    first, second = positions[:, None].expand(-1, length), positions[None].expand(length, -1)
    return torch.stack([first.flatten(), second.flatten()])


def _pair_of(pairs: Tensor, length: int) -> Tensor:
    """(T T,) int64: for every a and b, which of the P `pairs` they are."""
    numbers = torch.arange(pairs.shape[1], device=pairs.device)
    table = pairs.new_zeros(length, length)
    table[pairs[0], pairs[1]] = numbers
    table[pairs[1], pairs[0]] = numbers
    return table.flatten()


class SeenConstituents:
    """The constituents that a jet has so far, beside the caches of the attention layers.

    What `PairBias.newest` needs while jets grow by one constituent at a time.
    """

    def __init__(self) -> None:
        self._stored: Tensor | None = None

    def add(self, newest: Tensor) -> Tensor:
        """Add the newest, (B, F); all so far, (B, T, F)."""
        newest = newest.unsqueeze(1)
        before = [] if self._stored is None else [self._stored]
        self._stored = torch.cat([*before, newest], 1)
        return self._stored

    def keep(self, rows: Tensor) -> None:
        """Keep only these jets, (B',) integer indices; an index may come several times."""
        if self._stored is not None:
            self._stored = self._stored[rows]
