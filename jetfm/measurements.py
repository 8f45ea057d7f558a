"""From the stages' results to the ledger's measurements: one place that says what is compared."""

from __future__ import annotations

import numpy as np

from jetfm.comparison import Comparison
from jetfm.finetuning import Study
from jetfm.ledger import Ledger, Measurement
from jetfm.tokenizers.quality import TokenQuality

_OVER_SEEDS = "uncertainty: standard error over seeds"


def measure(book: Ledger, quality: TokenQuality, generated: Comparison, study: Study) -> None:
    """Fill the ledger from finished stages."""
    _token_quality(book, quality)
    _generation(book, generated)
    _finetuning(book, study)


def _token_quality(book: Ledger, quality: TokenQuality) -> None:
    fits, n_codes = quality.result["fits"], quality.result["n_codes"]
    n_jets = quality.result["n_signal_jets"]
    mass, tau32 = fits["jet_mass"], fits["tau32"]
    for size in (512, 8192):
        claim = f"mass-resolution-{size}"
        if n_codes == size:
            book.measured[claim] = Measurement(mass["sigma"], mass["sigma_error"], n_jets)
        else:
            book.out_of_reach[claim] = f"this profile's codebook has {n_codes} codes"
    note = f"{n_codes} codes"
    book.measured["mass-centred"] = Measurement(mass["mean"], mass["mean_error"], n_jets, 1, note)
    book.measured["tau32-bias"] = Measurement(
        -tau32["bias"], tau32["bias_error"], n_jets, 1, f"{note}; mean of all residuals"
    )


def _generation(book: Ledger, generated: Comparison) -> None:
    test = generated.classifier_test
    note = "ten classes, tokenizer and model of this profile; uncertainty: bootstrap over jets"
    book.measured["generation-auc"] = Measurement(
        test["auc"], test["auc_error"], test["n_test"], 1, note
    )


def _finetuning(book: Ledger, study: Study) -> None:
    n_test, largest = study.result["n_test"], max(study.sizes)

    def put(claim: str, values: np.ndarray | None, note: str = "") -> None:
        if values is None:
            book.out_of_reach[claim] = "this training size is not in the profile"
        elif len(values) < 2:
            book.out_of_reach[claim] = "one seed has no spread"
        else:
            error = float(np.std(values, ddof=1) / np.sqrt(len(values)))
            text = f"{note}; {_OVER_SEEDS}" if note else _OVER_SEEDS
            book.measured[claim] = Measurement(
                float(np.mean(values)), error, n_test, len(values), text
            )

    def accuracy(strategy: str, size: int) -> np.ndarray | None:
        return study.runs(strategy, size, "accuracy")

    def gain(size: int, over: str = "scratch") -> np.ndarray | None:
        tuned, other = accuracy("finetuned", size), accuracy(over, size)
        return None if tuned is None or other is None else tuned - other

    put("finetune-100", accuracy("finetuned", 100))
    put("finetune-1000", accuracy("finetuned", 1000))
    put("scratch-1000", accuracy("scratch", 1000))
    put("gain-100", gain(100))
    put("gain-1000", gain(1000))
    put("gain-largest", gain(largest), f"at {largest} jets")
    put("open-beats-fixed", gain(1000, over="fixed"))
    smallest, top = gain(100), gain(largest)
    difference = None if smallest is None or largest <= 100 else smallest - top
    put("fewer-labels-larger-gain", difference, f"100 against {largest} jets")
