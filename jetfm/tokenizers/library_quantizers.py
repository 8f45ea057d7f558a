"""Quantisers of other libraries behind our interface, so that they stand in the same tables.

`VqtorchQuantizer` is what both papers' codes call; it equals our `VectorQuantizer` but for the
optimiser's memory of replaced codes and their place under the affine map. The other two come from
vector-quantize-pytorch: finite scalar quantisation, and residual VQ. All of them see real
constituents only.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from jetfm.errors import JetfmError
from jetfm.settings import TokenizerSettings
from jetfm.tokenizers.quantizer import Quantizer, VectorQuantizer, nearest_code

VQTORCH_COMMIT = "02e60a19bd742c17b0bf3e1925f23796d54cbeac"


def make_quantizer(settings: TokenizerSettings) -> Quantizer:
    """The quantiser that `quantizer` of the settings names.

    Raises
    ------
    JetfmError
        vqtorch, where it is not installed.
    """
    if settings.quantizer == "fsq":
        return FiniteScalarQuantizer(settings.levels)
    if settings.quantizer == "residual":
        return ResidualQuantizer(settings)
    options = dict(
        beta=settings.beta,
        nu=settings.nu,
        affine_lr=settings.affine_lr,
        replace_after=settings.replace_after,
    )
    kind = VqtorchQuantizer if settings.quantizer == "vqtorch" else VectorQuantizer
    return kind(settings.n_codes, settings.latent_dim, **options)


class VqtorchQuantizer(Quantizer):
    """`VectorQuant` of vqtorch (Huh et al., arXiv 2305.08842); options as in `VectorQuantizer`.

    On a GPU vqtorch compares in float16, so that ids there can differ from those on a CPU.
    """

    def __init__(
        self,
        n_codes: int,
        dim: int,
        beta: float = 0.9,
        nu: float = 1.0,
        affine_lr: float = 2.0,
        replace_after: int = 500,
    ) -> None:
        super().__init__(n_codes, dim)
        try:
            from vqtorch.nn import VectorQuant
        except ImportError as error:
            expected = f"vqtorch (github.com/minyoungg/vqtorch at {VQTORCH_COMMIT[:12]}), or "
            expected += "quantizer: jetfm, which computes the same"
            raise JetfmError("quantizer: vqtorch", f"{error}", expected) from None
        self.layer = VectorQuant(
            dim, n_codes, beta=beta, sync_nu=nu, affine_lr=affine_lr,
            replace_freq=replace_after, dim=-1,
        )  # fmt: skip

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        was_training = self.layer.training
        self.layer.eval()  # in training each call would age the codes and replace unused ones
        try:
            return self._call(z)[1]
        finally:
            self.layer.train(was_training)

    def lookup(self, ids: Tensor) -> Tensor:
        codes = self.layer.get_codebook()
        return codes[ids.clamp(min=0)] * (ids >= 0).unsqueeze(-1)

    def _quantized(self, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._call(real)

    def _call(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if not len(z):
            return z, z.new_zeros(0, dtype=torch.int64), z.sum()
        out, info = self.layer(z.float().unsqueeze(0))  # one sequence, no padding
        return out.squeeze(0), info["q"].reshape(-1), info["loss"]


class FiniteScalarQuantizer(Quantizer):
    """FSQ (arXiv 2309.15505): each latent component is rounded to one of a few levels.

    No codebook is learned, so there is no loss and no code can die.

    Parameters
    ----------
    levels : number of levels of each component; K is their product
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        fsq = _vector_quantize_pytorch().FSQ(list(levels))
        super().__init__(int(fsq.codebook_size), len(levels))
        self.layer = fsq

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        return self.layer(z.float().unsqueeze(0))[1].squeeze(0).long()

    def lookup(self, ids: Tensor) -> Tensor:
        return self.layer.implicit_codebook[ids.clamp(min=0)] * (ids >= 0).unsqueeze(-1)

    def _quantized(self, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, ids = self.layer(real.unsqueeze(0))
        return out.squeeze(0), ids.squeeze(0).long(), real.new_zeros(())


class ResidualQuantizer(Quantizer):
    """Residual VQ (arXiv 2107.03312): each stage quantises what the one before has left.

    The stages' codes make one id, (i_1 * k + i_2) * k + ..., so that a constituent is one token
    like everywhere else. Codebooks follow the latents by moving averages, k-means at the start,
    unused codes expire: the library's usual way; its rotation trick is off. Only the commitment
    enters the loss, with the factor (1 - beta) that it has in the papers' loss.
    """

    def __init__(self, settings: TokenizerSettings) -> None:
        super().__init__(settings.n_codes, settings.latent_dim)
        self.size, self.n_stages = settings.codes_per_stage, settings.n_residual
        self.beta = settings.beta
        self.layer = _vector_quantize_pytorch().ResidualVQ(
            dim=settings.latent_dim,
            num_quantizers=self.n_stages,
            codebook_size=self.size,
            decay=0.95,
            kmeans_init=True,
            kmeans_iters=10,
            threshold_ema_dead_code=1,
            rotation_trick=False,
        )

    @torch.no_grad()
    def nearest(self, z: Tensor) -> Tensor:
        # not through the layer: its first call of any kind starts the codebooks by k-means
        left, stages = z.float(), []
        for codebook in self.layer.codebooks:
            stages.append(nearest_code(left, codebook))
            left = left - codebook[stages[-1]]
        return self._joined(torch.stack(stages, -1))

    def lookup(self, ids: Tensor) -> Tensor:
        known = ids.clamp(min=0)
        powers = [self.size**stage for stage in reversed(range(self.n_stages))]
        codes = sum(
            codebook[(known // power) % self.size]
            for codebook, power in zip(self.layer.codebooks, powers, strict=True)
        )
        return codes * (ids >= 0).unsqueeze(-1)

    def _quantized(self, real: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        out, ids, losses = self.layer(real.unsqueeze(0))
        return out.squeeze(0), self._joined(ids.squeeze(0)), (1 - self.beta) * losses.sum()

    def _joined(self, ids: Tensor) -> Tensor:
        """(n, stages) -> (n,)."""
        joined = ids[:, 0].long()
        for stage in range(1, self.n_stages):
            joined = joined * self.size + ids[:, stage]
        return joined


def _vector_quantize_pytorch():
    with warnings.catch_warnings():  # it touches torch.jit, which warns of its own old age
        warnings.simplefilter("ignore")
        import vector_quantize_pytorch
    return vector_quantize_pytorch
