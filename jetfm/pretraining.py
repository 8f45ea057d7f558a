"""Next-token prediction with continuous input (arXiv 2512.04149, Sec. on NTP; 2403.05618, II.B).

The model reads d_s, d_1..d_N, the start vector and the *decoded* constituents, and predicts
t_1..t_N, stop:

    L = - sum_{k=0..N} log p(t_{k+1} | d_s, d_1..d_k, N),    t_{N+1} = stop,

averaged over all predictions of a batch, so that each predicted token weighs the same and padding
nothing. With a causal tokenizer decoder d_i depends on t_1..t_i only, so no target is leaked.

Vocabulary: start 0 (never a target), codes 1..K (the tokenizer's 0..K-1 plus one), stop K+1.

Jets longer than the store's cap keep N, their uncapped count, as condition and get no stop target,
since they do not end where they were cut (our choice; the official code lets them lose it too, but
without a count). The token store records how many there are (``n_truncated``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jetfm.data.batches import EvaluationBatches, InOrderBatches, LengthBucketedBatches
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.models.heads import TokenHead
from jetfm.models.transformer import KVCache
from jetfm.settings import PretrainingSettings
from jetfm.training import TrainingResult, fit
from jetfm.weights import fill, identity, load_weights, save_weights, weights_bytes

_NAME = "model"


def next_token_targets(ids: Tensor, mask: Tensor, n_constituents: Tensor, n_codes: int) -> Tensor:
    """What each of the positions d_s, d_1..d_T predicts.

    Parameters
    ----------
    ids : (B, T) tokenizer ids 0..K-1 where `mask` is True
    n_constituents : (B,) uncapped count; larger than ``mask.sum(1)`` for a truncated jet

    Returns
    -------
    (B, T+1) int64: code + 1, then stop = K+1 after the last constituent of an untruncated jet,
    -1 elsewhere
    """
    targets = torch.full((len(ids), ids.shape[1] + 1), -1, dtype=torch.int64, device=ids.device)
    targets[:, :-1] = torch.where(mask, ids + 1, -1)
    length = mask.sum(1)
    whole = (n_constituents <= length).nonzero().squeeze(1)
    targets[whole, length[whole]] = n_codes + 1
    return targets


class NextTokenModel(nn.Module):
    """Backbone and token head, trained to predict the next token.

    Parameters
    ----------
    settings : sizes; its `training` part is not used here
    n_codes : K of the tokenizer
    n_features : features of a decoded constituent
    tokenizer_hash : `VQVAE.hash` of the tokenizer that made the tokens; checked at generation
    """

    def __init__(
        self,
        settings: PretrainingSettings | None = None,
        n_codes: int = 8192,
        n_features: int = 3,
        tokenizer_hash: str = "",
    ) -> None:
        super().__init__()
        self.settings = settings = settings or PretrainingSettings()
        self.n_codes, self.n_features = n_codes, n_features
        self.tokenizer_hash = tokenizer_hash
        self.backbone = Backbone(settings.backbone, n_features)
        self.head = TokenHead(
            settings.backbone.dim,
            settings.backbone.n_heads,
            n_codes,
            settings.head,
            attention_dropout=settings.backbone.dropout,
            layer_scale=settings.backbone.layer_scale,
        )

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean negative log-likelihood of the next token.

        Parameters
        ----------
        batch : 'ids' (B, T), 'decoded' (B, T, F), 'mask' (B, T), 'n_constituents' (B,)

        Returns
        -------
        the loss; 'accuracy' of the most likely token, and 'weight', the number of predictions
        """
        ids, mask, n = batch["ids"], batch["mask"], batch["n_constituents"]
        hidden, visible = self.backbone(batch["decoded"], mask, n, causal=True)
        targets = next_token_targets(ids, mask, n, self.n_codes)
        loss, n_targets, n_correct = self.head.loss(hidden, visible, True, targets)
        return loss, {"accuracy": n_correct / n_targets.clamp(min=1), "weight": n_targets}

    def forward(self, decoded: Tensor, mask: Tensor, n_constituents: Tensor) -> Tensor:
        """Logits (B, T+1, K+2) of the token that follows d_s, d_1, ..., d_T."""
        hidden, visible = self.backbone(decoded, mask, n_constituents, causal=True)
        return self.head(hidden, visible, True)

    # Generation: one position a time -------------------------------------------------------------

    def new_caches(self) -> tuple[list[KVCache], list[KVCache]]:
        """Empty caches of backbone and head."""
        return self.backbone.new_caches(), self.head.transformer.new_caches()

    def next_logits(
        self,
        newest: Tensor | None,
        n_constituents: Tensor,
        caches: tuple[list[KVCache], list[KVCache]],
    ) -> Tensor:
        """Logits (B, K+2) of the next token.

        Parameters
        ----------
        newest : (B, F) the newest decoded constituent; None at the start
        """
        if newest is None:
            hidden = self.backbone.begin(n_constituents, caches[0])
        else:
            hidden = self.backbone.proceed(newest, n_constituents, caches[0])
        return self.head(hidden, None, True, caches[1]).squeeze(1)

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the model, as JSON values."""
        return {
            "objective": "ntp",
            "settings": self.settings.model_dump(mode="json", exclude={"training"}),
            "n_codes": self.n_codes,
            "n_features": self.n_features,
            "tokenizer_hash": self.tokenizer_hash,
        }

    @property
    def hash(self) -> str:
        """SHA-256 of configuration and weights."""
        return identity(self.config, weights_bytes(self.state_dict()))

    def save(self, folder: str | Path, **info: Any) -> str:
        """Write ``weights.safetensors`` and ``model.json`` with `info` beside; return the hash."""
        return save_weights(folder, _NAME, self.state_dict(), self.config, info)

    @classmethod
    def load(cls, folder: str | Path) -> NextTokenModel:
        """Read a pre-trained model, in evaluation mode on the CPU.

        Raises
        ------
        JetfmError
            Missing, damaged or mismatched files, or a model without a next-token head.
        """
        record, state = load_weights(folder, _NAME)
        config, where = record["config"], Path(folder) / f"{_NAME}.json"
        if config.get("objective") != "ntp":
            raise JetfmError(where, f"objective {config.get('objective')!r}", "'ntp'")
        try:
            settings = PretrainingSettings.model_validate(config["settings"])
            model = cls(settings, config["n_codes"], config["n_features"], config["tokenizer_hash"])
        except (KeyError, ValueError) as error:
            raise JetfmError(where, f"{error}".splitlines()[0], "a model's settings") from None
        fill(model, state, Path(folder))
        return model.eval()


def load_backbone(folder: str | Path) -> Backbone:
    """The backbone, with its start vector, of a pre-trained model: what fine-tuning starts from.

    Raises
    ------
    JetfmError
        As `NextTokenModel.load`.
    """
    return NextTokenModel.load(folder).backbone


# Data --------------------------------------------------------------------------------------------


def token_batch(
    store: TokenStore, indices: np.ndarray, max_constituents: int | None = None
) -> dict[str, Tensor]:
    """One batch of a token store, ready for `NextTokenModel.loss`.

    Parameters
    ----------
    store : its `multiplicity` is the uncapped count of a jet's constituents
    indices : jets
    max_constituents : longer jets keep their first ones, their count, and get no stop target
    """
    ids, decoded, mask = store.dense(indices, max_constituents)
    n_constituents = np.asarray(store.multiplicity)[indices]
    return {
        "ids": torch.as_tensor(ids).long(),
        "decoded": torch.as_tensor(decoded),
        "mask": torch.as_tensor(mask),
        "n_constituents": torch.as_tensor(n_constituents),
    }


def token_batches(
    store: TokenStore, schedule: Any, max_constituents: int | None = None
) -> Callable[[int], dict[str, Tensor]]:
    """Training batches by step: ``schedule.indices(step)`` says which jets."""
    return lambda step: token_batch(store, schedule.indices(step), max_constituents)


def pretrain(
    train: TokenStore,
    validation: TokenStore,
    settings: PretrainingSettings,
    folder: str | Path,
    seed: int,
    progress: bool = True,
) -> tuple[NextTokenModel, TrainingResult]:
    """Train a model on tokenised jets; an interrupted call continues.

    Parameters
    ----------
    folder : for checkpoints and ``metrics.csv``
    seed : of the initial weights, the batches and the dropout

    Returns
    -------
    the model with the weights of its best validation, and how the training went
    """
    torch.manual_seed(seed)
    n_features = train.decoded.shape[1]
    model = NextTokenModel(settings, train.n_codes, n_features, train.info["tokenizer"])
    batch_size = settings.training.batch_size
    schedule = LengthBucketedBatches(train.n_constituents, batch_size, seed)
    result = fit(
        model,
        token_batches(train, schedule),
        settings.training,
        validation=EvaluationBatches(
            InOrderBatches(validation.n_constituents, batch_size), partial(token_batch, validation)
        ),
        folder=folder,
        seed=seed,
        progress=progress,
        name="pre-training",
    )
    return model, result
