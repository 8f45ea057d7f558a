"""VQ-VAE tokenizers: constituents to token ids and back (arXiv 2403.05618, 2512.04149).

    x -> Linear, network, Linear -> z -> nearest code -> Linear, network, Linear -> x'

*Conditional*: the networks are transformers, so that the same constituent may get another token in
another jet, and a token another meaning. Paper 2's decoder is causal, so that x'_i depends on
tokens up to i only and generated jets can be decoded token by token; paper 1's sees the whole jet.
*Unconditional*: an MLP on each constituent by itself. Sizes follow the settings; those of
2512.04149, with 3 features, give 1,656,859 parameters.

Axes: B jets, T constituents, F features in network space. Masks are True at real constituents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jetfm.data.store import JetStore
from jetfm.models.normformer import NormFormer
from jetfm.models.transformer import KVCache, Transformer
from jetfm.physics.features import Preprocessing
from jetfm.settings import TokenizerSettings
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.library_quantizers import make_quantizer
from jetfm.tokenizers.training import train_vqvae


class PointwiseMLP(nn.Module):
    """Hidden layers with ReLU that act on every constituent by itself.

    With the linear layers before and after it, an MLP of `n_blocks` hidden layers; called like a
    stack of transformer blocks.
    """

    def __init__(self, dim: int, n_blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.ReLU()]
        for _ in range(n_blocks - 1):
            layers += [nn.Linear(dim, dim), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, mask=None, causal=False, caches=None) -> Tensor:
        """(..., C) -> (..., C); mask and order make no difference."""
        return self.layers(x)

    def new_caches(self) -> list[KVCache]:
        """Nothing to remember."""
        return []


class VQVAE(Tokenizer):
    """VQ-VAE tokenizer; see `Tokenizer` for its interface.

    Parameters
    ----------
    settings : network, quantiser and loss constants
    preprocessing : the map between physical and network space, by default as the settings say
    """

    # Our choice: the commitment grows with the scale of the latents while the jets get better, so
    # the sum of both would stop the training long before the reconstruction has converged.
    monitor = "reconstruction"

    def __init__(
        self,
        settings: TokenizerSettings | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        settings = settings or TokenizerSettings()
        super().__init__(settings, preprocessing)
        self.causal_decoder = settings.causal_decoder
        self.sequential = settings.causal_decoder or settings.network == "mlp"
        self.features_in = nn.Linear(self.n_features, settings.dim)
        self.encoder = _network(settings)
        self.latent_in = nn.Linear(settings.dim, settings.latent_dim)
        self.quantizer = make_quantizer(settings)
        self.latent_out = nn.Linear(settings.latent_dim, settings.dim)
        self.decoder = _network(settings)
        self.features_out = nn.Linear(settings.dim, self.n_features)

    # Training ------------------------------------------------------------------------------------

    def fit(
        self,
        train: JetStore,
        validation: JetStore,
        folder: str | Path,
        seed: int,
        max_constituents: int = 128,
        progress: bool = True,
    ) -> dict[str, Any]:
        return train_vqvae(self, train, validation, folder, seed, max_constituents, progress)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction plus commitment (2403.05618, eq. A1), over real constituents only.

            L = sum |x - x'|^2 / N_real + alpha * [(1-beta) |z - sg(q)|^2 + beta |sg(z) - q|^2] / D

        with D latent components. The paper takes the mean over the features of x, we the sum, as if
        its alpha were smaller by their number. The split by beta is vqtorch's.

        Parameters
        ----------
        batch : 'x' (B, T, F) in network space, 'mask' (B, T); 'rows' of `rows_of`, or they are
            found out here

        Returns
        -------
        the loss and its parts; 'weight' is the number of real constituents it averages over
        """
        x, mask = batch["x"], batch["mask"]
        z = self._latents(x, mask)
        quantized = self.quantizer(z, mask, batch.get("rows"))
        decoded = self._decoded(quantized.latents, mask)
        n_real = mask.sum()
        squares = (decoded.float() - x).square().sum(-1)  # (B, T)
        reconstruction = torch.where(mask, squares, 0).sum() / n_real.clamp(min=1)
        loss = reconstruction + self.settings.alpha * quantized.loss
        return loss, {
            "reconstruction": reconstruction.detach(),
            "commitment": quantized.loss.detach(),
            "perplexity": quantized.perplexity,
            "weight": n_real,
        }

    def after_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called by the training after each optimiser step."""
        self.quantizer.after_step(optimizer)

    # Use -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode_next_known(self, ids: Tensor, caches: list) -> Tensor:
        if not self.causal_decoder:
            return super().decode_next_known(ids, caches)
        hidden = self.latent_out(self.quantizer.lookup(ids).unsqueeze(1))  # (B, 1, C)
        return self.features_out(self.decoder(hidden, caches=caches)).squeeze(1).float()

    def new_caches(self) -> list[KVCache]:
        return self.decoder.new_caches()

    # Inside --------------------------------------------------------------------------------------

    def _latents(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.latent_in(self.encoder(self.features_in(x), mask))

    def _nearest(self, latents: Tensor) -> Tensor:
        return self.quantizer.nearest(latents)

    def _decoded_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self._decoded(self.quantizer.lookup(ids), mask)

    def _decoded(self, latents: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, F), zero where padded."""
        hidden = self.decoder(self.latent_out(latents), mask, causal=self.causal_decoder)
        return self.features_out(hidden) * mask.unsqueeze(-1)


def _network(settings: TokenizerSettings) -> nn.Module:
    size = (settings.dim, settings.n_blocks, settings.n_heads, settings.mlp_ratio)
    if settings.network == "mlp":
        return PointwiseMLP(settings.dim, settings.n_blocks)
    if settings.network == "normformer":
        return NormFormer(*size, settings.dropout, settings.zero_gain)
    return Transformer(*size, settings.dropout, settings.dropout)
