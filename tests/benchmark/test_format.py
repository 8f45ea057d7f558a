"""Files of rows: what is written is read again, and what is damaged or foreign is refused."""

from __future__ import annotations

import copy
import json

import pytest

from jetfm.benchmark.format import (
    BENCHMARK,
    Submission,
    read_submissions,
    validated,
    write_submission,
)
from jetfm.errors import JetfmError

DIGESTS = {"train": "1" * 64, "val": "2" * 64, "test": "3" * 64}
TASK = {"jets": "jetclass", "classes": ["QCD", "Tbqq"], "seeds": {"100": 2, "1000": 1},
        "n_val": 40, "n_test": 80, "n_background": 40, "digests": DIGESTS}  # fmt: skip
TEN = {**TASK, "classes": ["QCD", "Hbb", "Tbqq"]}
KNOWN = {"version": 1, "profile": "toy", "seed": 1, "made_with": {"pythia8mc": "8.3"},
         "tasks": {"tagging": TASK, "three": TEN}}  # fmt: skip
ENDS = {"_low": [4.0, 5.0], "_high": [None, 9.0], "_passed": [0, 5]}
ERRORS = [(0.8 * 0.2 / 80) ** 0.5, (0.7 * 0.3 / 80) ** 0.5]
PLAIN = {"size": 100, "accuracy": [0.8, 0.7], "accuracy_error": ERRORS, "auc": [0.9, 0.8],
         "auc_error": [0.01, None], "cut": [False, True], "pretraining": [0, 1]}  # fmt: skip
REJECTED = {f"rejection{n}{end}": x for n in (30, 50) for end, x in ENDS.items()}
REJECTED |= {"rejection30": [None, 8.0], "rejection50": [None, 8.0]}
ROWS = {
    "version": 1,
    "profile": "toy",
    "name": "mine",
    "jets": {"tagging": DIGESTS, "three": DIGESTS},
    "rows": [
        {"text": "Mine, fine-tuned", "about": {"who": "A. Author", "n_parameters": 5},
         "points": [{"task": "tagging", **PLAIN, **REJECTED}, {"task": "three", **PLAIN}]}
    ],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / BENCHMARK).write_text(json.dumps(KNOWN))
    return tmp_path


def test_what_is_written_is_read_again(folder):
    rows = validated(Submission, ROWS, "rows")
    path = write_submission(rows, folder)
    before = path.read_bytes()
    assert read_submissions(folder) == [rows]
    write_submission(read_submissions(folder)[0], folder)
    assert path.read_bytes() == before
    assert rows.rows[0].at("tagging", 100).rejection30 == (None, 8.0)


def at(path: str, value):
    """A change of one entry."""

    def change(values: dict) -> None:
        *steps, last = (int(x) if x.isdecimal() else x for x in path.split("."))
        for step in steps:
            values = values[step]
        if value is None:
            del values[last]
        else:
            values[last] = value

    return change


POINT = "rows.0.points.0"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (at("version", 2), "mine.json: version: found 2"),
        (at("profile", "laptop"), "jets of profile 'laptop'; expected those of 'toy'"),
        (at("jets.tagging.test", "4" * 64), "other test jets of tagging .* pythia8mc 8.3"),
        (at("jets.tagging.train", "4" * 64), "other train jets of tagging"),
        (at("jets.tagging.train", "4" * 63), "jets.tagging.train"),
        (at("jets.four", DIGESTS), "task 'four'; expected one of tagging, three"),
        (at("jets.three", None), "task 'three'; expected one of tagging"),
        (at("name", "yours"), "the rows of 'yours'; expected those of 'mine'"),
        (at("name", "../mine"), "mine.json: name"),
        (at("rows", []), "rows"),
        (at("rows", None), "mine.json: rows: found nothing"),
        (at("rows.0.text", "two\nlines"), "rows.0.text"),
        (at("rows.0.about.n_parameters", -1), "n_parameters: found -1"),
        (at("rows.0.about.who_else", "me"), "who_else: found 'me'; expected a known entry"),
        (at(f"{POINT}.size", 200), "200 labelled jets; expected one of 100, 1000"),
        (at(f"{POINT}.size", 1000), "2 seeds with 1000 labelled jets; expected 1"),
        (at(f"{POINT}.task", "three"), "three, 100 is there twice"),
        (at(f"{POINT}.accuracy", [0.8, 1.2]), "accuracy.1: found 1.2"),
        (at(f"{POINT}.accuracy", [0.8, 0.7, 0.7]), "accuracy_error should have 3 seeds"),
        (at(f"{POINT}.auc_error", [0.1, -0.1]), "auc_error"),
        (at(f"{POINT}.cut", [False]), "cut should have 2 seeds"),
        (at(f"{POINT}.rejection30", [None, 4.5]), "rejection30 should lie above rejection30_low"),
        (at(f"{POINT}.rejection50_high", None), "rejection50_high should be there"),
        (at("rows.0.points.1.accuracy", None), "points.1.accuracy: found nothing"),
        (at(f"{POINT}.accuracy.0", 0.81), "accuracy 0.81 .* expected a share of 80 test jets"),
        (at(f"{POINT}.accuracy_error.1", 0.0), "error 0.0; expected .* its binomial uncertainty"),
        (at(f"{POINT}.rejection30.1", 7.5), "7.5 in 5.0 to 9.0, of 5 .* of 40 background jets"),
        (at(f"{POINT}.rejection50.0", 40.0), "rejection50 40.0 in 4.0 to None, of 0 jets"),
        (at(f"{POINT}.rejection30_high.1", 7.0), "rejection30 8.0 in 5.0 to 7.0"),
        (at(f"{POINT}.rejection30_passed.1", 4), "8.0 in 5.0 to 9.0, of 4 jets that passed"),
        (at(f"{POINT}.pretraining", [1, 1]), r"pre-trainings \(1, 1\); expected 2 that take"),
        (at(f"{POINT}.pretraining", [1, 0]), "seed i starts from number i modulo 2"),
        (lambda values: values["rows"].append(values["rows"][0]), "is there twice"),
        (lambda values: [values["rows"][0]["points"][0].pop(name) for name in REJECTED],
         "no rejections of 2 classes"),
        (lambda values: values["rows"][0]["points"][1].update(REJECTED), "rejections of 3 classes"),
    ],
)  # fmt: skip
def test_damaged_and_foreign_rows_are_refused(folder, change, expected):
    values = copy.deepcopy(ROWS)
    change(values)
    (folder / "mine.json").write_text(json.dumps(values))
    with pytest.raises(JetfmError, match=expected):
        read_submissions(folder)


@pytest.mark.parametrize("text", ['{"rows": [', "[]", '"rows"', '{"rows": NaN}', "\xff"])
def test_what_is_no_file_of_rows_is_refused(folder, text):
    (folder / "mine.json").write_text(text, encoding="latin-1")
    with pytest.raises(JetfmError, match="mine.json"):
        read_submissions(folder)


def test_a_folder_without_a_benchmark_is_named(tmp_path):
    with pytest.raises(JetfmError, match=BENCHMARK):
        read_submissions(tmp_path)
    (tmp_path / BENCHMARK).write_text(json.dumps({**KNOWN, "tasks": {}}))
    with pytest.raises(JetfmError, match="tasks"):
        read_submissions(tmp_path)


def test_nobody_overwrites_the_benchmark(folder):
    rows = validated(Submission, {**ROWS, "name": "benchmark"}, "rows")
    with pytest.raises(JetfmError, match="is taken"):
        write_submission(rows, folder)
