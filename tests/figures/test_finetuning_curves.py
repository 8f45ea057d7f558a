"""Curves of fine-tuning show what there is, and stand what a profile leaves out."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetfm.figures import learning_curves, mask_fractions, pretraining_jets

LINE = {"size": 1000, "n_pretraining": [300, 30_000], "mean": [0.4, 0.5], "spread": [0.01, 0.02]}
LINE |= {"jets": [0.01, 0.01], "scratch": [0.3, 0.01]}
EMPTY = LINE | {key: [] for key in ("n_pretraining", "mean", "spread", "jets")}


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def test_accuracies_stand_at_their_numbers_of_jets():
    (axis,) = pretraining_jets([LINE], 2000, ["QCD", "Tbqq"]).axes
    points, dotted = axis.lines[0], axis.lines[-1]
    assert axis.get_xscale() == "log"
    np.testing.assert_array_equal(points.get_xydata(), [[300, 0.4], [30_000, 0.5]])
    np.testing.assert_array_equal(dotted.get_ydata(), 0.3)


@pytest.mark.parametrize("lines", [[EMPTY], [EMPTY | {"scratch": []}]])
def test_a_profile_that_fine_tunes_none_has_an_empty_figure(lines, tmp_path):
    """A logarithmic axis without a point would not be drawn."""
    figure = pretraining_jets(lines, 2000, ["QCD", "Tbqq"])
    figure.savefig(tmp_path / "empty.png")
    assert figure.axes[0].get_xscale() == "linear"


@pytest.mark.parametrize("sizes", [[50], [300], [20, 40], [100], [1000, 10_000]])
def test_every_number_of_labels_has_a_labelled_axis(sizes):
    ones = [0.5] * len(sizes)
    line = {"text": "NTP", "model": "main", "weights": "scratch", "sizes": sizes, "mean": ones}
    line |= {"spread": ones, "jets": ones, "cut": [False] * len(sizes)}
    panel = {"metric": "accuracy", "classes": ["QCD", "Tbqq"], "jets": "jetclass", "n_test": 9}
    panel |= {"lines": [line], "published": [], "missing_sizes": [], "missing_contenders": []}
    figure = learning_curves([panel])
    figure.canvas.draw()
    (axis,) = figure.axes
    low, high = axis.get_xlim()
    ticks = zip(axis.get_xticks(), axis.get_xticklabels(), strict=True)
    shown = [text.get_text() for place, text in ticks if low < place < high]
    assert shown and all(shown)


def test_mask_fractions_stand_at_their_percentages_task_by_task():
    line = {key: value for key, value in LINE.items() if key != "n_pretraining"}
    line["mask_fraction"] = [0.2, 0.6]
    panel = {"jets": "jetclass", "n_test": 2000, "classes": ["QCD", "Tbqq"], "lines": [line]}
    empty = panel | {"lines": []}
    (axis,) = mask_fractions([panel, empty]).axes
    np.testing.assert_allclose(axis.lines[0].get_xydata(), [[20, 0.4], [60, 0.5]])
    (axis,) = mask_fractions([empty]).axes
    assert not axis.lines
