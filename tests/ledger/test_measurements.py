"""The ledger's numbers: right differences, and uncertainties that hold what they promise."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jetfm.finetuning import TaskResults
from jetfm.ledger import measurements
from jetfm.ledger.claims import TAGGING, TRANSFER
from jetfm.ledger.contrasts import Term
from jetfm.ledger.measurements import (
    _from_test_jets,
    _largest,
    _over_seeds,
    _tagging,
    _transfer,
    measure,
)
from jetfm.ledger.verdicts import Ledger, Measurement
from jetfm.settings import COMBINED

N_TEST = 2000


def test_difference_of_differences():
    runs = [
        np.array([0.9, 0.8]),
        np.array([0.7, 0.7]),
        np.array([0.95, 0.95]),
        np.array([0.9, 0.9]),
    ]
    terms = [Term(sign, run) for sign, run in zip((1, -1, -1, 1), runs, strict=True)]
    measured = _over_seeds(terms, N_TEST, 0.0, "", "")
    assert measured.value == pytest.approx((0.85 - 0.7) - (0.95 - 0.9))
    assert measured.n_seeds == 2 and measured.n_jets == N_TEST


def test_differences_are_between_the_seeds_that_both_have():
    """Of a size; the third seed of 100 labels is none of 1000's, and counts at 100."""
    accuracies = {
        ("scratch", 100): [0.70, 0.72, 0.1], ("finetuned", 100): [0.80, 0.82, 0.9],
        ("scratch", 1000): [0.80, 0.80], ("finetuned", 1000): [0.85, 0.85],
    }  # fmt: skip
    rows = [_row("omnijet-combined", *point, values) for point, values in accuracies.items()]
    result = {"rows": rows, "sizes": [100, 1000], "classes": ["QCD", "Tbqq"], "n_test": N_TEST}
    book = Ledger("test")
    _tagging(book, TaskResults("tagging", result))
    gain, falls = (book.measured[name] for name in ("gain-100", "gain-falls"))
    assert (gain.value, gain.n_seeds) == (pytest.approx((0.1 + 0.1 + 0.8) / 3), 3)
    assert (falls.value, falls.n_seeds) == (pytest.approx((0.1 + 0.1 + 0.8) / 3 - 0.05), 2)


def _scored(folder, accuracies, n_test, rng, shared=0.0):
    """A tagging study of made-up scores; a share of the test jets is equally hard for all."""
    labels = rng.integers(0, 2, n_test).astype(np.int16)
    np.save(folder / "labels.npy", labels)
    rows, common = [], rng.random(n_test)
    alike = rng.random(n_test) < shared
    for (weights, size), (accuracy, n_seeds) in accuracies.items():
        found = []
        for seed in range(n_seeds):
            correct = np.where(alike, common, rng.random(n_test)) < accuracy
            right = np.where(correct, labels, 1 - labels)
            name = f"omnijet-combined-{weights}_{size}_{seed}.npy"
            np.save(folder / name, np.log(0.1 + 0.8 * np.eye(2))[right].astype("f4"))
            found.append(float(correct.mean()))
        rows.append(_row("omnijet-combined", weights, size, found))
    sizes = sorted({size for _, size in accuracies})
    result = {"rows": rows, "sizes": sizes, "classes": ["QCD", "Tbqq"], "n_test": n_test}
    return TaskResults("tagging", result, folder)


def test_scores_tell_what_the_rows_do(tmp_path):
    accuracies = {("scratch", 100): (0.7, 3), ("finetuned", 100): (0.8, 2)}
    study = _scored(tmp_path, accuracies, 500, np.random.default_rng(0))
    for (weights, size), (_, n_seeds) in accuracies.items():
        correct = study.correct("omnijet-combined", weights, size)
        assert correct.shape == (n_seeds, 500)
        rows = study.runs("omnijet-combined", weights, size, "accuracy")
        np.testing.assert_allclose(correct.mean(1), rows)
    assert study.correct("omnijet-combined", "fixed", 100) is None


@pytest.mark.parametrize("shared", [0.0, 0.9])
def test_the_uncertainty_from_shared_test_jets_is_that_of_many_samples(tmp_path, shared):
    """The spread of the difference over samples of test jets, which is smaller than if each
    accuracy had jets of its own where all find the same ones hard."""
    accuracies = {("scratch", 100): (0.7, 2), ("finetuned", 100): (0.8, 2)}
    points = [[("omnijet-combined", weights, 100)] for weights in ("finetuned", "scratch")]
    rng = np.random.default_rng(5)
    differences, errors = [], []
    for _ in range(400):
        study = _scored(tmp_path, accuracies, 300, rng, shared)
        correct = [study.correct(*point[0]).mean() for point in points]
        differences.append(correct[0] - correct[1])
        errors.append(_from_test_jets(study, points))
    spread = np.std(differences)
    assert np.mean(errors) == pytest.approx(spread, rel=4 / np.sqrt(2 * 400))
    apart = np.sqrt((0.7 * 0.3 + 0.8 * 0.2) / 300)
    assert spread < 0.8 * apart


def test_means_over_sizes_count_every_seed_of_a_size():
    """Paper 2's mean difference; what a fourth seed of the smallest size adds to both, cancels."""
    found = {}
    for fourth in ([], [0.1]):
        study = _study("landscape", SHIFTS)
        for row in study.result["rows"]:
            row["accuracy"] = [*row["accuracy"], np.mean(row["accuracy"])]
            if row["size"] == 100:
                row["accuracy"] = [*row["accuracy"], *fourth]
            row["cut"] = [False] * len(row["accuracy"])
        book = Ledger("test")
        _transfer(book, study, study)
        found[len(fourth)] = book.measured["mpm-beats-ntp"].value
    sizes = study.sizes
    at_first = [study.runs(m, "finetuned", sizes[0], "accuracy") for m in ("mpm", "main")]
    before, after = (np.mean(at_first[0][:n] - at_first[1][:n]) for n in (3, 4))
    assert found[1] - found[0] == pytest.approx((after - before) / len(sizes))


def test_equal_seeds_are_not_certainty():
    jets = measurements._binomial([0.8], [1], N_TEST)
    measured = _over_seeds([Term(1, np.array([0.8, 0.8, 0.8]))], N_TEST, jets, "", "")
    assert measured.uncertainty == pytest.approx(np.sqrt(0.8 * 0.2 / N_TEST))


@pytest.mark.parametrize("n_seeds", [2, 3, 5])
def test_two_of_the_uncertainty_cover_95_per_cent_for_any_number_of_seeds(n_seeds):
    rng = np.random.default_rng(n_seeds)
    seeds = rng.normal(0.8, 0.03, (4000, n_seeds))
    measured = [_over_seeds([Term(1, row)], 10**9, 0.0, "", "") for row in seeds]
    covered = np.mean([abs(m.value - 0.8) < 2 * m.uncertainty for m in measured])
    assert covered == pytest.approx(0.9545, abs=3 * np.sqrt(0.9545 * 0.0455 / 4000))


def test_beside_a_kink_the_larger_change_counts():
    """|x| of 0.1 +- 1 may be 1.1, and |x| of -0.1 +- 1, too."""
    for x in (0.1, -0.1):
        value, error = measurements._propagated([(x, 1.0)], abs)
        assert (value, error) == pytest.approx((0.1, 1.0))
    assert measurements._propagated([(3.0, 0.3), (1.0, 0.4)], np.subtract)[1] == pytest.approx(0.5)


def _classifiers(n_leaked: int = 0):
    """512, 4096 and 8192 codes: two seeds of the transformer gain .03 over three doublings, then
    .02 over one."""
    accuracies = {"original": 0.9, "512": 0.80, "4096": 0.83, "8192": 0.85}
    return SimpleNamespace(
        inputs=list(accuracies), n_test=10**8, n_leaked=n_leaked,
        accuracies=lambda classifier, name: np.full(2, accuracies[name]),
    )  # fmt: skip


_QUALITY = SimpleNamespace(
    tokenizers=[{"n_codes": n, "name": str(n), "family": "conditional"} for n in (512, 4096, 8192)]
)


def test_the_plateau_compares_gains_per_doubling():
    book = Ledger("test")
    measurements._token_classifiers(book, _classifiers(), _QUALITY)
    found = book.measured["accuracy-plateau"]
    assert found.value == pytest.approx(0.01 - 0.02)
    assert book.measured["transformer-rises"].value == pytest.approx(0.05)


def test_leaked_test_jets_of_the_token_classifiers_leave_nothing_to_judge():
    book = Ledger("test")
    measurements._token_classifiers(book, _classifiers(n_leaked=3), _QUALITY)
    assert not book.measured and len(book.out_of_reach) == 5
    assert set(book.out_of_reach.values()) == {"3 test jets are training or validation jets, too"}


def _row(model, weights, size, accuracy, **more):
    n = len(accuracy)
    row = {"model": model, "weights": weights, "text": model, "size": size, "accuracy": accuracy}
    row |= {"cut": [False] * n, "rejection30": [100.0] * n}
    row |= {"rejection30_low": [80.0] * n, "rejection30_high": [120.0] * n}
    return row | {"rejection30_passed": [20] * n} | more


def _study(name, shifts):
    """Accuracies of 0.7 and 0.8 with 100 and 1000 jets, and by model so much more."""
    rows = [
        _row(model, weights, size, [base + shift - 0.001, base + shift + 0.001])
        for (model, weights), shift in shifts.items()
        for size, base in ((100, 0.7), (1000, 0.8))
    ]
    result = {"rows": rows, "sizes": [100, 1000], "classes": ["QCD", "Tbqq"], "n_test": 10**8}
    return TaskResults(name, result)


SHIFTS = {
    ("main", "scratch"): -0.1,
    ("main", "finetuned"): 0.0,
    ("ntp-token-id", "scratch"): -0.12,
    ("ntp-token-id", "finetuned"): -0.03,
    ("mpm", "finetuned"): 0.04,
    ("mpm-causal", "finetuned"): 0.0,
    ("joint", "finetuned"): 0.03,
}


def _transferred(shifts):
    book = Ledger("test")
    _transfer(book, *(_study(name, shifts) for name in ("ten-classes", "landscape")))
    return book


def test_paper_2s_claims_compare_the_right_models():
    found = {claim: one.value for claim, one in _transferred(SHIFTS).measured.items()}
    expected = {
        "input-ten-classes": 0.03, "input-landscape": 0.03, "input-gain": 0.03,
        "both-changes": 0.06, "mpm-beats-ntp": 0.04, "joint-beats-ntp": 0.03,
        "joint-near-mpm": -0.01, "mpm-causal-like-ntp": 0.0, "bidirectional-matters": 0.04,
        "pretraining-beats-scratch": 0.13, "fewer-labels-larger-gain": 0.0,
        "mpm-rejection": 0.0, "joint-rejection": 0.0,
        "input-scratch-ten-classes": 0.02, "input-scratch-landscape": 0.02,
    }  # fmt: skip
    assert found == pytest.approx(expected, abs=1e-12)
    assert set(found) == set(TRANSFER)


TAGGERS = {
    ("scratch", 100): 0.70, ("fixed", 100): 0.82, ("finetuned", 100): 0.85,
    ("scratch", 1000): 0.75, ("fixed", 1000): 0.88, ("finetuned", 1000): 0.90,
    ("scratch", 10_000): 0.84, ("fixed", 10_000): 0.89, ("finetuned", 10_000): 0.91,
}  # fmt: skip


def test_paper_1s_claims_compare_the_right_points():
    rows = [
        _row("omnijet-combined", weights, size, [accuracy, accuracy])
        for (weights, size), accuracy in TAGGERS.items()
    ]
    sizes = [100, 1000, 10_000]
    result = {"rows": rows, "sizes": sizes, "classes": ["QCD", "Tbqq"], "n_test": 1000}
    book = Ledger("test")
    _tagging(book, TaskResults("tagging", result))
    expected = {
        "finetune-100": 0.85, "finetune-1000": 0.90, "scratch-1000": 0.75, "gain-100": 0.15,
        "gain-1000": 0.15, "gain-up-to": 0.15, "labels-100": 0.01, "fixed-beats-scratch": 0.13,
        "gain-falls": 0.15 - 0.07, "open-beats-fixed": 0.02, "gain-everywhere": 0.07,
        "open-near-fixed": (0.03 + 0.02 + 0.02) / 3,
    }  # fmt: skip
    found = {claim: one.value for claim, one in book.measured.items()}
    assert found == pytest.approx(expected, abs=1e-12)
    assert set(book.out_of_reach) == {"gain-2M"}
    assert set(found) | set(book.out_of_reach) == set(TAGGING)


@pytest.mark.parametrize("n", [1, 5])
def test_the_largest_of_several_exceeds_two_of_its_uncertainty_as_rarely_as_one(n):
    values = np.random.default_rng(3).normal(size=(100_000, n))
    one = _largest([Measurement(x, 1.0, 10) for x in values[0]])
    assert one.value == values[0].max()
    share = (values.max(1) > 2 * one.uncertainty).mean()
    assert share == pytest.approx(0.02275, abs=0.0016)  # three standard deviations


def test_the_smallest_of_several_is_as_careful_as_the_largest():
    found = [Measurement(x, s, 10) for x, s in ((0.3, 0.1), (0.2, 0.4), (0.25, 0.1))]
    least = measurements._smallest(found)
    mirrored = _largest([Measurement(-one.value, one.uncertainty, 10) for one in found])
    assert (least.value, least.uncertainty) == (0.2, mirrored.uncertainty)
    assert least.uncertainty > 0.4 and "the smallest of 3" in least.note
    assert measurements._smallest([found[0], "not there", found[1]]) == "not there"


def _quality(fits: dict[tuple[str, int], tuple[float, float]]):
    """Kind and codebook: mass resolution [GeV] and bias of tau32."""
    tokenizers, results = [], {}
    for (family, n_codes), (sigma, bias) in fits.items():
        name = f"{family}-{n_codes}"
        tokenizers.append({"name": name, "label": name, "family": family, "n_codes": n_codes})
        one = {"sigma": sigma, "mean": 0.0, "bias": bias}
        one |= {f"{key}_error": 0.01 for key in ("sigma", "mean", "bias")}
        fit = {"jet_mass": one, "tau32": one}
        results[name] = SimpleNamespace(
            result={"fits": fit, "n_signal_jets": 100}, residuals=lambda *_: np.array([0.0, 1.0])
        )
        results[name].values = lambda side, quantity: np.linspace(50, 150, 1000) * MASS[side]
    results["main"] = results["conditional-512"]

    class Study:
        def __getitem__(self, name):
            return results[name]

    study = Study()
    study.tokenizers, study.scaled = tokenizers, {}
    return study


MASS = {"original": 1.0, "reconstructed": 0.9}

TOKENIZERS = {
    ("conditional", 512): (8.0, 0.05),
    ("conditional", 8192): (4.0, 0.02),
    ("unconditional", 512): (12.0, 0.04),
    ("binned", 9261): (5.0, 0.03),
    ("binned", 64000): (2.0, 0.01),  # beyond what paper 1 compares there
    ("fsq", 512): (1.0, 0.0),  # not the paper's
    ("linear", 8192): (4.4, 0.0),
}


@pytest.mark.parametrize(
    ("changed", "best", "shift"),
    [
        ({}, 1.0, 0.04),
        ({("binned", 9261): (3.5, 0.03)}, -0.5, 0.04),
        ({("conditional", 512): (3.0, -0.05)}, -1.0, -0.04),  # one up and one down: no match
        ({("unconditional", 512): (12.0, -0.06), ("conditional", 512): (8.0, -0.05)}, 1.0, 0.05),
    ],
)
def test_the_best_tokenizer_and_the_shift_at_512(changed, best, shift):
    book = Ledger("test")
    measurements._token_quality(book, _quality(TOKENIZERS | changed))
    assert book.measured["conditional-best"].value == pytest.approx(best)
    assert book.measured["tau32-shift-512"].value == pytest.approx(shift)
    assert book.measured["no-logarithm"].value == pytest.approx(4.4 / 4.0)  # that over the usual


def test_the_shift_of_the_mass_is_judged_as_decoded_and_told_as_scaled():
    book, study = Ledger("test"), _quality(TOKENIZERS)
    fits = {"jet_mass": {"mean": 0.46}}
    study.scaled = {"conditional-512": {"fits": fits}, "conditional-8192": {"fits": {}}}
    measurements._token_quality(book, study)
    found = book.measured["mass-centred"]
    assert found.value == 0 and "+0.46 GeV once jets are brought to scale" in found.note
    fits["jet_mass"]["mean"] = None  # no peak
    measurements._token_quality(book, study)
    assert book.measured["mass-centred"].note == "conditional-512"


@pytest.mark.parametrize(("factor", "slope"), [(0.9, 0.9), (1.0, 0.0), (1.1, -0.9)])
def test_lighter_jets_make_the_ratio_of_masses_fall(monkeypatch, factor, slope):
    """Masses evenly from 50 to 150 GeV: the lightest quarter ends at 75, the heaviest begins at
    125; times .9 there are 25 + 8.33 below, and 25 - 13.89 above, of a hundred."""
    monkeypatch.setitem(MASS, "reconstructed", factor)
    book = Ledger("test")
    measurements._token_quality(book, _quality(TOKENIZERS))
    found = book.measured["unconditional-slope"]
    low = 100 * ((75 / factor - 50) / 100 - 0.25)
    high = 100 * ((150 - 125 / factor) / 100 - 0.25)
    assert found.value == pytest.approx(4 * (low - high) / 100, abs=0.02)
    assert found.value == pytest.approx(slope, abs=0.25)
    assert (found.uncertainty > 0) == (factor != 1)


@pytest.mark.parametrize("volume", [4.0, 1.0])
def test_volumes_of_tokens_are_conditional_over_unconditional(volume):
    volumes = {"conditional-512": volume, "unconditional-512": 2.0, "conditional-8192": 100.0}
    maps = [{"tokenizer": {"name": n}, "spread": {"volume": v, "volume_error": v / 50}}
            for n, v in volumes.items()]  # fmt: skip
    book = Ledger("test")
    measurements._token_maps(book, _quality(TOKENIZERS), maps)
    found = book.measured["conditional-volume"]
    assert found.value == pytest.approx(np.log(volume / 2))
    assert found.uncertainty == pytest.approx(0.02 * np.sqrt(2), rel=0.05)
    without = {key: fit for key, fit in TOKENIZERS.items() if key[0] != "unconditional"}
    book = Ledger("test")
    measurements._token_maps(book, _quality(without), maps)
    assert "conditional-volume" in book.out_of_reach


def test_the_tail_of_pt_is_the_mean_of_both_jet_types_above_the_floor():
    class Study:
        generators = {
            f"omnijet-{name}": SimpleNamespace(tokens=True, steps=5, classes=classes)
            for name, classes in (("QCD", ("QCD",)), ("Tbqq", ("Tbqq",)))
        }

        def only(self, classes):
            return [n for n, one in self.generators.items() if one.classes == tuple(classes)]

        def metrics(self, name):
            judged = {"value": 1.0, "uncertainty": 0.1, "floor": {"value": 0.5}}
            return {"n_jets": {"sample": 9}, "classifiers": {}, "wasserstein": {"tau32": judged}}

        def tails(self, name):
            value = {"omnijet-QCD": 0.3, "omnijet-Tbqq": 0.5}[name]
            return {
                q: {"value": value if q == "pt" else 9.0, "uncertainty": 0.02,
                    "floor": {"value": 0.1}}
                for q in measurements.QUANTITIES
            }  # fmt: skip

    book, study = Ledger("test"), Study()
    study.generators = dict(study.generators)
    measurements._generation(book, study)
    found = book.measured["generation-pt-tail"]
    assert found.value == pytest.approx(0.3)
    assert found.uncertainty == pytest.approx(0.02 / np.sqrt(2))


def test_the_shift_at_512_needs_both_tokenizers():
    without = {key: fit for key, fit in TOKENIZERS.items() if key[0] != "unconditional"}
    book = Ledger("test")
    measurements._token_quality(book, _quality(without))
    assert "tau32-shift-512" in book.out_of_reach


@pytest.mark.parametrize("ours", [0.3, 0.1])
def test_tails_in_eta_and_n_are_ours_minus_the_rivals(ours):
    class Study:
        generators = {
            "omnijet-Tbqq": SimpleNamespace(tokens=True, steps=5),
            "epic-fm": SimpleNamespace(tokens=False, steps=5),
        }

        def only(self, classes):
            return list(self.generators)

        def metrics(self, name):
            return {"n_jets": {"sample": 100}}

        def tails(self, name):
            value = {"omnijet-Tbqq": ours, "epic-fm": 0.2}[name]
            special = ("eta_rel", "n_constituents")
            return {
                q: {"value": value if q in special else 9.0, "uncertainty": 0.01,
                    "floor": {"value": 0.0}}
                for q in measurements.QUANTITIES
            }  # fmt: skip

    book, kept = Ledger("test"), {}

    def put(claim, values, combine, names, note=""):
        kept[claim] = measurements._propagated(values, combine)[0]

    measurements._tails(book, Study(), "omnijet-Tbqq", put)
    assert kept["epic-fm-eta-n"] == pytest.approx(ours - 0.2)


def test_leaked_test_jets_leave_nothing_to_judge(monkeypatch):
    class Study:
        tasks = dict.fromkeys(("tagging", "ten-classes", "landscape"))

        def __getitem__(self, task):
            return TaskResults(task, {"n_leaked": 3 if task == "landscape" else 0})

    book, filled = Ledger("test"), []
    for name in ("_token_quality", "_token_maps", "_token_classifiers", "_generation"):
        monkeypatch.setattr(measurements, name, lambda *_: None)
    for name in ("_tagging", "_transfer"):
        monkeypatch.setattr(measurements, name, lambda *_, name=name: filled.append(name))
    measure(book, None, None, None, None, Study())
    assert filled == ["_tagging"] and set(book.out_of_reach) == set(TRANSFER)
    assert set(book.out_of_reach.values()) == {"3 test jets are training or validation jets, too"}


def test_rejections_and_gains_have_the_right_sign():
    """The joint model rejects four times the background, and gains most with few labels."""
    studies = [_study(name, SHIFTS) for name in ("ten-classes", "landscape")]
    for row in studies[1].result["rows"]:
        if row["model"] == "joint":
            row["rejection30"] = [400.0, 400.0]
            row["accuracy"] = [x + 10 / row["size"] for x in row["accuracy"]]
    book = Ledger("test")
    _transfer(book, *studies)
    assert book.measured["joint-rejection"].value == pytest.approx(np.log(4))
    assert book.measured["fewer-labels-larger-gain"].value == pytest.approx(0.1 - 0.01)


def test_sizes_of_few_fits_are_not_averaged_with_those_of_many():
    """Nor judged alone where there are others; of one fit alone nothing could be said at all."""
    shifts = {pair: shift for pair, shift in SHIFTS.items() if pair[0] in ("main", "joint")}
    study = _study("landscape", shifts)
    wide = [-0.02, 0.0, 0.0, 0.02]
    for row in study.result["rows"]:
        if row["size"] == 100:
            row["accuracy"] = [np.mean(row["accuracy"]) + x for x in wide]
            row |= {"cut": [False] * 4, "rejection30": [100.0] * 4, "rejection30_passed": [30] * 4}
            row |= {"rejection30_low": [90.0] * 4, "rejection30_high": [110.0] * 4}
    pair = ("joint", "finetuned"), ("main", "finetuned")
    found = measurements._mean_difference(study, *pair)
    assert "mean over 100 jets" in found.note and found.n_seeds == 4
    book = Ledger("test")
    _transfer(book, study, study)
    assert book.measured["joint-rejection"].note.startswith("100 jets; 30 and 30")
    assert "100 against 1000 jets" in book.measured["fewer-labels-larger-gain"].note  # needs two
    for row in study.result["rows"]:
        if row["size"] == 1000:  # now the largest, with two fits, is none of them
            more = row | {"size": 10_000}
            row["accuracy"], row["cut"] = row["accuracy"] * 2, [False] * 4
            study.result["rows"] = [*study.result["rows"], more]
    study.result["sizes"] = [100, 1000, 10_000]
    book = Ledger("test")
    _transfer(book, study, study)
    assert "100 against 1000 jets" in book.measured["fewer-labels-larger-gain"].note
    assert "mean over 100, 1000 jets" in book.measured["joint-beats-ntp"].note
    study = _study("landscape", shifts)
    for n in (1, 2):  # no size has more
        for row in study.result["rows"]:
            row["accuracy"], row["cut"] = row["accuracy"][:n], row["cut"][:n]
        found = measurements._mean_difference(study, *pair)
        text = found if isinstance(found, str) else found.note
        assert ("one seed has no spread" if n == 1 else "mean over 100, 1000 jets") in text
        study = _study("landscape", shifts)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_fit_that_was_cut_short_leaves_its_claims_unjudged(seed):
    """And no others; one seed of one size is enough."""
    studies = [_study(name, SHIFTS) for name in ("ten-classes", "landscape")]
    whole = _transferred(SHIFTS)
    rows = [row for row in studies[1].result["rows"] if row["model"] == "mpm"]
    assert rows[-1]["size"] == 1000
    rows[-1]["cut"][seed] = True
    book = Ledger("test")
    _transfer(book, *studies)
    unjudged = {"mpm-beats-ntp", "joint-near-mpm", "bidirectional-matters", "mpm-rejection"}
    assert set(whole.measured) - set(book.measured) == unjudged
    for claim in unjudged:
        assert "fits were cut short by their limit of steps" in book.out_of_reach[claim]
    assert book.out_of_reach["mpm-beats-ntp"].startswith("1 of 8 fits")
    tagging = _study("tagging", {(COMBINED, w): 0.0 for w in ("scratch", "fixed", "finetuned")})
    tagging.result["rows"][0]["cut"][seed] = True  # from scratch, 100 jets
    book = Ledger("test")
    measurements._tagging(book, tagging)
    assert {"gain-100", "gain-falls"} <= set(book.out_of_reach)
    assert {"finetune-100", "gain-1000", "fixed-beats-scratch"} <= set(book.measured)


@pytest.mark.parametrize(("joint", "said"), [(3, "2 pre-trainings each"), (1, "one pre-training")])
def test_the_fewest_pretrainings_are_what_a_note_says(joint, said):
    studies = [_study(name, SHIFTS) for name in ("ten-classes", "landscape")]
    for row in studies[1].result["rows"]:
        n = {"main": 2, "joint": joint}.get(row["model"], 1)
        if n > 1 and row["weights"] != "scratch":
            row["n_pretrainings"] = n
    book = Ledger("test")
    _transfer(book, *studies)
    for claim in ("joint-beats-ntp", "joint-rejection"):
        assert said in book.measured[claim].note
    assert "one pre-training" in book.measured["mpm-beats-ntp"].note
    assert "pre-training" not in book.measured["input-scratch-landscape"].note


def test_a_seed_that_no_background_passes_is_a_limit_and_no_crash():
    studies = [_study(name, SHIFTS) for name in ("ten-classes", "landscape")]
    for row in studies[1].result["rows"]:
        row |= {"rejection30_passed": [0, 40], "rejection30": [None, 100.0]}
    book = Ledger("test")
    _transfer(book, *studies)
    assert "limited" in book.out_of_reach["joint-rejection"]


def test_a_missing_model_or_too_little_background_is_out_of_reach():
    without = {key: shift for key, shift in SHIFTS.items() if key[0] != "mpm"}
    book = _transferred(without)
    assert {"mpm-beats-ntp", "mpm-rejection", "joint-near-mpm"} <= set(book.out_of_reach)
    assert "joint-beats-ntp" in book.measured
    studies = [_study(name, SHIFTS) for name in ("ten-classes", "landscape")]
    for row in studies[1].result["rows"]:
        row["rejection30_passed"] = [3, 4]
    book = Ledger("test")
    _transfer(book, *studies)
    assert "limited: 4 and 4 background jets" in book.out_of_reach["mpm-rejection"]
