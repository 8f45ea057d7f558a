"""Jets in ranges of pt and |eta|: the edges, both signs of eta, and labelled jets that keep to
them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jetfm.data.jet_ranges import ranges_as_text, within
from jetfm.data.labelled import LabelledJets
from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.schema import KINEMATICS

RANGES = (("jet_pt", 500.0, 700.0), ("jet_abs_eta", 0.0, 1.0))


class Axes:
    """The columns of a store alone."""

    def __init__(self, pt, eta):
        self.jets = np.zeros(len(pt), JET_DTYPE)
        self.jets["axis_pt"], self.jets["axis_eta"] = pt, eta


@given(
    pt=arrays(np.float32, 30, elements=st.floats(0, 1000, width=32)),
    eta=arrays(np.float32, 30, elements=st.floats(-3, 3, width=32)),
    edges=st.lists(st.floats(0, 1000), min_size=2, max_size=6, unique=True),
)
def test_neighbouring_ranges_share_out_all_jets(pt, eta, edges):
    edges, store, every = [0.0, *sorted(edges), 1001.0], Axes(pt, eta), np.arange(30)
    counts = sum(
        within(store, every, [("jet_pt", low, high)]).astype(int)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
        if low < high
    )
    assert (counts == 1).all()
    both = within(store, every, RANGES)
    assert both.tolist() == [
        500 <= p < 700 and abs(e) < 1 for p, e in zip(pt.tolist(), eta.tolist(), strict=True)
    ]


def test_edges_signs_and_the_order_asked_for():
    store = Axes([499.99, 500, 600, 700], [0.5, -0.5, -1.5, 0.2])
    inside = within(store, np.array([3, 1, 2, 0]), RANGES[:1])
    assert inside.tolist() == [False, True, True, False]
    assert within(store, np.arange(4), RANGES).tolist() == [False, True, False, False]
    assert within(store, np.arange(4), ()).all()
    assert ranges_as_text(RANGES) == "jet_pt 500 to 700, jet_abs_eta 0 to 1"


@pytest.mark.parametrize("limit", [0, 20])
def test_labelled_jets_keep_to_their_ranges(tmp_path, limit):
    """Also those that a training order or a limit draws, as many of each class."""
    rng, n = np.random.default_rng(2), 400
    jets = np.zeros(n, JET_DTYPE)
    jets["label"], jets["axis_pt"] = np.resize([0, 8, 1], n), rng.uniform(450, 1000, n)
    jets["axis_eta"] = rng.uniform(-2, 2, n)
    with JetStoreWriter(tmp_path, KINEMATICS) as writer:
        writer.append(np.ones((n, 3), "f4"), np.ones(n, int), jets)
    found = LabelledJets(tmp_path, ("QCD", "Tbqq"), limit=limit, ranges=RANGES)
    store, order = JetStore(tmp_path), found.training_order(1)
    for some in (found.indices, order):
        chosen = store.jets[some]
        assert set(chosen["label"]) == {0, 8}
        assert ((chosen["axis_pt"] >= 500) & (chosen["axis_pt"] < 700)).all()
        assert (np.abs(chosen["axis_eta"]) < 1).all()
    whole = (jets["axis_pt"] >= 500) & (jets["axis_pt"] < 700) & (np.abs(jets["axis_eta"]) < 1)
    assert len(found.indices) == (limit or (whole & (jets["label"] != 1)).sum())
    assert len(set(np.bincount(found.labels[order]))) == 1
