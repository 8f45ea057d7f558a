"""What figures take from a finished study."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from pydantic import ValidationError

from jetfm.finetuning.results import Finetuning, TaskResults
from jetfm.finetuning.study import STUDY, Runner
from jetfm.ledger import measurements
from jetfm.pipeline import Pipeline
from jetfm.pipeline.finetuning import papers_labels
from jetfm.settings import PretrainingSettings
from jetfm.settings.finetuning import TaskSettings
from jetfm.settings.profiles import load_profile
from jetfm.storage.files import write_json


def row(model: str, weights: str, size: int, *accuracies: float) -> dict:
    row = {"model": model, "weights": weights, "size": size, "text": model, "cut": [False] * 2}
    return row | {"accuracy": list(accuracies), "accuracy_error": [0.01] * len(accuracies)}


def test_accuracies_by_a_property_of_the_pretraining_are_those_of_its_models():
    rows = [row(f"mpm-{n}", "finetuned", size, n / 100, n / 100 + 0.02) for n in (60, 20)
            for size in (100, 1000)]  # fmt: skip
    rows += [row("main", "scratch", size, 0.1, 0.3) for size in (100, 1000)]
    result = {"rows": rows, "sizes": [100, 1000], "classes": ["QCD", "Tbqq"], "n_test": 50}
    names = {0.6: "mpm-60", 0.2: "mpm-20", 0.4: "mpm-that-did-not-run"}
    lines = TaskResults("landscape", result).against(names, "mask_fraction", "main")
    assert [line["size"] for line in lines] == [100, 1000]
    for line in lines:
        assert line["mask_fraction"] == [0.2, 0.6]
        assert line["mean"] == pytest.approx([0.21, 0.61])
        assert line["spread"] == pytest.approx([np.std([0, 0.02], ddof=1)] * 2)
        assert line["scratch"] == pytest.approx([0.2, np.std([0.1, 0.3], ddof=1)])


def test_a_contender_without_a_size_is_left_out_there_alone():
    rows = [row("main", "scratch", 100, 0.6, 0.62), row("main", "scratch", 1000, 0.8, 0.82)]
    rows += [row("mpm", "finetuned", size, 0.7, 0.72) for size in (100, 1000, 10_000)]
    rows += [row("joint", "finetuned", 100, 0.65, 0.66)]
    sizes = [100, 1000, 10_000]
    task = TaskResults(
        "landscape", {"rows": rows, "sizes": sizes, "classes": ["QCD", "Tbqq"], "n_test": 10**6}
    )
    (line,) = task.curves("accuracy", [("joint", "finetuned")])
    assert line["sizes"] == [100]
    lines = task.against({0.4: "mpm", 0.6: "joint"}, "mask_fraction", "main")
    assert [one["mask_fraction"] for one in lines] == [[0.4, 0.6], [0.4], [0.4]]
    assert [bool(one["scratch"]) for one in lines] == [True, True, False]
    saving = task.saving("mpm", 100)  # of the two sizes that scratch has
    assert saving.ratio == pytest.approx(10**0.5, rel=0.2)
    assert "10,000 labels" in task.savings_as_text()
    measured = measurements._mean_difference(task, ("joint", "finetuned"), ("main", "scratch"))
    assert measured.value == pytest.approx(0.045)
    assert "mean over 100 jets" in measured.note


def test_jets_are_those_of_the_campaign_whatever_the_task_is_called(tmp_path):
    result = {"rows": [], "sizes": [100], "classes": ["QCD", "Tbqq"], "n_test": 50, "n_leaked": 0}
    found = {"mine": result, "landscape": result}
    write_json(tmp_path / STUDY, found)
    for jets in ({"mine": "toplandscape"}, {"landscape": "toplandscape"}):
        study = Finetuning(tmp_path, jets=jets)
        assert {n: study[n].jets for n in found} == dict.fromkeys(found, "jetclass") | jets
        assert {study.panel(name, "accuracy", "main *")["jets"] for name in jets} == {
            "toplandscape"
        }


def test_notes_call_models_that_a_profile_lacks_by_their_legends(tmp_path):
    """None by its key: a reader does not know what 'mpm-causal' is."""
    result = {"rows": [], "sizes": [100], "classes": ["QCD", "Tbqq"], "n_test": 50, "n_leaked": 0}
    write_json(tmp_path / STUDY, {"ten-classes": result, "landscape": result})
    study = Finetuning(tmp_path, papers_labels())
    for task in ("ten-classes", "landscape"):
        lacking = study.panel(task, "accuracy", "*", "ntp-full *")["missing_contenders"]
        assert {"MPM, causal, fine-tuned", "NTP, 14 features, fine-tuned"} & set(lacking)
        assert not [text for text in lacking if any(key in text for key in ("mpm", "ntp", "main"))]


def test_most_labels_takes_sizes_from_its_contender_alone():
    runner = partial(Runner, "landscape", None, None)
    assert runner(most=1000).sizes([100, 1000, 10_000]) == [100, 1000]
    assert runner().sizes([100, 1000, 10_000]) == [100, 1000, 10_000]
    with pytest.raises(ValidationError, match="'joint', which is no contender"):
        TaskSettings(contenders={"mpm": ("finetuned",)}, most_labels={"joint": 100})


def test_most_labels_of_one_start_are_its_own():
    contenders = {"joint": ("finetuned", "beside"), "mpm": ("fixed",)}
    task = TaskSettings(contenders=contenders, most_labels={"joint beside": 100, "mpm": 10})
    asked = [("joint", "beside"), ("joint", "finetuned"), ("mpm", "fixed")]
    assert [task.most_labels_of(*one) for one in asked] == [100, 0, 10]
    with pytest.raises(ValidationError, match="'mpm beside', which is no contender"):
        TaskSettings(contenders=contenders, most_labels={"mpm beside": 100})


def test_models_that_differ_in_more_than_their_mask_are_not_compared():
    profile = load_profile("smoke")
    mpm = profile.strategies["mpm"]
    other = mpm.model_copy(update={"mask_fraction": 0.6, "limit_train_jets": 100})
    strategies = {**profile.strategies, "fewer-jets": other}
    pipeline = Pipeline(profile.model_copy(update={"strategies": strategies}), progress=False)
    assert pipeline.finetuning._mask_fractions() == {0.2: "mpm-20", 0.4: "mpm"}


def test_legends_tell_other_mask_fractions_than_the_papers():
    assert PretrainingSettings(objective="mpm").label == "MPM"
    assert PretrainingSettings(objective="mpm", mask_fraction=0.2).label == "MPM, 20 % masked"
    assert PretrainingSettings(objective="ntp", mask_fraction=0.2).label == "NTP"
