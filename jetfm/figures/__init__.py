"""Every figure: a function from the saved numbers to a matplotlib figure.

The functions take plain dictionaries, as the stages save them and as ``figNN_*.json`` keeps them,
and return a figure; they read no files and run no model. Where a panel follows a figure of a
paper, its docstring says which. The modules are named after what is shown, since the functions'
names (`training`, `generation`, ...) are taken by the functions themselves.
"""

from jetfm.figures.captions import CAPTIONS, LEDGER
from jetfm.figures.finetuning_curves import (
    learning_curves,
    mask_fractions,
    out_of_range,
    pretraining_jets,
    reliability,
)
from jetfm.figures.generated_jets import generation, generator_distances
from jetfm.figures.index import PAPER_FIGURES, index_as_text
from jetfm.figures.jets import (
    CLASS_COLORS,
    calibration,
    calibration_quantiles,
    calibration_widths,
    jet_classes,
    soft_constituents,
)
from jetfm.figures.ledger_summary import VERDICT_COLORS, ledger
from jetfm.figures.roc import roc
from jetfm.figures.scaling_figure import scaling
from jetfm.figures.strategies_figure import strategies, strategy_losses
from jetfm.figures.tokenised_jets import (
    by_class,
    feature_classifiers,
    resolutions,
    token_classifiers,
    token_quality,
)
from jetfm.figures.tokens import codebook_usage, constituent_errors, token_map
from jetfm.figures.training_curves import LOGARITHMIC, training

__all__ = [
    "CAPTIONS",
    "CLASS_COLORS",
    "LEDGER",
    "LOGARITHMIC",
    "PAPER_FIGURES",
    "VERDICT_COLORS",
    "by_class",
    "calibration",
    "calibration_quantiles",
    "calibration_widths",
    "codebook_usage",
    "constituent_errors",
    "feature_classifiers",
    "generation",
    "generator_distances",
    "index_as_text",
    "jet_classes",
    "learning_curves",
    "ledger",
    "mask_fractions",
    "out_of_range",
    "pretraining_jets",
    "reliability",
    "resolutions",
    "roc",
    "scaling",
    "soft_constituents",
    "strategies",
    "strategy_losses",
    "token_classifiers",
    "token_map",
    "token_quality",
    "training",
]
