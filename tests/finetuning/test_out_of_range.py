"""Trained on a range, tested on all: which jets are where, and what is said of them."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from pydantic import ValidationError

from jetfm.data.jet_ranges import within
from jetfm.data.labelled import LabelledJets
from jetfm.data.store import JET_DTYPE, JetStoreWriter
from jetfm.errors import JetfmError
from jetfm.figures import out_of_range
from jetfm.finetuning import Contender, Finetuning, Jets, Runner, run_study
from jetfm.finetuning.scores import judged
from jetfm.settings import TaskSettings
from jetfm.storage.files import read_json, write_json
from tests.finetuning.test_study import CLASSES, KINEMATICS, SETTINGS

LOW = (("jet_pt", 500.0, 750.0),)
TASKS = dict.fromkeys(("low", "all", "mine"), SETTINGS.tasks["tagging"])
FAST = SETTINGS.model_copy(update={"n_seeds": 2, "max_steps": 60, "tasks": TASKS})


def toy_store(folder, n_jets, seed):
    """Tbqq jets are wider than QCD's below 750 GeV, and narrower above: what is learned there is
    wrong here."""
    rng = np.random.default_rng(seed)
    jets = np.zeros(n_jets, JET_DTYPE)
    jets["label"] = np.resize([0, 8], n_jets)
    jets["axis_pt"], jets["axis_eta"] = rng.uniform(500, 1000, n_jets), rng.normal(size=n_jets)
    counts = rng.integers(5, 30, n_jets)
    wide = (jets["label"] == 8) == (jets["axis_pt"] < 750)
    angles = rng.normal(0, np.repeat(np.where(wide, 0.6, 0.02), counts)[:, None], (counts.sum(), 2))
    pt = rng.exponential(20, counts.sum()) + 0.5
    with JetStoreWriter(folder, KINEMATICS) as writer:
        writer.append(np.column_stack([pt, angles]), counts, jets)
    return folder


def jets_of(folder, ranges=LOW):
    sides = {}
    for name, n, seed in (("train", 300, 1), ("val", 90, 2), ("test", 200, 3)):
        if not (folder / name).exists():
            toy_store(folder / name, n, seed)
        inside = () if name == "test" else ranges
        sides[name] = LabelledJets(folder / name, CLASSES, ranges=inside)
    return Jets(**sides)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranged")


@pytest.fixture(scope="module")
def study(folder, tmp_path_factory):
    where = tmp_path_factory.mktemp("study")
    runners = [
        Runner("low", Contender("deepsets", "scratch"), jets_of(folder)),
        Runner("all", Contender("deepsets", "scratch"), jets_of(folder, ())),
    ]
    run_study(runners, FAST, where, 1, progress=False, workers=1)
    return Finetuning(where)


def test_training_jets_are_inside_and_test_jets_on_both_sides(folder, study):
    jets, result = jets_of(folder), study["low"].result
    for side in (jets.train, jets.val):
        pt = side.store.jets["axis_pt"][side.indices]
        assert ((pt >= 500) & (pt < 750)).all() and len(pt) < (side.labels >= 0).sum()
    pt = jets.train.store.jets["axis_pt"][jets.train.training_order(1)[:60]]
    assert pt.max() < 750
    pt = jets.test.store.jets["axis_pt"][jets.test.indices]
    assert result["n_inside"] == (pt < 750).sum() and result["n_outside"] == (pt >= 750).sum()
    assert result["n_inside"] + result["n_outside"] == result["n_test"] == 200
    assert "ranges" not in study["all"].result and "inside" not in study["all"].result["rows"][0]


def test_what_is_learned_inside_is_wrong_outside(study):
    """By construction; both are of the scores that the fit left, and average to all."""
    task = study["low"]
    row, labels = task.row("deepsets", "scratch", 60), task._labels
    assert min(row["inside"]["accuracy"]) > 0.9 and max(row["outside"]["accuracy"]) < 0.1
    right = task.correct("deepsets", "scratch", 60)
    n = task.result["n_inside"], task.result["n_outside"]
    for seed in range(2):
        both = row["inside"]["accuracy"][seed], row["outside"]["accuracy"][seed]
        assert np.average(both, weights=n) == pytest.approx(row["accuracy"][seed])
        assert right[seed].mean() == pytest.approx(row["accuracy"][seed])
    (fall,) = task.falls(task.contenders)
    (inside,) = task.curves("accuracy", task.contenders, "inside")
    (outside,) = task.curves("accuracy", task.contenders, "outside")
    assert fall["mean"][0] == pytest.approx(inside["mean"][0] - outside["mean"][0])
    differences = np.subtract(row["inside"]["accuracy"], row["outside"]["accuracy"])
    assert fall["spread"][0] == pytest.approx(np.std(differences, ddof=1))
    assert fall["jets"][0] >= max(inside["jets"][0], outside["jets"][0])
    assert len(labels) == sum(n)


def test_the_sides_are_judged_as_all_are(folder, study, tmp_path):
    task, jets = study["low"], jets_of(folder)
    inside = within(jets.test.store, jets.test.indices, LOW)
    labels = jets.test.labels[jets.test.indices].astype(np.int64)
    scores = np.load(task.folder / "deepsets-scratch_60_1.npy")
    row = task.row("deepsets", "scratch", 60)
    for name, chosen in (("inside", inside), ("outside", ~inside)):
        write_json(tmp_path / name, judged(labels[chosen], scores[chosen], FAST.n_bootstrap))
        found = {key: values[1] for key, values in row[name].items()}
        assert found == read_json(tmp_path / name)


def test_tables_and_figure_say_both(study):
    text = study.out_of_range_as_text()
    assert text.startswith("low, trained on jet_pt 500 to 750: ") and "DeepSets" in text
    (panel,) = study.out_of_range()
    figure = out_of_range([panel])
    inside, outside, fall = figure.axes
    assert "500" in inside.get_title() and "GeV" in inside.get_title()
    drawn = [axis.containers[0].lines[0].get_ydata()[0] for axis in figure.axes]
    assert drawn == [panel[name][0]["mean"][0] for name in ("inside", "outside", "fall")]
    low, high = inside.get_ylim()
    assert outside.get_ylim() == (low, high) and all(low < y < high for y in drawn[:2])
    assert fall.get_ylabel() == "Difference of accuracies"
    nothing = out_of_range([])
    assert "no task is trained on a range" in nothing.axes[0].texts[0].get_text()
    for one in (figure, nothing):
        plt.close(one)


@pytest.mark.parametrize(
    ("ranges", "found"),
    [
        ((("jet_pt", 2000.0, 3000.0),), r"0 training jets inside jet_pt 2000 to 3000, none of"),
        ((("jet_pt", 500.0, 1000.0),), r"0 test jets outside jet_pt 500 to 1000, none of"),
        ((*LOW, ("jet_abs_eta", 5.0, 6.0)), r"0 training.*jet_pt 500 to 750, jet_abs_eta 5 to 6"),
    ],
)
def test_an_empty_selection_is_named(folder, tmp_path, ranges, found):
    runner = Runner("mine", Contender("deepsets", "scratch"), jets_of(folder, ranges))
    with pytest.raises(JetfmError, match=f"finetuning, mine: found {found}"):
        run_study([runner], FAST, tmp_path, 1, progress=False, workers=1)


def test_too_few_inside_for_any_size_is_told(folder, tmp_path):
    runner = Runner("mine", Contender("deepsets", "scratch"), jets_of(folder))
    many = FAST.model_copy(update={"sizes": (5000,)})
    with pytest.raises(JetfmError, match=r"\d+ labelled training jets inside jet_pt 500 to 750"):
        run_study([runner], many, tmp_path, 1, progress=False, workers=1)


@pytest.mark.parametrize("wrong", [{"jet_pt": [700, 500]}, {"pt": [500, 700]}, {"jet_pt": [500]}])
def test_wrong_ranges_are_refused(wrong):
    with pytest.raises(ValidationError, match="train_on"):
        TaskSettings(train_on=wrong)


def test_ranges_are_absent_where_there_are_none():
    """So that what was saved, and the hashes of it, stay."""
    assert "train_on" not in TaskSettings().model_dump(mode="json")
    task = TaskSettings(train_on={"jet_abs_eta": (0, 1)})
    assert TaskSettings.model_validate(task.model_dump(mode="json")) == task
    assert task.ranges == (("jet_abs_eta", 0.0, 1.0),)
