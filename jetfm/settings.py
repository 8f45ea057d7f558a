"""Settings of every stage, validated, with units and sources.

The defaults are the papers' values, with their source beside them, so that a profile
(`jetfm.config`) shows at a glance where it departs from the papers.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149), C the
example configuration of P2's official code, O that of P1's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from jetfm.data.schema import class_by_name
from jetfm.errors import JetfmError

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0)]


def merged(base: dict, changes: dict) -> dict:
    """`base` with `changes` on top, nested dictionaries entry by entry."""
    result = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else value
    return result


def from_preset(values: Any, presets: dict[str, dict]) -> Any:
    """Settings that stand beside a ``preset``, on top of what the preset says."""
    if not isinstance(values, dict):
        return values
    values = dict(values)
    preset = values.pop("preset", "hybrid")
    if preset not in presets:
        raise ValueError(f"preset should be one of {', '.join(presets)}")
    return merged(presets[preset], values)


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt name is an error.

    A part that is given only partly keeps the default of the rest: ``training: {max_steps: 100}``
    changes the steps and nothing else.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    completed_as_part: ClassVar[bool] = True

    @model_validator(mode="before")
    @classmethod
    def _complete_parts(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        values = dict(values)
        for name, field in cls.model_fields.items():
            default, given = field.default, values.get(name)
            if isinstance(default, Settings) and isinstance(given, dict):
                if default.completed_as_part:
                    values[name] = merged(default.model_dump(), given)
        return values


class SplitSizes(Settings):
    """Jets per class in each split; zero means all that the source has."""

    train: int = Field(ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)


class DataSettings(Settings):
    """Where the jets come from: the shipped sample, a simulation, or a folder of JetClass files."""

    source: Literal["sample", "simulate", "folder"]
    path: Path | None = None  # source 'folder': has train/, val/ and test/ with CLASS_NNN.root
    classes: tuple[str, ...] = ()  # JetClass labels without 'label_'; empty means all ten
    jets_per_class: SplitSizes
    jets_per_file: Positive = 1000  # simulation: one task, one file, one seed
    detector: str = "cms"  # a card in jetfm/data/cards
    workers: int = Field(0, ge=0)  # 0: one per core
    max_constituents: Positive = 128  # P1 II.A, C: pad_length

    @field_validator("classes")
    @classmethod
    def _known(cls, names):
        return tuple(_known_class(name) for name in names)

    @model_validator(mode="after")
    def _path_with_folder(self):
        if (self.source == "folder") != (self.path is not None):
            raise ValueError("'path' belongs to source 'folder', and only to it")
        return self


def _known_class(name: str) -> str:
    try:
        return class_by_name(name).name
    except JetfmError as error:
        raise ValueError(f"Input should be {error.expected}") from None


class OptimizerSettings(Settings):
    """Optimiser, learning-rate schedule and gradient clipping. Defaults: Ranger as in C."""

    name: Literal["ranger", "adamw"] = "ranger"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = Field(1e-5, gt=0)
    warmup_steps: int = Field(5, ge=0)  # C: lr/3 for the first five steps
    clip: float = Field(1.0, gt=0)  # largest gradient norm
    # (share of max_steps, factor on lr) in rising order: straight lines between, constant beyond
    schedule: tuple[tuple[Share, Factor], ...] = ()

    @field_validator("schedule")
    @classmethod
    def _rising(cls, points):
        shares = [share for share, _ in points]
        if shares != sorted(set(shares)):
            raise ValueError(f"shares of the steps must rise, found {shares}")
        return points


class TrainingSettings(Settings):
    """One training: batches, length, validation, early stopping."""

    batch_size: Positive
    max_steps: Positive
    validate_every: Positive  # steps; also the interval of checkpoints
    patience: Positive = 5  # validations without improvement before stopping
    precision: Literal["fp32", "bf16"] = "fp32"  # 'bf16': autocast, with attention in fp32 on CPUs
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of averaged weights, if wanted
    optimizer: OptimizerSettings = OptimizerSettings()


#: What each preset of a tokenizer sets; a profile may change any of it.
TOKENIZER_PRESETS: dict[str, dict[str, Any]] = {
    # P2 and C: the defaults of TokenizerSettings
    "hybrid": {},
    # P1 A.1; dropout, NormFormer's inner width and the training (100 epochs of 5850 batches): O
    "omnijet": {
        "pt_map": "log",
        "order": "pt",
        "network": "normformer",
        "latent_dim": 4,
        "mlp_ratio": 1,
        "dropout": 0.1,
        "causal_decoder": False,
        "replace_after": 10,
        "training": {
            "batch_size": 512,
            "max_steps": 585_000,
            "validate_every": 5850,
            "patience": 100,  # all epochs run; the best one is kept
            "optimizer": {
                "name": "adamw",
                "lr": 1e-3,
                "betas": (0.9, 0.999),
                "eps": 1e-8,
                "warmup_steps": 0,
                "clip": 5.0,
                "schedule": ((0.0, 0.5), (0.04, 1.0), (0.24, 0.5), (0.74, 0.3)),
            },
        },
    },
    # P1 II.B after arXiv 2303.07364: 21 x 21 x 21 cells
    "binned": {"pt_map": "log", "order": "pt", "network": "binned"},
}
# P1 A.1: three hidden layers of 128 with ReLU, all else as in the conditional approach
TOKENIZER_PRESETS["omnijet-unconditional"] = TOKENIZER_PRESETS["omnijet"] | {
    "network": "mlp",
    "n_blocks": 3,
    "dropout": 0.0,
}


class TokenizerSettings(Settings):
    """A tokenizer. Defaults: C, the kinematic set; loss constants also P1 A.1.

    ``preset`` starts from one of `TOKENIZER_PRESETS` instead; what stands beside it still wins.
    ``n_codes`` follows from ``bins`` or ``levels`` where those define the codes.
    """

    completed_as_part: ClassVar[bool] = False  # a preset decides what the rest is

    features: Literal["kinematics", "full"] = "kinematics"  # 3, or all 14 constituent features
    pt_map: Literal["log1p", "log"] = "log1p"  # P2, P1
    order: Literal["random", "pt"] = "random"  # of the constituents: P2 shuffles, P1 sorts
    # Pre-norm blocks with LayerScale (P2), NormFormer blocks (P1), an MLP on each constituent by
    # itself (P1, "unconditional"), or no network but a regular grid of cells (P1, "binned").
    network: Literal["transformer", "normformer", "mlp", "binned"] = "transformer"
    dim: Positive = 128
    n_blocks: Positive = 4  # in the encoder, and again in the decoder; of an MLP: hidden layers
    n_heads: Positive = 8
    mlp_ratio: Positive = 4
    dropout: Fraction = 0.0
    zero_gain: Literal["before", "after"] = "before"  # 'normformer': of which norm at start, O
    causal_decoder: bool = True
    # Ours, vqtorch's own layer where it is installed, finite scalar quantisation (arXiv
    # 2309.15505), or residual VQ (arXiv 2107.03312): the last two from vector-quantize-pytorch.
    quantizer: Literal["jetfm", "vqtorch", "fsq", "residual"] = "jetfm"
    n_codes: Positive = 8192
    latent_dim: Positive = 8
    bins: tuple[Positive, Positive, Positive] = (21, 21, 21)  # cells in pt, eta_rel and phi_rel
    levels: tuple[Annotated[int, Field(gt=2)], ...] = ()  # 'fsq': of each latent component
    n_residual: Annotated[int, Field(ge=2)] = 2  # 'residual': stages, each with its own codebook
    alpha: float = Field(10.0, gt=0)  # weight of the commitment loss, eq. A1 of P1
    beta: float = Field(0.9, ge=0, le=1)  # codebook against encoder within it
    nu: float = Field(1.0, ge=0)  # synchronised update
    affine_lr: float = Field(2.0, ge=0)  # 0 switches the affine map off
    replace_after: Positive = 500  # training steps without use before a code is replaced
    training: TrainingSettings = TrainingSettings(
        batch_size=500,
        max_steps=1_000_000,
        validate_every=25_000,
        optimizer=OptimizerSettings(clip=5.0),
    )

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        given = dict(values)
        preset = given.pop("preset", "hybrid")
        if preset not in list(TOKENIZER_PRESETS):
            raise ValueError(f"preset should be one of {', '.join(TOKENIZER_PRESETS)}")
        values = merged(TOKENIZER_PRESETS[preset], given)
        if values.get("network") == "binned":
            cells = values.get("bins") or (21, 21, 21)
            _derive(values, given, cells, n_codes=math.prod)
            values["causal_decoder"] = True  # a cell is decoded by itself
        elif values.get("quantizer") == "fsq":
            values["levels"] = cells = values.get("levels") or (8, 8, 8)
            _derive(values, given, cells, n_codes=math.prod, latent_dim=len)
        if values.get("network") == "mlp":
            values["causal_decoder"] = True
        return values

    @model_validator(mode="after")
    def _agree(self):
        if self.network == "binned" and self.features != "kinematics":
            raise ValueError("a grid of cells covers features 'kinematics' only")
        if self.quantizer == "residual":
            size = self.codes_per_stage
            if size**self.n_residual != self.n_codes:
                raise ValueError(
                    f"n_codes {self.n_codes} should be a power of n_residual = {self.n_residual}, "
                    f"e.g. {size**self.n_residual}"
                )
        return self

    @property
    def codes_per_stage(self) -> int:
        """Codebook of one residual stage: ids count the combinations of all stages."""
        return round(self.n_codes ** (1 / self.n_residual))

    @property
    def family(self) -> str:
        """What kind of tokenizer it is, for tables and figures."""
        if self.network == "binned":
            return "binned"
        if self.quantizer in ("fsq", "residual"):
            return self.quantizer
        if self.network == "mlp":
            return "unconditional"
        return "causal" if self.causal_decoder else "conditional"

    @property
    def label(self) -> str:
        """Family and codebook size, for legends."""
        names = {"fsq": "FSQ", "residual": "Residual VQ", "causal": "Conditional (causal)"}
        name = names.get(self.family, self.family.capitalize())
        wide = ", 14 features" if self.features == "full" else ""
        return f"{name}, {self.n_codes}{wide}"


def _derive(values: dict, given: dict, cells: Any, **rules: Callable[[Any], int]) -> None:
    """Set what follows from the cells; a preset's value gives way, one that was given must agree.

    Cells that are no whole numbers are left to the check of their own field.
    """
    if not isinstance(cells, (tuple, list)) or not all(isinstance(n, int) for n in cells):
        return
    for name, rule in rules.items():
        values[name] = rule(cells)
        if given.get(name, values[name]) != values[name]:
            expected = f"{values[name]}, which follows from the cells"
            raise ValueError(f"{name} {given[name]} should be {expected}")


class TokenClassifierSettings(Settings):
    """One classifier architecture of the token-quality study and its training. Defaults: P1 A.2."""

    training: TrainingSettings
    dim: Positive = 128  # transformer only, O; P1 does not say
    n_blocks: Positive = 5  # transformer only
    n_heads: Positive = 8  # transformer only


def _one_cycle(lr: float, first: float, last: float) -> TrainingSettings:
    # P1 A.2: up in 4 epochs, back in 20, then on to the last value, O: in another 50. Batch, its
    # 2000 batches an epoch and the clipping are O's as well.
    optimizer = OptimizerSettings(
        name="adamw", lr=lr, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0, clip=5.0,
        schedule=((0.0, first / lr), (4 / 74, 1.0), (24 / 74, first / lr), (1.0, last / lr)),
    )  # fmt: skip
    return TrainingSettings(
        batch_size=2048,
        max_steps=148_000,
        validate_every=2000,
        patience=74,  # all epochs run; the best one is kept
        optimizer=optimizer,
    )


class TokenQualitySettings(Settings):
    """Which tokenizers are compared, and how. Defaults: P1 III.A and A.2."""

    tokenizers: dict[str, TokenizerSettings] = {}  # beside the one that pre-training uses
    signal: str = "Tbqq"  # P1: resolutions are quoted for t->bqq'
    n_reconstructions: Positive = 500  # P1 II.B: of each conditional token, figure 3
    n_conditioning: Positive = 50  # random tokens that each of them is conditioned on
    classified: tuple[str, ...] = ()  # names of the tokenizers whose jets are classified, figure 5
    n_train: int = Field(10_000_000, ge=0)  # P1 A.2: jets, all classes; 0 means all there are
    n_seeds: Positive = 5
    deepsets: TokenClassifierSettings = TokenClassifierSettings(
        training=_one_cycle(5e-3, 2e-3, 1e-3)
    )
    transformer: TokenClassifierSettings = TokenClassifierSettings(
        training=_one_cycle(1e-3, 5e-4, 3e-4)
    )

    @field_validator("signal")
    @classmethod
    def _known(cls, name):
        return _known_class(name)

    @model_validator(mode="after")
    def _classified_exist(self):
        unknown = [name for name in self.classified if name not in self.tokenizers]
        if unknown:
            raise ValueError(f"'classified' names {unknown[0]!r}, which is not among 'tokenizers'")
        return self


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
    layer_scale: float = Field(1.0, gt=0)


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


class PretrainingSettings(Settings):
    """What a model learns without labels, and how. Defaults: P2, C.

    ``preset`` starts from one of `PRETRAINING_PRESETS` instead; what stands beside it still wins.
    """

    completed_as_part: ClassVar[bool] = False  # a preset decides what the rest is

    # Next token; masked particles; the same with a causal backbone; both in one step (P2).
    objective: Literal["ntp", "mpm", "mpm-causal", "joint"] = "ntp"
    mask_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.4  # of each jet's constituents
    n_mask_vectors: Positive = 100  # C; a jet's masked particles beyond share the last one
    # 'joint': every predicted token weighs the same, or either objective does as a whole
    weighting: Literal["per-token", "per-objective"] = "per-token"
    # Masked particles: decode the visible tokens alone, so that no trace of a masked one is left
    # in those after it. Ours; the papers' code does not.
    leak_free: bool = False
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

    @property
    def predicts_next(self) -> bool:
        """Whether the model learns to predict the next token, and so can generate."""
        return self.objective in ("ntp", "joint")

    @property
    def masks(self) -> bool:
        """Whether the model learns to predict masked particles."""
        return self.objective != "ntp"

    @property
    def label(self) -> str:
        """Objective and input, for legends."""
        names = {"ntp": "NTP", "mpm": "MPM", "mpm-causal": "MPM, causal", "joint": "NTP + MPM"}
        name = names[self.objective]
        if self.backbone.network == "gpt":
            return f"{name}, token ids (OmniJet-\u03b1)"
        return f"{name}, token ids" if self.backbone.input == "token-id" else name


class GenerationSettings(Settings):
    """Autoregressive sampling. Defaults: plain multinomial (P1 II.C, C)."""

    n_jets: Positive = 48_000  # P1 III.B
    batch_size: Positive = 512
    temperature: float = Field(1.0, gt=0)


class FinetuningSettings(Settings):
    """t->bqq' against q/g for several training sizes. Grid and optimiser: P1 A.4; batches: P2."""

    signal: str = "Tbqq"
    background: str = "QCD"
    sizes: tuple[Positive, ...] = (100, 1000, 10_000, 100_000, 1_000_000, 2_000_000)
    n_seeds: Positive = 5
    max_steps: Positive = 100_000
    batch_size: Positive = 1000
    small_batch_size: Positive = 100  # P2: for training sets up to small_size
    small_size: Positive = 10_000
    patience_epochs: tuple[tuple[Positive, Positive], ...] = (  # P1 A.4: up to this size
        (10_000, 20),
        (1_000_000, 10),
        (2_000_000, 5),
    )
    optimizer: OptimizerSettings = OptimizerSettings(
        name="adamw", lr=1e-4, weight_decay=1e-2, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0
    )

    @field_validator("signal", "background")
    @classmethod
    def _known(cls, name):
        return _known_class(name)

    def patience(self, size: int) -> int:
        """Epochs without improvement that end a training on `size` jets."""
        fitting = [epochs for limit, epochs in self.patience_epochs if size <= limit]
        return fitting[0] if fitting else self.patience_epochs[-1][1]
