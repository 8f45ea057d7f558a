"""Settings of the model: pre-training, generation and its judges.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149), C the
example configuration of P2's official code, O that of P1's.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from jetfm.settings.base import Fraction, Positive, Settings, Share, from_preset, known_class
from jetfm.settings.training import TrainingSettings

#: What the tokenizer and the pre-training are called that the others are compared with.
MAIN = "main"


class BackboneSettings(Settings):
    """The transformer that all heads share. Defaults: C."""

    # Pre-norm blocks with LayerScale, registers and the multiplicity as condition (P2), or plain
    # GPT blocks: post-norm, ReLU, no bias in queries, keys and values (P1 II.C, O).
    network: Literal["transformer", "gpt"] = "transformer"
    # Decoded features of each constituent (P2), or an embedding of its token (P1).
    input: Literal["continuous", "token-id"] = "continuous"
    dim: Positive = 128
    n_blocks: Positive = 8
    n_heads: Positive = 8
    mlp_ratio: Positive = 4
    n_registers: int = Field(8, ge=0)
    told_multiplicity: bool = True  # every position is told the number of constituents
    dropout: Fraction = 0.1
    # On the attention's weights (C), or on what the attention adds ('residual'), which is no
    # method of the papers: kernels for packed jets have no other (`PretrainingSettings.layout`).
    dropout_on: Literal["attention", "residual"] = Field(
        "attention", exclude_if=lambda where: where == "attention"
    )
    layer_scale: float = Field(1.0, gt=0)
    # Standard deviation with which embeddings of tokens start: torch's (O). With network 'gpt' of
    # width 64, .02 learns in two thirds of the time; the other network it harms (measured:
    # docs/optimisers.md).
    embedding_std: float = Field(1.0, gt=0, exclude_if=lambda std: std == 1.0)
    # Attention scores are told Particle Transformer's features of each pair of constituents (off
    # in P2). Absent from files where off: models of before this setting keep their hashes.
    pair_bias: bool = Field(False, exclude_if=operator.not_)

    @property
    def attention_dropouts(self) -> dict[str, float]:
        """'attention_dropout' and 'residual_dropout' of every block, in backbone and heads."""
        where = {"attention": "attention_dropout", "residual": "residual_dropout"}
        return {name: self.dropout * (self.dropout_on == on) for on, name in where.items()}

    @model_validator(mode="after")
    def _of_gpt(self):
        if self.network == "gpt":
            for name, without in (("dropout", 0.0), ("layer_scale", 1.0)):
                value = getattr(self, name)
                if value != without:
                    raise ValueError(f"network 'gpt' has no {name}: set {without}, found {value}")
        return self

    @model_validator(mode="after")
    def _has_embeddings(self):
        if self.embedding_std != 1.0 and self.input != "token-id":
            raise ValueError("embedding_std needs input 'token-id': there is no other embedding")
        return self

    @model_validator(mode="after")
    def _has_pairs(self):
        if self.pair_bias and self.input == "token-id":
            raise ValueError("pair_bias needs input 'continuous': ids do not tell the kinematics")
        return self


class TokenHeadSettings(Settings):
    """Head that predicts token ids: blocks, LayerNorm, Linear. Defaults: C."""

    n_blocks: int = Field(2, ge=0)  # 0: a single linear layer, without a norm (P1 II.C)
    mlp_ratio: Positive = 2


#: What each preset of a pre-training sets; a profile may change any of it.
PRETRAINING_PRESETS: dict[str, dict[str, Any]] = {
    # P2 and C: the defaults of PretrainingSettings
    "hybrid": {},
    # P1 II.C, A.3; the width, weight decay, batches and patience: O
    "omnijet": {
        "objective": "ntp",
        "backbone": {
            "network": "gpt",
            "input": "token-id",
            "dim": 256,
            "n_blocks": 3,
            "n_registers": 0,
            "told_multiplicity": False,
            "dropout": 0.0,
        },
        "head": {"n_blocks": 0},
        "training": {
            "batch_size": 256,
            "max_steps": 234_000,  # 30 epochs of 7800 batches
            "validate_every": 7800,
            "patience": 20,
            "optimizer": {
                "name": "adamw",
                "lr": 1e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "warmup_steps": 0,
            },
        },
    },
}


_MASK_FRACTION = 0.4  # C


class PretrainingSettings(Settings):
    """What a model learns without labels, and how. Defaults: P2, C.

    ``preset`` starts from one of `PRETRAINING_PRESETS` instead; what stands beside it still wins.
    """

    completed_as_part: ClassVar[bool] = False  # a preset decides what the rest is

    # Whose tokens it predicts, and whose features it reads: 'main', or one of token_quality's.
    tokenizer: str = MAIN
    # Next token; masked particles; the same with a causal backbone; both in one step (P2).
    objective: Literal["ntp", "mpm", "mpm-causal", "joint"] = "ntp"
    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = (
        _MASK_FRACTION  # of each jet's constituents
    )
    n_mask_vectors: Positive = 100  # C; a jet's masked particles beyond share the last one
    # 'joint': every predicted token weighs the same, or either objective does as a whole
    weighting: Literal["per-token", "per-objective"] = "per-token"
    # Masked particles: decode the visible tokens alone, so that no trace of a masked one is left
    # in those after it. Ours; the papers' code does not.
    leak_free: bool = False
    # How a batch lies in memory: each jet padded to the longest of its batch, or one jet after the
    # other ('packed', `jetfm.models.packing`), for GPUs. Results agree up to rounding.
    layout: Literal["padded", "packed"] = Field(
        "padded", exclude_if=lambda layout: layout == "padded"
    )
    # Train or validate on so many jets, drawn at random; zero means all.
    limit_train_jets: int = Field(0, ge=0)
    limit_val_jets: int = Field(0, ge=0)
    # Learn from the jets' mirror images in eta_rel and phi_rel, too. Ours, for small samples.
    mirrored: bool = Field(False, exclude_if=operator.not_)
    # Train it so many times, with seeds of their own. The first is the one that is looked at and
    # generates; the seeds of fine-tuning start from all in turn, so that its spread has theirs.
    n_trainings: Positive = Field(1, exclude_if=lambda n: n == 1)
    backbone: BackboneSettings = BackboneSettings()
    head: TokenHeadSettings = TokenHeadSettings()
    training: TrainingSettings = TrainingSettings(
        batch_size=1000, max_steps=1_000_000, validate_every=25_000
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: Any) -> Any:
        return from_preset(values, PRETRAINING_PRESETS)

    @model_validator(mode="after")
    def _possible(self):
        if self.masks and self.backbone.input == "token-id":
            raise ValueError("masked particles need backbone.input 'continuous': their mask "
                             "vectors are ranked by pt, which ids do not tell")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _packs(self):
        if self.layout != "packed":
            return self
        backbone = self.backbone
        if backbone.pair_bias:
            raise ValueError("layout 'packed' has no pair_bias: its attention adds nothing to "
                             "scores; set layout: padded")  # fmt: skip
        if backbone.dropout and backbone.dropout_on == "attention":
            raise ValueError("layout 'packed' has no dropout of attention weights: set "
                             "backbone.dropout_on: residual, or dropout: 0")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _mirrors_all(self):
        if self.mirrored and self.limit_train_jets:
            raise ValueError("mirrored is for all jets: set limit_train_jets to 0")
        return self

    @property
    def predicts_next(self) -> bool:
        """Whether the model learns to predict the next token, and so can generate."""
        return self.objective in ("ntp", "joint")

    @property
    def masks(self) -> bool:
        """Whether the model learns to predict masked particles."""
        return self.objective != "ntp"

    @property
    def needs_tokenizer(self) -> bool:
        """Whether training asks the tokenizer for more than its tokens."""
        return self.leak_free or self.backbone.pair_bias

    @property
    def label(self) -> str:
        """Objective and input, for legends."""
        names = {"ntp": "NTP", "mpm": "MPM", "mpm-causal": "MPM, causal", "joint": "NTP + MPM"}
        name = names[self.objective] + (", pair bias" if self.backbone.pair_bias else "")
        if self.masks and self.mask_fraction != _MASK_FRACTION:
            name += f", {100 * self.mask_fraction:.3g} % masked"
        if self.backbone.network == "gpt":
            return f"{name}, token ids (OmniJet-\u03b1)"
        return f"{name}, token ids" if self.backbone.input == "token-id" else name


class ScalingSettings(Settings):
    """Small trainings of the main objective, from which the main model's loss is foretold. Ours."""

    # Width and number of blocks of each network; the rest is the main model's.
    networks: tuple[tuple[Positive, Positive], ...] = ((32, 2), (64, 4), (96, 6))
    # Lengths of each network's trainings, as shares of the main model's steps.
    shares: tuple[Share, ...] = (0.0625, 0.125, 0.25)

    @field_validator("networks", "shares")
    @classmethod
    def _several(cls, values):
        if len(values) < 2 or len(set(values)) < len(values):
            raise ValueError(f"should be at least two, each once, found {list(values)}")
        return values

    @model_validator(mode="after")
    def _enough(self):
        if len(self.networks) * len(self.shares) < 6:
            found = f"{len(self.networks)} networks and {len(self.shares)} lengths"
            raise ValueError(f"a law of five numbers needs six trainings or more, found {found}")
        return self

    def steps(self, most: int) -> list[int]:
        """Of the trainings, rising, where the main model takes `most`."""
        return [max(round(share * most), n) for n, share in enumerate(sorted(self.shares), 1)]


class GenerationSettings(Settings):
    """Autoregressive sampling. Defaults: plain multinomial (P1 II.C, C)."""

    n_jets: Positive = 48_000  # P1 III.B
    batch_size: Positive = 512
    temperature: float = Field(1.0, gt=0)
    top_k: Positive | None = None
    top_p: float | None = Field(None, gt=0, le=1)


class GenerativeQualitySettings(Settings):
    """Paper 1's generators of figures 6, 16, 17, and how all generators are judged."""

    # By name, the classes that a model of its own is trained on (P1 III.B, appendix C).
    trained_on: dict[str, tuple[str, ...]] = {
        "combined": ("QCD", "Tbqq"),
        "QCD": ("QCD",),
        "Tbqq": ("Tbqq",),
    }
    model: PretrainingSettings = PretrainingSettings(preset="omnijet")  # the network of all three
    # Steps of models of one jet type, which have fewer jets to learn from; None: as many
    steps_of_single: Positive | None = Field(None, exclude_if=lambda steps: steps is None)
    # By network of the classifier test (`jetfm.judging.classifier_test`): epochs, 0 leaves it out.
    # DeepSets: P1 A.5.
    classifier_epochs: dict[Literal["deepsets", "transformer"], Annotated[int, Field(ge=0)]] = {
        "deepsets": 100,
        "transformer": 100,
    }
    # Classifier tests of each network, which differ in their weights and in which jets they learn
    # from and are tested on; their mean is the result. Ours.
    classifier_seeds: Positive = Field(1, exclude_if=lambda n: n == 1)
    n_bootstrap: int = Field(50, ge=2)  # resamplings behind every uncertainty
    n_training: Positive = 100_000  # training jets among which copies are looked for, at most

    def model_of(self, name: str) -> PretrainingSettings:
        """Settings of the model of these of `trained_on`."""
        steps, model = self.steps_of_single, self.model
        if steps is None or len(self.trained_on[name]) > 1:
            return model
        training = model.training.model_copy(update={"max_steps": steps})
        return model.model_copy(update={"training": training})

    @field_validator("trained_on")
    @classmethod
    def _known(cls, names):
        for name, classes in names.items():
            if not classes:
                raise ValueError(f"{name} should name the classes to train on")
        return {name: tuple(map(known_class, classes)) for name, classes in names.items()}

    @field_validator("model")
    @classmethod
    def _generates(cls, model):
        if not model.predicts_next:
            raise ValueError("model.objective should be 'ntp' or 'joint', which can generate")
        return model
