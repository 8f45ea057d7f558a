"""The scaling law: found again where it holds, with an uncertainty that means something."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.errors import JetfmError
from jetfm.pretraining.scaling_law import Law, ScalingStudy, Trained, fit_law, predict

TRUTH = Law(4.0, 0.8, 0.6, 0.4, 0.5, 1e5, 1e6)
NETWORKS, LENGTHS = (3e4, 1e5, 3e5), (2e5, 1e6, 5e6)


def trainings(noise: float = 0.0, seed: int = 0) -> list[Trained]:
    rng = np.random.default_rng(seed)
    return [
        Trained(int(n), int(d), float(TRUTH.loss(n, d)) + noise * rng.normal())
        for n in NETWORKS
        for d in LENGTHS
    ]


def test_a_law_without_noise_is_found_again():
    found = fit_law(trainings())
    for n in (1e4, 1e6):
        for d in (1e5, 3e7):
            assert found.loss(n, d) == pytest.approx(TRUTH.loss(n, d), abs=5e-3)
    assert found.floor == pytest.approx(4.0, abs=0.02)


def test_the_loss_falls_with_network_and_tokens():
    found = fit_law(trainings(0.03))
    assert np.all(np.diff(found.loss(np.geomspace(1e3, 1e8, 20), 1e6)) <= 0)
    assert np.all(np.diff(found.loss(1e5, np.geomspace(1e3, 1e9, 20))) <= 0)


def test_predictions_miss_as_often_as_they_say():
    """Of 20 studies, about two thirds within one of their uncertainties."""
    n, d = 1e6, 2e7
    pulls = []
    for seed in range(20):
        found = predict(trainings(0.01, seed), int(n), int(d))
        pulls.append((found.value - float(TRUTH.loss(n, d))) / found.uncertainty)
    within = np.mean(np.abs(pulls) < 1)
    assert 0.5 < within <= 0.98, within  # the jackknife of so few points is generous


def test_too_few_trainings_are_refused():
    points = trainings()
    with pytest.raises(JetfmError, match="5 trainings, 2 networks, 3 lengths.*6 or more"):
        fit_law(points[:5])
    with pytest.raises(JetfmError, match="1 networks"):
        fit_law([Trained(10, d, 5.0 - 0.1 * d) for d in range(1, 8)])
    assert points[0].compute == 6 * NETWORKS[0] * LENGTHS[0]


def test_a_study_foretells_from_its_points_alone():
    points = {(32, 2): trainings()[:3], (64, 3): trainings()[3:6], (96, 4): trainings()[6:]}
    target = Trained(10**6, 2 * 10**7, float("nan"))
    study = ScalingStudy(points, target)
    expected = float(TRUTH.loss(target.n_parameters, target.n_tokens))
    assert study.prediction.value == pytest.approx(expected, abs=5e-3)
    data = study.figure_data([5.0, 5.1])
    assert data["target"]["compute"] == target.compute and data["reached"] == [5.0, 5.1]
    for line, trained in zip(data["lines"], points.values(), strict=True):
        assert line["loss"] == [one.loss for one in trained]
        near = np.interp(line["compute"], line["law_compute"], line["law_loss"])
        assert near == pytest.approx(line["loss"], abs=0.02), "the law passes through the points"
    assert f"{study.prediction.value:.3f} +-" in study.as_text()


def test_what_was_reached_stands_beside_what_was_foretold():
    noisy = trainings(0.01)
    points = {(32, 2): noisy[:3], (64, 3): noisy[3:6], (96, 4): noisy[6:]}
    study = ScalingStudy(points, Trained(10**6, 2 * 10**7, float("nan")))
    value, uncertainty = study.prediction.value, study.prediction.uncertainty
    above = [value + 1.9 * uncertainty, value + 2.1 * uncertainty]
    assert study.compared(above).endswith(
        f"reached {above[0]:.3f}, {above[1]:.3f}: 2.0 of its uncertainties above"
    )
    assert study.compared([value - uncertainty]).endswith(": 1.0 of its uncertainties below")
