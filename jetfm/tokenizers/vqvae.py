"""Conditional VQ-VAE: constituents to token ids and back (arXiv 2512.04149, 2403.05618).

    x -> Linear, blocks, Linear -> z -> nearest code -> Linear, causal blocks, Linear -> x'

The encoder sees the whole jet, so the same constituent may get another token in another jet: that
is what "conditional" means. The decoder is causal, so that x'_i depends on tokens up to i only and
generated jets can be decoded token by token. Sizes follow the official example configuration of
2512.04149; 3 features and the defaults give 1,656,859 parameters.

Axes: B jets, T constituents, F features in network space. Masks are True at real constituents.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jetfm.config import TokenizerSettings
from jetfm.errors import JetfmError
from jetfm.features import Preprocessing
from jetfm.models.transformer import KVCache, Transformer
from jetfm.tokenizers.quantizer import VectorQuantizer
from jetfm.weights import fill, identity, load_weights, save_weights, weights_bytes

_NAME = "tokenizer"


class VQVAE(nn.Module):
    """Conditional VQ-VAE tokenizer.

    Parameters
    ----------
    settings : sizes and loss constants; its `training` part is not used here
    preprocessing : the map between physical and network space, stored with the tokenizer
    n_features : features of a constituent
    """

    # Our choice: the commitment grows with the scale of the latents while the jets get better, so
    # the sum of both would stop the training long before the reconstruction has converged.
    monitor = "reconstruction"

    def __init__(
        self,
        settings: TokenizerSettings | None = None,
        preprocessing: Preprocessing | None = None,
        n_features: int = 3,
    ) -> None:
        super().__init__()
        self.settings = settings = settings or TokenizerSettings()
        self.preprocessing = preprocessing or Preprocessing()
        self.n_features, self.n_codes = n_features, settings.n_codes
        self.causal_decoder = settings.causal_decoder
        size = (settings.dim, settings.n_blocks, settings.n_heads, settings.mlp_ratio)
        self.features_in = nn.Linear(n_features, settings.dim)
        self.encoder = Transformer(*size)
        self.latent_in = nn.Linear(settings.dim, settings.latent_dim)
        self.quantizer = VectorQuantizer(
            settings.n_codes,
            settings.latent_dim,
            beta=settings.beta,
            nu=settings.nu,
            affine_lr=settings.affine_lr,
            replace_after=settings.replace_after,
        )
        self.latent_out = nn.Linear(settings.latent_dim, settings.dim)
        self.decoder = Transformer(*size)
        self.features_out = nn.Linear(settings.dim, n_features)

    # Training ------------------------------------------------------------------------------------

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Reconstruction plus commitment (2403.05618, eq. A1), over real constituents only.

            L = sum |x - x'|^2 / N_real + alpha * [(1-beta) |z - sg(q)|^2 + beta |sg(z) - q|^2]

        Parameters
        ----------
        batch : 'x' (B, T, F) in network space, 'mask' (B, T)

        Returns
        -------
        the loss and its parts; 'weight' is the number of real constituents it averages over
        """
        x, mask = batch["x"], batch["mask"]
        z = self._latents(x, mask)
        quantized = self.quantizer(z, mask)
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
        self.quantizer.forget_replaced(optimizer)

    # Use -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def encode(self, x: Tensor, mask: Tensor) -> Tensor:
        """Ids (B, T) int64 in 0..K-1, -1 where padded, of constituents (B, T, F)."""
        self._check(x, mask)
        ids = torch.full(mask.shape, -1, dtype=torch.int64, device=x.device)
        ids[mask] = self.quantizer.nearest(self._latents(x, mask)[mask])
        return ids

    @torch.no_grad()
    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Constituents (B, T, F) of ids (B, T), zero where padded (id -1, or `mask` False)."""
        mask = ids >= 0 if mask is None else mask & (ids >= 0)
        return self._decoded(self.quantizer.lookup(torch.where(mask, ids, -1)), mask).float()

    @torch.no_grad()
    def decode_next(self, ids: Tensor, caches: list[KVCache]) -> Tensor:
        """Decode one more token per jet, (B,) to (B, F), given the earlier ones in `caches`.

        Equal to the newest position of `decode` on the whole sequence.

        Raises
        ------
        JetfmError
            When the decoder is not causal: then a new token changes all earlier constituents.
        """
        if not self.causal_decoder:
            raise JetfmError("causal_decoder", "False", "True for decoding token by token")
        hidden = self.latent_out(self.quantizer.lookup(ids).unsqueeze(1))  # (B, 1, C)
        return self.features_out(self.decoder(hidden, caches=caches)).squeeze(1).float()

    def new_caches(self) -> list[KVCache]:
        """Empty caches for `decode_next`."""
        return self.decoder.new_caches()

    def usage(self, ids: Tensor) -> Tensor:
        """How often each code occurs in `ids`, (K,) int64; padding does not count."""
        return torch.bincount(ids[ids >= 0], minlength=self.n_codes)

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the tokenizer, as JSON values."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude={"training"}),
            "preprocessing": self.preprocessing.to_dict(),
            "n_features": self.n_features,
        }

    @property
    def hash(self) -> str:
        """SHA-256 of settings, preprocessing and weights; token stores and models record it."""
        return identity(self.config, weights_bytes(self.state_dict()))

    def save(self, folder: str | Path, **info: Any) -> str:
        """Write ``weights.safetensors`` and ``tokenizer.json``; return the hash.

        Parameters
        ----------
        info : JSON values to record beside it, e.g. code usage, hash of the training data, metrics
        """
        return save_weights(folder, _NAME, self.state_dict(), self.config, info)

    @classmethod
    def load(cls, folder: str | Path) -> VQVAE:
        """Read a tokenizer, in evaluation mode on the CPU.

        Raises
        ------
        JetfmError
            Missing, damaged or mismatched files.
        """
        record, state = load_weights(folder, _NAME)
        config = record["config"]
        try:
            settings = TokenizerSettings.model_validate(config["settings"])
            preprocessing = Preprocessing.from_dict(config["preprocessing"])
            model = cls(settings, preprocessing, config["n_features"])
        except (KeyError, ValueError) as error:
            where = Path(folder) / f"{_NAME}.json"
            raise JetfmError(where, f"{error}".splitlines()[0], "a tokenizer's settings") from None
        fill(model, state, Path(folder))
        return model.eval()

    # Inside --------------------------------------------------------------------------------------

    def _latents(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, D)."""
        return self.latent_in(self.encoder(self.features_in(x), mask))

    def _decoded(self, latents: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, F), zero where padded."""
        hidden = self.decoder(self.latent_out(latents), mask, causal=self.causal_decoder)
        return self.features_out(hidden) * mask.unsqueeze(-1)

    def _check(self, x: Tensor, mask: Tensor) -> None:
        if x.ndim != 3 or x.shape[-1] != self.n_features or mask.shape != x.shape[:2]:
            found = f"features {tuple(x.shape)} with mask {tuple(mask.shape)}"
            raise JetfmError("tokenizer input", found, f"(B, T, {self.n_features}) and (B, T)")
