"""Which function draws which figure: what a picture can be made of again from its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from matplotlib.figure import Figure

from jetfm.figures import finetuning_curves as curves
from jetfm.figures import generated_jets, jets, tokenised_jets, tokens
from jetfm.figures.captions import CAPTIONS, LEDGER
from jetfm.figures.ledger_summary import ledger
from jetfm.figures.scaling_figure import scaling
from jetfm.figures.strategies_figure import strategies, strategy_losses
from jetfm.figures.style import save
from jetfm.figures.training_curves import training

_OTHERS: dict[str, Callable[..., Figure]] = {
    "fig00_calibration": jets.calibration,
    "fig00_widths": jets.calibration_widths,
    "fig00_quantiles": jets.calibration_quantiles,
    "fig00_soft_constituents": jets.soft_constituents,
    "fig00_classes": jets.jet_classes,
    "fig01_tokenizer": training,
    "fig02_token_map": tokens.token_map,
    "fig02_token_quality": tokenised_jets.token_quality,
    "fig02_resolutions": tokenised_jets.resolutions,
    "fig02_classifiers": tokenised_jets.token_classifiers,
    "fig02_features": tokenised_jets.feature_classifiers,
    "fig02_codebook": tokens.codebook_usage,
    "fig02_errors": tokens.constituent_errors,
    "fig03_pretraining": training,
    "fig03_scaling": scaling,
    "fig03_strategies": strategies,
    "fig03_losses": strategy_losses,
    "fig04_distances": generated_jets.generator_distances,
    "fig05_pretraining_jets": curves.pretraining_jets,
    "fig05_mask_fraction": curves.mask_fractions,
    "fig05_calibration": curves.reliability,
    "fig05_out_of_range": curves.out_of_range,
    LEDGER: ledger,
}
_OF_A_KIND = {
    "fig02_class_": tokenised_jets.by_class,
    "fig04_": generated_jets.generation,
    "fig05_": curves.learning_curves,
}

#: By name of the figure.
DRAWN_BY: dict[str, Callable[..., Figure]] = {
    name: _OTHERS.get(name)
    or next(draw for kind, draw in _OF_A_KIND.items() if name.startswith(kind))
    for name in CAPTIONS
}


def draw_and_save(
    draw: Callable[..., Figure], name: str, data: Mapping, folder: Path
) -> tuple[Figure, Path]:
    """A figure, and the path of its picture; its numbers lie beside it."""
    figure = draw(**data)
    return figure, save(figure, data, name, folder)
