"""Settings of EPiC-FM, the generator without tokens that paper 1 compares with (its figure 18).

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), E EPiC-GAN (arXiv 2301.08128), where the layers
come from, B the example configuration of EPiC-FM's official code for JetClass (arXiv 2312.00123,
uhh-pd-ml/beyond_kinematics), with the optimiser of the library that it is a part of (particle_fm).
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, field_validator

from jetfm.settings.base import Positive, Settings, known_class
from jetfm.settings.training import OptimizerSettings, TrainingSettings

_EPOCH = 2930  # steps: 3M jets in batches of 1024 (B)
_WARMUP = 20 / 500  # epochs (B)
# A cosine from 1 to 0 as straight lines between 17 points, accurate to 0.5 % of the peak.
_COSINE = tuple(
    (_WARMUP + (1 - _WARMUP) * k / 16, (1 + math.cos(math.pi * k / 16)) / 2) for k in range(17)
)


class FlowSettings(Settings):
    """EPiC network, flow matching and its training. Defaults: B."""

    classes: tuple[str, ...] = ("Tbqq",)  # P1, figure 18: t->bqq' alone; empty means all
    n_layers: Positive = 20
    dim: Positive = 300  # of the constituents' vectors and of all hidden layers
    global_dim: Positive = 16  # of the jet's vector
    # Time enters as cos and sin of 2^k pi t, k < n_frequencies: the code's own default; the
    # library's configuration has 32 cosines instead.
    n_frequencies: Positive = 6
    sum_scale: float = Field(1e-2, gt=0)  # factor on the sum in the pooling; E has none
    sigma_min: Annotated[float, Field(ge=0, lt=1)] = 1e-4  # width of the flow around a data point
    data_std: float = Field(5.0, gt=0)  # standard deviation of standardised features; noise has 1
    n_steps: Positive = 100  # of the midpoint solver: 200 evaluations of the network
    training: TrainingSettings = TrainingSettings(
        batch_size=1024,
        max_steps=500 * _EPOCH,
        validate_every=_EPOCH,
        patience=500,  # all epochs run; the best one is kept
        ema=0.999,
        optimizer=OptimizerSettings(
            name="adamw",
            lr=1e-3,
            weight_decay=5e-5,
            betas=(0.9, 0.999),
            eps=1e-8,
            warmup_steps=0,  # the schedule has a warm-up of its own
            clip=0.5,
            schedule=((0.0, 0.0), *_COSINE),
        ),
    )

    @field_validator("classes")
    @classmethod
    def _known(cls, names):
        return tuple(known_class(name) for name in names)
