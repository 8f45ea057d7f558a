"""The model that pre-training trains: one backbone, and a head for each objective.

Next tokens, masked particles or both (`jetfm.models.objectives`) of arXiv 2512.04149; with the
settings of arXiv 2403.05618 also OmniJet-alpha. A joint step makes two passes through the shared
backbone: causal over the whole jet, bidirectional over its visible part. The backbone is told the
multiplicity (`jetfm.models.backbone`).

Inputs are the *decoded* d_i. With a causal tokenizer decoder d_i depends on t_1..t_i only, so NTP
leaks no target. In MPM a visible d_j behind a masked constituent carries a trace of it;
`leak_free` decodes the visible tokens alone (`visible_decoder`).

Two steps make a loss. `JetModel.plan` works out on the CPU, while the batch is made, what depends
on lengths and random masks alone: which constituents are masked, and the indices of all that is
gathered. `JetModel.loss` then only computes: on a GPU it never asks the device for a number.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

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
from jetfm.models.objectives import (
    OBJECTIVES,
    Predictions,
    masked_token_targets,
    next_token_targets,
    together,
)
from jetfm.physics.features import Preprocessing
from jetfm.settings import PretrainingSettings
from jetfm.storage.weights import SavedModule


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
        tokenizer's `decode_known`; not part of the model's weights
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
            layer_scale=backbone.layer_scale,
            **backbone.attention_dropouts,
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
        batch : as for `loss`; on the CPU, if no GPU is to be kept waiting. 'maskable' (B, T), where
            there is one, says which constituents may be masked: those that have a token
        generator : draws the masked constituents; by default torch's global one
        part : which jets of a larger batch these are, whose masks do not depend on that

        Returns
        -------
        `batch` and for each objective '_positions' (n,) and '_targets' (n,), see `Predictions`;
        for masked particles also 'mpm_slots' and 'mpm_visible', of `Visible`, and 'mpm_rows', of
        `whole_rows`; where jets are packed 'real' and 'mpm_real', the places of constituents
        """
        batch = dict(batch)
        ids, mask = batch["ids"], batch["mask"]
        targets = {}
        if self._packs:
            batch["real"] = mask.flatten().nonzero().squeeze(1)
        if self.settings.predicts_next:
            targets["ntp"] = next_token_targets(ids, mask, batch["n_constituents"], self.n_codes)
        if self.settings.masks:
            maskable = batch.get("maskable", mask)
            masked = draw_masked(maskable, self.settings.mask_fraction, generator, part)
            visible = visible_part(mask, masked)
            ranks = pt_ranks(batch["decoded"][..., 0], masked)
            batch["mpm_slots"], batch["mpm_visible"] = visible
            batch["mpm_rows"] = whole_rows(visible, ranks, len(self.mask_vectors))
            if self._packs:
                batch["mpm_real"] = visible.mask.flatten().nonzero().squeeze(1)
            targets["mpm"] = masked_token_targets(ids, masked)
        for name, wanted in targets.items():
            if "silent" in batch:  # a process that has no jet left still takes part in the step
                wanted.fill_(-1)
            positions = (wanted.flatten() >= 0).nonzero().squeeze(1)
            batch[f"{name}_positions"] = positions
            batch[f"{name}_targets"] = wanted.flatten()[positions]
        return batch

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Loss of the objectives and what to log: `jetfm.models.objectives.together`.

        Parameters
        ----------
        batch : 'ids' (B, T), 'decoded' (B, T, F), 'mask' (B, T), 'n_constituents' (B,); with a
            `plan`, or one is made
        """
        batch = self._planned(batch)
        results = {name: self.head(name).loss(*self.asked(name, batch)) for name in self.objectives}
        return together(results, self.settings.weighting)

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
        hidden, seen = self.backbone(
            x, batch["mask"], batch["n_constituents"], True, self._n_real(batch, "real")
        )
        asked = batch["ntp_positions"], batch["ntp_targets"]
        return Predictions(hidden, seen, True, *asked, self._n_of_head(batch))

    def _masked_tokens(self, batch: dict[str, Tensor]) -> Predictions:
        visible = Visible(batch["mpm_slots"], batch["mpm_visible"])
        x = self._visible_input(batch, visible)
        causal = self.settings.objective == "mpm-causal"
        hidden, _ = self.backbone(
            x, visible.mask, batch["n_constituents"], causal, self._n_real(batch, "mpm_real")
        )
        hidden = put_back(hidden, batch["mpm_rows"], self.mask_vectors)
        seen = F.pad(batch["mask"], (1, 0), value=True)
        # The head is bidirectional even over a causal backbone (the paper does not say).
        asked = batch["mpm_positions"], batch["mpm_targets"]
        return Predictions(hidden, seen, False, *asked, self._n_of_head(batch))

    @property
    def _packs(self) -> bool:
        return self.settings.layout == "packed"

    def _n_real(self, batch: dict[str, Tensor], which: str) -> int | None:
        """Real constituents of all jets, as a shape says it: nothing has to be asked for."""
        return len(batch[which]) if self._packs else None

    def _n_of_head(self, batch: dict[str, Tensor]) -> int | None:
        """With the start of each jet."""
        n = self._n_real(batch, "real")
        return None if n is None else n + len(batch["mask"])

    def _visible_input(self, batch: dict[str, Tensor], visible: Visible) -> Tensor:
        if not self.settings.leak_free:
            return visible.take(batch["decoded"])
        if self.visible_decoder is None:
            raise JetfmError("leak_free", "no tokenizer", "visible_decoder: its decode_known")
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

    Parameters and errors are those of `load_model`.
    """
    return load_model(folder, tokenizer_hash).backbone


def load_model(folder: str | Path, tokenizer_hash: str | None = None) -> JetModel:
    """A pre-trained model that is to be fine-tuned.

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
    return model
