"""The shipped sample against the published statistics of JetClass, and the comparison itself."""

from __future__ import annotations

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from jetfm.errors import JetfmError
from jetfm.schema import BRANCHES, CLASSES
from jetfm.simulation.calibration import calibrate, format_table, reference

SAMPLE = Path(__file__).parents[2] / "data" / "sample"


@pytest.fixture(scope="module")
def rows():
    return calibrate(sorted(SAMPLE.glob("*/*.root")))


def value(rows, class_name, quantity):
    return next(r for r in rows if (r.class_name, r.quantity) == (class_name, quantity))


@pytest.mark.parametrize("quantity", ["n_constituents_mean", "pt_mean"])
@pytest.mark.parametrize("class_name", [c.name for c in CLASSES])
def test_multiplicity_and_pt_agree_with_jetclass(rows, class_name, quantity):
    """10 % and 3 %, widened by two standard errors of the sample's 280 jets a class."""
    row = value(rows, class_name, quantity)
    assert row.tolerance == {"n_constituents_mean": 0.10, "pt_mean": 0.03}[quantity]
    assert row.within(n_sigma=2), row


@pytest.mark.parametrize("kind", ["charged_hadron", "neutral_hadron", "photon", "electron", "muon"])
def test_constituent_types_agree_with_jetclass(rows, kind):
    row = value(rows, "all", f"{kind}_fraction")
    assert row.tolerance == 0.20
    assert row.within(n_sigma=2), row


@pytest.mark.parametrize(
    "quantity", ["deta_sd", "dphi_sd", "pt_ratio_sd", "charge_sd", "d0err_mean", "dzerr_mean"]
)
def test_further_constituent_statistics_agree_within_five_per_cent(rows, quantity):
    """No requirement, but a change of the detector shows here first."""
    row = value(rows, "all", quantity)
    assert abs(row.ratio - 1) < 0.05 + 2 * row.uncertainty / row.published, row


def test_top_substructure_agrees_with_jetclass(rows):
    """The published values were digitised to 3 %."""
    for quantity in ("sdmass_mean", "tau1_mean", "tau2_mean", "tau3_mean", "tau4_mean"):
        row = value(rows, "Tbqq", quantity)
        assert abs(row.ratio - 1) < 0.03 + 3 * row.uncertainty / row.published, row


def test_every_published_number_is_compared(rows):
    published = reference()
    expected = len(published["jets"]["columns"]) * 10 + len(published["constituents"])
    expected += 8 * 10 * len(published["stored"]["columns"])
    expected -= 2 * 2 * 10  # mean and sd of multiplicity and pT stand in both
    expected -= 2  # misread
    assert len(rows) == expected
    assert len({(row.class_name, row.quantity) for row in rows}) == expected
    quantiles = 8 * 10 * 7 - 2
    assert len(format_table(rows).splitlines()) == expected - quantiles + 1


def test_published_numbers_are_in_order():
    """A quantile that was misread would most likely stand out of the rising row."""
    stored = reference()["stored"]
    assert [int(name[1:]) for name in stored["columns"][2:]] == [5, 10, 25, 50, 75, 90, 95]
    for jet_class in CLASSES:
        for name, numbers in stored[jet_class.name].items():
            quantiles = [number for number in numbers[2:] if number is not None]
            assert (np.diff(quantiles) > 0).all(), (jet_class.name, name)
            assert quantiles[0] < numbers[0] < quantiles[-1] and 0 < numbers[1]


def _file(path, jet_class, n_constituents, pt, **stored):
    """A file of identical jets with known statistics."""
    n = len(n_constituents)
    columns = {}
    for name, dtype in BRANCHES.items():
        if name.startswith("part_"):
            columns[name] = ak.unflatten(np.zeros(sum(n_constituents), dtype), n_constituents)
        else:
            columns[name] = np.zeros(n, dtype)
    columns["jet_pt"] = np.asarray(pt, dtype="f4")
    columns |= {name: np.asarray(values, dtype="f4") for name, values in stored.items()}
    columns[f"label_{jet_class}"] = np.ones(n, BRANCHES[f"label_{jet_class}"])
    with uproot.recreate(path) as file:
        file["tree"] = columns
    return path


def test_statistics_of_known_jets(tmp_path):
    path = _file(tmp_path / "a.root", "Tbqq", [40, 60, 50, 50], [600.0, 640.0, 620.0, 620.0])
    rows = calibrate([path])
    n = value(rows, "Tbqq", "n_constituents_mean")
    assert (n.measured, n.published, n.ok) == (50.0, 50.85, True)
    assert n.ratio == pytest.approx(50 / 50.85)
    assert n.uncertainty == pytest.approx(np.sqrt(50) / 2)
    assert value(rows, "Tbqq", "n_constituents_sd").measured == pytest.approx(np.sqrt(50))
    assert value(rows, "Tbqq", "pt_mean").measured == pytest.approx(620.0)
    assert {r.class_name for r in rows} == {"Tbqq"}  # constituents need all ten classes


@pytest.mark.parametrize("branch", ["jet_tau4", "jet_sdmass"])
@pytest.mark.parametrize("value_", [np.nan, np.inf])
def test_jets_with_a_value_that_is_not_finite_are_left_out_and_counted(tmp_path, branch, value_):
    good = {"jet_tau4": [0.1, 0.2, 0.3, 0.2], "jet_sdmass": [100.0, 150.0, 170.0, 180.0]}
    counts, pt = [40, 60, 50, 50], [600.0, 640.0, 620.0, 620.0]
    bad = good | {branch: [good[branch][0], value_, *good[branch][2:]]}
    said = []
    found = calibrate([_file(tmp_path / "a.root", "Tbqq", counts, pt, **bad)], said.append)
    assert said == [f"left out: 1 of 4 jets, with {branch} that is not finite"]
    without = {name: values[:1] + values[2:] for name, values in good.items()}
    path = _file(tmp_path / "b.root", "Tbqq", [40, 50, 50], [600.0, 620.0, 620.0], **without)
    assert found == calibrate([path], said.append) and len(said) == 1


def test_a_wrong_multiplicity_is_outside_the_tolerance(tmp_path):
    path = _file(tmp_path / "a.root", "Tbqq", [40] * 50, [617.0] * 50)
    row = value(calibrate([path]), "Tbqq", "n_constituents_mean")
    assert row.ok is False
    assert not row.within(n_sigma=3)
    assert "OUTSIDE" in format_table([row])


def test_missing_files_and_trees_are_named(tmp_path):
    with pytest.raises(JetfmError, match="no files"):
        calibrate([])
    with uproot.recreate(tmp_path / "b.root") as file:
        file["other"] = {"x": np.zeros(3)}
    with pytest.raises(JetfmError, match="b.root"):
        calibrate([tmp_path / "b.root"])
    with pytest.raises(JetfmError, match="absent.root"):
        calibrate([tmp_path / "absent.root"])
