"""Metrics of classifiers, and what they say of labels saved."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from jetfm.finetuning.label_savings import label_saving
from jetfm.finetuning.scores import calibration_error, judged, reliability
from jetfm.physics.statistics import roc_curve


def sure_of_itself(n, temperature, seed=0, n_classes=3):
    """Labels drawn from probabilities, and the probabilities that a classifier says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (n, n_classes))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (rng.random(n)[:, None] > np.cumsum(p, 1)).sum(1).clip(0, n_classes - 1)
    said = np.exp(logits / temperature)
    return labels, said / said.sum(1, keepdims=True)


def test_calibration_error_is_noise_for_a_calibrated_classifier():
    labels, p = sure_of_itself(20_000, 1.0)
    error, spread = calibration_error(labels, p, 50)
    assert error < 0.4 * np.sqrt(15 / 20_000) * 1.5
    assert 0 < spread < 0.01


def test_calibration_error_of_a_classifier_that_is_too_sure():
    labels, p = sure_of_itself(20_000, 0.4)
    error, _ = calibration_error(labels, p, 2)
    gap = p.max(1).mean() - (p.argmax(1) == labels).mean()  # too sure everywhere
    assert gap > 0.05 and error == pytest.approx(gap, rel=0.05)


def test_calibration_is_scikit_learns():
    """Equal numbers of jets, of which 15 bins hold 100 each; equal widths from 1/3 to 1."""
    labels, p = sure_of_itself(1500, 1.0)
    confidence, right = p.max(1), p.argmax(1) == labels
    curve = calibration_curve(right, confidence, n_bins=15, strategy="quantile")
    error, _ = calibration_error(labels, p, 2)
    assert error == pytest.approx(np.abs(curve[0] - curve[1]).mean(), rel=1e-9)
    found = reliability(labels, p)
    stretched = (confidence - 1 / 3) * 1.5
    accuracy, mean = calibration_curve(right, stretched, n_bins=15)
    assert [x for x in found["accuracy"] if x is not None] == pytest.approx(accuracy)
    assert [x for x in found["confidence"] if x is not None] == pytest.approx(mean / 1.5 + 1 / 3)


def test_reliability_counts_every_jet_once():
    labels, p = sure_of_itself(5000, 1.0)
    found = reliability(labels, p)
    assert found["n"].sum() == 5000
    right = sum(n * (a or 0) for n, a in zip(found["n"], found["accuracy"], strict=True))
    assert right == pytest.approx((p.argmax(1) == labels).sum())


def test_metrics_of_two_classes():
    rng = np.random.default_rng(1)
    labels = np.arange(4000) % 2
    odds = rng.normal(2.0 * labels, 1.0)  # separation d' = 2: AUC = Phi(sqrt(2))
    scores = np.stack([np.zeros(4000), odds - 1], 1)
    scores -= np.log(np.exp(scores).sum(1, keepdims=True))
    found = judged(labels, scores, 50)
    assert found["auc"] == pytest.approx(0.9214, abs=4 * found["auc_error"])
    assert found["accuracy"] == pytest.approx(0.8413, abs=4 * found["accuracy_error"])
    # eps_B at eps_S = 0.3: Phi(-(2 + 0.5244)) = 0.0058
    assert found["rejection30_low"] < 1 / 0.0058 * 1.6 and found["rejection30_high"] > 1 / 0.0116
    assert found["rejection50"] == pytest.approx(1 / 0.02275, rel=0.5)


def test_no_background_passed_is_no_number():
    labels = np.arange(100) % 2
    scores = np.log(np.where(labels[:, None] == [0, 1], 0.9, 0.1))
    found = judged(labels, scores, 2)
    assert found["rejection30"] is None and found["rejection30_passed"] == 0
    assert found["rejection30_low"] > 20 and found["rejection30_high"] is None


def test_metrics_of_ten_classes_at_chance():
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 10, 3000)
    p = rng.dirichlet(np.ones(10), 3000)
    found = judged(labels, np.log(p).astype(np.float32), 2)
    assert found["auc"] == pytest.approx(0.5, abs=0.02)
    assert found["accuracy"] == pytest.approx(0.1, abs=0.03)
    assert "rejection30" not in found


def test_roc_curve_against_scikit_learn():
    from sklearn.metrics import auc

    rng = np.random.default_rng(3)
    labels = np.arange(2000) % 2
    scores = rng.normal(labels, 1.0)
    signal, background = roc_curve(labels, scores, 2000)
    whole = [np.concatenate([[0.0], side, [1.0]]) for side in (background, signal)]
    assert auc(*whole) == pytest.approx(0.7602, abs=0.03)
    assert (np.diff(signal) > 0).all() and (np.diff(background) >= 0).all()


def test_a_curve_ten_times_as_fast_saves_ten_times_the_labels():
    sizes = [100, 1000, 10_000]
    scratch = [np.full(3, value) for value in (0.6, 0.7, 0.8)]
    saving = label_saving(sizes, scratch, 100, np.full(3, 0.7), n_test=10**9)
    assert saving.ratio == pytest.approx(10, rel=0.02) and not saving.is_limit
    halfway = label_saving(sizes, scratch, 100, np.full(3, 0.75), n_test=10**9)
    assert halfway.ratio == pytest.approx(10 * np.sqrt(10), rel=0.02)
    assert halfway.low < halfway.ratio < halfway.high


def test_an_accuracy_below_scratchs_first_is_an_upper_limit():
    scratch = [np.full(3, value) for value in (0.7, 0.8)]
    saving = label_saving([100, 1000], scratch, 1000, np.full(3, 0.6), n_test=1000)
    assert saving.is_upper_limit and saving.as_text() == "< 0.1"


def test_an_accuracy_beyond_scratch_is_a_limit():
    scratch = [np.full(3, value) for value in (0.6, 0.7)]
    saving = label_saving([100, 1000], scratch, 100, np.full(3, 0.9), n_test=1000)
    assert saving.is_limit and saving.ratio == pytest.approx(10)
    assert saving.as_text() == "> 10"


def test_noise_of_few_test_jets_widens_the_interval():
    scratch = [np.array([0.6, 0.61]), np.array([0.7, 0.71]), np.array([0.8, 0.81])]
    widths = []
    for n_test in (200, 20_000):
        saving = label_saving([100, 1000, 10_000], scratch, 100, np.array([0.7, 0.71]), n_test)
        widths.append(np.log(saving.high / saving.low))
    assert widths[0] > 2 * widths[1]
