"""Settings of every stage, validated, with units and sources.

The defaults are the papers' values, with their source beside them, so that a profile
(`jetfm.settings.profiles`) shows at a glance where it departs from the papers.
"""

from jetfm.settings.base import Settings, merged
from jetfm.settings.continuous import ContinuousSettings
from jetfm.settings.data import DataSettings, LandscapeSettings, SplitSizes
from jetfm.settings.finetuning import (
    BASELINES,
    COMBINED,
    PROBES,
    BaselineSettings,
    FinetuningSettings,
    LorentzSettings,
    TaskSettings,
)
from jetfm.settings.flow import FlowSettings
from jetfm.settings.models import (
    MAIN,
    PRETRAINING_PRESETS,
    BackboneSettings,
    GenerationSettings,
    GenerativeQualitySettings,
    PretrainingSettings,
    ScalingSettings,
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
    "BASELINES",
    "COMBINED",
    "MAIN",
    "PRETRAINING_PRESETS",
    "PROBES",
    "TOKENIZER_PRESETS",
    "BackboneSettings",
    "BaselineSettings",
    "ContinuousSettings",
    "DataSettings",
    "FinetuningSettings",
    "FlowSettings",
    "GenerationSettings",
    "GenerativeQualitySettings",
    "LandscapeSettings",
    "LorentzSettings",
    "OptimizerSettings",
    "PretrainingSettings",
    "ScalingSettings",
    "Settings",
    "SplitSizes",
    "TaskSettings",
    "TokenClassifierSettings",
    "TokenHeadSettings",
    "TokenQualitySettings",
    "TokenizerSettings",
    "TrainingSettings",
    "merged",
]
