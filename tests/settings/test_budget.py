"""The arithmetic of profile `gpu`: its promise, its tables in the documents, its terms."""

from __future__ import annotations

import pytest

from jetfm.settings.budget import as_list, as_table, disk_of, smaller_than, work_of
from jetfm.settings.profiles import load_profile
from jetfm.storage.paths import project_folder

GPU, PAPER = load_profile("gpu"), load_profile("paper")


def hours(profile) -> dict[str, float]:
    return {work.name: work.hours for work in work_of(profile)}


def test_an_evening_and_a_small_disk():
    assert sum(hours(GPU).values()) < 4
    assert disk_of(GPU) < 40e9


def test_the_document_has_the_tables():
    text = (project_folder() / "docs" / "scaling.md").read_text(encoding="utf-8")
    assert as_table(GPU) in text
    assert as_list(GPU, PAPER) in text


def test_twice_the_steps_take_twice_the_time_and_nothing_else_does():
    training = GPU.pretraining.training
    longer = training.model_copy(update={"max_steps": 2 * training.max_steps})
    changed = GPU.model_copy(
        update={"pretraining": GPU.pretraining.model_copy(update={"training": longer})}
    )
    before, after = hours(GPU), hours(changed)
    assert before.keys() == after.keys()
    for name, value in before.items():
        factor = 2 if name == "pre-train main, 3 times" else 1
        assert after[name] == pytest.approx(factor * value)


def test_a_term_by_hand():
    """Three trainings of 4000 steps of 500 jets, at 13,400 jets/s."""
    (work,) = (one for one in work_of(GPU) if one.name == "pre-train main, 3 times")
    assert work.jets == 3 * 4000 * 500 and work.measured
    assert work.hours == pytest.approx(6_000_000 / 13_400 / 3600)


def test_fits_of_few_labels_are_bound_by_their_launches():
    """A hundred jets a step, fifty steps a second."""
    rates = {work.name: work.rate for work in work_of(GPU)}
    assert rates["ten-classes, 1,000 labels, 60 fits"] == 100 / 0.02
    assert rates["ten-classes, 100,000 labels, 20 fits"] > 10_000


def test_the_papers_have_less_of_nothing_than_themselves():
    assert smaller_than(PAPER, PAPER) == {}
    found = smaller_than(GPU, PAPER)
    assert found["max_steps", "4,000", "1,000,000"].count("pretraining.training") == 1
    assert ("limit_val_jets", "5,000", "all") in found, "zero means all"
    assert not any(setting == "limit_val_jets" and its == "5,000" for setting, _, its in found)


def test_real_jets_are_not_simulated(tmp_path):
    from jetfm.settings.profiles import with_folder

    assert any(name.startswith("simulate") for name in hours(GPU))
    (tmp_path / "TopLandscape").mkdir()
    assert not any(name.startswith("simulate") for name in hours(with_folder(GPU, tmp_path)))
