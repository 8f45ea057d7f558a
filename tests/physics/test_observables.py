"""Observables against closed forms, vector, fastjet's contrib, brute force and symmetries."""

from __future__ import annotations

from itertools import combinations

import awkward as ak
import fastjet
import numpy as np
import pytest
import vector

from jetfm.data import jetclass
from jetfm.data.store import build_store
from jetfm.errors import JetfmError
from jetfm.physics.observables import (
    count_undefined,
    energy_correlation_d2,
    four_momenta,
    jet_observables,
    segment_sum,
)
from tests.data.jetclass_files import random_jets, write

AXES = ("onepass", "kt")


def random_physical(counts, seed=0):
    rng = np.random.default_rng(seed)
    n = int(np.sum(counts))
    physical = np.stack([rng.exponential(15, n) + 0.5, *rng.normal(0, 0.25, (2, n))], 1)
    return physical, np.concatenate([[0], np.cumsum(counts)])


COUNTS = np.array([30, 3, 60, 4, 12, 45, 90, 5, 7, 20])
PHYSICAL, OFFSETS = random_physical(COUNTS)
JAGGED = ak.unflatten(
    vector.zip({"pt": PHYSICAL[:, 0], "eta": PHYSICAL[:, 1], "phi": PHYSICAL[:, 2], "mass": 0.0}),
    COUNTS,
)


def test_mass_and_pt_equal_vectors():
    total = ak.sum(JAGGED, axis=1)
    result = jet_observables(PHYSICAL, OFFSETS)
    np.testing.assert_allclose(result["pt"], total.pt, rtol=1e-12)
    np.testing.assert_allclose(result["mass"], total.mass, rtol=1e-10)
    np.testing.assert_array_equal(result["n_constituents"], COUNTS)


def test_mass_of_two_massless_particles():
    """m^2 = 2 pt1 pt2 (cosh d_eta - cos d_phi)."""
    physical = np.array([[300.0, 0.1, 0.3], [200.0, -0.3, -0.2]])
    expected = np.sqrt(2 * 300 * 200 * (np.cosh(0.4) - np.cos(0.5)))
    result = jet_observables(physical, [0, 2])
    np.testing.assert_allclose(result["mass"], expected, rtol=1e-13)


def three_prongs():
    """Three groups of two particles, far apart; each pair is symmetric about its centre."""
    centres = np.array([[0.0, 0.0], [0.5, 0.0], [0.0, 0.5]])
    angles = np.concatenate([centres + [0, 0.01], centres - [0, 0.01]])
    return np.column_stack([np.full(6, 100.0), angles])


def test_three_prongs_in_closed_form():
    """Exclusive kt jets of equal, symmetric pairs lie on the centres, to order 0.01 squared."""
    result = jet_observables(three_prongs(), [0, 6], axes="kt")
    np.testing.assert_allclose(result["tau3"], 0.01 / 0.8, rtol=1e-3)
    assert result["tau32"] < 0.1 < 0.3 < result["tau21"]


def test_kt_taus_from_subjets_of_single_jets():
    """Jet by jet with fastjet's own objects and vector's distances: the papers' definition."""
    result = jet_observables(PHYSICAL, OFFSETS, axes="kt")
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, 0.8)
    for jet, particles in enumerate(JAGGED):
        momenta = [fastjet.PseudoJet(p.px, p.py, p.pz, p.energy) for p in particles]
        sequence = fastjet._swig.ClusterSequence(momenta, definition)
        for n in (1, 2, 3):
            subjets = sequence.exclusive_jets(n)
            distances = [
                particles.deltaR(vector.obj(px=s.px(), py=s.py(), pz=s.pz(), E=s.e()))
                for s in subjets
            ]
            nearest = np.min(distances, axis=0)
            tau = np.sum(particles.pt * nearest) / np.sum(particles.pt * 0.8)
            np.testing.assert_allclose(result[f"tau{n}"][jet], tau, rtol=1e-9)


def test_onepass_minimises():
    """One pass of minimisation from kt axes cannot end above them, nor tau_N+1 above tau_N."""
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, 0.8)
    particles = ak.zip(
        {"px": JAGGED.px, "py": JAGGED.py, "pz": JAGGED.pz, "E": JAGGED.energy},
        with_name="Momentum4D",
    )
    plain = fastjet.ClusterSequence(particles, definition).njettiness(axes_definition="KT_Axes")
    result = jet_observables(PHYSICAL, OFFSETS)
    for n in (1, 2, 3):
        assert (result[f"tau{n}"] <= ak.to_numpy(plain)[:, n - 1] + 1e-12).all()
    assert (result["tau21"] <= 1).all() and (result["tau32"] <= 1).all()


def test_onepass_equals_the_branches_of_a_file(tmp_path):
    """jet_tau* written as JetClass does, from the file's own momenta; read, stored, recomputed.

    The store keeps pt, eta_rel and phi_rel in float32 and leaves out the small masses; the file's
    taus here come from massless particles, so that 1e-5 remains, from float32.
    """
    columns = random_jets([40, 25, 3, 60, 5, 80], seed=2)
    px, py, pz = (columns[f"part_{c}"] for c in ("px", "py", "pz"))
    energy = ak.values_astype(np.sqrt(px**2.0 + py**2.0 + pz**2.0), np.float32)
    momenta = {"px": px, "py": py, "pz": pz, "E": energy}
    particles = ak.zip(
        {name: ak.values_astype(value, np.float64) for name, value in momenta.items()},
        with_name="Momentum4D",
    )
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, 0.8)
    taus = ak.to_numpy(fastjet.ClusterSequence(particles, definition).njettiness())
    columns |= {f"jet_tau{n}": taus[:, n - 1].astype("f4") for n in (1, 2, 3, 4)}
    columns["part_energy"] = energy
    path = write(tmp_path / "a.root", columns)
    store = build_store([path], tmp_path / "store", progress=False)
    x, mask = store.dense(slice(None))
    result = jet_observables(x, mask=mask)
    for n in (1, 2, 3):
        np.testing.assert_allclose(result[f"tau{n}"], store.jets[f"tau{n}"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result["pt"], store.jets["axis_pt"], rtol=1e-6)
    axis = jetclass.read(path).axis
    np.testing.assert_allclose(result["mass"], axis.mass, rtol=1e-5)


def test_d2_against_a_triple_loop_and_fastjet():
    result = jet_observables(PHYSICAL, OFFSETS, d2=True)["d2"]
    for jet in (1, 3, 4, 7):
        rows = PHYSICAL[OFFSETS[jet] : OFFSETS[jet + 1]]

        def apart(i, j, rows=rows):
            return np.hypot(*(rows[i, 1:] - rows[j, 1:]))

        pt, n = rows[:, 0], range(len(rows))
        e2 = sum(pt[i] * pt[j] * apart(i, j) for i, j in combinations(n, 2)) / pt.sum() ** 2
        e3 = (
            sum(
                pt[i] * pt[j] * pt[k] * apart(i, j) * apart(j, k) * apart(k, i)
                for i, j, k in combinations(n, 3)
            )
            / pt.sum() ** 3
        )
        np.testing.assert_allclose(result[jet], e3 / e2**3, rtol=1e-10)


@pytest.mark.parametrize("axes", AXES)
def test_invariant_under_rotation_boost_and_order(axes):
    """A common shift of phi (across the wrap) or eta, and any order of constituents."""
    expected = jet_observables(PHYSICAL, OFFSETS, axes=axes, d2=True)
    moved = PHYSICAL + [0, 0.7, 3.0]
    moved[:, 2] = (moved[:, 2] + np.pi) % (2 * np.pi) - np.pi
    jet_index = np.repeat(np.arange(len(COUNTS)), COUNTS)
    order = np.lexsort((np.random.default_rng(0).random(len(PHYSICAL)), jet_index))
    # distances to massive axes in pseudorapidity ('kt') change a little under a boost
    rotated = moved if axes == "onepass" else moved - [0, 0.7, 0]
    for other in (rotated, PHYSICAL[order]):
        result = jet_observables(other, OFFSETS, axes=axes, d2=True)
        for name, values in expected.items():
            np.testing.assert_allclose(result[name], values, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("axes", AXES)
def test_scale_of_pt_drops_out_of_ratios(axes):
    expected = jet_observables(PHYSICAL, OFFSETS, axes=axes, d2=True)
    result = jet_observables(PHYSICAL * [7, 1, 1], OFFSETS, axes=axes, d2=True)
    for name in ("tau1", "tau2", "tau3", "tau21", "tau32", "d2"):
        # with three constituents the third axis meets each: tau3 is zero up to rounding
        np.testing.assert_allclose(result[name], expected[name], rtol=1e-6, atol=1e-15)
    np.testing.assert_allclose(result["mass"], 7 * expected["mass"], rtol=1e-9)


@pytest.mark.parametrize("axes", AXES)
def test_dense_equals_flat_and_chunks_do_not_matter(axes):
    mask = np.arange(COUNTS.max()) < COUNTS[:, None]
    dense = np.full((*mask.shape, 3), np.nan)  # whatever is padded is not looked at
    dense[mask] = PHYSICAL
    expected = jet_observables(PHYSICAL, OFFSETS, axes=axes)
    for result in (
        jet_observables(dense, mask=mask, axes=axes),
        jet_observables(PHYSICAL, OFFSETS, axes=axes, chunk=3),
    ):
        for name, values in expected.items():
            np.testing.assert_array_equal(result[name], values)


@pytest.mark.parametrize("axes", AXES)
def test_few_constituents(axes):
    """0, 1, 2 and 3 constituents; those with pt = 0 do not count."""
    physical, offsets = random_physical([0, 1, 2, 3, 4, 0])
    physical[offsets[4] + 1, 0] = 0  # the jet of four has three
    result = jet_observables(physical, offsets, axes=axes, d2=True)
    np.testing.assert_array_equal(result["n_constituents"], [0, 1, 2, 3, 3, 0])
    undefined = np.array([True, False, False, False, False, True])
    few = np.array([True, True, True, False, False, True])
    for name in ("pt", "mass"):
        np.testing.assert_array_equal(np.isnan(result[name]), undefined)
    for name in ("tau21", "tau32", "d2"):
        np.testing.assert_array_equal(np.isnan(result[name]), few)
    np.testing.assert_array_equal(np.isnan(result["tau1"]), few if axes == "kt" else undefined)
    np.testing.assert_allclose(result["mass"][1], 0, atol=1e-5)
    assert count_undefined(result)["tau32"] == 4 and count_undefined(result)["mass"] == 2


def test_jets_of_nothing_but_empty_ones():
    result = jet_observables(np.zeros((0, 3)), [0, 0, 0], d2=True)
    assert all(len(values) == 2 for values in result.values())
    assert np.isnan(result["mass"]).all()
    assert len(jet_observables(np.zeros((0, 3)), [0])["pt"]) == 0


def test_coincident_constituents_are_undefined_not_infinite():
    physical = np.tile([100.0, 0.0, 0.0], (5, 1))
    for axes in AXES:
        result = jet_observables(physical, [0, 5], axes=axes, d2=True)
        assert not np.isinf(result["tau21"]).any() and np.isnan(result["d2"]).all()


def test_segment_sum_and_four_momenta():
    values = np.arange(12.0).reshape(6, 2)
    np.testing.assert_array_equal(
        segment_sum(values, np.array([0, 0, 2, 2, 6, 6])),
        [[0, 0], [2, 4], [0, 0], [28, 32], [0, 0]],
    )
    p = four_momenta(PHYSICAL)
    np.testing.assert_allclose(p[:, 3] ** 2, (p[:, :3] ** 2).sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_impossible_momenta(bad):
    physical = PHYSICAL.copy()
    physical[OFFSETS[2] + 5, 0] = bad
    with pytest.raises(JetfmError, match="in jet 2"):
        jet_observables(physical, OFFSETS)


def test_bad_requests():
    with pytest.raises(JetfmError, match="either offsets or a mask"):
        jet_observables(PHYSICAL)
    with pytest.raises(JetfmError, match="'onepass' or 'kt'"):
        jet_observables(PHYSICAL, OFFSETS, axes="wta")
    with pytest.raises(JetfmError, match="offsets up to"):
        jet_observables(PHYSICAL[:5], OFFSETS)
    with pytest.raises(JetfmError, match=r"\(B, T, 3\)"):
        jet_observables(np.zeros((2, 3, 3)), mask=np.ones((2, 4), bool))


def test_d2_of_jets_of_equal_and_mixed_length_agree():
    alone = [energy_correlation_d2(PHYSICAL[a:b], np.array([0, b - a]))[0]
             for a, b in zip(OFFSETS[:-1], OFFSETS[1:], strict=True)]  # fmt: skip
    np.testing.assert_allclose(energy_correlation_d2(PHYSICAL, OFFSETS), alone, rtol=1e-12)
