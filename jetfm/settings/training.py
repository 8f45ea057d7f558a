"""Settings of any training: optimiser, schedule, batches, early stopping.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149), C the
example configuration of P2's official code, O that of P1's.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from jetfm.settings.base import Factor, Positive, Settings, Share


class OptimizerSettings(Settings):
    """Optimiser, learning-rate schedule and gradient clipping. Defaults: Ranger as in C."""

    # 'soap' needs the package pytorch-optimizer
    name: Literal["ranger", "adamw", "muon", "soap"] = "ranger"
    lr: float = Field(1e-3, gt=0)
    # 'muon': AdamW's rate for what is no matrix of a block; None is 0.4 lr (`docs/optimisers.md`)
    lr_others: float | None = Field(None, gt=0, exclude_if=lambda rate: rate is None)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = Field(1e-5, gt=0)
    warmup_steps: int = Field(5, ge=0)  # C: lr/3 for the first five steps
    clip: float = Field(1.0, gt=0)  # largest gradient norm
    # (share of max_steps, factor on lr) in rising order: straight lines between, constant beyond
    schedule: tuple[tuple[Share, Factor], ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _muons_defaults(cls, values):
        """Those that `docs/optimisers.md` finds good, so that ``name: muon`` is enough."""
        if isinstance(values, dict) and values.get("name") == "muon":
            return {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-8} | values
        return values

    @property
    def rate_of_others(self) -> float:
        """Muon's rate for what is no matrix of a block."""
        return 0.4 * self.lr if self.lr_others is None else self.lr_others

    @model_validator(mode="after")
    def _of_muon(self):
        if self.lr_others is not None and self.name != "muon":
            raise ValueError(f"lr_others belongs to name 'muon', found '{self.name}'")
        return self

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
    # 'bf16': autocast, with attention in fp32 on CPUs; all in fp32 on CPUs that would emulate it
    precision: Literal["fp32", "bf16"] = "fp32"
    # Compile blocks and cross-entropy (`jetfm.models.compiled`): nowhere, on a GPU alone, or
    # everywhere; on a CPU compiling takes longer than most trainings here.
    compile: Literal["no", "gpu", "yes"] = Field("no", exclude_if=lambda where: where == "no")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of averaged weights, if wanted
    optimizer: OptimizerSettings = OptimizerSettings()

    def compiles_on(self, device: str) -> bool:
        """Whether a training on 'cpu' or 'cuda' is compiled."""
        return self.compile == "yes" or (self.compile == "gpu" and device == "cuda")
