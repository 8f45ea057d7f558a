"""Settings of every stage, validated, with units and sources.

The defaults are the papers' values, with their source beside them, so that a profile
(`jetfm.config`) shows at a glance where it departs from the papers.
"""

from jetfm.settings.base import Settings, merged
from jetfm.settings.continuous import ContinuousSettings
from jetfm.settings.data import DataSettings, SplitSizes
from jetfm.settings.flow import FlowSettings
from jetfm.settings.models import (
    PRETRAINING_PRESETS,
    BackboneSettings,
    FinetuningSettings,
    GenerationSettings,
    GenerativeQualitySettings,
    PretrainingSettings,
    TokenHeadSettings,
)
from jetfm.settings.tokenizers import (
    TOKENIZER_PRESETS,
    TokenClassifierSettings,
    TokenizerSettings,
    TokenQualitySettings,
)
from jetfm.settings.training import OptimizerSettings, TrainingSettings

__all__ = [
    "PRETRAINING_PRESETS",
    "TOKENIZER_PRESETS",
    "BackboneSettings",
    "ContinuousSettings",
    "DataSettings",
    "FinetuningSettings",
    "FlowSettings",
    "GenerationSettings",
    "GenerativeQualitySettings",
    "OptimizerSettings",
    "PretrainingSettings",
    "Settings",
    "SplitSizes",
    "TokenClassifierSettings",
    "TokenHeadSettings",
    "TokenQualitySettings",
    "TokenizerSettings",
    "TrainingSettings",
    "merged",
]
