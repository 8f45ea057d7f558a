"""Physical to network space and back: literal values, exact inverses, both libraries."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jetfm.errors import JetfmError
from jetfm.features import Preprocessing, within_cuts

MAPS = [Preprocessing(), Preprocessing(pt_map="log")]


def constituents(dtype, lowest):
    """(n, 3) arrays of pt from `lowest` to 2000 GeV and angles within +-4."""
    width = np.dtype(dtype).itemsize * 8
    pt = st.floats(float(np.nextafter(dtype(lowest), dtype(1))), 2000, width=width)
    angle = st.floats(-4, 4, width=width)
    rows = st.lists(st.tuples(pt, angle, angle), min_size=1, max_size=20)
    return rows.map(lambda r: np.array(r, dtype))


def test_literal_values():
    """Paper 1: ln pt - 1.8; paper 2: log1p(pt + 1e-5) - 1.8; angles times 3."""
    physical = np.array([[10.0, 0.1, -0.2]])
    expected = [[math.log(11.00001) - 1.8, 0.3, -0.6]]
    np.testing.assert_allclose(MAPS[0].forward(physical), expected, rtol=1e-14)
    expected = [[math.log(10) - 1.8, 0.3, -0.6]]
    np.testing.assert_allclose(MAPS[1].forward(physical), expected, rtol=1e-14)


@pytest.mark.parametrize("preprocessing", MAPS, ids=lambda p: p.pt_map)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 1e-6)])
@given(data=st.data())
def test_inverse_undoes_forward(preprocessing, dtype, rtol, data):
    """To rounding of the logarithm: relative to 1 + pt for log1p, to pt for log (see Notes)."""
    physical = data.draw(constituents(dtype, 0 if preprocessing.pt_map == "log1p" else 1e-3))
    network = preprocessing.forward(physical)
    back = preprocessing.inverse(network)
    assert network.dtype == back.dtype == dtype
    scale = 1 + physical[:, 0].astype("f8")
    np.testing.assert_array_less(np.abs(back[:, 0] - physical[:, 0]), rtol * scale)
    np.testing.assert_allclose(
        back[:, 1:], physical[:, 1:], rtol=2 * np.finfo(dtype).eps, atol=1e-37
    )


@pytest.mark.parametrize("preprocessing", MAPS, ids=lambda p: p.pt_map)
@given(
    network=hnp.arrays(
        np.float64,
        (5, 3),
        elements=st.floats(-1.7, 6),  # pt from 0.1 (log1p) to 2500 GeV
    )
)
def test_forward_undoes_inverse(preprocessing, network):
    again = preprocessing.forward(preprocessing.inverse(network))
    np.testing.assert_allclose(again, network, atol=1e-13)


def test_network_output_below_zero_pt_is_clamped():
    physical = MAPS[0].inverse(np.array([[-5.0, 0.0, 0.0], [-1.8, 0.0, 0.0]]))
    np.testing.assert_array_equal(physical[:, 0], 0)


@pytest.mark.parametrize("preprocessing", MAPS, ids=lambda p: p.pt_map)
def test_torch_equals_numpy_and_keeps_kind(preprocessing):
    rng = np.random.default_rng(0)
    physical = np.stack([rng.exponential(20, (4, 7)), *rng.normal(0, 0.3, (2, 4, 7))], -1)
    mask = rng.random((4, 7)) < 0.7
    physical[~mask] = 0  # padding, which the logarithm must not see
    tensor, tensor_mask = torch.from_numpy(physical), torch.from_numpy(mask)
    network = preprocessing.forward(physical, mask)
    of_tensor = preprocessing.forward(tensor, tensor_mask)
    assert isinstance(network, np.ndarray) and isinstance(of_tensor, torch.Tensor)
    np.testing.assert_allclose(of_tensor.numpy(), network, rtol=1e-14)
    assert not network[~mask].any() and np.isfinite(network).all()
    np.testing.assert_allclose(
        preprocessing.inverse(of_tensor, tensor_mask).numpy(), physical, rtol=1e-13, atol=1e-13
    )
    single = preprocessing.forward(tensor.float(), tensor_mask)
    assert single.dtype == torch.float32


def test_gradients_flow_through_both_directions():
    """d pt / d network = 1 + pt + epsilon."""
    network = torch.tensor([[0.5, 0.1, 0.2]], dtype=torch.float64, requires_grad=True)
    pt = MAPS[0].inverse(network)[0, 0]
    pt.backward()
    np.testing.assert_allclose(network.grad[0, 0], 1 + pt.item() + 1e-5, rtol=1e-12)


def test_impossible_momenta():
    with pytest.raises(JetfmError, match="-1 GeV; expected pt >= 0"):
        MAPS[0].forward(np.array([[-1.0, 0, 0]]))
    with pytest.raises(JetfmError, match="0 GeV; expected pt > 0"):
        MAPS[1].forward(torch.zeros(2, 3))


@pytest.mark.parametrize("wrong", [np.zeros((3, 2)), np.zeros(()), [[1.0, 0.0, 0.0]]])
def test_wrong_shape_or_kind(wrong):
    with pytest.raises(JetfmError, match="physical"):
        MAPS[0].forward(wrong)


def test_dictionary_round_trip_and_typos():
    custom = Preprocessing(pt_map="log", pt_shift=1.7, angle_scale=2.0)
    assert Preprocessing.from_dict(json.loads(json.dumps(custom.to_dict()))) == custom
    with pytest.raises(JetfmError, match=r"preprocessing\.pt_mapp"):
        Preprocessing.from_dict({"pt_mapp": "log"})
    with pytest.raises(JetfmError, match=r"preprocessing\.pt_map: found 'ln'"):
        Preprocessing.from_dict({"pt_map": "ln"})


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_cuts_of_paper_1(kind):
    physical = kind([[5.0, 0.79, -0.79], [5.0, 0.8, 0.0], [5.0, 0.0, -0.81], [900.0, -0.5, 0.5]])
    assert within_cuts(physical).tolist() == [True, False, False, True]
    assert within_cuts(physical, 0.6).tolist() == [False, False, False, True]
