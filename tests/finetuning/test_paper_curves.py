"""The papers' curves that stand beside ours."""

import pytest

from jetfm.finetuning.paper_curves import FIGURE_7, published_lines
from jetfm.ledger.claims import CLAIMS


@pytest.mark.parametrize(
    ("claim", "weights", "size"),
    [
        ("finetune-100", "finetuned", 100),
        ("finetune-1000", "finetuned", 1000),
        ("scratch-1000", "scratch", 1000),
    ],
)
def test_what_was_read_off_agrees_with_the_text(claim, weights, size):
    text = {one.id: one.paper_value for one in CLAIMS}[claim]
    read = FIGURE_7[weights][FIGURE_7["sizes"].index(size)]
    assert read == pytest.approx(text, abs=0.01)


def test_lines_have_a_point_a_size_and_rise():
    lines = published_lines("tagging", "accuracy")
    assert [line["weights"] for line in lines] == ["finetuned", "fixed", "scratch"]
    for line in lines:
        assert len(line["mean"]) == len(line["sizes"]) == 6
        assert line["mean"] == sorted(line["mean"])
    assert not published_lines("tagging", "auc") and not published_lines("landscape", "accuracy")
