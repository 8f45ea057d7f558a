"""Classes by expression: what numpy says of the same text, and nothing but comparisons."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetfm.data import class_expressions
from jetfm.data.class_expressions import columns_of, evaluate, labels_of, parse
from jetfm.errors import JetfmError

rng = np.random.default_rng(3)
COLUMNS = {
    "jet_label": rng.integers(-2, 5, 60).astype(np.int32),
    "jet_sdmass": rng.uniform(-2, 5, 60).astype(np.float32).round(),
    "is_top": rng.integers(0, 2, 60).astype(bool),
    "n": rng.integers(0, 5, 60).astype(np.uint8),
}


def known(text: str, **columns) -> list[bool]:
    tree = parse(text, "test")
    arrays = {name: pa.array(values) for name, values in columns.items()}
    return evaluate(tree, {name: arrays[name] for name in columns_of(tree)}).tolist()


operands = st.one_of(
    st.sampled_from(sorted(COLUMNS)), st.integers(-3, 5).map(str), st.sampled_from(["0.5", "-1e0"])
)
comparisons = st.builds(
    lambda column, sign, other: f"({column} {sign} {other})",
    st.sampled_from(sorted(COLUMNS)), st.sampled_from(["<", "<=", "==", "!=", ">=", ">"]), operands,
)  # fmt: skip
expressions = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("&|"), inner),
        st.builds("~{}".format, inner),
    ),
    max_leaves=6,
)


@given(expressions)
def test_what_numpy_says(text):
    """With the operators that weaver uses, and with Python's words for them."""
    expected = eval(text, {"__builtins__": {}}, COLUMNS)  # text of our own making
    in_words = text.replace("&", "and").replace("|", "or").replace("~", "not ")
    for one in (text, in_words):
        tree = parse(one, "test")
        found = evaluate(tree, {name: pa.array(COLUMNS[name]) for name in columns_of(tree)})
        np.testing.assert_array_equal(found, expected, err_msg=one)


def test_both_sides_of_every_edge():
    labels = np.array([160, 161, 162, 186, 187, 188])
    assert known("jet_label >= 161", jet_label=labels) == [False, True, True, True, True, True]
    assert known("161 <= jet_label < 187", jet_label=labels) == [False, True, True, True] + 2 * [
        False
    ]
    assert known("jet_label != 161 and jet_label > -1", jet_label=labels) == [True, False] + 4 * [
        True
    ]
    big = np.array([2**53, 2**53 + 1])  # which a double cannot tell apart
    assert known(f"event == {2**53 + 1}", event=big) == [False, True]


def test_columns_within_records():
    tree = parse("truth.top.flavour == 6 or jet_label == 1", "test")
    assert columns_of(tree) == ("truth.top.flavour", "jet_label")


def test_what_is_not_known_decides_nothing():
    mass = [60.0, None, np.nan, 40.0]
    arrays = {"m": pa.array(mass), "one": pa.array([1, 1, 1, 1])}
    for text, expected in (
        ("m > 50", [True, False, False, False]),
        ("not m > 50", [False, False, False, True]),
        ("m != 50", [True, False, False, True]),
        ("m > 50 or one == 1", [True, True, True, True]),
        ("m > 50 and one == 2", [False, False, False, False]),
    ):
        tree = parse(text, "test")
        found = evaluate(tree, {name: arrays[name] for name in columns_of(tree)}).tolist()
        assert found == expected, text


@pytest.mark.parametrize(
    "text",
    [
        "__import__('pathlib').Path('owned').touch()",
        "open('/etc/passwd').read() == 1",
        "jet_label.__class__.__bases__[0] == 1",
        "(lambda: 1)() == jet_label",
        "[x for x in ()] == jet_label",
        "f'{jet_label}' == 1",
        "jet_label if jet_label > 1 else 2",
        "(jet_label := 5) > 3",
        "jet_label @ 2 > 1",
        "jet_label ** 1000000000 > 1",
        "jet_label + 1 > 2",
        "jet_label in (1, 2)",
        "jet_label is 1",
        "jet_label == 'QCD'",
        "jet_label == True",
        "jet_label == None",
        "jet_label == 1j",
        "jet_label == 1e999",
        f"jet_label == {2**63}",
        "jet_label == 1; import os",
        "jet_label == 1\nimport os",
        "jet_label",
        "not jet_label",
        "1 < 2",
        "True",
        "",
        "jet_label =",
        "jet_label == 1 & jet_pt > 5",
        "~jet_label == 1",
        "@jet_label > 1",
        "jet_label == 1\0",
        "(" * 5000 + "jet_label == 1" + ")" * 5000,
        "~" * 5000 + "(jet_label == 1)",
        "not " * 150 + "jet_label == 1",
        "jet_label == 1 or " * 10_000 + "jet_label == 1",
    ],
)
def test_all_else_is_refused_and_nothing_is_run(text, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JetfmError, match="--classes: found") as error:
        parse(text, "--classes")
    assert "\n" not in str(error.value) and len(str(error.value)) < 700
    assert not list(tmp_path.iterdir())


def test_a_hint_where_python_binds_otherwise():
    with pytest.raises(JetfmError, match="every comparison needs parentheses"):
        parse("jet_label == 1 & jet_pt > 500", "--classes")


def test_labels_are_places_and_no_jet_is_of_two_classes():
    label = pa.array([0, 1, 2, 3])
    trees = {"Hbb": parse("x == 2", "t"), "mine": parse("x <= 0", "t")}
    found = labels_of(trees, {"x": label}, ("QCD", "Hbb", "mine"), "a.parquet")
    assert found.tolist() == [2, -1, 1, -1]
    trees["QCD"] = parse("x > 1", "t")
    with pytest.raises(JetfmError, match="a.parquet: found jet 12 of Hbb and of QCD"):
        labels_of(trees, {"x": label}, ("QCD", "Hbb", "mine"), "a.parquet", start=10)


@pytest.mark.parametrize("name", ["", "a b", "unknown", "9lives", "x/y", "p$", "a:b", "é"])
def test_names_that_a_class_cannot_have(name):
    with pytest.raises(JetfmError, match="a name of letters"):
        class_expressions.check_name(name, "--classes")
