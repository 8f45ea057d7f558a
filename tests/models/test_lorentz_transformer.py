"""The Lorentz-equivariant baseline: its momenta, what leaves its logits alone and what does not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import vector
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.models.lorentz_transformer import LorentzTransformer, four_momenta
from jetfm.models.physical_input import PhysicalInput
from jetfm.physics.features import Preprocessing
from jetfm.schema import CONSTITUENT_FEATURES
from tests.toys import randomise, toy_jets

COUNTS = [0, 1, 2, 17, 131]
SIZES = dict(n_classes=3, n_vectors=8, n_scalars=8, n_blocks=2)
METRIC = torch.diag(torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64))


def network_of(references=None, preprocessing=None, seed=0) -> LorentzTransformer:
    torch.manual_seed(seed)
    network = randomise(LorentzTransformer(preprocessing, **SIZES), seed).double().eval()
    if references is not None:
        network.references = references
    return network


def logits_of(network, momenta, mask, others=None) -> torch.Tensor:
    """Of massless four-momenta (B, T, 4), which find their own way to network space."""
    px, py, pz = momenta[..., 1:].unbind(-1)
    pt = torch.hypot(px, py)
    physical = torch.stack([pt, torch.asinh(pz / pt), torch.atan2(py, px)], -1)
    x = Preprocessing().forward(torch.where(mask[..., None], physical, 0), mask)
    if others is not None:
        x = torch.cat([x, others], -1)
    with torch.no_grad():
        return network({"x": x, "mask": mask})


def toy_momenta(counts=COUNTS):
    x, mask = toy_jets(counts)
    return four_momenta(x.double(), mask, Preprocessing()), mask


def transformation(seed: int, boost: float = 1.0) -> torch.Tensor:
    """exp of a random element of so(1, 3): a boost of about that rapidity and a turn; a reflection
    every other time."""
    generator = np.random.default_rng(seed)
    boosts, turns = generator.normal(0, boost, 3), generator.normal(0, 1, 3)
    element = np.zeros((4, 4))
    element[0, 1:] = element[1:, 0] = boosts
    element[1:, 1:] = np.cross(np.eye(3), turns)
    whole = torch.linalg.matrix_exp(torch.as_tensor(element))
    whole[:, 1] *= -1 if seed % 2 else 1
    torch.testing.assert_close(whole.mT @ METRIC @ whole, METRIC, rtol=0, atol=1e-9)
    return whole


def along_beam(rapidity: float) -> torch.Tensor:
    whole = torch.eye(4, dtype=torch.float64)
    whole[0, 0] = whole[3, 3] = np.cosh(rapidity)
    whole[0, 3] = whole[3, 0] = np.sinh(rapidity)
    return whole


def about(axis: int, angle: float) -> torch.Tensor:
    """A turn about x (1), y (2) or z (3)."""
    whole = torch.eye(4, dtype=torch.float64)
    first, second = (i for i in (1, 2, 3) if i != axis)
    whole[first, first] = whole[second, second] = np.cos(angle)
    whole[first, second], whole[second, first] = -np.sin(angle), np.sin(angle)
    return whole


@pytest.mark.parametrize("pt_map", ["log1p", "log", "linear"])
def test_momenta_are_those_of_the_vector_package(pt_map):
    preprocessing = Preprocessing(pt_map=pt_map)
    generator = np.random.default_rng(0)
    pt = generator.uniform(0.5, 300, (3, 5))
    eta, phi = generator.normal(0, 0.4, (2, 3, 5))
    mask = np.arange(5) < np.array([[5], [2], [0]])
    physical = torch.as_tensor(np.stack([pt, eta, phi], -1))
    x = preprocessing.forward(physical, torch.as_tensor(mask))
    x[~torch.as_tensor(mask)] = 900.0  # anything, too large for an exponential
    expected = vector.array({"pt": pt, "eta": eta, "phi": phi, "mass": np.zeros_like(pt)})
    for boost in (1.0, 8.0):
        found = four_momenta(x, torch.as_tensor(mask), preprocessing, boost).numpy()
        seen = expected.boostX(-np.tanh(np.log(boost)))
        seen = np.stack([seen.E, seen.px, seen.py, seen.pz], -1)
        np.testing.assert_allclose(found, seen * mask[..., None], rtol=1e-10, atol=1e-10)


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_logits_do_not_change_when_jets_and_references_are_transformed_together(seed):
    network, (momenta, mask) = network_of(), toy_momenta()
    whole = transformation(seed)
    before = logits_of(network, momenta, mask)
    moved = network_of(network.references @ whole.mT)
    torch.testing.assert_close(
        logits_of(moved, momenta @ whole.mT, mask), before, rtol=0, atol=1e-7
    )
    alone = logits_of(network, momenta @ whole.mT, mask)
    assert (alone - before)[1:].abs().amax(1).min() > 1e-5  # the references do break it
    torch.testing.assert_close(alone[0], before[0])  # nothing has turned in an empty jet


@settings(max_examples=15)
@given(st.integers(0, 10**6))
def test_without_references_the_symmetry_is_whole(seed):
    network, (momenta, mask) = network_of(torch.zeros(0, 4).double()), toy_momenta()
    before = logits_of(network, momenta, mask)
    after = logits_of(network, momenta @ transformation(seed).mT, mask)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-7)
    assert (before[-1] - before[-2]).abs().max() > 1e-4


def test_without_references_two_constituents_are_their_mass():
    """Two massless momenta have one invariant, p1 p2: equal masses, equal logits."""
    network = network_of(torch.zeros(0, 4).double())
    generator = np.random.default_rng(3)
    pt, dphi = generator.uniform(5, 200, (6, 2)), generator.uniform(-0.1, 0.1, 6)
    mass = np.array([20.0, 20.0, 20.0, 60.0, 60.0, 90.0])
    # m^2 = 2 pt1 pt2 (cosh deta - cos dphi)
    deta = np.arccosh(mass**2 / (2 * pt.prod(1)) + np.cos(dphi))
    zero = np.zeros(6)
    physical = np.stack([pt, np.stack([deta, zero], 1), np.stack([zero, dphi], 1)], -1)
    mask = torch.ones(6, 2, dtype=torch.bool)
    x = Preprocessing().forward(torch.as_tensor(physical))
    with torch.no_grad():
        logits = network({"x": x, "mask": mask})
    torch.testing.assert_close(logits[:3], logits[:1].expand(3, -1), rtol=0, atol=1e-9)
    torch.testing.assert_close(logits[3:5], logits[3:4].expand(2, -1), rtol=0, atol=1e-9)
    assert (logits[[0, 0, 3]] - logits[[3, 5, 5]]).abs().amax(1).min() > 1e-4


def test_the_references_leave_turns_about_the_beam_and_mirror_images():
    network, (momenta, mask) = network_of(), toy_momenta(COUNTS[1:])
    before = logits_of(network, momenta, mask)
    mirrors = [torch.diag(torch.tensor(d).double()) for d in ([1, 1, -1, 1], [1, 1, 1, -1])]
    for kept in (about(3, 0.7), about(3, -2.9), *mirrors):
        after = logits_of(network, momenta @ kept.mT, mask)
        torch.testing.assert_close(after, before, rtol=0, atol=1e-9)
    for seen in (about(1, 0.7), about(2, 0.7), along_beam(0.5)):
        after = logits_of(network, momenta @ seen.mT, mask)
        assert (after - before).abs().amax(1).min() > 1e-5


@pytest.mark.parametrize("references", [True, False])
def test_angles_about_the_axis_are_a_boost_along_the_beam(references):
    """In the detector's angles: turns about the beam change nothing. Boosts along it move all of a
    jet's eta_rel alike, since its axis has a pseudorapidity, and a mass; no product sees that."""
    network = network_of(None if references else torch.zeros(0, 4).double())
    momenta, mask = toy_momenta(COUNTS[1:])
    physical = PhysicalInput(Preprocessing(), 200)

    def logits(whole):
        px, py, pz = (momenta @ whole.mT)[..., 1:].unbind(-1)
        pt = torch.hypot(px, py)
        eta, phi = torch.asinh(pz / pt.clamp(min=1e-30)), torch.atan2(py, px)
        x, real, _ = physical(pt, eta, phi)
        assert torch.equal(real, mask)
        with torch.no_grad():
            return network({"x": x.double(), "mask": real})

    before = logits(torch.eye(4, dtype=torch.float64))
    boosted, turned, across = (
        (logits(whole) - before).abs().amax(1)
        for whole in (along_beam(1.3), about(3, 2.0), about(2, 1.0))
    )
    assert turned.max() < 1e-6
    if references:
        assert boosted[0] < 1e-6 < boosted[1:].max() < 1e-3  # a single constituent has no mass
        assert across[1:].min() > 1e-3
    else:
        assert max(boosted.max(), across.max()) < 1e-6


def test_further_features_are_scalars():
    """They change logits, and transform with nothing."""
    full = Preprocessing(features=CONSTITUENT_FEATURES)
    network, (momenta, mask) = network_of(preprocessing=full), toy_momenta()
    others = torch.randn(*mask.shape, 11, generator=torch.Generator().manual_seed(1)).double()
    before = logits_of(network, momenta, mask, others)
    whole = transformation(4)
    moved = network_of(network.references @ whole.mT, full)
    after = logits_of(moved, momenta @ whole.mT, mask, others)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-7)
    for column in range(11):
        changed = others.clone()
        changed[..., column] += 0.5
        difference = (logits_of(network, momenta, mask, changed) - before).abs().amax(1)
        assert difference[0] == 0 and difference[1:].min() > 1e-6, column


def test_it_learns_a_mass_that_no_constituent_has():
    """Two prongs of equal pt spectra, their mass 80 or 170 GeV; after turning them all ways."""
    generator = np.random.default_rng(1)
    n = 400
    label = torch.arange(n) % 2
    mass = np.where(label == 1, 170.0, 80.0)
    share = generator.uniform(0.2, 0.8, n)
    pt = 600 * np.stack([share, 1 - share], 1)
    apart = np.arccosh(mass**2 / (2 * pt.prod(1)) + 1)  # in eta alone: equal in network space
    eta = np.stack([apart * (1 - share), -apart * share], 1)
    physical = torch.as_tensor(np.stack([pt, eta, 0 * eta], -1), dtype=torch.float32)
    batch = {
        "x": Preprocessing().forward(physical),
        "mask": torch.ones(n, 2, dtype=torch.bool),
        "label": label,
    }
    torch.manual_seed(1)
    network = LorentzTransformer(None, 2, n_vectors=8, n_scalars=8, n_blocks=1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    before = network.loss(batch)[1]["accuracy"]
    for _ in range(60):
        optimizer.zero_grad()
        network.loss(batch)[0].backward()
        optimizer.step()
    assert before < 0.7 and network.loss(batch)[1]["accuracy"] > 0.98


def test_what_no_logit_depends_on_is_not_trained():
    """Vectors that the last block would make, and nothing else."""
    network = network_of()
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert frozen and all(name.endswith("weight_v") for name in frozen)
    assert all(name.startswith(("network.blocks.1.", "network.linear_out.")) for name in frozen)


@pytest.mark.parametrize("name", ["n_vectors", "n_scalars"])
def test_heads_must_divide_the_channels(name):
    with pytest.raises(JetfmError, match=f"{name}: found 10; expected a multiple of n_heads = 4"):
        LorentzTransformer(**SIZES | {name: 10})
