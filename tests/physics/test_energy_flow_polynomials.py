"""Energy-flow polynomials against loops, closed forms, energyflow and symmetries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from jetfm.errors import JetfmError
from jetfm.physics.energy_flow_polynomials import GRAPHS, energy_flow_polynomials
from jetfm.physics.observables import jet_observables


def random_jets(counts, seed=0):
    rng = np.random.default_rng(seed)
    n = int(np.sum(counts))
    physical = np.column_stack([rng.exponential(15, n) + 0.5, rng.normal(0, 0.25, (n, 2))])
    return physical, np.concatenate([[0], np.cumsum(counts)])


def brute_force(jet, beta):
    """The defining sums, term by term."""
    pt, eta, phi = jet.T
    z = pt / pt.sum()
    theta = [
        [math.hypot(eta[i] - eta[j], phi[i] - phi[j]) ** beta for j in range(len(jet))]
        for i in range(len(jet))
    ]
    values = []
    for graph in GRAPHS:
        total = 0.0
        for places in itertools.product(range(len(jet)), repeat=1 + max(map(max, graph))):
            total += math.prod(z[i] for i in places) * math.prod(
                theta[places[k]][places[m]] for k, m in graph
            )
        values.append(total)
    return values


def canonical(graph):
    """The same for isomorphic multigraphs."""
    vertices = sorted({vertex for edge in graph for vertex in edge})
    relabelled = []
    for order in itertools.permutations(range(len(vertices))):
        names = dict(zip(vertices, order, strict=True))
        relabelled.append(tuple(sorted(tuple(sorted((names[a], names[b]))) for a, b in graph)))
    return min(relabelled)


def connected(graph):
    reached = {graph[0][0]}
    for _ in graph:
        reached |= {v for edge in graph for v in edge if reached & set(edge)}
    return reached == {v for edge in graph for v in edge}


def test_all_connected_multigraphs_are_there_once():
    """Found by trying all choices of edges: 1, 2, 5 and 12 with one to four edges."""
    found = set()
    for n_edges, n_expected in zip((1, 2, 3, 4), (1, 2, 5, 12), strict=True):
        pairs = list(itertools.combinations(range(n_edges + 1), 2))
        graphs = itertools.combinations_with_replacement(pairs, n_edges)
        new = {canonical(graph) for graph in graphs if connected(graph)}
        assert len(new) == n_expected
        found |= new
    assert len(GRAPHS) == 20 and {canonical(graph) for graph in GRAPHS} == found


@pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
def test_equal_to_the_sums(beta):
    physical, offsets = random_jets([4, 1, 5, 2, 3], seed=1)
    found = energy_flow_polynomials(physical, offsets, beta)
    for jet, (a, b) in enumerate(itertools.pairwise(offsets)):
        np.testing.assert_allclose(found[jet], brute_force(physical[a:b], beta), rtol=1e-10)


#: What energyflow 1.4.0 gives for `spiral`, in the order of `GRAPHS`:
#: EFP(graph, measure="hadr", beta=1, normed=True, coords="ptyphim").compute(spiral())
ENERGYFLOW = (
    0.3373412061847205,
    0.16781310081280923,
    0.11954255277245157,
    0.08963243345198621,
    0.06050840121903577,
    0.03506383039181246,
    0.041561577045632875,
    0.044777124160528065,
    0.04960905665616401,
    0.03274187039958443,
    0.03110968203050323,
    0.017178853536055805,
    0.012973610725547025,
    0.016347051901857583,
    0.02094840064483034,
    0.021261733246935303,
    0.023149892879038698,
    0.014576424835040722,
    0.017779432143693243,
    0.015272027737350199,
)


def spiral():
    """Twelve particles on both sides of phi = pi, (12, 3)."""
    k = np.arange(12)
    phi = 3.1 + 0.3 * np.cos(2.0 * k)
    wrapped = (phi + np.pi) % (2 * np.pi) - np.pi
    return np.column_stack([100 / (k + 1.0), 0.3 * np.sin(k), wrapped])


def test_equal_to_the_numbers_of_energyflow():
    found = energy_flow_polynomials(spiral(), [0, 12])[0]
    np.testing.assert_allclose(found, ENERGYFLOW, rtol=1e-13)


@pytest.mark.parametrize("beta", [1.0, 0.5, 2.0])
def test_equal_to_energyflow(beta):
    """GPL-3, so that nothing of jetfm depends on it: compared where somebody has installed it."""
    energyflow = pytest.importorskip("energyflow", reason="energyflow is not installed")
    physical, offsets = random_jets([40, 3, 7, 90, 1, 128], seed=5)
    found = energy_flow_polynomials(physical, offsets, beta)
    how = {"measure": "hadr", "beta": beta, "normed": True, "coords": "ptyphim"}
    theirs = [energyflow.EFP(list(graph), **how) for graph in GRAPHS]
    for jet, (a, b) in enumerate(itertools.pairwise(offsets)):
        expected = [one.compute(physical[a:b]) for one in theirs]
        np.testing.assert_allclose(found[jet], expected, rtol=1e-13)


def test_two_particles_in_closed_form():
    """A line: 2 z1 z2 theta^d. Paths and stars: only neighbours that differ contribute."""
    z, theta = 0.3, 0.5
    physical = np.array([[30.0, 0.1, 0.3], [70.0, 0.1 + 0.3, 0.3 - 0.4]])
    values = dict(zip(GRAPHS, energy_flow_polynomials(physical, [0, 2])[0], strict=True))
    for d in (1, 2, 3, 4):
        np.testing.assert_allclose(values[((0, 1),) * d], 2 * z * (1 - z) * theta**d)
    # a star with n rays: centre on one particle, all ends on the other
    for n in (3, 4):
        star = tuple((0, k) for k in range(1, n + 1))
        expected = theta**n * (z * (1 - z) ** n + (1 - z) * z**n)
        np.testing.assert_allclose(values[star], expected)
    # a path of four vertices alternates between the two
    np.testing.assert_allclose(values[(0, 1), (1, 2), (2, 3)], 2 * (z * (1 - z)) ** 2 * theta**3)
    # odd cycles need three different places
    np.testing.assert_allclose(values[(0, 1), (1, 2), (2, 0)], 0, atol=1e-15)


def test_double_edge_is_the_mass_of_narrow_jets():
    """m^2 = pt^2 EFP(double edge) / 2 to leading order in the angles."""
    physical, offsets = random_jets([30, 60], seed=4)
    physical[:, 1:] *= 0.01
    jets = jet_observables(physical, offsets)
    double = energy_flow_polynomials(physical, offsets)[:, GRAPHS.index(((0, 1), (0, 1)))]
    np.testing.assert_allclose(jets["mass"] ** 2, jets["pt"] ** 2 * double / 2, rtol=1e-4)


def test_invariances():
    """Order, company, rotation, mirror, shift across phi = pi, and the scale of pt."""
    counts = [7, 0, 150, 1, 2, 40]
    physical, offsets = random_jets(counts, seed=2)
    expected = energy_flow_polynomials(physical, offsets)
    order = np.concatenate([np.arange(a, b)[::-1] for a, b in itertools.pairwise(offsets)])
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    changed = physical[order] * [3.0, 1, 1]
    changed[:, 1:] = changed[:, 1:] @ rotation.T * [-1, 1] + [1.3, np.pi]
    changed[:, 2] = (changed[:, 2] + np.pi) % (2 * np.pi) - np.pi
    np.testing.assert_allclose(
        energy_flow_polynomials(changed, offsets), expected, rtol=1e-9, atol=1e-14
    )
    for jet, (a, b) in enumerate(itertools.pairwise(offsets)):  # alone, so padded otherwise
        alone = energy_flow_polynomials(physical[a:b], [0, b - a])[0]
        np.testing.assert_allclose(alone, expected[jet], rtol=1e-12)
    assert np.isnan(expected[1]).all() and not np.isnan(np.delete(expected, 1, axis=0)).any()
    np.testing.assert_array_equal(expected[3], 0)  # one particle has no angles


def test_collinear_and_soft_safe():
    """A particle split in two at one place, or one without momentum, changes nothing."""
    physical, offsets = random_jets([12], seed=3)
    split = np.concatenate([physical, physical[:1], [[0.0, 0.4, 0.4]]])
    split[0, 0], split[12, 0] = 0.25 * physical[0, 0], 0.75 * physical[0, 0]
    np.testing.assert_allclose(
        energy_flow_polynomials(split, [0, 14]),
        energy_flow_polynomials(physical, offsets),
        rtol=1e-10,
    )


def test_bad_input():
    for bad in ([-1.0, 0, 0], [1.0, np.nan, 0]):
        with pytest.raises(JetfmError, match="energy flow"):
            energy_flow_polynomials(np.array([bad]), [0, 1])
    with pytest.raises(JetfmError, match="beta"):
        energy_flow_polynomials(np.ones((1, 3)), [0, 1], beta=0)
