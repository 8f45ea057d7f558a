"""The widgets, driven in this process: a control moves, and the picture's numbers follow."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest

from jetfm.explore import displays
from jetfm.explore.jet import jet_of, observables_of
from jetfm.explore.nearest import RealJets
from jetfm.explore.removal import removal
from jetfm.explore.stages import GeneratedJets
from jetfm.explore.tokens import tokenised
from jetfm.figures import event_display
from jetfm.figures.style import use_style
from jetfm.judging.samples import original_sample
from jetfm.schema import KINEMATICS
from tests.explore.toy_jets import COUNTS, classifier_of, store_of, tokenizer_of
from tests.judging.jet_samples import random_sample


@pytest.fixture(scope="module", autouse=True)
def style():
    use_style()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("identified"))


@pytest.fixture(scope="module")
def tokenizers():
    return {
        "conditional": tokenizer_of(preset="omnijet"),
        "unconditional": tokenizer_of(preset="omnijet-unconditional"),
        "full": tokenizer_of(features="full"),
    }


def pixels(display) -> np.ndarray:
    return plt.imread(io.BytesIO(display.picture.value))


@pytest.mark.parametrize("kind", ["tokens", "removal"])
def test_pictures_are_drawn_of_the_smallest_and_the_longest_jets(store, tokenizers, kind):
    display = {
        "tokens": lambda: displays.tokens(store, tokenizers),
        "removal": lambda: displays.removal(store, classifier_of()),
    }[kind]()
    empty = pixels(display)
    display.controls["jet"].value = len(COUNTS) - 1
    longest = pixels(display)
    assert empty.shape == longest.shape and min(empty.shape[:2]) > 400
    assert (longest[..., :3] != 1).any(-1).sum() > (empty[..., :3] != 1).any(-1).sum() > 0
    assert not plt.get_fignums(), "no figure is left open"


def test_tokens_follow_the_slider(store, tokenizers, undrawn):
    display = displays.tokens(store, tokenizers)
    slider, first = display.controls["jet"], display.picture.value
    assert display.controls["class_name"].value == "Tbqq" and slider.max == len(COUNTS) - 1
    for jet in reversed(range(len(COUNTS))):  # down to that of no constituents
        slider.value = jet
        index = 2 * jet + 1
        original, *others = display.shown["panels"]
        expected = jet_of(store, index).constituents
        assert np.array_equal(original["constituents"], expected)
        assert original["numbers"]["n_constituents"] == len(expected)
        for panel, name in zip(others, display.controls["chosen"].value, strict=True):
            found = tokenised(tokenizers[name], store, index)
            assert np.array_equal(panel["ids"], found.ids)
            expected = observables_of(found.constituents)
            assert panel["numbers"] == pytest.approx(expected, nan_ok=True)
        assert all(str(token) in display.below.value for token in found.ids[:10])
    assert display.picture.value == first and not display.message.value
    assert not plt.get_fignums(), "no figure is left open"


def test_another_class_or_other_tokenizers_are_other_panels(store, tokenizers, undrawn):
    display = displays.tokens(store, tokenizers)
    display.controls["jet"].value = 4
    before = display.picture.value
    display.controls["chosen"].value = ("full",)
    original, full = display.shown["panels"]
    assert full["title"].endswith("(full)") and "ids" not in original
    display.controls["chosen"].value = ()
    assert len(display.shown["panels"]) == 1
    display.controls["class_name"].value = "QCD"
    expected = jet_of(store, 8).constituents
    assert np.array_equal(display.shown["panels"][0]["constituents"], expected)
    assert display.picture.value != before


def test_what_a_tokenizer_cannot_read_is_said_and_the_picture_stays(tmp_path, tokenizers, undrawn):
    kinematic = store_of(tmp_path, features=KINEMATICS)
    display = displays.tokens(kinematic, {name: tokenizers[name] for name in ("conditional",)})
    assert display.shown["panels"][0]["kinds"] is None
    both = displays.tokens(kinematic, tokenizers)
    before = both.picture.value
    both.controls["chosen"].value = ("full",)
    assert "no feature mass" in both.message.value and both.picture.value == before
    both.controls["chosen"].value = ("conditional",)
    assert not both.message.value


def test_generated_jets_stand_beside_their_nearest(store, undrawn):
    real = RealJets(original_sample(store, 128))
    some = {
        "all": GeneratedJets("all", random_sample(3, [0, 1, 2, 30]), real),
        "real": GeneratedJets("real", original_sample(store, 128), real),
    }
    display = displays.generated(some)
    pictures = set()
    for jet in range(4):
        display.controls["jet"].value = jet
        pictures.add(bytes(display.picture.value))
        assert [panel["numbers"]["n_constituents"] for panel in display.shown["panels"]][0] == (
            [0, 1, 2, 30][jet]
        )
    assert len(pictures) == 4
    display.controls["generator"].value = "real"
    assert display.controls["jet"].max == len(store) - 1
    display.controls["jet"].value = 9
    made, near = display.shown["panels"]
    assert np.array_equal(made["constituents"], near["constituents"]), "a copy is its own"
    assert "distance 0.0000" in near["title"]
    display.controls["generator"].value = "all"  # which has fewer
    assert display.controls["jet"].value == 3


def test_removed_constituents_follow_the_slider(store, undrawn):
    classifier = classifier_of()
    display = displays.removal(store, classifier)
    controls, pictures = display.controls, set()
    for jet, n in enumerate(np.minimum(COUNTS, 128)):
        controls["jet"].value = jet
        assert controls["removed"].max == max(n - 1, 0)
        for first in ("softest", "hardest"):
            controls["first"].value = first
            expected = removal(classifier, store, 2 * jet + 1, first)
            for removed in {0, max(n - 1, 0)}:
                controls["removed"].value = removed
                shown = display.shown
                assert shown["n_kept"] == n - removed
                np.testing.assert_array_equal(shown["probabilities"], expected.probabilities)
                left = shown["panel"]["constituents"][~shown["panel"]["removed"]]
                row = list(shown["kept"]).index(shown["n_kept"])
                assert left[:, 0].sum() == pytest.approx(shown["pt"][row])
                assert shown["panel"]["numbers"]["n_constituents"] == len(left)
                pictures.add(bytes(display.picture.value))
    # whole jets, and where there is more than one constituent the hardest or the softest left
    assert len(pictures) == len(COUNTS) + 2 * sum(n > 1 for n in COUNTS)


def test_a_shorter_jet_has_fewer_to_remove(store, undrawn):
    display = displays.removal(store, classifier_of())
    display.controls["jet"].value = 4
    display.controls["removed"].value = 39
    assert display.shown["n_kept"] == 1
    display.controls["jet"].value = 3
    assert display.controls["removed"].value == 2 and display.shown["n_kept"] == 1
    display.controls["jet"].value = 0
    assert display.controls["removed"].value == 0 and display.shown["n_kept"] == 0


def test_areas_are_proportional_to_pt(store):
    jet = jet_of(store, 8)
    panel = {"title": "", "constituents": jet.constituents, "kinds": jet.kinds}
    figure = event_display.event_display([panel])
    sizes = np.concatenate([one.get_sizes() for one in figure.axes[0].collections])
    np.testing.assert_allclose(
        sizes / sizes.sum(), jet.constituents[:, 0] / jet.constituents[:, 0].sum()
    )
    colors = figure.axes[0].collections[-1].get_facecolors()
    assert len({tuple(color) for color in colors}) == len(set(jet.kinds))
    plt.close(figure)


def test_constituents_beyond_the_frame_are_counted():
    rows = np.array([[10.0, 0, 0], [5.0, 2.0, 0], [1.0, 0, -3.0]])
    figure = event_display.event_display([{"title": "", "constituents": rows}])
    assert [text.get_text() for text in figure.axes[0].texts] == ["2 outside"]
    plt.close(figure)


def test_tokens_are_named_where_their_names_do_not_hide_each_other():
    rows = np.array([[9.0, 0, 0], [8.0, 0.05, 0.05], [7.0, 0.3, 0], [6.0, 0.3, 0.1], [5.0, 0, 0.3]])
    panel = {"title": "", "constituents": rows, "ids": [4, 5, 6, 7, 8]}
    figure = event_display.event_display([panel])
    assert [text.get_text() for text in figure.axes[0].texts] == ["4", "6", "8"]
    plt.close(figure)
