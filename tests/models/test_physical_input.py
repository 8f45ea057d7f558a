"""From absolute angles to network space, against vector and the readers' way."""

from __future__ import annotations

import numpy as np
import torch
import vector
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from jetfm.data.jet_columns import about_axis as reference
from jetfm.models.physical_input import PhysicalInput, about_axis, falling_rank, sorted_by
from jetfm.physics.features import Preprocessing, within_cuts


def random_jets(counts, seed=0):
    """(B, T) pt, eta and phi of jets anywhere, padding in between."""
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts)
    shape = (len(counts), max(counts.max(), 1))
    there = rng.permuted(np.arange(shape[1]) < counts[:, None], axis=1)
    pt = rng.exponential(10, shape) * there
    eta = rng.uniform(-2, 2, (len(counts), 1)) + rng.normal(0, 0.3, shape)
    phi = rng.uniform(-np.pi, np.pi, (len(counts), 1)) + rng.normal(0, 0.3, shape)
    return pt, eta, (phi + np.pi) % (2 * np.pi) - np.pi


@given(st.lists(st.sampled_from([0, 1, 2, 5, 140]), min_size=1, max_size=5), st.integers(0, 99))
def test_angles_are_those_that_files_get(counts, seed):
    pt, eta, phi = random_jets(counts, seed)
    there = pt > 0
    kinematics = {"pt": pt[there], "eta": eta[there], "phi": phi[there]}
    momenta = vector.array(kinematics | {"mass": np.full(there.sum(), 0.1)})
    parts = (momenta.px, momenta.py, momenta.pz, momenta.E)
    expected, _ = reference(*parts, np.array(counts))
    found = about_axis(*map(torch.as_tensor, (pt, eta, phi)))
    for name, values in zip(("eta_rel", "phi_rel"), found, strict=True):
        np.testing.assert_allclose(values.numpy()[there], np.asarray(expected[name]), atol=1e-9)
        assert not values.numpy()[~there].any()


@given(arrays.arrays(np.float32, (3, 9), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0])))
def test_ranks_are_those_of_a_stable_sort(values):
    order = np.argsort(-values, axis=1, kind="stable")
    rank = falling_rank(torch.as_tensor(values))
    assert np.array_equal(rank.numpy(), np.argsort(order, axis=1))
    found, flags = sorted_by(torch.as_tensor(values), *map(torch.as_tensor, (values, values > 1)))
    assert np.array_equal(found.numpy(), np.take_along_axis(values, order, 1))
    assert np.array_equal(flags.numpy(), found.numpy() > 1)


def test_long_jets_keep_their_leading_constituents_and_all_are_counted():
    pt, eta, phi = map(torch.as_tensor, random_jets([0, 1, 2, 9, 140]))
    x, mask, n = PhysicalInput(Preprocessing(), 6)(pt, eta, phi)
    assert n.tolist() == [0, 1, 2, 9, 140] and mask.sum(1).tolist() == [0, 1, 2, 6, 6]
    assert x.dtype == torch.float32 and not x[~mask].any()
    for jet in (3, 4):
        assert pt[jet][mask[jet]].min() >= pt[jet][~mask[jet]].max()
        leading = pt[jet].sort(descending=True).values[:6]
        again = Preprocessing().inverse(x[jet][mask[jet]])[:, 0].sort(descending=True).values
        torch.testing.assert_close(again, leading.float(), rtol=1e-5, atol=1e-5)


def test_cuts_come_after_the_length():
    """As the token store has them: the leading constituents, and of these the ones within."""
    pt, eta, phi = map(torch.as_tensor, random_jets([30, 30], seed=1))
    _, mask, _ = PhysicalInput(Preprocessing(), 20, half_width=0.3)(pt, eta, phi)
    angles = torch.stack([pt, *about_axis(pt, eta, phi)], -1)
    expected = within_cuts(angles, 0.3) & (falling_rank(pt) < 20)
    assert torch.equal(mask, expected) and 0 < mask.sum() < 40
