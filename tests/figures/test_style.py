"""Histograms keep everything they are given, and figures are saved with their numbers."""

from __future__ import annotations

import json
from contextlib import nullcontext

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetfm.figures import style

EDGES = np.array([-1.0, 0.0, 2.0, 3.0])


@given(st.lists(st.floats(-5, 5) | st.just(float("nan")), max_size=40))
def test_no_value_is_lost_and_densities_integrate_to_the_share_in_range(values):
    data = style.to_data(style.histogram(np.array(values), EDGES))
    defined = [value for value in values if not np.isnan(value)]
    assert sum(data["counts"]) + data["underflow"] + data["overflow"] == len(defined)
    assert data["underflow"] == sum(value < -1 for value in defined)
    density, error = style.normalised(data)
    inside = sum(-1 <= value < 3 for value in defined)
    assert (density * np.diff(EDGES)).sum() == pytest.approx(inside / max(len(defined), 1))
    np.testing.assert_allclose(error**2 * max(len(defined), 1) * np.diff(EDGES), density)


def drawn_panel(counts, reference, overflow=0.0):
    """Figure, main and ratio panel of histograms with these counts."""
    style.use_style()
    figure, [(main, ratio)] = style.ratio_panels(1)
    entries = {
        name: {"edges": EDGES.tolist(), "counts": values, "underflow": 0.0, "overflow": overflow}
        for name, values in counts.items()
    }
    colors = dict.fromkeys(entries, "k")
    style.with_ratio((main, ratio), entries, reference, "x [GeV]", colors)
    return figure, main, ratio


def test_ratio_panel_shows_every_bin_and_what_is_outside():
    counts = {"a": [10.0, 10.0, 10.0], "b": [10.0, 1.0, 40.0]}
    figure, main, ratio = drawn_panel(counts, "a", overflow=5.0)
    drawn = sum(len(line.get_xdata()) for line in ratio.lines if line.get_marker() in "o^v")
    assert drawn == 3
    low, high = style.RATIO_RANGE
    for line in ratio.lines:
        assert all(low <= y <= high for y in np.atleast_1d(line.get_ydata()))
    assert "outside" in main.texts[0].get_text()
    assert ratio.get_xlabel() == "x [GeV]"
    plt.close(figure)


def test_entries_where_the_reference_has_none_are_shown():
    figure, _, ratio = drawn_panel({"a": [10.0, 0.0, 0.0], "b": [10.0, 3.0, 0.0]}, "a")
    (up,) = [line for line in ratio.lines if line.get_marker() == "^"]
    assert up.get_xdata().tolist() == [(EDGES[1] + EDGES[2]) / 2]
    plt.close(figure)


def test_every_entry_is_divided_by_its_own_reference():
    counts = {"a": [10.0, 20.0, 30.0], "b": [30.0, 20.0, 10.0]}
    counts |= {"of a": counts["a"], "of b": counts["b"]}
    figure, _, ratio = drawn_panel(counts, {"a": "a", "b": "b", "of a": "a", "of b": "b"})
    points = [line.get_ydata() for line in ratio.lines if line.get_marker() == "o"]
    assert len(points) == 2
    np.testing.assert_allclose(points, 1)
    plt.close(figure)


def test_saved_figures_are_the_same_bytes_for_the_same_numbers(tmp_path):
    style.use_style()
    for name in ("one", "two"):
        figure, axis = plt.subplots()
        axis.plot([0, 1], [1, 2])
        style.save(figure, {"x": [0, 1]}, name, tmp_path)
        plt.close(figure)
    for suffix in ("pdf", "png", "json"):
        assert (tmp_path / f"one.{suffix}").read_bytes() == (
            tmp_path / f"two.{suffix}"
        ).read_bytes()
    assert json.loads((tmp_path / "one.json").read_text()) == {"x": [0, 1]}


def test_ticks_that_are_placed_once_are_where_they_were(tmp_path, monkeypatch):
    """Axes of both scales, shared ones, a twin and a colour bar: the same bytes as without it."""

    def drawn(folder):
        figure, axes = plt.subplots(2, 2, sharex="col", layout="constrained")
        for axis, high in zip(axes.flat, (3, 3000, 0.02, 1e-5), strict=True):
            axis.plot([1, 2, 40], [high / 9, high, high / 3])
        axes[0, 1].set_xscale("log")
        axes[1, 0].set_yscale("log")
        axes[1, 1].twinx().plot([1, 40], [0, 1])
        figure.colorbar(axes[0, 0].scatter([1, 2], [1, 2], c=[0, 900]), ax=axes[0, 0])
        style.save(figure, {}, "figure", folder)
        return [(folder / f"figure{suffix}").read_bytes() for suffix in (".pdf", ".png")]

    once = drawn(tmp_path / "once")
    monkeypatch.setattr(style, "_ticks_placed_once", lambda figure: nullcontext())
    assert drawn(tmp_path / "always") == once


def test_a_users_matplotlibrc_has_no_say():
    style.use_style()
    ours = dict(plt.rcParams)
    theirs = {"text.usetex": True, "axes.grid": True, "axes.spines.top": False, "lines.marker": "o"}
    with plt.rc_context(theirs):
        style.use_style()
        found = dict(plt.rcParams)
    assert {name for name in ours if found[name] != ours[name]} <= {"backend"}
