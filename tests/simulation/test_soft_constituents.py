"""Soft constituents against a loop, and the published ones against the real jets."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from jetfm.simulation.soft_constituents import EDGES, SOFT, published, soft_constituents
from tests import real_jets


def test_counts_equal_a_loop_over_jets():
    rng = np.random.default_rng(3)
    counts = [0, 1, 2, 40, 127]
    pt = ak.unflatten(rng.exponential(2.0, sum(counts)), counts)
    delta_r = ak.unflatten(rng.uniform(0, 0.8, sum(counts)), counts)
    found = soft_constituents(pt, delta_r)
    assert found["n_jets"] == 5
    soft = [sum(p < SOFT for p in jet) for jet in pt]
    assert found["n_soft"]["values"] == pytest.approx([np.mean(soft)])
    assert found["n_soft"]["errors"] == pytest.approx([np.std(soft) / np.sqrt(5)])
    for ring, (low, high) in enumerate(zip(EDGES["delta_r"], EDGES["delta_r"][1:], strict=False)):
        inside = [
            sum(p < SOFT and low <= r < high for p, r in zip(*jet, strict=True))
            for jet in zip(pt, delta_r, strict=True)
        ]
        density = np.mean(inside) / (np.pi * (high**2 - low**2))
        assert found["delta_r"]["values"][ring] == pytest.approx(density)
    assert sum(found["n_constituents"]["values"]) * 10 == pytest.approx(4 / 5)  # one has 127


def test_even_density_is_flat_in_the_area():
    """Constituents thrown evenly over the cone: the same density in every ring."""
    rng = np.random.default_rng(4)
    n_jets, each = 4000, 20
    delta_r = ak.from_numpy(0.8 * np.sqrt(rng.uniform(size=(n_jets, each))))
    found = soft_constituents(ak.ones_like(delta_r), delta_r)["delta_r"]
    expected = each / (np.pi * 0.8**2)
    pulls = (np.array(found["values"]) - expected) / found["errors"]
    assert np.abs(pulls).max() < 4


@real_jets.needed
def test_published_numbers_are_those_of_the_real_jets():
    real = real_jets.load(real_jets.TOPLANDSCAPE)
    px, py, pz, _ = (
        ak.unflatten(real[k].astype(float), real["N"]) for k in ("px", "py", "pz", "energy")
    )
    jet_px, jet_py, jet_pz = (ak.sum(p, axis=1) for p in (px, py, pz))
    pt = np.hypot(px, py)
    deta = np.arcsinh(pz / pt) - np.arcsinh(jet_pz / np.hypot(jet_px, jet_py))
    dphi = np.arctan2(py, px) - np.arctan2(jet_py, jet_px)
    delta_r = np.hypot(deta, (dphi + np.pi) % (2 * np.pi) - np.pi)
    for label, (name, expected) in enumerate(published().items()):
        chosen = real["label"] == label
        found = soft_constituents(pt[chosen], delta_r[chosen])
        assert found["n_jets"] == expected["n_jets"], name
        for key in ("n_soft", *EDGES):
            for part in ("values", "errors"):
                np.testing.assert_allclose(found[key][part], expected[key][part], rtol=2e-3)
