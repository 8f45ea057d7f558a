"""What every tokenizer offers: fit, encode, decode and save.

Axes: B jets, T constituents, F features in network space. Masks are True at real constituents.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.models.transformer import KVCache
from jetfm.physics.features import FEATURE_SETS, Preprocessing
from jetfm.settings import TokenizerSettings
from jetfm.storage.files import sha256, write_npy
from jetfm.storage.weights import identity, save_weights, weights_bytes

NAME = "tokenizer"
USAGE = "usage.npy"
_SLOTS = 2**10  # per core, so that what the networks pass on stays in its cache


def preprocessing_of(settings: TokenizerSettings) -> Preprocessing:
    """Network space that a tokenizer's settings ask for."""
    return Preprocessing(features=FEATURE_SETS[settings.features], pt_map=settings.pt_map)


class Tokenizer(nn.Module):
    """Base of all tokenizers.

    Parameters
    ----------
    settings : sizes and loss constants; its `training` part is used by `fit` alone
    preprocessing : the map between physical and network space, by default as the settings say

    Attributes
    ----------
    n_codes : ids are 0 to n_codes - 1
    n_features : features of a constituent
    sequential : whether what an id decodes to never depends on later ids (`decode_next`)
    """

    sequential = True

    def __init__(
        self, settings: TokenizerSettings, preprocessing: Preprocessing | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.preprocessing = preprocessing = preprocessing or preprocessing_of(settings)
        self.n_codes, self.n_features = settings.n_codes, preprocessing.n_features

    @property
    def device(self) -> torch.device:
        """Where its tensors are."""
        return next(iter(self.state_dict().values())).device

    # Use -----------------------------------------------------------------------------------------

    def fit(
        self,
        train: JetStore,
        validation: JetStore,
        folder: str | Path,
        seed: int,
        max_constituents: int = 128,
        progress: bool = True,
    ) -> dict[str, Any]:
        """Learn from jets, in place; an interrupted call continues.

        Parameters
        ----------
        folder : for checkpoints and ``metrics.csv``
        seed : of batches and the order within jets; the initial weights come with the tokenizer

        Returns
        -------
        'metrics' to record with the tokenizer and 'history', a dictionary per row of the log
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, x: Tensor, mask: Tensor, features: Sequence[str] | None = None) -> Tensor:
        """Ids (B, T) int64 in 0..K-1, -1 where padded, of constituents (B, T, F).

        Parameters
        ----------
        features : names of the columns of `x`, to be checked against the tokenizer's

        Raises
        ------
        JetfmError
            Shapes that do not fit, or features in another order than the tokenizer's.
        """
        if features is not None:
            self.preprocessing.check(features, "tokenizer input")
        if x.ndim != 3 or x.shape[-1] != self.n_features or mask.shape != x.shape[:2]:
            found = f"features {tuple(x.shape)} with mask {tuple(mask.shape)}"
            raise JetfmError("tokenizer input", found, f"(B, T, {self.n_features}) and (B, T)")
        ids = torch.full(mask.shape, -1, dtype=torch.int64, device=x.device)
        for piece in _pieces(mask):
            latents = self._latents(x[piece], mask[piece])
            ids[piece][mask[piece]] = self._nearest(latents[mask[piece]])
        return ids

    @torch.no_grad()
    def encode_known(self, x: Tensor, mask: Tensor) -> Tensor:
        """`encode` of input that fits, in steps that do not depend on numbers: for export."""
        ids = self._nearest(self._latents(x, mask).flatten(0, 1)).unflatten(0, mask.shape)
        return torch.where(mask, ids, -1)

    @torch.no_grad()
    def decode(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Constituents (B, T, F) of ids (B, T), zero where padded (id -1, or `mask` False).

        Raises
        ------
        JetfmError
            An id outside the codebook.
        """
        return self.decode_known(self._known(ids), mask)

    @torch.no_grad()
    def decode_known(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """`decode` of ids that are the tokenizer's own, which makes no GPU wait for the check."""
        mask = ids >= 0 if mask is None else mask & (ids >= 0)
        ids = torch.where(mask, ids, -1)
        decoded = torch.zeros(*ids.shape, self.n_features, device=ids.device)
        for piece in _pieces(mask):
            decoded[piece] = self._decoded_ids(ids[piece], mask[piece]).float()
        return decoded

    def decode_next(self, ids: Tensor, caches: list[KVCache]) -> Tensor:
        """Decode one more token per jet, (B,) to (B, F), given the earlier ones in `caches`.

        Equal to the newest position of `decode` on the whole sequence.

        Raises
        ------
        JetfmError
            When a new token changes what the earlier ones decode to (a decoder that is not
            causal), or an id outside the codebook.
        """
        if not self.sequential:
            raise JetfmError("causal_decoder", "False", "True for decoding token by token")
        return self.decode_next_known(self._known(ids), caches)

    def decode_next_known(self, ids: Tensor, caches: list) -> Tensor:
        """`decode_next` of ids that are the tokenizer's own, which makes no GPU wait."""
        return self.decode_known(ids.unsqueeze(1)).squeeze(1)

    def new_caches(self) -> list[KVCache]:
        """Empty caches for `decode_next`."""
        return []

    def usage(self, ids: Tensor) -> Tensor:
        """How often each code occurs in `ids`, (K,) int64; padding does not count."""
        return torch.bincount(ids[ids >= 0], minlength=self.n_codes)

    def out_of_range(self, x: Tensor, mask: Tensor) -> Tensor:
        """Real constituents (B, T) that the tokenizer can only clip to the edge of its range."""
        return torch.zeros_like(mask)

    # What a subclass defines ---------------------------------------------------------------------

    def _latents(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, F) -> (B, T, D), what ids are chosen by."""
        raise NotImplementedError

    def _nearest(self, latents: Tensor) -> Tensor:
        """(n, D) -> (n,) ids."""
        raise NotImplementedError

    def _decoded_ids(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) ids in 0..K-1, -1 where padded -> (B, T, F), zero where padded."""
        raise NotImplementedError

    def _known(self, ids: Tensor) -> Tensor:
        if ids.numel() and not (-1 <= int(ids.min()) and int(ids.max()) < self.n_codes):
            found = f"ids from {int(ids.min())} to {int(ids.max())}"
            raise JetfmError("token ids", found, f"0..{self.n_codes - 1}, -1 for padding")
        return ids

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the tokenizer, as JSON values."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude={"training"}),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @property
    def hash(self) -> str:
        """SHA-256 of settings, preprocessing and weights; token stores and models record it."""
        return identity(self.config, weights_bytes(self.state_dict()))

    def save(self, folder: str | Path, usage: np.ndarray | None = None, **info: Any) -> str:
        """Write ``weights.safetensors`` and ``tokenizer.json``; return the hash.

        Parameters
        ----------
        usage : (K,) how often each code occurred in some jets, written as ``usage.npy``
        info : JSON values to record beside it, e.g. the hash of the training data, metrics
        """
        if usage is not None:
            write_npy(Path(folder) / USAGE, np.asarray(usage, np.int64))
            info["usage_sha256"] = sha256(Path(folder) / USAGE)
        return save_weights(folder, NAME, self.state_dict(), self.config, info)

    def __str__(self) -> str:
        return f"{self.settings.label} ({json.dumps(self.config['settings'])})"


def _pieces(mask: Tensor) -> Iterator[tuple[slice, slice]]:
    """Jets of a batch (B, T) to look at together, and the slots that the longest of them needs.

    On a CPU small pieces take two thirds of the time of a whole batch: what the networks pass on
    stays in the cache, and short jets that stand together, as they do in `InOrderBatches`, are not
    padded to the longest of all.
    """
    if mask.device.type != "cpu":
        yield slice(None), slice(None)
        return
    held = _SLOTS * torch.get_num_threads()
    numbers = torch.arange(1, mask.shape[1] + 1)
    lengths = (mask * numbers).amax(1).tolist() if mask.numel() else []
    start, longest = 0, 0
    for jet, length in enumerate(lengths):
        if (jet + 1 - start) * max(longest, length) > held:
            if longest:
                yield slice(start, jet), slice(longest)
            start, longest = jet, 0
        longest = max(longest, length)
    if longest:
        yield slice(start, None), slice(longest)
