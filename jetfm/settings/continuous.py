"""Settings of the continuous generator, which predicts a density instead of a token.

Neither paper has one: 2512.04149 (P2) leaves generation without discrete tokens open. Backbone,
head blocks and optimiser keep P2's defaults, so that the tokens are all that changes.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from jetfm.settings.base import Positive, Settings
from jetfm.settings.models import BackboneSettings, TokenHeadSettings
from jetfm.settings.training import TrainingSettings


class ContinuousSettings(Settings):
    """Backbone, mixture density and training of `jetfm.models.continuous_model`."""

    # Random, drawn anew whenever a jet comes (P2's kind of order), or falling pt (P1's).
    order: Literal["random", "pt"] = "random"
    backbone: BackboneSettings = BackboneSettings()
    head: TokenHeadSettings = TokenHeadSettings()  # its blocks; the density takes the logits' place
    n_components: Positive = 16  # Gaussians per constituent
    # Smallest width of a Gaussian, in network space: 1% in 1 + pt/GeV and 0.003 in angle at the
    # usual scales, finer than the detector, so that no density grows without bound.
    min_scale: float = Field(0.01, gt=0)
    training: TrainingSettings = TrainingSettings(
        batch_size=1000, max_steps=1_000_000, validate_every=25_000
    )

    @field_validator("backbone")
    @classmethod
    def _reads_features(cls, backbone):
        if backbone.input != "continuous":
            raise ValueError("backbone.input should be 'continuous': there are no tokens to read")
        return backbone
