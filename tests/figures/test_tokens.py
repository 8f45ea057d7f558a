"""Figures of token quality: they show every tokenizer, every number they get, and nothing twice."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetfm import figures
from jetfm.errors import JetfmError
from jetfm.figures import style, tokenizer_styles
from jetfm.figures.style import BINS, histogram, to_data
from jetfm.schema import CLASSES

NINE = [
    {"name": f"{family}-{n_codes}", "label": f"{family.capitalize()}, {n_codes}",
     "family": family, "n_codes": n_codes}
    for family, n_codes in (
        ("conditional", 512), ("conditional", 2048), ("conditional", 8192), ("causal", 512),
        ("unconditional", 512), ("fsq", 512), ("residual", 4096), ("binned", 512),
        ("binned", 9261),
    )
]  # fmt: skip
LABELS = [tokenizer["label"] for tokenizer in NINE]
RESIDUAL_EDGES = np.linspace(-40, 40, 21)


@pytest.fixture(autouse=True)
def jetfm_style():
    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")


@pytest.fixture(params=[1, 9], ids=["one", "nine"])
def tokenizers(request):
    return NINE[: request.param]


def masses(seed: int, n_jets: int = 400) -> dict:
    values = np.random.default_rng(seed).normal(125, 30, n_jets)
    return to_data(histogram(values, BINS["jet_mass"]))


def differences(seed: int, n_jets: int = 400) -> dict:
    values = np.random.default_rng(seed).normal(0, 5 + seed, n_jets)
    return to_data(histogram(values, RESIDUAL_EDGES))


def quality_data(tokenizers) -> dict:
    names = [tokenizer["name"] for tokenizer in tokenizers]
    residuals = {name: differences(seed) for seed, name in enumerate(names)}
    fit = {"sigma": 8.3, "sigma_error": 0.06, "mean": -0.124, "mean_error": 0.012}
    return {
        "mass": {name: masses(seed) for seed, name in enumerate(["original", *names])},
        "residuals": {"jet_mass": residuals, "tau32": residuals},
        "fits": {name: {"jet_mass": fit, "tau32": fit} for name in names},
        "tokenizers": tokenizers,
        "n_jets": 4000,
        "n_signal_jets": 400,
    }


def class_data(tokenizers, classes, residual: bool) -> dict:
    names = [tokenizer["name"] for tokenizer in tokenizers]
    fill = differences if residual else masses
    sides = names if residual else ["original", *names]
    return {
        "quantity": "jet_mass",
        "histograms": {c: {side: fill(seed) for seed, side in enumerate(sides)} for c in classes},
        "tokenizers": tokenizers,
        "n_jets": dict.fromkeys(classes, 1234),
        "residual": residual,
    }


def usage_data(tokenizers) -> dict:
    usage = {
        tokenizer["name"]: {
            "share": [0.5, 0.3, 0.2, 0.0], "rank": [0.125, 0.375, 0.625, 0.875],
            "n_used": 3 * tokenizer["n_codes"] // 4, "perplexity": tokenizer["n_codes"] / 2,
        }
        for tokenizer in tokenizers
    }  # fmt: skip
    return {"usage": usage, "tokenizers": tokenizers, "n_constituents": 9000}


def error_data(tokenizers, share: float = 0.2) -> dict:
    errors = {"pt": [0.3, None, 0.1], "eta_rel": [0.02, 0.01, None], "phi_rel": [0.02, 0.01, 0.01]}
    shares = {t["name"]: {"constituents": share / 10, "jets": share} for t in tokenizers}
    shares[tokenizers[0]["name"]] = {"constituents": 0.0, "jets": 0.0}
    return {
        "edges": [1.0, 10.0, 100.0, 1000.0],
        "errors": {tokenizer["name"]: errors for tokenizer in tokenizers},
        "tokenizers": tokenizers,
        "out_of_range": shares,
    }


def resolution_rows(tokenizers) -> list[dict]:
    numbers = {"sigma": 8.0, "mean": -1.0, "tau32_bias": -0.1, "tau32_sigma": 0.1}
    errors = {f"{name}_error": 0.01 for name in numbers}
    return [{"tokenizer": tokenizer} | numbers | errors for tokenizer in tokenizers]


def map_panel(tokenizer, n_drawn: int) -> dict:
    n_tokens = 30
    rng = np.random.default_rng(tokenizer["n_codes"])
    columns = rng.uniform(-0.5, 0.5, (3, n_tokens * n_drawn))
    return {
        "tokenizer": tokenizer,
        "token": np.repeat(np.arange(n_tokens), n_drawn).tolist(),
        "pt": np.exp(5 * columns[0]).tolist(),
        "eta_rel": columns[1].tolist(),
        "phi_rel": columns[2].tolist(),
        "n_tokens": n_tokens,
        "n_reconstructions": 500 if n_drawn > 1 else 1,
        "n_conditioning": 50,
        "n_drawn": n_drawn,
    }


def texts(figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(plt.Text))


def panel(figure, xlabel: str, ylabel: str = ""):
    found = [a for a in figure.axes if xlabel in a.get_xlabel() and ylabel in a.get_ylabel()]
    assert len(found) == 1, (xlabel, ylabel, len(found))
    return found[0]


def assert_legend_is_clear(figure):
    """Nothing lies under the figure's legend, and it does not leave the page."""
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert not any(legend.overlaps(axis.get_tightbbox()) for axis in figure.axes)
    assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


# Styles ------------------------------------------------------------------------------------------


def test_nine_tokenizers_have_nine_looks():
    looks = {(tokenizer_styles.color_of(t), str(tokenizer_styles.line_of(t))) for t in NINE}
    assert len(looks) == len({color for color, _ in looks}) == 9


def test_more_features_have_a_look_of_their_own(tokenizers):
    """Of one family and codebook, with the kinematics alone and with all 14 features."""
    few = {"name": "fsq", "label": "FSQ, 8000", "family": "fsq", "n_codes": 8000}
    many = few | {"name": "full-fsq", "label": "FSQ, 8000, 14 features", "n_features": 14}
    assert tokenizer_styles.color_of(few) != tokenizer_styles.color_of(many)
    plain, hollow = tokenizer_styles.handles([few, many], markers=True)
    assert (plain.get_fillstyle(), hollow.get_markerfacecolor()) == ("full", "none")
    assert plain.get_markerfacecolor() != "none"
    figure = figures.resolutions(rows=resolution_rows([few, many, *tokenizers]), paper=[])
    shown = [text.get_text() for text in figure.legends[0].texts]
    assert {"FSQ", "FSQ, 14 features"} < set(shown) and len(shown) == len(set(shown))
    for axis in figure.axes:  # not joined to each other
        of_fsq = [c for c in axis.containers if c.get_label().startswith("FSQ")]
        assert [c.lines[0].get_xdata()[-1] for c in of_fsq] == [8000, 8000]


def test_larger_codebooks_are_darker():
    for family in tokenizer_styles.FAMILIES:
        colors = [
            tokenizer_styles.color_of({"name": "t", "family": family, "n_codes": n_codes})
            for n_codes in (256, 1024, 8192)
        ]
        brightness = [sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in colors]
        assert brightness == sorted(brightness, reverse=True)


def test_an_unknown_family_is_named():
    with pytest.raises(JetfmError, match="odd-512.*'odd'"):
        tokenizer_styles.color_of({"name": "odd-512", "family": "odd", "n_codes": 512})


# Maps of tokens ----------------------------------------------------------------------------------


def test_every_tokenizer_has_two_maps_that_say_what_was_drawn(tokenizers):
    panels = [map_panel(t, 4 if t["family"] == "conditional" else 1) for t in tokenizers]
    figure = figures.token_map(panels=panels)
    assert len(figure.axes) == 2 * len(tokenizers)
    assert [a.get_title() for a in figure.axes if a.get_title()] == LABELS[: len(tokenizers)]
    assert texts(figure).count("500 times (4 drawn)") == min(3, len(tokenizers))
    below = [axis for axis in figure.axes if axis.get_yscale() == "log"]
    assert len(below) == len(tokenizers)
    assert all(axis.get_xlabel() == style.LABELS["eta_rel"] for axis in below)
    assert below[0].get_ylabel() == style.LABELS["pt"]
    for axis, drawn in zip(below, panels, strict=True):
        [points] = axis.collections
        assert points.get_rasterized()
        np.testing.assert_allclose(points.get_offsets()[:, 1], drawn["pt"])


def test_points_of_one_token_share_a_color_that_its_neighbours_lack():
    [points] = figures.token_map(panels=[map_panel(NINE[0], 4)]).axes[0].collections
    colors = points.get_facecolors().reshape(30, 4, 4)  # (tokens, drawn, RGBA)
    assert (colors == colors[:, :1]).all()
    assert (np.abs(np.diff(colors[:, 0, :3], axis=0)).max(axis=1) > 0.1).all()


def test_the_map_says_how_many_points_it_cuts():
    drawn = map_panel(NINE[4], 1)
    drawn["phi_rel"][0] = 5.0
    drawn["pt"][1] = 0.0  # no place on a logarithmic axis
    above, below = figures.token_map(panels=[drawn]).axes
    assert [text.get_text() for text in below.texts] == ["3.3% outside"]
    assert "3.3% outside" in [text.get_text() for text in above.texts]


# Jets --------------------------------------------------------------------------------------------


def test_token_quality_has_three_panels_and_a_table_of_fits(tokenizers):
    figure = figures.token_quality(**quality_data(tokenizers))
    panel(figure, style.LABELS["jet_mass"], "Ratio")
    for label in (r"m^\mathrm{orig}$ [GeV]", r"\tau_{32}^\mathrm{orig}"):
        assert len(panel(figure, label, "entries").patches) == len(tokenizers)
    shown = texts(figure)
    assert all(shown.count(tokenizer["label"]) == 1 for tokenizer in tokenizers)
    # The uncertainty sets the number of digits.
    assert shown.count("8.30 ± 0.06") == 2 * len(tokenizers)
    assert shown.count("−0.124 ± 0.012") == 2 * len(tokenizers)
    assert "4,000 jets" in shown and shown.count("400 jets") == 2


def test_numbers_of_the_table_do_not_run_into_each_other():
    data = quality_data(NINE)
    wide = {"sigma": 112.34, "sigma_error": 0.0011, "mean": -115.67, "mean_error": 0.0011}
    data["fits"] = {t["name"]: {"jet_mass": wide, "tau32": wide} for t in NINE}
    figure = figures.token_quality(**data)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[-1].texts]
    assert len(boxes) == 5 * 10
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_a_fit_without_a_peak_is_said_and_not_drawn():
    data = quality_data(NINE[:2])
    fits = data["fits"]["conditional-512"]
    fits["tau32"] = dict.fromkeys(fits["tau32"])
    assert texts(figures.token_quality(**data)).count("no peak") == 2
    rows = resolution_rows(NINE[:2])
    rows[0] |= {"sigma": None, "sigma_error": None}
    points = figures.resolutions(rows=rows, paper=[]).axes[0].containers[0].lines[0]
    np.testing.assert_array_equal(points.get_ydata(), [np.nan, 8.0])


@pytest.mark.parametrize("residual", [False, True])
def test_every_class_has_its_panel(tokenizers, residual):
    data = class_data(tokenizers, [c.name for c in CLASSES], residual)
    figure = figures.by_class(**data)
    assert len(figure.axes) == (10 if residual else 20)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [f"{c.latex}, 1,234 jets" for c in CLASSES]
    unit = "orig}$ [GeV]" if residual else "Jet mass [GeV]"
    assert sum(axis.get_xlabel().endswith(unit) for axis in figure.axes) == 10
    legend = [text.get_text() for text in figure.legends[0].texts]
    assert legend == ([] if residual else ["Original"]) + LABELS[: len(tokenizers)]


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("classes", [["Tbqq"], ["Tbqq", "QCD"], [c.name for c in CLASSES[:7]]])
def test_missing_classes_leave_no_empty_panels(classes, residual):
    figure = figures.by_class(**class_data(NINE[:2], classes, residual))
    assert len(figure.axes) == len(classes) * (1 if residual else 2)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == [f"{c.latex}, 1,234 jets" for c in CLASSES if c.name in classes]


@pytest.mark.parametrize("residual", [False, True])
def test_panels_of_the_classes_are_of_equal_size(residual):
    figure = figures.by_class(**class_data(NINE, [c.name for c in CLASSES[:6]], residual))
    assert_legend_is_clear(figure)
    sizes = np.array([axis.get_position().size for axis in figure.axes if axis.get_title()])
    np.testing.assert_allclose(sizes, sizes[:1].repeat(6, 0), rtol=0.01)


def test_ratios_of_many_are_steps_where_the_original_is_more_than_noise():
    data = class_data(NINE, ["QCD"], False)
    main, ratio = figures.by_class(**data).axes
    # Band of the original, then one line of steps a tokenizer.
    assert len(ratio.patches) == 1 + 9
    counts = np.array(data["histograms"]["QCD"]["original"]["counts"])
    for steps in ratio.patches[1:]:
        values = steps.get_data().values
        assert np.isnan(values[counts < 10]).all()
    drawn = np.isfinite(ratio.patches[1].get_data().values).sum()
    arrows = [line for line in ratio.lines if line.get_marker() in ("^", "v")]
    beyond = sum(len(line.get_xdata()) for line in arrows[:2])
    assert drawn + beyond == (counts >= 10).sum()


def test_resolutions_join_the_points_of_a_family(tokenizers):
    paper = [
        {"n_codes": 512, "quantity": "sigma", "value": 8.3, "label": "published, conditional"},
        {"n_codes": 512, "quantity": "mean", "value": -15, "label": "published, unconditional"},
    ]
    figure = figures.resolutions(rows=resolution_rows(tokenizers[::-1]), paper=paper)
    sigma, mean, bias = figure.axes
    assert "[GeV]" in sigma.get_ylabel() and "[GeV]" in mean.get_ylabel()
    assert r"\tau_{32}" in bias.get_ylabel()
    families = {tokenizer["family"] for tokenizer in tokenizers}
    for axis in figure.axes:
        assert axis.get_xlabel() == "Codebook size" and axis.get_xscale() == "log"
        assert len(axis.containers) == len(families)
    conditional = sigma.containers[0].lines[0].get_xdata()
    assert list(conditional) == [t["n_codes"] for t in tokenizers if t["family"] == "conditional"]
    stars = [line for axis in (sigma, mean) for line in axis.lines if "pub" in line.get_label()]
    assert [list(star.get_ydata()) for star in stars] == [[8.3], [-15]]
    assert len(figure.legends[0].texts) == len(families) + 2
    assert_legend_is_clear(figure)


def test_resolutions_need_no_published_values():
    figure = figures.resolutions(rows=resolution_rows(NINE), paper=[])
    assert len(figure.legends[0].texts) == 6


# Classifiers -------------------------------------------------------------------------------------


def classifier_rows(accuracies) -> list[dict]:
    return [
        {"classifier": name, "input": source, "n_codes": n_codes, "accuracy": accuracies}
        for name in ("deepsets", "transformer")
        for source, n_codes in (
            ("conditional-8192", 8192), ("conditional-512", 512), ("original", None)
        )
    ]  # fmt: skip


def test_classifiers_show_mean_and_spread_over_seeds():
    figure = figures.token_classifiers(
        rows=classifier_rows([0.5, 0.6, 0.7]), n_train=1000, n_test=500, missing=[1024, 2048]
    )
    [axis] = figure.axes
    lines = {line.get_label(): line for line in axis.lines}
    assert list(lines) == [
        "Deep Sets, tokens", "Deep Sets, original", "Transformer, tokens", "Transformer, original",
    ]  # fmt: skip
    assert list(lines["Transformer, tokens"].get_xdata()) == [512, 8192]
    np.testing.assert_allclose(lines["Transformer, tokens"].get_ydata(), 0.6)
    np.testing.assert_allclose(lines["Deep Sets, original"].get_ydata(), 0.6)
    band = axis.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (pytest.approx(0.5), pytest.approx(0.7))
    shown = texts(figure)
    assert "not at this scale: 1,024, 2,048 codes" in shown
    assert "1,000 training jets" in shown and "of 3 seeds" in shown
    assert_legend_is_clear(figure)


def test_one_seed_has_no_spread_and_a_full_grid_lacks_nothing():
    figure = figures.token_classifiers(rows=classifier_rows([0.6]), n_train=1000, n_test=500)
    shown = texts(figure)
    assert "one seed" in shown and "not at this scale" not in shown
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    np.testing.assert_allclose(band, 0.6)


# Codes and constituents --------------------------------------------------------------------------


def test_codebook_bars_are_what_is_used_and_the_perplexity(tokenizers):
    figure = figures.codebook_usage(**usage_data(tokenizers))
    curves = panel(figure, "Rank", "Share of constituents")
    bars = panel(figure, "Share of the codebook")
    assert curves.get_yscale() == "log" and len(curves.lines) == len(tokenizers)
    for line in curves.lines:
        np.testing.assert_array_equal(line.get_ydata(), [0.5, 0.3, 0.2, np.nan])
    widths = [bar.get_width() for bar in bars.patches]
    np.testing.assert_allclose(widths, [0.75, 0.5] * len(tokenizers), atol=1e-3)
    assert [t.get_text() for t in bars.get_yticklabels()] == LABELS[: len(tokenizers)]
    assert "perplexity 256" in texts(figure) and "9,000 constituents" in texts(figure)
    assert [t.get_text() for t in figure.legends[0].texts] == LABELS[: len(tokenizers)]
    assert_legend_is_clear(figure)


def test_errors_leave_empty_bins_out(tokenizers):
    figure = figures.constituent_errors(**error_data(tokenizers))
    assert len(figure.axes) == 4
    for label in ("p_\\mathrm{T}", "\\eta", "\\phi^\\mathrm{rel}$ [rad]"):
        axis = panel(figure, style.LABELS["pt"], label)
        assert axis.get_xscale() == axis.get_yscale() == "log"
        assert len(axis.lines) == len(tokenizers)
    line = panel(figure, style.LABELS["pt"], "p_\\mathrm{T}").lines[0]
    np.testing.assert_allclose(line.get_xdata(), np.sqrt([10, 1e3, 1e5]))
    np.testing.assert_array_equal(line.get_ydata(), [0.3, np.nan, 0.1])
    assert [t.get_text() for t in figure.legends[0].texts] == LABELS[: len(tokenizers)]
    assert_legend_is_clear(figure)


def test_zero_out_of_range_is_told_from_little():
    data = error_data(NINE[:3], share=0.2)
    data["out_of_range"]["conditional-2048"] = {"constituents": 1e-5, "jets": 1e-4}
    axis = panel(figures.constituent_errors(**data), "out of range [%]")
    assert axis.get_xscale() == "symlog"
    assert [t.get_text() for t in axis.texts] == ["0", "0", "0.01%", "0.001%", "20%", "2%"]
    highest = max(bar.get_width() for bar in axis.patches)
    assert axis.get_xlim()[0] == 0 and axis.get_xlim()[1] > highest


def test_all_out_of_range_is_a_hundred_per_cent(tokenizers):
    shares = {t["name"]: {"constituents": 0.999, "jets": 1.0} for t in tokenizers}
    edges, errors = [1, 10], dict.fromkeys(("pt", "eta_rel", "phi_rel"), [0.1])
    figure = figures.constituent_errors(
        edges, {t["name"]: errors for t in tokenizers}, tokenizers, shares
    )
    assert {text.get_text() for text in figure.axes[-1].texts} == {"100%"}


def test_shares_of_the_same_order_need_no_logarithm():
    axis = panel(figures.constituent_errors(**error_data(NINE, 0.3)), "out of range [%]")
    assert axis.get_xscale() == "linear"
    nothing = figures.constituent_errors(**error_data(NINE[:1]))
    assert [t.get_text() for t in panel(nothing, "out of range").texts] == ["0", "0"]
