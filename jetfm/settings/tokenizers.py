"""Settings of tokenizers and of the study that compares them.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149), C the
example configuration of P2's official code, O that of P1's.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from jetfm.settings.base import Fraction, Positive, Settings, known_class, merged
from jetfm.settings.training import OptimizerSettings, TrainingSettings

#: What each preset of a tokenizer sets; a profile may change any of it.
TOKENIZER_PRESETS: dict[str, dict[str, Any]] = {
    # P2 and C: the defaults of TokenizerSettings
    "hybrid": {},
    # P1 A.1; dropout, NormFormer's inner width and the training (100 epochs of 5850 batches): O
    "omnijet": {
        "pt_map": "log",
        "order": "pt",
        "half_width": 0.8,
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
    "binned": {"pt_map": "log", "order": "pt", "half_width": 0.8, "network": "binned"},
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
    pt_map: Literal["log1p", "log", "linear"] = "log1p"  # P2, P1, what P1 tried without logarithm
    order: Literal["random", "pt"] = "random"  # of the constituents: P2 shuffles, P1 sorts
    # Constituents further from the axis in eta_rel or phi_rel have no token (P1 II.A: 0.8; P2: all
    # have). Absent from files where there is no cut: tokenizers of before keep their hashes.
    half_width: float | None = Field(None, gt=0, exclude_if=lambda width: width is None)
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
        if self.causal_decoder:
            return "causal"
        return "linear" if self.pt_map == "linear" else "conditional"

    @property
    def label(self) -> str:
        """Family and codebook size, for legends."""
        names = {"fsq": "FSQ", "residual": "Residual VQ", "causal": "Conditional (causal)"}
        names["linear"] = "Conditional (no logarithm)"
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
        return known_class(name)

    @model_validator(mode="after")
    def _classified_exist(self):
        unknown = [name for name in self.classified if name not in self.tokenizers]
        if unknown:
            raise ValueError(f"'classified' names {unknown[0]!r}, which is not among 'tokenizers'")
        return self
