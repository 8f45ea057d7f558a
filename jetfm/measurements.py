"""From the stages' results to the ledger's measurements: one place that says what is compared."""

from __future__ import annotations

import numpy as np
from scipy import stats

from jetfm.comparison import Comparison
from jetfm.finetuning import Study
from jetfm.ledger import Ledger, Measurement
from jetfm.tokenizers.quality import TokenQuality


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
    if n_codes == 8192:  # the paper says it of this codebook alone
        book.measured["tau32-bias"] = Measurement(
            -tau32["bias"], tau32["bias_error"], n_jets, 1, "mean of all residuals"
        )
    else:
        mean = f"{tau32['bias']:+.3f} +- {tau32['bias_error']:.3f}"
        book.out_of_reach["tau32-bias"] = f"{note}; mean of reconstructed minus original {mean}"


def _generation(book: Ledger, generated: Comparison) -> None:
    test = generated.classifier_test
    note = "ten classes, tokenizer and model of this profile; uncertainty: bootstrap over jets"
    book.measured["generation-auc"] = Measurement(
        test["auc"], test["auc_error"], test["n_test"], 1, note
    )


def _finetuning(book: Ledger, study: Study) -> None:
    n_test, largest = study.result["n_test"], max(study.sizes)

    def put(claim: str, *points: tuple[str, int], note: str = "") -> None:
        """Measure the first point, or the first minus the second; points are strategy and size."""
        runs = [study.runs(strategy, size, "accuracy") for strategy, size in points]
        if any(run is None for run in runs):
            book.out_of_reach[claim] = "this training size is not in the profile"
        elif len(runs[0]) < 2:
            book.out_of_reach[claim] = "one seed has no spread"
        else:
            unfinished = sum(study.still_improving(*point) for point in points)
            if unfinished:
                total = sum(map(len, runs))
                text = f"{unfinished} of {total} fits were still improving when their steps ran out"
                note = f"{note}; {text}" if note else text
            book.measured[claim] = _over_seeds(runs, n_test, note)

    put("finetune-100", ("finetuned", 100))
    put("finetune-1000", ("finetuned", 1000))
    put("scratch-1000", ("scratch", 1000))
    put("gain-100", ("finetuned", 100), ("scratch", 100))
    put("gain-1000", ("finetuned", 1000), ("scratch", 1000))
    put("gain-largest", ("finetuned", largest), ("scratch", largest), note=f"at {largest} jets")
    put("open-beats-fixed", ("finetuned", 1000), ("fixed", 1000))
    if largest > 100:
        points = [(s, n) for n in (100, largest) for s in ("finetuned", "scratch")]
        put("fewer-labels-larger-gain", *points, note=f"100 against {largest} jets")


def _over_seeds(runs: list[np.ndarray], n_test: int, note: str) -> Measurement:
    """First minus second, minus the same of a second pair, of accuracies over seeds.

    The uncertainty adds in quadrature the standard error over seeds, widened to the one-sigma
    quantile of Student's t since there are few of them, and the binomial error of each accuracy on
    the test jets, as if they were independent: too wide for differences, since all strategies
    share the test jets.
    """
    signs = (1, -1, -1, 1)[: len(runs)]
    values = sum(sign * run for sign, run in zip(signs, runs, strict=True))
    n_seeds = len(values)
    student = stats.t.ppf(stats.norm.cdf(1), n_seeds - 1)
    seeds = student * np.std(values, ddof=1) / np.sqrt(n_seeds)
    means = np.array([run.mean() for run in runs])
    jets = np.sqrt((means * (1 - means)).sum() / n_test)
    text = "uncertainty: seeds (Student) and test jets (binomial)"
    return Measurement(
        float(values.mean()),
        float(np.hypot(seeds, jets)),
        n_test,
        n_seeds,
        f"{note}; {text}" if note else text,
    )
