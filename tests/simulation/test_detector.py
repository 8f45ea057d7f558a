"""Detector: closures with ideal cards, statistics against the card, geometry in closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.simulation.calorimeter import (
    cell_bounds,
    cell_of,
    energy_flow,
    energy_flow_2015,
    log_normal,
)
from jetfm.simulation.detector import NEUTRAL_HADRON, PHOTON, detect
from jetfm.simulation.detector_card import CARDS_DIR, DetectorCard, load_card
from jetfm.simulation.propagation import SPEED_OF_LIGHT, Particles, inside, propagate

CMS, ATLAS_2015 = load_card("cms"), load_card("atlas-2015")
PION, KLONG, ELECTRON, MUON, GAMMA = 211, 130, 11, 13, 22
MASS = {PION: 0.13957, KLONG: 0.49761, ELECTRON: 0.000511, MUON: 0.10566, GAMMA: 0.0}
CHARGE = {PION: 1, ELECTRON: -1, MUON: -1}


def particles(pid, pt, eta, phi, event=None, charge=None, vertex=(0.0, 0.0, 0.0)) -> Particles:
    """Particles from arrays that broadcast against each other."""
    pid, pt, eta, phi = (np.atleast_1d(a) for a in np.broadcast_arrays(pid, pt, eta, phi))
    mass = np.array([MASS[abs(int(p))] for p in pid])
    signs = np.array([np.sign(p) * CHARGE.get(abs(int(p)), 0) for p in pid], dtype=float)
    x, y, z = (np.broadcast_to(np.asarray(v, dtype=float), pid.shape).copy() for v in vertex)
    return Particles(
        event=np.zeros(len(pid), dtype=int) if event is None else np.asarray(event),
        pid=pid,
        px=pt * np.cos(phi),
        py=pt * np.sin(phi),
        pz=pt * np.sinh(eta),
        energy=np.hypot(pt * np.cosh(eta), mass),
        mass=mass,
        charge=signs if charge is None else np.broadcast_to(charge, pid.shape).astype(float),
        x=x,
        y=y,
        z=z,
    )


def changed_card(**changes) -> DetectorCard:
    """CMS card with some entries replaced; nested dictionaries are merged."""

    def merge(base, new):
        if not (isinstance(base, dict) and isinstance(new, dict)):
            return new
        return base | {k: merge(base.get(k), v) for k, v in new.items()}

    return DetectorCard.model_validate(merge(CMS.model_dump(exclude_none=True), changes))


def ideal_card(**changes) -> DetectorCard:
    """Detector that sees everything exactly, within its cells."""
    everything = {"eta_edges": (6.0,), "pt_edges": (0.0,), "values": ((1.0,),)}
    exact = {"eta_edges": (6.0,), "constant": (0.0,), "slope": (0.0,)}
    perfect = {
        "threshold": 0.0,
        "significance": 0.0,
        "resolution": ({"eta_max": 6.0, "constant": 0.0, "stochastic": 0.0},),
    }
    ideal = {
        "efficiency": dict.fromkeys(("hadron", "electron", "muon"), everything),
        "momentum_resolution": dict.fromkeys(("hadron", "electron", "muon"), exact),
        "exact_tracks": False,
        "eta_at_calorimeter": False,
        "tracker": {"field": 0.0},
        "ecal": perfect,
        "hcal": perfect,
    }
    card = changed_card(**ideal).model_dump(exclude_none=True)
    for name, change in changes.items():
        card[name] = card[name] | change if isinstance(change, dict) else change
    return DetectorCard.model_validate(card)


def random_event(rng, n=400, n_events=5) -> Particles:
    pid = rng.choice([PION, -PION, KLONG, ELECTRON, -ELECTRON, MUON, GAMMA], n)
    return particles(
        pid,
        rng.exponential(5.0, n) + 0.8,  # enough to reach the barrel at 3.8 T
        rng.uniform(-2.4, 2.4, n),
        rng.uniform(-np.pi, np.pi, n),
        event=np.sort(rng.integers(0, n_events, n)),
    )


# --- closures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("field", [0.0, 3.8])
def test_ideal_detector_conserves_energy_in_every_event(field):
    rng = np.random.default_rng(1)
    truth = random_event(rng)
    seen = detect(truth, ideal_card(tracker={"field": field}), rng)
    for event in range(5):
        expected = truth.energy[truth.event == event].sum()
        assert seen.energy[seen.event == event].sum() == pytest.approx(expected, rel=1e-9)


def test_ideal_detector_reproduces_momenta_within_its_cells():
    rng = np.random.default_rng(2)
    truth = random_event(rng)
    seen = detect(truth, ideal_card(), rng)
    charged, tracks = truth.charge != 0, seen.charge != 0
    for name in ("px", "py", "pz"):  # tracks exactly, whatever their order
        np.testing.assert_allclose(
            np.sort(getattr(seen, name)[tracks]), np.sort(getattr(truth, name)[charged]), rtol=1e-9
        )
    # Neutral candidates lie anywhere in cells of at most 0.18 x 0.17, so that each misses its
    # transverse momentum by less than about a quarter of it.
    neutral_pt = np.hypot(truth.px, truth.py)[~charged].sum()
    difference = seen.px.sum() - truth.px.sum()
    assert abs(difference) < 0.25 * neutral_pt
    assert abs(difference) < 5 * 0.1 * np.sqrt((truth.px[~charged] ** 2).sum() + neutral_pt)


def test_neutrals_next_to_tracks_keep_exactly_their_energy():
    truth = particles([PION, KLONG, GAMMA], [20.0, 30.0, 10.0], 0.51, 0.51)
    seen = detect(truth, ideal_card(), np.random.default_rng(3))
    energy = dict(zip(seen.pid.tolist(), seen.energy.tolist(), strict=True))
    assert energy == pytest.approx(
        {PION: truth.energy[0], NEUTRAL_HADRON: truth.energy[1], PHOTON: truth.energy[2]}
    )


def test_muons_pass_untouched_by_the_calorimeters():
    truth = particles(MUON, [3.0, 50.0], [0.3, -1.1], [0.1, 2.0])
    seen = detect(truth, ideal_card(), np.random.default_rng(3))
    np.testing.assert_allclose(np.sort(seen.energy), np.sort(truth.energy))
    assert set(seen.pid) == {MUON}


# --- statistics against the card ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("pid", "pt", "eta", "expected"),
    [
        (PION, 0.8, 0.5, 0.70),
        (PION, 5.0, 0.5, 0.95),
        (PION, 0.8, 2.0, 0.60),
        (PION, 5.0, -2.0, 0.85),
        (ELECTRON, 150.0, 0.2, 0.99),
        (MUON, 10.0, 2.0, 0.98),
        (PION, 5.0, 2.7, 0.0),
    ],
)
def test_tracking_efficiency_is_the_cards(pid, pt, eta, expected):
    n = 20_000
    card = changed_card(tracker={"field": 0.0}, hcal={"fractions": {"default": 0.0}})
    truth = particles(np.full(n, pid), pt, eta, 0.3)
    card = card.model_copy(update={"exact_tracks": False})
    seen = detect(truth, card.model_copy(update={"ecal": card.hcal}), np.random.default_rng(4))
    found = (np.abs(seen.pid) == pid).sum() / n
    assert abs(found - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)


@pytest.mark.parametrize(("pt", "eta"), [(5.0, 0.2), (100.0, 1.0), (30.0, 2.0)])
def test_momentum_resolution_is_the_cards(pt, eta):
    n = 20_000
    card = changed_card(
        exact_tracks=False, tracker={"field": 0.0}, hcal={"fractions": {"default": 0.0}}
    )
    seen = detect(particles(np.full(n, PION), pt, eta, 0.3), card, np.random.default_rng(5))
    measured = np.hypot(seen.px, seen.py) / pt
    expected = CMS.momentum_resolution.hadron(np.array([pt]), np.array([eta]))[0]
    assert measured.mean() == pytest.approx(1.0, abs=4 * expected / np.sqrt(len(measured)))
    assert measured.std() == pytest.approx(expected, rel=0.04)


def test_card_values_of_resolution_and_impact_parameter():
    resolution = CMS.momentum_resolution.hadron(np.array([10.0, 10.0]), np.array([0.3, -2.2]))
    np.testing.assert_allclose(resolution, np.hypot([0.06, 0.25], [0.013, 0.031]))
    d0 = CMS.impact_parameter.d0(np.array([0.2, 0.1, 500.0, 3.0]), np.array([0.1, 0.1, 2.0, 2.6]))
    np.testing.assert_allclose(d0, [0.3543, 0.0, 0.0137, 0.0])


def test_impact_parameters_are_smeared_by_their_error():
    n = 20_000
    seen = detect(
        particles(np.full(n, MUON), 3.0, 0.3, 0.3, vertex=(0, 0, 5.0)),
        CMS,
        np.random.default_rng(6),
    )
    error = CMS.impact_parameter.dz(np.array([3.0]), np.array([0.3]))[0]
    pull = (seen.dz - 5.0) / seen.dz_error
    assert pull.mean() == pytest.approx(0.0, abs=4 / np.sqrt(len(pull)))
    assert pull.std() == pytest.approx(1.0, rel=0.04)
    assert np.median(seen.dz_error) == pytest.approx(error, rel=0.2)  # pT smears the bin
    assert (seen.d0 / seen.d0_error).std() == pytest.approx(1.0, rel=0.04)


def test_neutral_hadron_energy_has_the_cards_resolution():
    n, energy = 5_000, 200.0
    eta = 0.3
    truth = particles(np.full(n, KLONG), energy / np.cosh(eta), eta, 0.3, event=np.arange(n))
    seen = detect(truth, CMS, np.random.default_rng(7))
    sigma = np.hypot(0.05 * energy, 1.5 * np.sqrt(energy))
    assert len(seen) == n
    assert seen.energy.mean() == pytest.approx(energy, abs=4 * sigma / np.sqrt(n))
    assert seen.energy.std() == pytest.approx(sigma, rel=0.05)


@given(st.floats(0.5, 500), st.floats(0.01, 2.0))
@settings(max_examples=25)
def test_log_normal_has_the_given_mean_and_width(mean, relative):
    n = 40_000
    values = log_normal(np.full(n, mean), np.full(n, relative * mean), np.random.default_rng(8))
    assert (values > 0).all()
    logs = np.log(values)  # a Gaussian, so its moments test those of the heavy-tailed values
    width = np.sqrt(np.log1p(relative**2))
    assert logs.std() == pytest.approx(width, rel=0.02)
    assert logs.mean() + 0.5 * width**2 == pytest.approx(np.log(mean), abs=5 * width / n**0.5)


# --- energy flow --------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0.3, 200), min_size=1, max_size=6),
    st.lists(st.floats(0.3, 200), max_size=4),
    st.just(0.0) | st.just(1e-160) | st.floats(1e-6, 0.3),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100)
def test_energy_flow_never_counts_twice(charged, neutral, resolution, seed):
    deposit = np.array(charged + neutral)
    cell = np.full(len(deposit), cell_of(np.array([0.1]), np.array([0.1]), CMS.hcal)[0])
    tracks = np.arange(len(charged))
    factor, towers = energy_flow(
        np.zeros(len(deposit), dtype=int),
        cell,
        deposit,
        tracks,
        deposit[tracks],
        np.full(len(tracks), resolution),
        CMS.hcal,
        np.random.default_rng(seed),
    )
    measured = _measured_tower(deposit.sum(), seed)
    total = (factor * deposit[tracks]).sum() + towers.energy.sum()
    if resolution < 1e-50 or len(towers.energy):
        assert total == pytest.approx(measured, abs=1e-9)  # the calorimeter's energy, once
    else:
        low, high = sorted([measured, sum(charged)])
        assert low - 1e-9 <= total <= high + 1e-9


def _measured_tower(energy, seed):
    """Energy of a single HCAL tower in the barrel, from the formulas of the card."""

    def sigma(e):
        return np.sqrt((0.05 * e) ** 2 + 1.5**2 * e)

    width2 = np.log1p((sigma(energy) / energy) ** 2)
    gauss = np.random.default_rng(seed).standard_normal(1)[0]
    measured = energy * np.exp(np.sqrt(width2) * gauss - 0.5 * width2)
    return 0.0 if measured < 1.0 or measured < sigma(measured) else measured


def test_weightless_tracks_take_the_towers_energy_and_soft_ones_vanish():
    n = 4_000
    soft = detect(
        particles(np.full(n, PION), 0.9, 0.05, 0.3, event=np.arange(n)),
        CMS,
        np.random.default_rng(9),
    )
    # E > 1.5 sqrt(E) needs E > 2.25 GeV (the constant term adds little), from a pion of 0.9 GeV.
    with_momentum = np.hypot(soft.px, soft.py) > 0
    soft_total = np.bincount(soft.event[with_momentum], soft.energy[with_momentum], n)
    assert (soft_total > 0).mean() < 0.2
    assert soft_total[soft_total > 0].min() > 2.2
    hard = detect(
        particles(np.full(n, PION), 100.0, 0.05, 0.3, event=np.arange(n)),
        CMS,
        np.random.default_rng(10),
    )
    per_event = np.bincount(hard.event, hard.energy, n)
    sigma = np.hypot(5.0, 15.0)
    assert per_event.mean() == pytest.approx(100.0, abs=4 * sigma / np.sqrt(n) + 0.2)
    assert per_event.std() == pytest.approx(sigma, rel=0.06)


def test_weighted_tracks_stay_near_their_own_measurement():
    n = 2_000
    card = changed_card(exact_tracks=False)
    seen = detect(
        particles(np.full(n, PION), 5.0, 0.05, 0.3, event=np.arange(n)),
        card,
        np.random.default_rng(11),
    )
    pt = np.hypot(seen.px, seen.py)[seen.charge != 0]
    assert np.median(pt) == pytest.approx(5.0, rel=0.02)
    assert (np.quantile(pt, 0.84) - np.quantile(pt, 0.16)) / 2 < 0.10 * 5.0  # 6 % against 67 %


def _flow_2015_of_a_tower(measured, energies, resolutions, calorimeter, eta):
    """Tracks' factors and neutral energy of one calorimeter in one tower, one track at a time."""

    def sigma(energy):
        return calorimeter.sigma(np.array([energy]), np.array([eta]))[0]

    def seen(energy):
        low = energy < calorimeter.threshold or energy < calorimeter.significance * sigma(energy)
        return 0.0 if low else energy

    left, sharing = seen(measured), 0.0
    for energy, resolution in zip(energies, resolutions, strict=True):
        if sigma(energy) / energy < resolution:
            sharing += energy
        else:
            left -= energy
    factors = [
        left / sharing if sigma(energy) / energy < resolution else 1.0
        for energy, resolution in zip(energies, resolutions, strict=True)
    ]
    return factors, 0.0 if sharing or left <= 0 else seen(left)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([PION, ELECTRON, KLONG, GAMMA]),
            st.floats(0.3, 200),
            st.floats(0.001, 1.0),
        ),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=150)
def test_energy_flow_of_2015_is_that_of_a_loop_over_tracks(content, seed):
    pid, energy, resolution = (np.array(column) for column in zip(*content, strict=True))
    card, eta, n = ATLAS_2015, 0.35, len(content)
    cell = np.full(n, cell_of(np.array([eta]), np.array([0.1]), card.hcal)[0])
    pair = (card.ecal, card.hcal)
    shares = [calorimeter.fraction(pid) for calorimeter in pair]
    tracks = np.flatnonzero(np.isin(pid, (PION, ELECTRON)))
    factor, towers = energy_flow_2015(
        np.zeros(n, int),
        cell,
        [energy * share for share in shares],
        tracks,
        [energy[tracks] * share[tracks] for share in shares],
        resolution[tracks],
        pair,
        np.random.default_rng(seed),
    )
    rng = np.random.default_rng(seed)
    rng.uniform(), rng.uniform()  # the tower's direction
    for calorimeter, share, found in zip(pair, shares, towers, strict=True):
        true = np.array([(energy * share).sum()])
        sigma = calorimeter.sigma(true, np.array([eta]))
        measured = log_normal(true, sigma, rng)[0]
        here = tracks[share[tracks] > 0]
        factors, neutral = _flow_2015_of_a_tower(
            measured, energy[here], resolution[here], calorimeter, eta
        )
        np.testing.assert_allclose(factor[share[tracks] > 0], factors, rtol=1e-9, atol=1e-12)
        assert found.energy.sum() == pytest.approx(neutral, rel=1e-9)
        assert len(found.energy) == (neutral > 0)


def test_tracks_of_2015_are_massless_and_their_smearing_is_normal():
    n = 20_000
    truth = particles(np.full(n, MUON), 20.0, 1.0, 0.3, event=np.arange(n))
    seen = detect(truth, ATLAS_2015, np.random.default_rng(14))
    pt = np.hypot(seen.px, seen.py)
    np.testing.assert_allclose(seen.energy, np.hypot(pt, seen.pz), rtol=1e-12)
    assert (seen.mass == 0).all() and (pt > 0).all()
    width = ATLAS_2015.momentum_resolution.muon(np.array([20.0]), np.array([1.0]))[0]
    pull = (pt / 20 - 1) / width
    assert pull.std() == pytest.approx(1, rel=0.03)
    assert (pull**3).mean() == pytest.approx(0, abs=0.1)  # a log-normal has 3 x 3 %


def test_photons_and_neutral_hadrons_of_a_tower_of_2015_lie_at_one_point():
    truth = particles([KLONG, GAMMA] * 50, 50.0, 0.35, 0.1, event=np.repeat(np.arange(50), 2))
    seen = detect(truth, ATLAS_2015, np.random.default_rng(15))
    eta, phi = np.arcsinh(seen.pz / np.hypot(seen.px, seen.py)), np.arctan2(seen.py, seen.px)
    for event in range(50):
        here = seen.event == event
        assert sorted(seen.pid[here]) == [NEUTRAL_HADRON, PHOTON]
        assert np.ptp(eta[here]) < 1e-9 and np.ptp(phi[here]) < 1e-9
    assert np.ptp(eta) > 0.05  # anywhere in the tower, which is 0.1 wide


def test_tracks_that_no_calorimeter_sees_keep_their_mass_at_the_origin():
    n = 500
    truth = particles(np.full(n, PION), 0.9, 0.05, 0.3, event=np.arange(n))
    seen = detect(truth, CMS, np.random.default_rng(16))
    lost = np.hypot(seen.px, seen.py) == 0
    assert 0.5 * n < lost.sum()
    np.testing.assert_allclose(seen.energy[lost], MASS[PION])
    assert (seen.pz[lost] == 0).all() and (seen.charge[lost] != 0).all()


def test_subtraction_needs_one_calorimeter():
    changed = ATLAS_2015.model_dump() | {"ecal": CMS.ecal.model_dump(exclude_none=True)}
    with pytest.raises(ValueError, match="same cells"):
        DetectorCard.model_validate(changed)


# --- cells --------------------------------------------------------------------------------------


@pytest.mark.parametrize("card", ["cms", "atlas", "atlas-2015"])
@pytest.mark.parametrize("name", ["ecal", "hcal"])
def test_cells_hold_their_directions_and_tile_the_calorimeter(card, name):
    calorimeter = getattr(load_card(card), name)
    rng = np.random.default_rng(12)
    eta, phi = rng.uniform(-4.8, 4.8, 20_000), rng.uniform(-np.pi, np.pi, 20_000)
    cell = cell_of(eta, phi, calorimeter)
    assert cell.min() >= 0
    eta_low, eta_high, phi_low, phi_high = cell_bounds(cell, calorimeter)
    assert ((eta_low < eta) & (eta <= eta_high)).all()
    assert ((phi_low - 1e-12 < phi) & (phi <= phi_high + 1e-12)).all()
    everything = np.arange(calorimeter.n_cells)
    low, high, left, right = cell_bounds(everything, calorimeter)
    edges = calorimeter.grid[0]
    area = ((high - low) * (right - left)).sum()
    assert area == pytest.approx((edges[-1] - edges[0]) * 2 * np.pi)
    np.testing.assert_array_equal(
        cell_of(0.5 * (low + high), 0.5 * (left + right), calorimeter), everything
    )


def test_granularity_of_the_cms_card():
    for calorimeter, eta, width, n_phi in [
        (CMS.ecal, 0.4, 0.0174, 360),
        (CMS.hcal, 0.4, 0.087, 72),
        (CMS.hcal, 1.78, 0.09, 36),
    ]:
        cell = cell_of(np.array([eta]), np.array([0.0]), calorimeter)
        low, high, left, right = cell_bounds(cell, calorimeter)
        assert (high - low)[0] == pytest.approx(width)
        assert (right - left)[0] == pytest.approx(2 * np.pi / n_phi)
    assert cell_of(np.array([5.2, -6.0]), np.zeros(2), CMS.hcal).tolist() == [-1, -1]


# --- propagation --------------------------------------------------------------------------------


@given(st.floats(0.5, 50), st.floats(-1, 1), st.floats(-3, 3), st.sampled_from([-1, 1]))
def test_prompt_helix_meets_the_barrel_where_the_chord_says(pt, eta, phi, charge):
    truth = particles(charge * PION, pt, eta, phi, vertex=(0, 0, 2.0))
    arrival = propagate(truth, CMS.tracker)
    radius = pt / (SPEED_OF_LIGHT * 3.8)
    if 2 * radius <= 1.29:
        return  # spirals to the end caps
    turn = np.arcsin(1.29 / (2 * radius))  # half the angle of the chord
    z = 0.002 + np.sinh(eta) * 2 * radius * turn
    if abs(z) > 3.0:
        return
    assert np.cos(arrival.phi[0] - (phi - charge * turn)) == pytest.approx(1.0, abs=1e-9)
    assert np.sinh(arrival.eta[0]) == pytest.approx(z / 1.29, abs=1e-9)
    assert arrival.d0[0] == pytest.approx(0.0, abs=1e-6)
    assert arrival.dz[0] == pytest.approx(2.0, abs=1e-6)


def test_displaced_helices_agree_with_small_steps():
    rng = np.random.default_rng(13)
    n = 40
    phi = rng.uniform(-np.pi, np.pi, n)
    r, angle = rng.uniform(0, 300, n), rng.uniform(-np.pi, np.pi, n)
    truth = particles(
        rng.choice([PION, -PION], n),
        rng.uniform(0.7, 5.0, n),
        rng.uniform(-2, 2, n),
        phi,
        vertex=(r * np.cos(angle), r * np.sin(angle), rng.uniform(-200, 200, n)),
    )
    arrival = propagate(truth, CMS.tracker)
    pt = np.hypot(truth.px, truth.py)
    step = 1e-4  # m
    curvature = SPEED_OF_LIGHT * 3.8 * truth.charge / pt
    for i in range(n):
        # Backwards and forwards along the flight, midpoint rule.
        path = np.arange(-1.0, 6.0, step)
        heading = phi[i] - curvature[i] * (path + 0.5 * step)
        start = int(round(1.0 / step))
        x = np.concatenate([[0.0], np.cumsum(np.cos(heading))]) * step
        y = np.concatenate([[0.0], np.cumsum(np.sin(heading))]) * step
        x, y = x - x[start] + 1e-3 * truth.x[i], y - y[start] + 1e-3 * truth.y[i]
        s = np.arange(len(x)) * step - 1.0
        z = 1e-3 * truth.z[i] + truth.pz[i] / pt[i] * s
        out = np.flatnonzero((s >= 0) & ((np.hypot(x, y) > 1.29) | (np.abs(z) > 3.0)))[0]
        assert arrival.eta[i] == pytest.approx(
            np.arcsinh(z[out] / np.hypot(x[out], y[out])), abs=2e-3
        )
        assert np.cos(arrival.phi[i] - np.arctan2(y[out], x[out])) > 1 - 1e-6
        half_turn = np.pi / abs(curvature[i])
        near = np.abs(s) < min(half_turn, 0.9)
        closest = np.flatnonzero(near)[np.hypot(x, y)[near].argmin()]
        if abs(s[closest]) > 0.89:
            continue  # beyond the steps taken
        heading_there = phi[i] - curvature[i] * s[closest]
        d0 = x[closest] * np.sin(heading_there) - y[closest] * np.cos(heading_there)
        assert arrival.d0[i] == pytest.approx(1e3 * d0, abs=0.1)
        assert arrival.dz[i] == pytest.approx(1e3 * z[closest], abs=1.0)


def test_neutral_particles_fly_straight():
    truth = particles(GAMMA, 10.0, [0.5, -2.0], [0.3, 2.0])
    arrival = propagate(truth, CMS.tracker)
    np.testing.assert_allclose(arrival.eta, [0.5, -2.0])
    np.testing.assert_allclose(arrival.phi, [0.3, 2.0])
    assert (arrival.d0 == 0).all() and (arrival.dz == 0).all()
    displaced = propagate(particles(GAMMA, 10.0, 0.0, 0.0, vertex=(0, 500.0, 0)), CMS.tracker)
    assert displaced.phi[0] == pytest.approx(np.arcsin(0.5 / 1.29))


def test_slow_particles_spiral_to_the_end_caps():
    arrival = propagate(particles(PION, 0.3, 1.0, 0.0), CMS.tracker)
    radius = 0.3 / (SPEED_OF_LIGHT * 3.8)
    r = 2 * radius * abs(np.sin(3.0 / np.sinh(1.0) / radius / 2))
    assert np.sinh(arrival.eta[0]) == pytest.approx(3.0 / r)


def test_particles_born_behind_the_surface_are_lost():
    truth = particles([GAMMA] * 3, 5.0, 0.1, 0.2, vertex=([0, 1400, 0], 0, [3500, 0, 100]))
    assert inside(truth, CMS.tracker).tolist() == [False, False, True]


# --- cards --------------------------------------------------------------------------------------


def test_fractions_of_hadrons_photons_and_neutrinos():
    pid = np.array([211, -321, 22, -11, 13, 310, 3122, 12, 130])
    np.testing.assert_allclose(CMS.ecal.fraction(pid), [0, 0, 1, 1, 0, 0.3, 0.3, 0, 0])
    np.testing.assert_allclose(CMS.hcal.fraction(pid), [1, 1, 0, 0, 0, 0.7, 0.7, 0, 1])


def test_unknown_and_broken_cards_are_named(tmp_path):
    with pytest.raises(JetfmError, match="'lhcb'.*atlas, atlas-2015, cms"):
        load_card("lhcb")
    broken = tmp_path / "broken.yaml"
    text = (CARDS_DIR / "cms.yaml").read_text(encoding="utf-8")
    broken.write_text(text.replace("radius: 1.29", "radius: wide"), encoding="utf-8")
    with pytest.raises(JetfmError, match="broken.yaml: tracker.radius"):
        load_card(str(broken))
