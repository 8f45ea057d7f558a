"""Several generators side by side: each against its own truth, and nothing lost on the way."""

from __future__ import annotations

import json
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetfm import figures
from jetfm.figures import style
from jetfm.figures.generated_jets import _with_flow
from jetfm.judging.metrics import QUANTITIES
from jetfm.judging.study import PANELS, GenerativeStudy, Generator, judge_generator
from jetfm.ledger.measurements import _generation
from jetfm.ledger.verdicts import CLAIMS, Ledger, judge
from jetfm.settings import GenerativeQualitySettings
from jetfm.storage.files import read_json
from tests.judging.jet_samples import sample_of

FEW = GenerativeQualitySettings(classifier_epochs={"deepsets": 2, "transformer": 0}, n_bootstrap=4)
GENERATORS = (
    Generator("main", "NTP", (), True, 10),
    Generator("ntp-token-id", "NTP, token ids", (), True, 10),
    Generator("joint", "NTP + MPM", (), True, 5),
    Generator("continuous", "No tokens", (), False, 10),
    Generator("both", "OmniJet", ("QCD", "Tbqq"), True, 10),
    Generator("quarks", "OmniJet", ("QCD",), True, 10),
    Generator("tops", "OmniJet", ("Tbqq",), True, 10),
    Generator("flow", "EPiC-FM", ("Tbqq",), False, 10),
)
WIDTHS = {"joint": 0.4, "tops": 0.5}  # of the angles; the truths have 0.2, and 0.1 without tokens


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("quality")
    for seed, one in enumerate(GENERATORS):
        own = 0.2 if one.tokens else 0.1
        truth, training = sample_of(91, 90, own), sample_of(92, 120, own)
        sample = sample_of(seed, 80, WIDTHS.get(one.name, own))
        judge_generator(sample, truth, training, root / one.name, FEW, 1, progress=False)
    return {one.name: root / one.name for one in GENERATORS}


@pytest.fixture
def study(folders):
    numbers = range(len(GENERATORS))
    speed = {one.name: 0.5 + i for i, one in zip(numbers, GENERATORS, strict=True)}
    unfinished = {one.name: 100 + i for i, one in zip(numbers, GENERATORS, strict=True)}
    return GenerativeStudy(GENERATORS, folders, speed, unfinished)


def test_a_judge_without_epochs_is_left_out(study):
    assert set(study.metrics("main")["classifiers"]) == {"deepsets"}


def test_what_learned_from_the_same_jets_compares(study):
    assert study.only() == ["main", "ntp-token-id", "joint", "continuous"]
    assert study.only(["Tbqq"]) == ["tops", "flow"]
    text = study.as_text(["Tbqq"])
    assert "EPiC-FM" in text and "NTP" not in text and "Tbqq" in text and "7.5" in text


def test_every_jet_and_constituent_is_in_its_histogram(study):
    histograms = study.beside_truth("flow")["histograms"]
    assert tuple(histograms) == PANELS
    totals = {
        quantity: {
            name: sum(data["counts"]) + data["underflow"] + data["overflow"]
            for name, data in entry.items()
        }
        for quantity, entry in histograms.items()
    }
    assert totals["jet_mass"] == totals["n_constituents"] == {"Original jets": 90, "EPiC-FM": 80}
    n = sample_of(7, 80).n_constituents.sum()
    assert totals["pt"]["EPiC-FM"] == totals["eta_rel"]["EPiC-FM"] == n


def test_each_generator_brings_its_own_truth(study):
    data = study.beside_truth("tops", "flow")
    assert list(data["truths"]) == ["Tokenised jets", "Original jets"]
    assert [one["truth"] for one in data["generators"]] == list(data["truths"])
    angles = data["histograms"]["eta_rel"]
    assert angles["Tokenised jets"] != angles["Original jets"]


def test_the_file_holds_all_metrics_and_no_time(study, tmp_path):
    rows = read_json(study.save(tmp_path / "metrics.json"))
    assert [row["name"] for row in rows] == study.names
    assert rows[0]["combined"] == study.metrics("main")
    assert set(rows[0]["tails"]) == set(QUANTITIES)
    assert "seconds" not in json.dumps(rows)


def test_violations_stand_beside_their_generator(study):
    lines = study.violations_as_text().splitlines()[2:]
    assert len(lines) == len(GENERATORS)
    for i, (line, one) in enumerate(zip(lines, GENERATORS, strict=True)):
        assert line.startswith(one.label) and line.split()[-1] == str(100 + i)


def test_distances_are_in_units_of_the_floor(study):
    found = study.distances()["rows"]["NTP + MPM"]["eta_rel"]["value"]
    one = study.metrics("joint")["wasserstein"]["eta_rel"]
    assert found == one["value"] / one["floor"]["value"] > 3


# Figures


@pytest.fixture
def closing():
    with plt.rc_context():
        style.use_style()
        yield
    plt.close("all")


@pytest.mark.parametrize("flow", [False, True])
def test_figures_show_every_generator_and_its_size(study, closing, flow):
    figure = figures.generation(**study.beside_truth("main", "joint", "continuous"), flow=flow)
    assert len(figure.axes) == 2 * len(PANELS)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(texts) == {
        "Tokenised jets (90 jets)", "Original jets (90 jets)",
        "NTP (80 jets)", "NTP + MPM (80 jets)", "No tokens (80 jets)",
    }  # fmt: skip
    figure = figures.generator_distances(**study.distances())
    assert len(figure.legends[0].get_texts()) == 4


def test_flow_bins_lose_nothing():
    data = {"edges": [1.0, 2.0, 4.0], "counts": [3.0, 4.0], "underflow": 5.0, "overflow": 6.0}
    found = _with_flow({"a": data})["a"]
    assert found["edges"] == [0.5, 1.0, 2.0, 4.0, 8.0]  # logarithmic, so the outer ones are too
    assert found["counts"] == [5.0, 3.0, 4.0, 6.0]
    assert found["underflow"] == found["overflow"] == 0
    linear = data | {"edges": [-1.0, 0.0, 1.0]}
    assert _with_flow({"a": linear})["a"]["edges"] == [-2.0, -1.0, 0.0, 1.0, 2.0]
    full = {"a": linear | {"underflow": 0.0}, "b": linear | {"underflow": 0.0, "overflow": 0.0}}
    for name, overflow in (("a", 6.0), ("b", 0.0)):
        assert _with_flow(full)[name]["edges"] == [-1.0, 0.0, 1.0, 2.0]
        assert _with_flow(full)[name]["counts"] == [3.0, 4.0, overflow]


# The ledger


@pytest.fixture
def book(study):
    book = Ledger("test")
    _generation(book, study)
    return book


def test_claims_are_measured_on_the_models_they_are_about(book, study):
    tests = {name: study.metrics(name)["classifiers"]["deepsets"] for name in study.names}
    assert book.measured["generation-auc"].value == tests["both"]["auc"]
    single = book.measured["generation-auc-single"]
    assert single.value == pytest.approx((tests["quarks"]["auc"] + tests["tops"]["auc"]) / 2)
    errors = [tests[name]["auc_error"] for name in ("quarks", "tops")]
    assert single.uncertainty == pytest.approx(np.hypot(*errors) / 2)
    tau32 = {n: study.metrics(n)["wasserstein"]["tau32"] for n in ("quarks", "tops")}
    excess = {n: one["value"] - one["floor"]["value"] for n, one in tau32.items()}
    found = book.measured["generation-tau32"].value
    assert found == pytest.approx(excess["tops"] - excess["quarks"])
    # jets of t->bqq' are too wide here, those of the rival are not
    assert book.measured["epic-fm-tails"].value > 0
    assert book.measured["epic-fm-pt"].value < 0


def test_only_equal_training_compares(book, study):
    found = book.measured["continuous-input-generates"]
    areas = [study.metrics(n)["classifiers"]["deepsets"]["auc"] for n in ("main", "ntp-token-id")]
    assert found.value == max(areas[0] - areas[1], 0)
    errors = [
        study.metrics(name)["classifiers"]["deepsets"]["auc_error"]
        for name in ("main", "ntp-token-id")
    ]
    assert found.uncertainty == pytest.approx(np.hypot(*errors)), "also where there is no loss"
    assert found.note == "trained for 10 steps"
    assert "5 steps" in book.out_of_reach["joint-generates"]


class Areas:
    """What the ledger needs of a study that has AUCs alone."""

    def __init__(self, areas: dict[str, tuple[float, float]]) -> None:
        self.areas = areas
        self.generators = {name: SimpleNamespace(name=name, steps=7) for name in areas}

    def only(self, classes):
        return []

    def metrics(self, name):
        area, error = self.areas[name]
        return {"classifiers": {"deepsets": {"auc": area, "auc_error": error}},
                "n_jets": {"sample": 100}}  # fmt: skip


@pytest.mark.parametrize(
    ("ours", "error", "verdict"),
    [(0.6, 0.005, "reproduced"), (0.6, 0.05, "inconclusive"), (0.8, 0.005, "not reproduced")],
)
def test_no_loss_has_an_uncertainty_too(ours, error, verdict):
    """A better model loses nothing, but a vague measurement still confirms nothing."""
    book = Ledger("test")
    _generation(book, Areas({"main": (ours, error), "ntp-token-id": (0.7, error)}))
    found = book.measured["continuous-input-generates"]
    assert found.value == pytest.approx(ours - 0.7)
    assert found.uncertainty == pytest.approx(np.hypot(error, error))
    claim = next(claim for claim in CLAIMS if claim.id == "continuous-input-generates")
    assert judge(claim, found) == verdict


def test_without_a_generator_its_claims_are_out_of_reach(folders):
    numbers = {one.name: 1 for one in GENERATORS}
    book = Ledger("test")
    _generation(book, GenerativeStudy(GENERATORS[2:4], folders, numbers, numbers))
    assert book.measured == {}
    assert set(book.out_of_reach) == {
        "generation-auc", "generation-auc-single", "generation-tau32", "generation-pt-tail",
        "epic-fm-tails", "epic-fm-eta-n", "epic-fm-pt", "continuous-input-generates",
        "joint-generates",
    }  # fmt: skip
