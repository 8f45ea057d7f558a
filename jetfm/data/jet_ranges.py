"""Jets by ranges of observables of the whole jet: what a classifier is trained on, or is not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jetfm.data.store import JetStore

#: Observable, lowest value, and the first one beyond.
Range = tuple[str, float, float]

# Of the vector sum of the constituents, which jets of any source have; GeV, and absolute
_COLUMNS = {"jet_pt": "axis_pt", "jet_abs_eta": "axis_eta"}


def within(store: JetStore, indices: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    """Whether jets of a store are in all of these ranges, (n,) bool."""
    inside = np.ones(len(indices), bool)
    for name, low, high in ranges:
        values = np.abs(np.asarray(store.jets[_COLUMNS[name]][indices]))
        inside &= (low <= values) & (values < high)
    return inside


def ranges_as_text(ranges: Sequence[Range]) -> str:
    """E.g. 'jet_pt 500 to 700, jet_abs_eta 0 to 1'."""
    return ", ".join(f"{name} {low:g} to {high:g}" for name, low, high in ranges)
