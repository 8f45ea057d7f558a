"""The search for rates never sees a test jet, and finds the rate that learns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jetfm.finetuning import Contender, Runner
from jetfm.finetuning.learning_rates import as_text, search_rates
from jetfm.settings import FinetuningSettings
from tests.finetuning.test_study import SETTINGS, jets  # noqa: F401


@pytest.fixture(scope="module")
def rows(jets, tmp_path_factory):  # noqa: F811
    settings = FinetuningSettings.model_validate(
        SETTINGS.model_dump() | {"max_steps": 60, "monitor": "accuracy"}
    )
    unreadable = replace(jets, test=None)
    runner = Runner("tagging", Contender("deepsets", "scratch"), unreadable)
    folder = tmp_path_factory.mktemp("rates")
    return search_rates([runner], settings, (1e-7, 1e-2), folder, 1, progress=False)


def test_no_test_jet_is_needed_and_a_rate_that_learns_wins(rows):
    by_rate = {row["rate"]: row["accuracy"][0] for row in rows if row["size"] == rows[-1]["size"]}
    assert by_rate[1e-2] > by_rate[1e-7] + 0.1


def test_the_table_stars_the_best(rows):
    last = as_text(rows).splitlines()[-1]
    assert last.endswith("*") and last.count("*") == 1 and "deepsets scratch" in last
