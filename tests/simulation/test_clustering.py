"""Jets, substructure and truth matching against independent, slow implementations."""

from __future__ import annotations

import awkward as ak
import numpy as np
import pytest
from scipy.optimize import minimize

from jetfm.physics.substructure import RADIUS, momenta, substructure
from jetfm.simulation.clustering import Jets, cluster, match, wrap
from jetfm.simulation.detector import Candidates
from jetfm.simulation.event_record import Truth, truth_code

NAN = np.nan


def candidates(event, pt, eta, phi) -> Candidates:
    """Massless candidates; the columns that clustering does not read are zero."""
    zero = np.zeros(len(pt))
    columns = dict.fromkeys("mass eta charge d0 d0_error dz dz_error".split(), zero)
    return Candidates(
        event=event,
        pid=np.full(len(pt), 22),
        px=pt * np.cos(phi),
        py=pt * np.sin(phi),
        pz=pt * np.sinh(eta),
        energy=pt * np.cosh(eta),
        **columns,
    )


def random_candidates(rng, n_events=4, n=40) -> Candidates:
    """Two clumps of particles on a soft background in every event."""
    centre = rng.uniform(-1.5, 1.5, (n_events, 2)), rng.uniform(-np.pi, np.pi, (n_events, 2))
    event = np.repeat(np.arange(n_events), n)
    clump = rng.integers(0, 2, n * n_events)
    eta = centre[0][event, clump] + rng.normal(0, 0.35, n * n_events)
    phi = centre[1][event, clump] + rng.normal(0, 0.35, n * n_events)
    return candidates(event, rng.exponential(20.0, n * n_events) + 0.1, eta, wrap(phi))


def recombine(p4, power):
    """Generalised kT with radius RADIUS, E scheme, in O(n^3): list of (p4, members, history)."""
    items = [(p, (i,), None) for i, p in enumerate(p4)]
    jets = []
    while items:
        pt = np.array([np.hypot(p[0], p[1]) for p, _, _ in items])
        y = np.array([0.5 * np.log((p[3] + p[2]) / (p[3] - p[2])) for p, _, _ in items])
        phi = np.array([np.arctan2(p[1], p[0]) for p, _, _ in items])
        scale = pt ** (2 * power)
        distance = (y[:, None] - y) ** 2 + wrap(phi[:, None] - phi) ** 2
        pairs = np.minimum(scale[:, None], scale) * distance / RADIUS**2
        np.fill_diagonal(pairs, np.inf)
        i, j = np.unravel_index(pairs.argmin(), pairs.shape)
        if scale.min() <= pairs[i, j]:
            jets.append(items.pop(int(scale.argmin())))
        else:
            one, other = items[i], items[j]
            merged = (one[0] + other[0], one[1] + other[1], (one, other))
            items = [item for k, item in enumerate(items) if k not in (i, j)] + [merged]
    return jets


def four_momenta(c: Candidates, chosen) -> np.ndarray:
    return np.stack([c.px[chosen], c.py[chosen], c.pz[chosen], c.energy[chosen]], axis=1)


def soft_drop_mass(p4):
    """Soft drop with beta = 0, z_cut = 0.1 on a Cambridge/Aachen tree."""
    jet = max(recombine(p4, 0), key=lambda item: len(item[1]))
    while jet[2] is not None:
        pts = [np.hypot(p[0], p[1]) for p, _, _ in jet[2]]
        if min(pts) / sum(pts) > 0.1:
            break
        jet = jet[2][int(np.argmax(pts))]
    p = jet[0]
    return np.sqrt(max(p[3] ** 2 - p[0] ** 2 - p[1] ** 2 - p[2] ** 2, 0.0))


def test_jets_equal_those_of_a_naive_anti_kt():
    c = random_candidates(np.random.default_rng(1))
    jets = cluster(c, 4, pt_min=30.0)
    for event in range(4):
        chosen = np.flatnonzero(c.event == event)
        expected = {
            tuple(sorted(chosen[list(members)])): np.hypot(p[0], p[1])
            for p, members, _ in recombine(four_momenta(c, chosen), -1)
            if np.hypot(p[0], p[1]) > 30.0
        }
        found = {
            tuple(sorted(jets.constituents[i].to_list())): jets.pt[i]
            for i in np.flatnonzero(jets.event == event)
        }
        assert found == pytest.approx(expected)


def test_jet_axes_are_vector_sums_and_jets_come_in_order():
    c = random_candidates(np.random.default_rng(2), n_events=6)
    jets = cluster(c, 8, pt_min=20.0)  # the last two events are empty
    assert set(jets.event) <= set(range(6))
    assert (np.diff(jets.event) >= 0).all()
    for i in range(len(jets)):
        total = four_momenta(c, jets.constituents[i].to_list()).sum(axis=0)
        assert jets.energy[i] == pytest.approx(total[3])
        assert np.sinh(jets.eta[i]) * jets.pt[i] == pytest.approx(total[2])
        assert np.cos(jets.phi[i]) * jets.pt[i] == pytest.approx(total[0], abs=1e-6)
    same_event = np.diff(jets.event) == 0
    assert (np.diff(jets.pt)[same_event] <= 0).all()


def test_soft_drop_mass_equals_that_of_a_naive_declustering():
    c = random_candidates(np.random.default_rng(3), n_events=5, n=30)
    jets = cluster(c, 5, pt_min=100.0)
    lists = [jets.constituents[i].to_list() for i in range(len(jets))]
    flat = np.concatenate(lists)
    counts = [len(x) for x in lists]
    shapes = substructure(momenta(c.px[flat], c.py[flat], c.pz[flat], c.energy[flat], counts))
    expected = [soft_drop_mass(four_momenta(c, x)) for x in lists]
    np.testing.assert_allclose(shapes["sdmass"], expected, rtol=1e-6, atol=1e-4)
    assert len(expected) >= 5


def test_tau1_is_the_normalised_minimum_over_axes():
    c = random_candidates(np.random.default_rng(4), n_events=4, n=30)
    jets = cluster(c, 4, pt_min=100.0)
    for i in range(len(jets)):
        members = jets.constituents[i].to_list()
        p = four_momenta(c, members)
        pt, phi = np.hypot(p[:, 0], p[:, 1]), np.arctan2(p[:, 1], p[:, 0])
        y = np.arcsinh(p[:, 2] / pt)  # massless: rapidity

        def tau(axis, pt=pt, phi=phi, y=y):
            distance = np.hypot(y - axis[0], wrap(phi - axis[1]))
            return (pt * distance).sum() / (pt.sum() * RADIUS)

        best = minimize(tau, [jets.eta[i], jets.phi[i]], method="Nelder-Mead", tol=1e-8).fun
        shapes = substructure(momenta(*p.T, [len(members)]))
        assert shapes["tau1"][0] == pytest.approx(best, rel=2e-3)


def test_tau_falls_with_the_number_of_axes_and_vanishes_for_few_particles():
    c = random_candidates(np.random.default_rng(5))
    p = four_momenta(c, np.arange(40))
    shapes = substructure(momenta(*p.T, [40]))
    taus = [shapes[f"tau{n}"][0] for n in (1, 2, 3, 4)]
    assert taus == sorted(taus, reverse=True)
    two = substructure(momenta(*p[:2].T, [2]))
    assert two["tau1"][0] > 0
    assert [two[f"tau{n}"][0] for n in (2, 3, 4)] == pytest.approx([0, 0, 0], abs=1e-9)


# --- truth matching -----------------------------------------------------------------------------


def jets_at(event, eta, phi) -> Jets:
    n = len(event)
    return Jets(
        np.array(event),
        np.full(n, 600.0),
        np.array(eta, dtype=float),
        np.array(phi, dtype=float),
        np.full(n, 700.0),
        ak.Array([[0]] * n),
    )


def truth_of(products, code=None) -> Truth:
    """Truth of events, each a list of resonances, each a list of (eta, phi)."""
    width = max(len(event) for event in products)
    table = np.full((len(products), width, 4, 2), NAN)
    codes = np.zeros((len(products), width))
    for e, event in enumerate(products):
        for r, resonance in enumerate(event):
            table[e, r, : len(resonance)] = resonance
            codes[e, r] = 11 if code is None else code
    zero = np.zeros_like(codes)
    return Truth(codes, zero, zero, zero, zero, table[..., 0], table[..., 1])


def test_every_product_must_lie_in_the_jet():
    truth = truth_of([[[(0.1, 0.0), (0.5, 0.5), (-0.7, 0.0)]], [[(0.1, 0.0), (0.9, 0.0)]]])
    kept, slot = match(jets_at([0, 1], [0, 0], [0, 0]), truth, is_qcd=False)
    assert kept.tolist() == [True, False]
    assert slot.tolist() == [0, -1]


def test_matching_wraps_phi_and_uses_a_radius_of_0_8():
    truth = truth_of([[[(0.0, -np.pi + 0.1)]], [[(0.0, 0.79)]], [[(0.0, 0.81)]]])
    kept, _ = match(jets_at([0, 1, 2], [0, 0, 0], [np.pi - 0.1, 0, 0]), truth, is_qcd=False)
    assert kept.tolist() == [True, True, False]


def test_each_jet_finds_its_own_resonance():
    truth = truth_of([[[(0.0, 0.0), (0.1, 0.1)], [(0.5, 3.0), (0.4, 2.9)]]])
    jets = jets_at([0, 0, 0], [0.5, 0.0, 1.5], [3.0, 0.0, 1.5])
    kept, slot = match(jets, truth, is_qcd=False)
    assert kept.tolist() == [True, True, False]
    assert slot.tolist() == [1, 0, -1]


def test_other_decays_and_empty_events_do_not_match():
    other = truth_of([[[(0.0, 0.0)]]], code=0)
    assert match(jets_at([0], [0], [0]), other, is_qcd=False)[0].tolist() == [False]
    empty = truth_of([[], [[(0.0, 0.0)]]])
    kept, _ = match(jets_at([0, 1], [0, 0], [0, 0]), empty, is_qcd=False)
    assert kept.tolist() == [False, True]
    kept, slot = match(jets_at([0], [0], [0]), truth_of([[]]), is_qcd=True)
    assert kept.tolist() == [True] and slot.tolist() == [-1]


@pytest.mark.parametrize(
    ("resonance", "products", "code"),
    [
        (6, (5, 4, -3, 0), 11),
        (6, (5, 2, -1, 0), 12),
        (-6, (-5, -11, 0, 0), 15),
        (6, (13, 5, 0, 0), 16),
        (6, (5, 15, 0, 0), 0),
        (24, (4, -3, 0, 0), 21),
        (24, (2, -1, 0, 0), 22),
        (23, (5, -5, 0, 0), 31),
        (23, (4, -4, 0, 0), 32),
        (23, (1, -1, 0, 0), 33),
        (25, (5, -5, 0, 0), 41),
        (25, (4, -4, 0, 0), 42),
        (25, (21, 21, 0, 0), 44),
        (25, (2, -1, 3, -4), 45),
        (25, (2, -1, 11, 0), 46),
        (25, (11, 2, -1, 0), 46),
    ],
)
def test_truth_codes_are_those_of_the_original_ntuples(resonance, products, code):
    assert truth_code(abs(resonance), np.array([products])).tolist() == [code]
