"""The model that pre-training trains: one backbone, a head per objective, one loss (NTP, MPM).

Next-token prediction (NTP) and masked-particle modelling (MPM) of arXiv 2512.04149, alone or
together; with the settings of arXiv 2403.05618 also OmniJet-alpha. A joint step makes two passes
through the shared backbone: causal over the whole jet, bidirectional over its visible part.

NTP reads d_s, d_1..d_N and predicts t_1..t_N, stop:

    L_g = - sum_{k=0..N} log p(t_{k+1} | d_s, d_1..d_k, N),    t_{N+1} = stop.

MPM reads d_s and the visible d_j and predicts the tokens of the masked set M:

    L_m = - sum_{i in M} log p(t_i | {d_j, j visible}, rank_i, N).

Either alone is averaged over its predictions. Together, by default, (L_g + L_m) / n_g with n_g the
number of next-token predictions of the batch: every predicted token weighs the same, and padding
nothing (the official code divides by the padded length). Weighting 'per-objective' adds the means.

Inputs are the *decoded* d_i. With a causal tokenizer decoder d_i depends on t_1..t_i only, so NTP
leaks no target. In MPM a visible d_j behind a masked constituent carries a trace of it;
`leak_free` decodes the visible tokens alone (`visible_decoder`).

Vocabulary: start 0 (never a target), codes 1..K (the tokenizer's 0..K-1 plus one), stop K+1.

Jets longer than the store's cap keep N, their uncapped count, as condition and get no stop target,
since they do not end where they were cut (our choice; the official code lets them lose it too, but
without a count). The token store records how many there are (``n_truncated``).

Two steps make a loss. `JetModel.plan` works out on the CPU, while the batch is made, what depends
on lengths and random masks alone: which constituents are masked, and the indices of all that is
gathered. `JetModel.loss` then only computes: on a GPU it never asks the device for a number. With
`leak_free` the tokenizer's decoder does, as it checks the ids.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.models.heads import TokenHead
from jetfm.models.masking import (
    Part,
    Visible,
    draw_masked,
    pt_ranks,
    put_back,
    visible_part,
    whole_rows,
)
from jetfm.physics.features import Preprocessing
from jetfm.settings import PretrainingSettings
from jetfm.storage.weights import SavedModule

OBJECTIVES = ("ntp", "mpm")


class Predictions(NamedTuple):
    """What one objective asks of a batch: where a head predicts which token."""

    hidden: Tensor  # (B, T+1, C)
    mask: Tensor  # (B, T+1)
    causal: bool
    positions: Tensor  # (n,) int64, in the B * (T+1) positions of `hidden`, ascending
    targets: Tensor  # (n,) int64, ids of the vocabulary


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


class JetModel(SavedModule):
    """Backbone and heads.

    Parameters
    ----------
    settings : objective and sizes; its `training` part is not used here
    n_codes : K of the tokenizer
    n_features : features of a decoded constituent
    tokenizer_hash : `Tokenizer.hash` of the tokenizer that made the tokens; checked at generation
    preprocessing : of that tokenizer; needed, and stored, for a pair bias alone

    Attributes
    ----------
    visible_decoder : for `leak_free`: ids (B, V) and mask to decoded constituents (B, V, F), the
        tokenizer's `decode`; not part of the model's weights
    """

    kind = "model"

    def __init__(
        self,
        settings: PretrainingSettings | None = None,
        n_codes: int = 8192,
        n_features: int = 3,
        tokenizer_hash: str = "",
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings = settings or PretrainingSettings()
        self.n_codes, self.n_features = n_codes, n_features
        self.tokenizer_hash = tokenizer_hash
        self.visible_decoder: Callable[[Tensor, Tensor], Tensor] | None = None
        self.backbone = Backbone(settings.backbone, n_features, n_codes, preprocessing)
        if settings.predicts_next:
            self.ntp_head = self._token_head()
        if settings.masks:
            self.mpm_head = self._token_head()
            self.mask_vectors = nn.Parameter(
                torch.randn(settings.n_mask_vectors, settings.backbone.dim)
            )

    def _token_head(self) -> TokenHead:
        backbone = self.settings.backbone
        return TokenHead(
            backbone.dim,
            backbone.n_heads,
            self.n_codes,
            self.settings.head,
            attention_dropout=backbone.dropout,
            layer_scale=backbone.layer_scale,
        )

    # Training ------------------------------------------------------------------------------------

    def plan(
        self,
        batch: dict[str, Tensor],
        generator: torch.Generator | None = None,
        part: Part | None = None,
    ) -> dict[str, Tensor]:
        """A batch of `loss`, with the indices that its step needs.

        Parameters
        ----------
        batch : as for `loss`; on the CPU, if no GPU is to be kept waiting
        generator : draws the masked constituents; by default torch's global one
        part : which jets of a larger batch these are, whose masks do not depend on that

        Returns
        -------
        `batch` and for each objective '_positions' (n,) and '_targets' (n,), see `Predictions`;
        for masked particles also 'mpm_slots' and 'mpm_visible', of `Visible`, and 'mpm_rows', of
        `whole_rows`
        """
        batch = dict(batch)
        ids, mask = batch["ids"], batch["mask"]
        targets = {}
        if self.settings.predicts_next:
            targets["ntp"] = next_token_targets(ids, mask, batch["n_constituents"], self.n_codes)
        if self.settings.masks:
            masked = draw_masked(mask, self.settings.mask_fraction, generator, part)
            visible = visible_part(mask, masked)
            ranks = pt_ranks(batch["decoded"][..., 0], masked)
            batch["mpm_slots"], batch["mpm_visible"] = visible
            batch["mpm_rows"] = whole_rows(visible, ranks, len(self.mask_vectors))
            targets["mpm"] = F.pad(torch.where(masked, ids + 1, -1), (1, 0), value=-1)
        for name, wanted in targets.items():
            if "silent" in batch:  # a process that has no jet left still takes part in the step
                wanted.fill_(-1)
            positions = (wanted.flatten() >= 0).nonzero().squeeze(1)
            batch[f"{name}_positions"] = positions
            batch[f"{name}_targets"] = wanted.flatten()[positions]
        return batch

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Loss of the objective, see the module.

        Parameters
        ----------
        batch : 'ids' (B, T), 'decoded' (B, T, F), 'mask' (B, T), 'n_constituents' (B,); with a
            `plan`, or one is made

        Returns
        -------
        the loss; for each objective its mean 'ntp', 'mpm' and the '_accuracy' of the most likely
        token, as (sum, number) pairs; 'weight', the number of predictions that the loss is per;
        'parts', (mean, number) pairs, where the loss is a sum of means over different numbers
        """
        batch = self._planned(batch)
        results = {name: self.head(name).loss(*self.asked(name, batch)) for name in self.objectives}
        metrics: dict[str, Any] = {}
        for name, (mean, n, n_correct) in results.items():
            metrics[name] = (mean.detach() * n, n)
            metrics[f"{name}_accuracy"] = (n_correct, n)
        mean, n, _ = results[self.objectives[0]]
        metrics["weight"] = n
        if len(results) == 1:
            return mean, metrics
        masked_mean, n_masked, _ = results["mpm"]
        if self.settings.weighting == "per-token":
            masked_mean = masked_mean * (n_masked / max(n, 1))
        else:
            metrics["parts"] = [(mean, n), (masked_mean, n_masked)]
        return mean + masked_mean, metrics

    @property
    def objectives(self) -> tuple[str, ...]:
        """'ntp', 'mpm' or both."""
        wanted = {"ntp": self.settings.predicts_next, "mpm": self.settings.masks}
        return tuple(name for name in OBJECTIVES if wanted[name])

    def asked(self, objective: str, batch: dict[str, Tensor]) -> Predictions:
        """The pass of one objective: hidden states, and the targets that its head is asked for."""
        if objective not in self.objectives:
            raise JetfmError("objective", repr(objective), f"one of {', '.join(self.objectives)}")
        batch = self._planned(batch)
        return self._next_tokens(batch) if objective == "ntp" else self._masked_tokens(batch)

    def head(self, objective: str) -> TokenHead:
        """Head of 'ntp' or 'mpm'."""
        return self.ntp_head if objective == "ntp" else self.mpm_head

    def _planned(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return batch if f"{self.objectives[0]}_targets" in batch else self.plan(batch)

    def _next_tokens(self, batch: dict[str, Tensor]) -> Predictions:
        x = batch["ids"] if self.backbone.reads_ids else batch["decoded"]
        hidden, seen = self.backbone(x, batch["mask"], batch["n_constituents"], causal=True)
        return Predictions(hidden, seen, True, batch["ntp_positions"], batch["ntp_targets"])

    def _masked_tokens(self, batch: dict[str, Tensor]) -> Predictions:
        visible = Visible(batch["mpm_slots"], batch["mpm_visible"])
        x = self._visible_input(batch, visible)
        causal = self.settings.objective == "mpm-causal"
        hidden, _ = self.backbone(x, visible.mask, batch["n_constituents"], causal)
        hidden = put_back(hidden, batch["mpm_rows"], self.mask_vectors)
        seen = F.pad(batch["mask"], (1, 0), value=True)
        # The head is bidirectional even over a causal backbone (the paper does not say).
        return Predictions(hidden, seen, False, batch["mpm_positions"], batch["mpm_targets"])

    def _visible_input(self, batch: dict[str, Tensor], visible: Visible) -> Tensor:
        if not self.settings.leak_free:
            return visible.take(batch["decoded"])
        if self.visible_decoder is None:
            raise JetfmError("leak_free", "no tokenizer", "visible_decoder: its decode")
        ids = torch.where(visible.mask, visible.take(batch["ids"]), -1)
        return self.visible_decoder(ids, visible.mask).to(batch["decoded"].dtype)

    # Generation: one position a time -------------------------------------------------------------

    def forward(self, x: Tensor, mask: Tensor, n_constituents: Tensor) -> Tensor:
        """Next-token logits (B, T+1, K+2) after d_s, d_1, ..., d_T; `x` as the backbone reads."""
        hidden, visible = self.backbone(x, mask, n_constituents, causal=True)
        return self.ntp_head(hidden, visible, True)

    def new_caches(self) -> tuple[list, list]:
        """Empty caches of backbone and head."""
        return self.backbone.new_caches(), self.ntp_head.transformer.new_caches()

    def next_logits(
        self,
        newest: Tensor | None,
        n_constituents: Tensor,
        caches: tuple[list, list],
        out: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, K+2) of the next token.

        Parameters
        ----------
        newest : the newest constituent, decoded (B, F) or as id 0..K-1 (B,); None at the start
        out : (B, K+2), where to write them: fresh memory at every step costs as much as the draw
        """
        if newest is None:
            hidden = self.backbone.begin(n_constituents, caches[0])
        else:
            hidden = self.backbone.proceed(newest, n_constituents, caches[0])
        hidden = self.ntp_head.transformer(hidden, caches=caches[1]).squeeze(1)
        unembedding = self.ntp_head.unembedding
        return torch.addmm(unembedding.bias, hidden, unembedding.weight.T, out=out)

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the model, as JSON values."""
        config = {
            "settings": self.settings.model_dump(mode="json", exclude={"training"}),
            "n_codes": self.n_codes,
            "n_features": self.n_features,
            "tokenizer_hash": self.tokenizer_hash,
        }
        if self.settings.backbone.pair_bias:
            config["preprocessing"] = self.backbone.preprocessing.to_dict()
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> JetModel:
        """A fresh model of this `config`."""
        settings = PretrainingSettings.model_validate(config["settings"])
        sizes = config["n_codes"], config["n_features"], config["tokenizer_hash"]
        if not settings.backbone.pair_bias:
            return cls(settings, *sizes)
        return cls(settings, *sizes, Preprocessing.from_dict(config["preprocessing"]))


def load_backbone(folder: str | Path, tokenizer_hash: str | None = None) -> Backbone:
    """The backbone, with its start vector, of a pre-trained model: what fine-tuning starts from.

    Parameters
    ----------
    folder : of a pre-trained model
    tokenizer_hash : of the tokenizer whose tokens or network space the backbone is to meet

    Raises
    ------
    JetfmError
        As `JetModel.load`, or a backbone that was trained with another tokenizer.
    """
    model = JetModel.load(folder)
    if tokenizer_hash is not None and model.tokenizer_hash != tokenizer_hash:
        found = f"a backbone trained with tokenizer {model.tokenizer_hash[:12] or 'unknown'}"
        raise JetfmError(folder, found, f"tokenizer {tokenizer_hash[:12]}")
    return model.backbone
