"""Token quality measures what was done to the jets, no more and no less."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetfm import figures
from jetfm.data.constituent_order import shuffled
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing
from jetfm.physics.statistics import fit_resolution
from jetfm.schema import KINEMATICS
from jetfm.settings import TokenizerSettings
from jetfm.token_quality import measurement
from jetfm.token_quality.measurement import PT_EDGES, fit_residuals, original_jets
from jetfm.token_quality.study import (
    QUANTITIES,
    TokenQuality,
    TokenQualityStudy,
    compare,
    decoded_jets,
    original_observables,
    residual_edges,
)
from jetfm.tokenizers import make_tokenizer
from jetfm.tokenizers.encoding import tokenize

N_JETS = 400


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Jets of two classes, t->bqq' (8) and q/g (0)."""
    rng = np.random.default_rng(1)
    counts = rng.integers(8, 40, N_JETS)
    physical = np.column_stack(
        [rng.exponential(20, counts.sum()) + 1, rng.normal(0, 0.25, (counts.sum(), 2))]
    )
    jets = np.zeros(N_JETS, JET_DTYPE)
    jets["label"] = np.resize([8, 0], N_JETS)
    folder = tmp_path_factory.mktemp("jets")
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(physical, counts, jets)
    return JetStore(folder)


@pytest.fixture(scope="module")
def original(store, tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    assert original_observables(store, folder)["n_jets"] == N_JETS
    return folder


def tokens_of(
    store, folder, change=lambda x: x, n_codes=5, id_of=None, limit=None, **info
) -> TokenStore:
    """Tokens in random order within a jet, that decode to changed constituents (B, T, 3)."""
    physical, mask = store.dense(slice(None), limit)
    order = shuffled(mask, np.random.default_rng(7))
    physical = np.take_along_axis(change(physical.astype(np.float64)), order[..., None], axis=1)
    ids = np.zeros(mask.shape, int) if id_of is None else id_of(mask)
    decoded = Preprocessing().forward(physical, mask)
    with TokenStoreWriter(folder, n_codes=n_codes, **info) as writer:
        writer.append(ids, decoded, mask, store.labels, positions=order)
    return TokenStore(folder)


def scaled_by(factor: np.ndarray):
    """pt multiplied by one factor a jet."""
    return lambda x: x * np.stack([factor, np.ones(N_JETS), np.ones(N_JETS)], -1)[:, None]


def smeared(pt: float, eta: float, phi: float, seed: int = 0):
    def change(x):
        noise = np.random.default_rng(seed).normal(size=x.shape) * (pt, eta, phi)
        smeared = x + noise
        smeared[..., 0] = x[..., 0] * np.exp(noise[..., 0])
        return smeared

    return change


# --- one tokenizer ---


def test_residuals_are_those_that_were_put_in(store, original, tmp_path):
    scale = np.random.default_rng(2).normal(1.0, 0.05, N_JETS)
    tokens = tokens_of(store, tmp_path / "tokens", scaled_by(scale))
    compare(store, tokens, Preprocessing(), original, tmp_path)
    quality = TokenQuality(tmp_path, original)
    mass = quality.values("original", "jet_mass")
    # Mass and pt are homogeneous in the constituents' pt; the ratios of tau do not see a scale.
    np.testing.assert_allclose(quality.values("reconstructed", "jet_mass"), scale * mass, rtol=1e-5)
    signal = store.labels == 8
    np.testing.assert_allclose(
        quality.residuals("jet_mass"), ((scale - 1) * mass)[signal], atol=2e-3
    )
    pt = quality.values("original", "jet_pt")
    expected = ((scale - 1) * pt)[signal]
    assert quality.result["fits"]["jet_pt"]["bias"] == pytest.approx(expected.mean(), abs=1e-2)
    assert np.abs(quality.residuals("tau32")).max() < 1e-4
    assert quality.result["n_signal_jets"] == N_JETS // 2
    assert quality.result["fits"]["jet_mass"]["sigma"] == pytest.approx(
        0.05 * mass[signal].mean(), rel=0.2
    )
    assert quality.beats_mean_mass()


def test_a_perfect_tokenizer_loses_nothing(store, original, tmp_path):
    tokens = tokens_of(store, tmp_path / "tokens")
    result = compare(store, tokens, Preprocessing(), original, tmp_path)
    for name in KINEMATICS:
        errors = [e for e in result["constituents"][name] if e is not None]
        assert errors and max(errors) < 1e-5
    for fit in result["fits"].values():
        assert abs(fit["bias"]) < 1e-3 and (fit["sigma"] is None or fit["sigma"] < 1e-2)
    assert result["out_of_range"]["beyond_decoded"] == {"constituents": 0, "jets": 0}
    json.dumps(result, allow_nan=False)


def test_a_known_smearing_is_found_in_every_pt_bin(store, original, tmp_path):
    """Also that tokens in random order are compared with their own constituents."""
    tokens = tokens_of(store, tmp_path / "tokens", smeared(0.1, 0.02, 0.03))
    found = compare(store, tokens, Preprocessing(), original, tmp_path)["constituents"]
    assert sum(found["n"]) == len(store.constituents)  # all within 0.5 to 500 GeV
    np.testing.assert_array_equal(found["edges"], PT_EDGES)
    for name, expected in (("pt", 0.1005), ("eta_rel", 0.02), ("phi_rel", 0.03)):
        for n, error in zip(found["n"], found[name], strict=True):
            if n < 10:
                assert error is None
            else:  # five standard deviations of an estimated rms
                assert error == pytest.approx(expected, rel=0.02 + 5 / np.sqrt(2 * n))


def test_angles_beyond_pi_are_the_same(store, original, tmp_path):
    tokens = tokens_of(store, tmp_path / "tokens", lambda x: x + (0, 0, 2 * np.pi))
    found = compare(store, tokens, Preprocessing(), original, tmp_path)
    assert max(e for e in found["constituents"]["phi_rel"] if e is not None) < 1e-5


def test_use_of_the_codes(store, original, tmp_path):
    """Half of the constituents have code 0, the others share 1 and 2: 1.5 bits."""

    def id_of(mask):
        ids = np.zeros(mask.shape, int)
        ids[mask] = np.resize([0, 1, 0, 2], mask.sum())
        return ids

    tokens = tokens_of(store, tmp_path / "tokens", id_of=id_of)
    result = compare(store, tokens, Preprocessing(), original, tmp_path)
    assert result["n_used"] == 3 and result["n_codes"] == 5
    assert result["perplexity"] == pytest.approx(2**1.5, rel=1e-3)
    assert result["n_constituents"] == np.load(tmp_path / "usage.npy").sum() == len(tokens.ids)


def test_what_no_decoded_constituent_reaches_is_out_of_range(store, original, tmp_path):
    def clipped(x):
        return np.stack([x[..., 0], np.clip(x[..., 1], -0.5, 0.5), x[..., 2]], -1)

    counted = {"constituents": len(store.constituents) // 4, "jets": N_JETS // 2}
    tokens = tokens_of(store, tmp_path / "tokens", clipped, out_of_range=counted)
    compare(store, tokens, Preprocessing(), original, tmp_path)
    quality = TokenQuality(tmp_path, original)
    outside = np.abs(store.constituents[:, 1]) > 0.5
    jets = np.unique(np.repeat(np.arange(N_JETS), store.n_constituents)[outside])
    expected = {"constituents": outside.mean(), "jets": len(jets) / N_JETS}
    assert quality.out_of_range("conditional") == pytest.approx(expected)
    n = len(store.constituents)
    assert quality.out_of_range("binned") == {"constituents": (n // 4) / n, "jets": 0.5}


@pytest.mark.parametrize("order", ["random", "pt"])
def test_tokens_know_which_constituent_they_stand_for(store, original, tmp_path, order):
    settings = TokenizerSettings(preset="binned", order=order, bins=(40, 40, 40), half_width=None)
    tokenizer = make_tokenizer(settings)
    tokenizer.fit(store)
    tokens = tokenize(tokenizer, store, tmp_path / "t", (3,), 20, batch_size=70, progress=False)
    counts = np.minimum(store.n_constituents, 20)
    jets = np.repeat(np.arange(N_JETS), counts)
    by_jet = np.lexsort((tokens.positions, jets))  # every jet has each of its positions once
    expected = np.concatenate([np.arange(n) for n in counts])
    np.testing.assert_array_equal(tokens.positions[by_jet], expected)
    assert (order == "pt") == np.array_equal(tokens.positions, expected)
    before = tokenizer.preprocessing.forward(original_jets(store, tokens, slice(0, N_JETS)))
    after = tokenizer.preprocessing.forward(decoded_jets(tokens, tokenizer.preprocessing))
    half_a_cell = (tokenizer.high - tokenizer.low).numpy() / 80
    inside = (np.abs(before[:, 1:]) < 0.8 * 3).all(1)
    assert (np.abs(after - before)[inside] <= 1.001 * half_a_cell).all()
    assert tokens.info["out_of_range"]["constituents"] == (~inside).sum()


def test_longer_jets_are_compared_on_the_same_leading_constituents(store, tmp_path):
    original_observables(store, tmp_path / "original", max_constituents=10)
    tokens = tokens_of(store, tmp_path / "tokens", lambda x: x * (1.02, 1, 1), limit=10)
    compare(store, tokens, Preprocessing(), tmp_path / "original", tmp_path, max_constituents=10)
    quality = TokenQuality(tmp_path, tmp_path / "original")
    ratio = quality.values("reconstructed", "jet_pt") / quality.values("original", "jet_pt")
    np.testing.assert_allclose(ratio, 1.02, rtol=1e-4)


def test_cuts_are_counted_and_are_no_residual(store, original, tmp_path):
    """Residuals are those of the jets that tokens were made from; distributions show whole jets."""
    half_width = 0.4
    settings = TokenizerSettings(preset="binned", bins=(400, 400, 400), half_width=half_width)
    tokenizer = make_tokenizer(settings)
    tokenizer.fit(store)
    tokens = tokenize(tokenizer, store, tmp_path / "t", (3,), 128, batch_size=70, progress=False)
    within = tmp_path / "within"
    assert original_observables(store, within, half_width=half_width) == {"n_jets": N_JETS} | {
        f"n_undefined_{name}": 0 for name in measurement.QUANTITIES
    }
    expected = []
    for jet in range(N_JETS):  # one by one, by hand
        rows = store.constituents[store.offsets[jet] : store.offsets[jet + 1]].astype(np.float64)
        pt, eta, phi = rows[(np.abs(rows[:, 1:]) < half_width).all(1)].T
        p = np.array([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)]).sum(1)
        expected.append(np.sqrt((pt * np.cosh(eta)).sum() ** 2 - p @ p))
    np.testing.assert_allclose(np.load(within / "jet_mass.npy"), expected, rtol=1e-4)

    compare(store, tokens, tokenizer.preprocessing, within, tmp_path / "found")
    quality = TokenQuality(tmp_path / "found", within)
    lost = (quality.values("original", "jet_mass") - np.load(original / "jet_mass.npy"))[
        store.labels == 8
    ]
    assert lost.mean() < -10  # [GeV], of the cut
    assert abs(quality.result["fits"]["jet_mass"]["bias"]) < 1
    descriptor = {"name": "grid", "label": "Grid", "family": "binned", "n_codes": 400**3}
    study = TokenQualityStudy(
        original, {"grid": tmp_path / "found"}, {"grid": descriptor}, within_cuts={"grid": within}
    )
    for shown in (study, study.only("grid")):
        np.testing.assert_array_equal(
            shown["grid"].residuals("jet_mass"), quality.residuals("jet_mass")
        )
        whole = TokenQualityStudy(original, {"grid": tmp_path / "found"}, {"grid": descriptor})
        assert shown.by_class("jet_mass") == whole.by_class("jet_mass")


def test_tokens_of_other_jets(store, original, tmp_path):
    tokens = tokens_of(store, tmp_path / "tokens", limit=10)
    with pytest.raises(JetfmError, match="other lengths or labels; expected those of .* 128"):
        compare(store, tokens, Preprocessing(), original, tmp_path)
    physical, mask = store.dense(slice(None))
    with TokenStoreWriter(tmp_path / "wrong", 5) as writer:
        positions = np.arange(mask.shape[1]) + np.ones(mask.shape, int)
        writer.append(mask * 0, physical, mask, store.labels, positions=positions)
    with pytest.raises(JetfmError, match="positions of constituents that their jets do not have"):
        compare(store, TokenStore(tmp_path / "wrong"), Preprocessing(), original, tmp_path)


def test_further_features_are_left_out(store, tmp_path):
    """Tokens of the full feature set decode to 14 columns, of which jets need three."""
    preprocessing = Preprocessing(features=(*KINEMATICS, "mass", "charge"))
    decoded = np.ones((1, 4, 5), np.float32)
    with TokenStoreWriter(tmp_path, 5, n_features=5) as writer:
        writer.append(np.zeros((1, 4), int), decoded, np.ones((1, 4), bool))
    assert decoded_jets(TokenStore(tmp_path), preprocessing).shape == (4, 3)


@pytest.mark.parametrize(
    ("residuals", "bias"),
    [
        (np.zeros(100), 0.0),  # no spread
        (np.full(50, np.nan), None),
        (np.zeros(0), None),
        (np.array([1.0, 2.0, np.nan]), 1.5),  # too few
    ],
)
def test_residuals_without_a_peak_have_no_fit(residuals, bias):
    fit = fit_residuals(residuals)
    assert {fit[key] for key in ("sigma", "sigma_error", "mean", "mean_error")} == {None}
    assert fit["bias"] == (bias if bias is None else pytest.approx(bias, abs=1e-12))
    assert fit["n_undefined"] == np.isnan(residuals).sum()
    json.dumps(fit, allow_nan=False)


def test_a_flat_fit_is_none(monkeypatch):
    def flat(residuals):
        return replace(fit_resolution(residuals), sigma=math.nan, mean_uncertainty=math.nan)

    monkeypatch.setattr(measurement, "fit_resolution", flat)
    fit = fit_residuals(np.random.default_rng(0).normal(size=1000))
    assert fit["sigma"] is None and fit["mean"] is None and fit["bias"] is not None


@pytest.mark.parametrize("reach", [0.3, 7.0, 55.0])
def test_residual_edges_hold_the_residuals(reach):
    residuals = np.random.default_rng(0).uniform(-reach, reach, 1000)
    edges = residual_edges([residuals, np.full(3, np.nan)], 5.0)
    assert edges[0] == -edges[-1] and len(edges) == 81
    assert (np.abs(residuals) <= edges[-1]).mean() >= 0.99
    assert edges[-1] % 5 == 0


def test_residual_edges_resolve_the_narrowest_peak():
    rng = np.random.default_rng(0)
    edges = residual_edges([rng.normal(0, 2, 5000), rng.normal(-60, 50, 5000)], 5.0)
    assert edges[-1] >= 30 and 5 * 2 / np.diff(edges)[0] >= 10
    assert residual_edges([np.zeros(10), rng.normal(0, 50, 5000)], 5.0)[-1] == 5
    assert residual_edges([], 0.05)[-1] == pytest.approx(0.05)


# --- several tokenizers ---


@pytest.fixture(scope="module")
def study(store, original, tmp_path_factory):
    """A good tokenizer, a bad one, and one whose decoder gives the same constituent always."""
    root = tmp_path_factory.mktemp("study")
    changes = {
        "good": ("conditional", smeared(0.1, 0.01, 0.01)),
        "bad": ("binned", smeared(0.4, 0.1, 0.1)),
        "broken": ("unconditional", lambda x: np.ones_like(x)),
    }
    for name, (_, change) in changes.items():
        counted = {"constituents": 7, "jets": 4}
        tokens = tokens_of(store, root / name / "tokens", change, n_codes=512, out_of_range=counted)
        task = (store, tokens, Preprocessing(), original, root / name)
        function, task = pickle.loads(pickle.dumps((compare, task)))  # as to a worker process
        function(*task)
    return TokenQualityStudy(
        original,
        {name: root / name for name in changes},
        {
            name: {"name": name, "label": name.capitalize(), "family": family, "n_codes": 512}
            for name, (family, _) in changes.items()
        },
    )


def n_entries(data: dict) -> float:
    return sum(data["counts"]) + data["underflow"] + data["overflow"]


def test_figures_share_edges_and_count_all_jets(study):
    data = study.token_quality()
    assert study.names == ["good", "bad", "broken"] == [t["name"] for t in data["tokenizers"]]
    assert list(data["mass"]) == ["original", *study.names]
    assert all(n_entries(histogram) == N_JETS for histogram in data["mass"].values())
    for histograms in data["residuals"].values():
        assert len({tuple(histogram["edges"]) for histogram in histograms.values()}) == 1
        assert n_entries(histograms["good"]) == N_JETS // 2 == data["n_signal_jets"]
    good, bad = (data["fits"][name]["jet_mass"] for name in ("good", "bad"))
    assert 0 < good["sigma"] < bad["sigma"]
    assert study.beats_mean_mass("good") and not study.beats_mean_mass("broken")


def test_fewer_tokenizers(study):
    few = study.only("broken", "good")
    assert few.names == ["broken", "good"] and few.n_jets == study.n_jets
    assert [row["tokenizer"]["name"] for row in few.resolutions()["rows"]] == few.names


def test_histograms_are_drawn_of_the_papers_kinds_and_the_first(study, original):
    """Whatever the first is, and no 14 features: their lines would hide each other."""
    kinds = {"broken": "fsq", "good": "conditional", "bad": "binned"}
    wide = {"good": {"n_features": 14}}
    for changed, drawn in (({}, ["broken", "good", "bad"]), (wide, ["broken", "bad"])):
        descriptors = {
            name: {"name": name, "label": name, "family": family, "n_codes": 512}
            | changed.get(name, {})
            for name, family in kinds.items()
        }
        folders = {name: study[name].folder for name in kinds}
        again = TokenQualityStudy(original, folders, descriptors)
        data, of_classes = again.token_quality(), again.by_class("tau21", residual=True)
        assert [t["name"] for t in data["tokenizers"]] == drawn == list(data["fits"])
        assert list(data["mass"]) == ["original", *drawn]
        assert list(of_classes["histograms"]["Tbqq"]) == drawn
        assert len(again.resolutions()["rows"]) == len(again.codebook_usage()["usage"]) == 3
    last = TokenQualityStudy(
        original, {n: study[n].folder for n in ("good", "broken")},
        {n: {"name": n, "label": n, "family": kinds[n], "n_codes": 512} for n in kinds},
    )  # fmt: skip
    assert [t["name"] for t in last.token_quality()["tokenizers"]] == ["good"]


def test_resolutions_beside_the_papers_values(study):
    data = study.resolutions()
    row = data["rows"][0]
    fits = study["good"].result["fits"]
    assert row["sigma"] == fits["jet_mass"]["sigma"] and row["tau32_bias"] == fits["tau32"]["bias"]
    values = {(entry["quantity"], entry["n_codes"]): entry["value"] for entry in data["paper"]}
    assert values == {("sigma", 512): 8.3, ("sigma", 8192): 4.0, ("mean", 512): -15.0}
    assert all("scaled" not in row for row in data["rows"])


def test_scaled_jets_stand_beside_those_decoded(study, original):
    """In the table and the figure; those that lack them are shown without, as older results are."""
    fit = {"sigma": 9.0, "sigma_error": 0.25, "mean": 0.5, "mean_error": 0.25}
    scaled = {"scale": {"pt": 1.0071, "angle": 1.021}, "fits": {"jet_mass": fit, "jet_pt": fit}}
    folders = {name: study[name].folder for name in study.names}
    descriptors = {tokenizer["name"]: tokenizer for tokenizer in study.tokenizers}
    both = TokenQualityStudy(original, folders, descriptors, scaled={"good": scaled})
    rows = {row["tokenizer"]["name"]: row for row in both.only("good", "bad").resolutions()["rows"]}
    assert rows["good"]["scaled"] == fit and "scaled" not in rows["bad"]
    assert rows["good"]["mean"] == study.resolutions()["rows"][0]["mean"]  # as decoded
    block = next(part for part in both.as_text().split("\n\n") if "brought to" in part)
    assert "1.0071" in block and "0.50 +- 0.25" in block and "Good" in block and "Bad" not in block
    assert max(map(len, block.splitlines())) < 120
    same = {name: one | {"label": "Same"} for name, one in descriptors.items()}
    text = TokenQualityStudy(
        original, folders, same, scaled=dict.fromkeys(("good", "bad"), scaled)
    ).as_text()
    block = next(part for part in text.split("\n\n") if "brought to" in part)
    assert block.count("Same") == 2  # a row each, whatever they are called
    figure = figures.resolutions(**both.resolutions())
    widths, means, _ = figure.axes
    assert len(means.containers) == len(widths.containers) + 1
    assert "Pale" in figure.legends[0].get_texts()[-3].get_text()
    plt.close(figure)


@pytest.mark.parametrize("quantity", list(QUANTITIES))
def test_by_class_covers_the_classes_that_have_jets(study, quantity):
    whole, residual = (study.by_class(quantity, residual) for residual in (False, True))
    assert whole["n_jets"] == {"QCD": N_JETS // 2, "Tbqq": N_JETS // 2} == residual["n_jets"]
    for row in whole["histograms"].values():
        assert list(row) == ["original", *study.names]
    edges = set()
    for row in residual["histograms"].values():
        assert list(row) == study.names
        edges |= {tuple(histogram["edges"]) for histogram in row.values()}
    assert len(edges) == 1


def test_codebook_usage_is_thinned_but_keeps_its_ends(study):
    entry = study.codebook_usage()["usage"]["bad"]
    assert len(entry["share"]) == len(entry["rank"]) == 200
    assert entry["share"][0] == 1 and entry["share"] == sorted(entry["share"], reverse=True)
    assert entry["rank"][0] == 1 / 512 and entry["rank"][-1] == 1
    assert entry["n_used"] == 1 and entry["perplexity"] == 1


def test_range_is_the_grids_or_the_decoded_box(study):
    data = study.constituent_errors()
    assert data["out_of_range"]["bad"]["jets"] == 4 / N_JETS  # as counted while encoding
    assert data["out_of_range"]["broken"] == {"constituents": 1, "jets": 1}
    assert len(data["errors"]["good"]["pt"]) == len(data["edges"]) - 1


def test_a_tokenizer_without_a_peak_leaves_a_gap_in_the_table(study):
    assert study["broken"].result["fits"]["tau32"]["sigma"] is None
    text = study.as_text()
    rows = [line for line in text.splitlines() if line.startswith("Broken")]
    assert len(rows) == 3 and " - " in rows[1] and "nan" not in text and "None" not in text
    assert "1 of 512" in rows[2] and "100 %" in rows[2]
    assert max(map(len, text.splitlines())) < 120


@pytest.mark.parametrize(
    ("figure", "arguments"),
    [
        ("token_quality", ()),
        ("resolutions", ()),
        ("by_class", ("jet_mass",)),
        ("by_class", ("tau32", True)),
        ("codebook_usage", ()),
        ("constituent_errors", ()),
    ],
)
def test_figures_take_what_the_study_gives(study, figure, arguments):
    data = getattr(study, figure)(*arguments)
    data = json.loads(json.dumps(data, allow_nan=False))  # as the pipeline saves it
    plt.close(getattr(figures, figure)(**data))
