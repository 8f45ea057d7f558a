"""Interactive displays for notebooks: ipywidgets above a picture.

Each function returns a `Display`. What it shows comes from the plain functions of this package and
is drawn by `jetfm.figures.event_display`; here stands which control changes what.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.explore import removal as removing
from jetfm.explore.jet import jet_in, jet_of, observables_of
from jetfm.explore.removal import ORDERS, kept_rows
from jetfm.explore.stages import GeneratedJets
from jetfm.explore.tokens import tokenised
from jetfm.figures import event_display as drawing
from jetfm.finetuning.classifier import Classifier
from jetfm.schema import CLASSES
from jetfm.tokenizers import Tokenizer

_DPI = 130  # of pictures, which are shown at the notebook's own
_LISTED = 10  # constituents in the table of tokens


class Display(widgets.VBox):
    """Controls, and a picture that is drawn anew when one of them changes.

    Parameters
    ----------
    controls : by name
    numbers : from the controls' values, by their names, to what is shown: the arguments of `draw`
    draw : makes the figure
    table : HTML below the picture, from the same numbers

    Attributes
    ----------
    controls : widgets by name
    shown : the numbers that the picture shows
    picture : the widget with the PNG
    message : why there is no other picture, if an error says so
    """

    def __init__(
        self,
        controls: Mapping[str, widgets.Widget],
        numbers: Callable[..., dict[str, Any]],
        draw: Callable[..., Figure],
        table: Callable[..., str] = lambda **_: "",
    ) -> None:
        self.controls, self.shown = dict(controls), {}
        self._numbers, self._draw, self._table = numbers, draw, table
        self.picture = widgets.Image(format="png", layout={"max_width": "100%"})
        self.below, self.message = widgets.HTML(), widgets.HTML()
        for control in self.controls.values():
            control.observe(self._changed, "value")
        row = widgets.HBox(list(self.controls.values()), layout={"flex_flow": "row wrap"})
        super().__init__([row, self.message, self.picture, self.below])
        self._changed()

    def _changed(self, _=None) -> None:
        try:
            shown = self._numbers(**{name: one.value for name, one in self.controls.items()})
        except JetfmError as error:  # an exception would end in the server's log, unseen
            self._say(f"<pre>{escape(str(error))}</pre>")
            return
        self.shown = shown
        self._say("")
        self.picture.value = _png(self._draw(**shown))
        self.below.value = self._table(**shown)

    def _say(self, text: str) -> None:
        self.message.value = text
        self.message.layout.display = None if text else "none"


def tokens(
    store: JetStore, tokenizers: Mapping[str, Tokenizer], max_constituents: int = 128
) -> Display:
    """A jet, and what tokenizers make of it.

    Lines lead from where a constituent was to where its token puts it; the numbers are the tokens
    of the leading ones.

    Parameters
    ----------
    store : jets to choose from
    tokenizers : by name; the first two are chosen at the start
    """
    controls, index_of = _jets_of(store)
    names = list(tokenizers)
    controls["chosen"] = widgets.SelectMultiple(
        options=names, value=names[:2], rows=min(len(names), 5), description="tokenizers"
    )

    def numbers(class_name: str, jet: int, chosen: Sequence[str]) -> dict:
        index = index_of(class_name, jet)
        original = jet_of(store, index, max_constituents)
        panels = [_panel(_original_title(original.class_name, jet), original.constituents)]
        panels[0]["kinds"] = original.kinds
        for name in chosen:
            found = tokenised(tokenizers[name], store, index, max_constituents)
            panel = _panel(tokenizers[name].settings.label, found.constituents)
            panel |= {"ids": found.ids, "positions": found.positions}
            panel["origins"] = original.constituents[found.positions, 1:]
            panel["kinds"] = None if original.kinds is None else original.kinds[found.positions]
            panels.append(panel | {"title": f"{panel['title']} ({name})"})
        return {"panels": panels}

    return Display(controls, numbers, drawing.event_display, _table_of_tokens)


def generated(generators: Mapping[str, GeneratedJets]) -> Display:
    """A generated jet, and the real one that is most like it.

    Parameters
    ----------
    generators : by what they are called; at least one
    """
    generator = widgets.Dropdown(options=list(generators), description="generator")
    jet = _slider("jet")

    def fit(_=None) -> None:
        jet.max = len(generators[generator.value].sample) - 1

    generator.observe(fit, "value")  # before the display looks
    fit()

    def numbers(generator: str, jet: int) -> dict:
        chosen = generators[generator]
        made = jet_in(chosen.sample, min(jet, len(chosen.sample) - 1))
        near = chosen.real.nearest(made.constituents)
        title = f"nearest of {len(chosen.real):,} real jets, "
        title += _latex(near.jet.class_name) + f"\nenergy mover's distance {near.distance:.4f}"
        panels = [
            _panel(f"generated jet {jet}\n{chosen.label}", made.constituents),
            _panel(title, near.jet.constituents),
        ]
        return {"panels": panels}

    return Display({"generator": generator, "jet": jet}, numbers, drawing.event_display)


def removal(store: JetStore, classifier: Classifier) -> Display:
    """A jet that loses constituents, and what a classifier says of what is left.

    Parameters
    ----------
    store : jets to choose from, with the classifier's features
    classifier : of constituents, such as `jetfm.load_classifier` reads
    """
    known = [name for name in classifier.classes if len(store.indices_of(name))]
    controls, index_of = _jets_of(store, known)
    first = widgets.ToggleButtons(options=ORDERS, description="first to go")
    removed = _slider("removed", maximum=classifier.max_constituents - 1)
    curve = lru_cache(maxsize=256)(
        lambda index, order: removing.removal(classifier, store, index, order)
    )

    def fit(_=None) -> None:
        index = index_of(controls["class_name"].value, controls["jet"].value)
        kept = curve(index, first.value).kept
        removed.max = int(kept[-1] - kept[0])

    for control in (*controls.values(), first):
        control.observe(fit, "value")
    fit()

    def numbers(class_name: str, jet: int, first: str, removed: int) -> dict:
        index = index_of(class_name, jet)
        original, found = jet_of(store, index, classifier.max_constituents), curve(index, first)
        n = len(original.constituents)
        n_kept = max(n - removed, int(found.kept[0]))
        gone = np.ones(n, bool)
        gone[kept_rows(n, n_kept, first)] = False
        panel = _panel(_original_title(original.class_name, jet), original.constituents)
        panel |= {"kinds": original.kinds, "removed": gone}
        panel["numbers"] = observables_of(original.constituents[~gone])
        return {
            "panel": panel,
            "kept": found.kept,
            "pt": found.pt,
            "probabilities": found.probabilities,
            "classes": classifier.classes,
            "truth": original.class_name,
            "n_kept": n_kept,
        }

    return Display(controls | {"first": first, "removed": removed}, numbers, drawing.removal)


def _jets_of(
    store: JetStore, classes: Sequence[str] = ()
) -> tuple[dict[str, widgets.Widget], Callable[[str, int], int]]:
    """Controls that choose a jet, and the function from their values to its place in the store."""
    classes = classes or [c.name for c in CLASSES if len(store.indices_of(c.name))]
    places = {name: store.indices_of(name) for name in classes}
    if not places:
        places = {"": np.arange(len(store))}
    start = "Tbqq" if "Tbqq" in places else next(iter(places))
    class_name = widgets.Dropdown(options=list(places), value=start, description="class")
    jet = _slider("jet")

    def fit(_=None) -> None:
        jet.max = len(places[class_name.value]) - 1

    class_name.observe(fit, "value")
    fit()

    def index_of(class_name: str, jet: int) -> int:
        some = places[class_name]
        return int(some[min(jet, len(some) - 1)])  # the slider may be about to follow

    return {"class_name": class_name, "jet": jet}, index_of


def _slider(name: str, maximum: int = 0) -> widgets.IntSlider:
    return widgets.IntSlider(min=0, max=maximum, description=name, continuous_update=False)


def _panel(title: str, constituents: np.ndarray) -> dict[str, Any]:
    numbers = observables_of(constituents)
    return {"title": title, "constituents": constituents, "numbers": numbers}


def _original_title(class_name: str, jet: int) -> str:
    return f"jet {jet}, {_latex(class_name)}" if class_name else f"jet {jet}"


def _latex(class_name: str) -> str:
    return next((c.latex for c in CLASSES if c.name == class_name), "no class")


def _png(figure: Figure) -> bytes:
    """Drawn once, and not cut to what is drawn: the picture would jump from jet to jet."""
    content = io.BytesIO()
    figure.set_dpi(_DPI)
    FigureCanvasAgg(figure).print_png(content)
    plt.close(figure)
    return content.getvalue()


def _table_of_tokens(panels: Sequence[Mapping[str, Any]]) -> str:
    """The leading constituents, their tokens, and the pt that these decode to."""
    original, *others = panels
    head = ["", "pT [GeV]", "η", "φ"]
    head += [text for panel in others for text in (f"token: {panel['title']}", "pT [GeV]")]
    rows = []
    for place, (pt, eta, phi) in enumerate(original["constituents"][:_LISTED]):
        row = [f"{place + 1}", f"{pt:.1f}", f"{eta:+.3f}", f"{phi:+.3f}"]
        for panel in others:
            at = np.flatnonzero(panel["positions"] == place)
            found = [(panel["ids"][i], panel["constituents"][i, 0]) for i in at]
            row += [f"{found[0][0]}", f"{found[0][1]:.1f}"] if found else ["none", ""]
        rows.append(row)
    lines = [_row(head, "th"), *(_row(row, "td") for row in rows)]
    return f"<table>{''.join(lines)}</table>"


def _row(cells: Sequence[str], tag: str) -> str:
    style = "padding: 0 0.8em; text-align: right; line-height: 1.5"
    inside = "".join(f'<{tag} style="{style}">{escape(cell)}</{tag}>' for cell in cells)
    return f"<tr>{inside}</tr>"
