"""The transformer that pre-training fills with knowledge of jets and that all heads share.

A jet enters as [r_1..r_8, d_s, x_1..x_N]: trainable registers, a trainable start vector d_s in
*feature* space, and the constituents' features (decoded ones in pre-training, measured ones in
classification). Every position but the registers is told how many constituents the jet has
(`jetfm.models.multiplicity_condition`). Causal for next-token prediction, bidirectional for
masked particles and classification. Registers are visible to every position; in a causal pass
each sees the registers before it and nothing else, so they carry nothing from the future. Sizes
and details follow arXiv 2512.04149 and its official example configuration.

With input 'token-id' an embedding of the vocabulary (start 0, codes 1..K) takes the place of
features and start vector. With `pair_bias` the scores of all blocks also know what Particle
Transformer's pair features say of two constituents (`jetfm.models.interactions`); registers and
start vector have none. With network 'gpt', that input, and neither registers nor condition, this
is the backbone of arXiv 2403.05618.

At the second paper's size and with 3 features: 1,590,144 parameters plus the 3 of d_s.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.errors import JetfmError
from jetfm.models.interactions import PairBias, SeenConstituents
from jetfm.models.multiplicity_condition import MultiplicityCondition
from jetfm.models.transformer import GPTBlock, KVCache, Stack, Transformer
from jetfm.physics.features import Preprocessing
from jetfm.settings import BackboneSettings


class Backbone(nn.Module):
    """Transformer backbone.

    Parameters
    ----------
    settings : sizes and kind of input
    n_features : features of a constituent in network space; of continuous input
    n_codes : K of the tokenizer; of input by token ids
    preprocessing : the map from physical to network space, which a pair bias has to undo

    Raises
    ------
    JetfmError
        A pair bias without a preprocessing, or with one of another number of features.
    """

    def __init__(
        self,
        settings: BackboneSettings | None = None,
        n_features: int = 3,
        n_codes: int = 8192,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings = settings or BackboneSettings()
        self.n_features, self.n_codes, self.dim = n_features, n_codes, settings.dim
        self.reads_ids = settings.input == "token-id"
        if self.reads_ids:
            self.embedding = nn.Embedding(n_codes + 1, settings.dim)
            with torch.no_grad():
                self.embedding.weight *= settings.embedding_std
        else:
            self.start = nn.Parameter(torch.zeros(n_features))  # d_s, zero-initialised
            self.features_in = nn.Linear(n_features, settings.dim)
        if settings.told_multiplicity:
            self.multiplicity_in = MultiplicityCondition(settings.dim)
        registers = torch.randn(settings.n_registers, settings.dim)
        # no parameter of size zero, which cannot be shared out over processes
        self.registers = nn.Parameter(registers) if settings.n_registers else None
        self.register_load_state_dict_pre_hook(_without_empty_registers)
        self.transformer = _network(settings)
        self.preprocessing = preprocessing
        if settings.pair_bias:
            self._check_preprocessing()
            self.pair_bias = PairBias(settings.n_heads, preprocessing)

    def fresh(self) -> Backbone:
        """Another one of the same sizes, with random weights."""
        return type(self)(self.settings, self.n_features, self.n_codes, self.preprocessing)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        n_constituents: Tensor,
        causal: bool,
        n_real: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Represent jets.

        Parameters
        ----------
        x : (B, T, F) features in network space, or (B, T) ids 0..K-1; right-padded
        mask : (B, T) True at real constituents
        n_constituents : (B,) uncapped number of constituents
        causal : position i sees the start vector and constituents up to i
        n_real : how many constituents are real in all: work on them one jet after the other,
            without padding; not with a pair bias

        Returns
        -------
        hidden : (B, T+1, C); position 0 belongs to the start vector
        mask : (B, T+1), True there and at real constituents
        """
        self._check(x, mask, n_constituents)
        n_jets = x.shape[0]  # len would fix it in an exported network
        embedded = torch.cat([self._start(n_jets), self._constituents(x)], 1)
        embedded = self._conditioned(embedded, n_constituents)
        n_registers = self.settings.n_registers
        if n_registers:
            embedded = torch.cat([self.registers.expand(n_jets, -1, -1), embedded], 1)
        visible = torch.cat([mask.new_ones(n_jets, n_registers + 1), mask], 1)
        bias = None
        if self.settings.pair_bias:  # of pairs of constituents alone
            bias = F.pad(self.pair_bias(x, mask), (n_registers + 1, 0, n_registers + 1, 0))
        if n_real is not None:
            n_real += len(x) * (n_registers + 1)
        hidden = self.transformer(embedded, visible, causal, bias=bias, n_real=n_real)
        return hidden[:, n_registers:], visible[:, n_registers:]

    def begin(self, n_constituents: Tensor, caches: list[KVCache | SeenConstituents]) -> Tensor:
        """First causal step, registers and start vector: (B,) multiplicities to (B, 1, C).

        Registers see neither jet nor multiplicity, so that one jet's serve all.
        """
        n_jets = len(n_constituents)
        if self.settings.n_registers:
            self.transformer(self.registers.unsqueeze(0), caches=caches)
            for cache in caches:
                cache.keep(torch.zeros(n_jets, dtype=torch.int64, device=n_constituents.device))
        embedded = self._conditioned(self._start(n_jets), n_constituents)
        return self.transformer(embedded, caches=caches)

    def proceed(
        self, x: Tensor, n_constituents: Tensor, caches: list[KVCache | SeenConstituents]
    ) -> Tensor:
        """One more causal step: the newest constituent, (B, F) or id (B,), to (B, 1, C)."""
        embedded = self._conditioned(self._constituents(x.unsqueeze(1)), n_constituents)
        bias = None
        if self.settings.pair_bias:
            bias = self.pair_bias.newest(caches[-1].add(x))
            bias = F.pad(bias, (self.settings.n_registers + 1, 0))
        return self.transformer(embedded, caches=caches, bias=bias)

    def new_caches(self) -> list[KVCache | SeenConstituents]:
        """Empty caches for `begin` and `proceed`: of each block, and last, with a pair bias, the
        constituents."""
        last = [SeenConstituents()] if self.settings.pair_bias else []
        return [*self.transformer.new_caches(), *last]

    def _start(self, n_jets: int) -> Tensor:
        """(B, 1, C), not conditioned yet."""
        if self.reads_ids:
            return self.embedding.weight[0].expand(n_jets, 1, -1)
        return self.features_in(self.start.expand(n_jets, 1, -1))

    def _constituents(self, x: Tensor) -> Tensor:
        return self.embedding(x + 1) if self.reads_ids else self.features_in(x)

    def _conditioned(self, embedded: Tensor, n_constituents: Tensor) -> Tensor:
        if not self.settings.told_multiplicity:
            return embedded
        return self.multiplicity_in(embedded, n_constituents)

    def _check_preprocessing(self) -> None:
        if self.preprocessing is None:
            expected = "the one that its constituents come through"
            raise JetfmError("backbone.pair_bias", "no preprocessing", expected)
        if self.preprocessing.n_features != self.n_features:
            found = f"a preprocessing of {self.preprocessing.n_features} features"
            raise JetfmError("backbone.pair_bias", found, f"one of {self.n_features}")

    def _check(self, x: Tensor, mask: Tensor, n_constituents: Tensor) -> None:
        if self.reads_ids:
            good, expected = x.shape == mask.shape and not x.is_floating_point(), "ids (B, T)"
        else:
            good = x.ndim == 3 and x.shape[-1] == self.n_features and mask.shape == x.shape[:2]
            expected = f"(B, T, {self.n_features})"
        if not good or n_constituents.shape != x.shape[:1]:
            found = f"{tuple(x.shape)}, {tuple(mask.shape)}, {tuple(n_constituents.shape)}"
            raise JetfmError("backbone input", found, f"{expected}, (B, T), (B,)")


def _network(settings: BackboneSettings) -> Stack:
    if settings.network == "gpt":
        return Stack(
            GPTBlock(settings.dim, settings.n_heads, settings.mlp_ratio)
            for _ in range(settings.n_blocks)
        )
    return Transformer(
        settings.dim,
        settings.n_blocks,
        settings.n_heads,
        settings.mlp_ratio,
        dropout=settings.dropout,
        layer_scale=settings.layer_scale,
        final_norm=True,
        **settings.attention_dropouts,
    )


def _without_empty_registers(module: Backbone, state: dict, prefix: str, *_) -> None:
    """Models of before have registers of size zero where these have none."""
    name = f"{prefix}registers"
    if module.registers is None and name in state and not state[name].numel():
        del state[name]
