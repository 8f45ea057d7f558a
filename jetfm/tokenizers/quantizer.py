"""Vector quantisation that is blind to padding.

A latent z is replaced by the nearest vector q of a codebook. Options and mathematics are those of
vqtorch's `VectorQuant` (Huh et al., arXiv 2305.08842), which both papers use: commitment split,
synchronised update, learnable affine map of the codebook, replacement of dead codes. What differs,
on purpose: loss, usage and replacement see real constituents only; a replaced code lands on its
latent *after* the affine map; distances are float32 on every device; perplexity is reported.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.models.exporting import exporting

# Distances held at once: per core of a CPU 1 MiB, which stays in its cache; on a GPU 64 MiB.
_CHUNK, _CHUNK_GPU = 2**18, 2**24
_LANES = 64  # distances compared side by side


class Quantized(NamedTuple):
    """What `VectorQuantizer` returns for latents of shape (..., D)."""

    latents: Tensor  # (..., D): the codes, with straight-through gradient; zero where padded
    ids: Tensor  # (...) int64 in 0..K-1, -1 where padded
    loss: Tensor  # scalar: (1-beta) * commitment + beta * codebook
    perplexity: Tensor  # scalar: exp(entropy) of the code usage in this batch


def perplexity(counts: Tensor) -> Tensor:
    """Effective number of codes, exp(-sum p ln p), from usage counts (K,); 0 for no usage."""
    total = counts.sum()
    p = counts.double() / total.clamp(min=1)
    return torch.where(total > 0, torch.exp(-torch.xlogy(p, p).sum()), 0.0).float()


def rows_of(mask: Tensor) -> Tensor:
    """Where the flattened `mask` is True, (n,) int64."""
    return mask.flatten().nonzero().squeeze(1)


def nearest_code(z: Tensor, codes: Tensor) -> Tensor:
    """Rows (n,) of the `codes` (K, D) that are nearest to `z` (n, D); of equals the first.

    An ``argmin`` over all codes takes ten times as long on a CPU: it follows one number at a time.
    Here the codes stand in blocks of lanes; the minimum over all blocks works on whole lanes, and
    only the blocks' numbers in the best lane are searched for the index.
    """
    if exporting():
        return (codes.square().sum(1) - 2 * z @ codes.T).argmin(1)
    n_blocks = -(-len(codes) // _LANES)
    # Code l * n_blocks + b is lane l of block b, which keeps the first of equals; the last code
    # fills what is left.
    order = torch.arange(n_blocks * _LANES, device=z.device).clamp(max=len(codes) - 1)
    order = order.view(_LANES, n_blocks).T.flatten()
    codes = codes[order]
    # |z - c|^2 = |z|^2 + (z, 1) . (-2 c, |c|^2), of which |z|^2 is the same for every code
    factors = torch.cat([-2 * codes, codes.square().sum(1, keepdim=True)], 1).T.contiguous()
    z = torch.cat([z, torch.ones_like(z[:, :1])], 1)
    held = _CHUNK * torch.get_num_threads() if z.device.type == "cpu" else _CHUNK_GPU
    n_rows = max(1, held // len(order))
    space = z.new_empty(min(n_rows, len(z)), len(order))
    ids = order.new_empty(len(z))
    for part, found in zip(z.split(n_rows), ids.split(n_rows), strict=True):
        distances = torch.mm(part, factors, out=space[: len(part)])
        distances = distances.view(-1, n_blocks, _LANES)
        lane = distances.amin(1).min(1).indices  # twice as fast as argmin
        column = distances.gather(2, lane[:, None, None].expand(-1, n_blocks, 1)).squeeze(2)
        found.copy_(order[column.min(1).indices * _LANES + lane])
    return ids


class Quantizer(nn.Module):
    """Base of all quantisers: real constituents are picked out before, laid out again after.

    Parameters
    ----------
    n_codes, dim : number of ids K and of components D of a latent
    """

    def __init__(self, n_codes: int, dim: int) -> None:
        super().__init__()
        self.n_codes, self.dim = n_codes, dim

    def forward(
        self, z: Tensor, mask: Tensor | None = None, rows: Tensor | None = None
    ) -> Quantized:
        """Quantise latents.

        Parameters
        ----------
        z : (..., D)
        mask : (...) True at real constituents; by default all are
        rows : (n,) int64, where the flattened `mask` is True (`rows_of`); to find them out here
            makes a GPU wait
        """
        if mask is None:
            mask = torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
        rows = rows_of(mask) if rows is None else rows
        with torch.autocast(z.device.type, enabled=False):
            flat = z.reshape(-1, z.shape[-1])
            real = flat.index_select(0, rows).float()  # (n, D): nothing below sees padding
            if len(real):
                out, ids, loss = self._quantized(real)
            else:
                out, ids, loss = real, rows, real.sum()
        counts = ids.new_zeros(self.n_codes).index_add(0, ids, torch.ones_like(ids))
        if self.training and len(real):
            self._used(real.detach(), counts)
        all_ids = rows.new_full(mask.shape, -1)
        all_ids.view(-1).index_copy_(0, rows, ids)
        latents = torch.zeros_like(flat, dtype=out.dtype).index_copy(0, rows, out)
        return Quantized(latents.view(z.shape), all_ids, loss, perplexity(counts))

    def nearest(self, z: Tensor) -> Tensor:
        """Ids (n,) int64 of latents (n, D)."""
        raise NotImplementedError

    def lookup(self, ids: Tensor) -> Tensor:
        """Code vectors (..., D) of ids (...) in 0..K-1; zero for id -1."""
        raise NotImplementedError

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called after each step of the optimiser."""

    def _quantized(self, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(n, D) latents -> codes with their gradient, ids (n,), loss; n > 0, in float32."""
        raise NotImplementedError

    def _used(self, real: Tensor, counts: Tensor) -> None:
        """Told of every training forward: latents (n, D) and usage (K,)."""


class VectorQuantizer(Quantizer):
    """Nearest-code quantiser with a learned codebook.

    Parameters
    ----------
    n_codes, dim : size of the codebook K and of its vectors D
    beta : weight of the codebook term against the commitment term (vqtorch: `beta`)
    nu : synchronised update (vqtorch: `sync_nu`): the codes also receive `nu` times the gradient
        of whatever follows
    affine_lr : learning-rate factor of the affine map (vqtorch: `affine_lr`); 0 switches it off
    replace_after : training forwards without use after which a code is replaced
        (vqtorch: `replace_freq`)
    replace_noise : noise on the replacing latent, relative to its norm; vqtorch's value

    Notes
    -----
    The code used is c' = (1 + lr * s) * c + lr * b with trainable s and b (affine map). The loss is

        L = (1 - beta) * mean[(z - sg(c'))^2] + beta * mean[(sg(z) - c')^2]

    over components of real constituents, and the output z + sg(c' - z) + nu * (c' - sg(c')),
    which has the value c'.

    Replacement draws from torch's global generator; the counters are buffers, so that a checkpoint
    resumes it exactly.
    """

    def __init__(
        self,
        n_codes: int,
        dim: int,
        beta: float = 0.9,
        nu: float = 1.0,
        affine_lr: float = 2.0,
        replace_after: int = 500,
        replace_noise: float = 0.01,
    ) -> None:
        super().__init__(n_codes, dim)
        self.beta, self.nu, self.affine_lr = beta, nu, affine_lr
        self.replace_after, self.replace_noise = replace_after, replace_noise
        self.codebook = nn.Parameter(torch.randn(n_codes, dim))
        if affine_lr > 0:
            self.scale = nn.Parameter(torch.zeros(dim))
            self.bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("unused", torch.zeros(n_codes, dtype=torch.int64))
        # of the latest training forward: some rows, which of them were replaced, their values
        self._replaced: tuple[Tensor, Tensor, Tensor] | None = None

    def codes(self) -> Tensor:
        """The codebook after its affine map, (K, D): what is compared, used and decoded."""
        if self.affine_lr > 0:
            return (1 + self.affine_lr * self.scale) * self.codebook + self.affine_lr * self.bias
        return self.codebook

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        """Ids (n,) of the codes nearest to latents (n, D), by float32 Euclidean distance."""
        with torch.autocast(z.device.type, enabled=False):
            return nearest_code(z.float(), self.codes().float())

    def lookup(self, ids: Tensor) -> Tensor:
        return F.embedding(ids.clamp(min=0), self.codes()) * (ids >= 0).unsqueeze(-1)

    def _quantized(self, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ids = self.nearest(real)
        q = F.embedding(ids, self.codes())
        commitment = F.mse_loss(real, q.detach())
        loss = (1 - self.beta) * commitment + self.beta * F.mse_loss(q, real.detach())
        # value q; gradient 1 to z and nu to the codes
        return q.detach() + (real - real.detach()) + self.nu * (q - q.detach()), ids, loss

    @torch.no_grad()
    def _used(self, real: Tensor, counts: Tensor) -> None:
        """Count forwards without use; move codes that reached the limit onto random latents."""
        self.unused.add_(1).masked_fill_(counts > 0, 0)
        self._replaced = None
        dead = self.unused >= self.replace_after  # (K,)
        rows = self._candidates(dead)
        if not len(rows):
            return
        order = torch.randperm(len(real), device=real.device)
        how_manieth = dead.cumsum(0)[rows] - 1  # of the dead
        chosen = real[order[how_manieth % len(real)]]
        noise = torch.randn_like(chosen) * chosen.norm(dim=1, keepdim=True)
        chosen = chosen + self.replace_noise * noise
        if self.affine_lr > 0:  # so that the *mapped* code lies on the latent
            factor = 1 + self.affine_lr * self.scale
            factor = torch.where(factor.abs() < 1e-6, 1e-6, factor)
            chosen = (chosen - self.affine_lr * self.bias) / factor
        self._replaced = rows, dead[rows].unsqueeze(1), chosen
        # .data: the backward of this step reads only rows that were used, which keep their values
        self._start_anew(self.codebook.data, chosen)
        self.unused.masked_fill_(dead, 0)

    @staticmethod
    def _candidates(dead: Tensor) -> Tensor:
        """Codes to work on: the dead; all of them on a GPU, which cannot say without waiting."""
        rows = torch.arange(len(dead), device=dead.device)
        return rows[dead] if dead.device.type == "cpu" else rows

    def _start_anew(self, values: Tensor, fresh: Tensor) -> None:
        """Set the rows of replaced codes in `values` (K, D)."""
        rows, dead, _ = self._replaced
        values[rows] = torch.where(dead, fresh, values[rows])

    @torch.no_grad()
    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let codes replaced in this step start anew in the optimiser's memory too.

        Our choice: otherwise the old momentum, and Ranger's lookahead average with the place where
        the code died, would pull a fresh code back. Call after the optimiser's step.
        """
        if self._replaced is None:
            return
        fresh = self._replaced[2]
        self._start_anew(self.codebook.data, fresh)
        for name, value in optimizer.state.get(self.codebook, {}).items():
            if torch.is_tensor(value) and value.shape == self.codebook.shape:
                self._start_anew(
                    value, fresh if name == "cached_params" else torch.zeros_like(fresh)
                )
        self._replaced = None
