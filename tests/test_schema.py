"""Names and types of the tree against the dataset's own description."""

from __future__ import annotations

import pytest

from jetfm.errors import JetfmError
from jetfm.schema import (
    BRANCHES,
    CLASSES,
    CONSTITUENT_FEATURES,
    JET_COLUMNS,
    class_by_name,
    is_jagged,
)


def test_branches_are_the_41_of_jetclass():
    assert len(BRANCHES) == 41
    assert sum(map(is_jagged, BRANCHES)) == 16
    assert not {"part_pt", "part_eta", "part_phi"} & set(BRANCHES)


def test_label_types_are_mixed():
    types = [BRANCHES[f"label_{c.name}"] for c in CLASSES]
    assert types == ["f4"] + ["bool"] * 5 + ["i4"] * 4


def test_classes_are_found_by_label_prefix_and_branch():
    for jet_class in CLASSES:
        for name in (jet_class.name, jet_class.prefix, f"label_{jet_class.name}"):
            assert class_by_name(name) is jet_class
    assert [c.index for c in CLASSES] == list(range(10))


def test_unknown_class_names_the_known_ones():
    with pytest.raises(JetfmError, match="'Hee'.*QCD, Hbb.*Tbl"):
        class_by_name("Hee")


def test_feature_and_column_names_are_unique():
    assert len(set(CONSTITUENT_FEATURES)) == 14
    assert len(set(JET_COLUMNS)) == 13
