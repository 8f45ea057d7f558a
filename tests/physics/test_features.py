"""Physical to network space and back: literal values, exact inverses, both libraries."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jetfm.errors import JetfmError
from jetfm.physics.features import FEATURE_SETS, Preprocessing, within_cuts
from jetfm.schema import CONSTITUENT_FEATURES, KINEMATICS

MAPS = [Preprocessing(), Preprocessing(pt_map="log"), Preprocessing(pt_map="linear")]
FULL = Preprocessing(features=CONSTITUENT_FEATURES)
COLUMN = {name: column for column, name in enumerate(CONSTITUENT_FEATURES)}
IMPACT = ["d0val", "dzval"]


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
    np.testing.assert_allclose(MAPS[2].forward(physical), [[1.0, 0.3, -0.6]], rtol=1e-14)


@pytest.mark.parametrize("preprocessing", MAPS, ids=lambda p: p.pt_map)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 1e-6)])
@settings(max_examples=40)
@given(data=st.data())
def test_inverse_undoes_forward(preprocessing, dtype, rtol, data):
    """To rounding of the logarithm: relative to 1 + pt for log1p, to pt for log (see Notes)."""
    physical = data.draw(constituents(dtype, 1e-3 if preprocessing.pt_map == "log" else 0))
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
    if preprocessing.pt_map == "linear":
        network[:, 0] = abs(network[:, 0])
    again = preprocessing.forward(preprocessing.inverse(network))
    np.testing.assert_allclose(again, network, atol=1e-13)


def test_network_output_below_zero_pt_is_clamped():
    physical = MAPS[0].inverse(np.array([[-5.0, 0.0, 0.0], [-1.8, 0.0, 0.0]]))
    np.testing.assert_array_equal(physical[:, 0], 0)
    assert MAPS[2].inverse(np.array([[-5.0, 0.0, 0.0]]))[0, 0] == 0


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
    with pytest.raises(JetfmError, match="-1 GeV; expected pt >= 0"):
        MAPS[2].forward(np.array([[-1.0, 0, 0]]))
    assert MAPS[2].forward(np.zeros((1, 3)))[0, 0] == 0
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


# All 14 features -------------------------------------------------------------------------------


def full_constituents(dtype):
    """Padded jets (B, T, 14) of 0, 1, 2 or more than 128 constituents, and their mask."""

    def build(counts, seed, reach):
        rng = np.random.default_rng(seed)
        shape = (len(counts), max(counts) + 3)
        x = np.zeros((*shape, 14))
        x[..., 0] = rng.exponential(30, shape)
        x[..., 1:3] = rng.uniform(-4, 4, (*shape, 2))
        x[..., COLUMN["mass"]] = rng.exponential(1, shape)
        x[..., COLUMN["charge"]] = rng.integers(-1, 2, shape)
        x[..., 5:10] = np.eye(5)[rng.integers(0, 5, shape)]
        for name in IMPACT:  # over many orders of magnitude, some exactly zero
            sign = rng.integers(-1, 2, shape)
            x[..., COLUMN[name]] = sign * 10 ** rng.uniform(-6, reach, shape)
        for name in ("d0err", "dzerr"):
            x[..., COLUMN[name]] = rng.exponential(0.1, shape)
        mask = np.arange(shape[1]) < np.array(counts)[:, None]
        return np.where(mask[..., None], x, 0).astype(dtype), mask

    counts = st.lists(st.sampled_from([0, 1, 2, 131]), min_size=1, max_size=3)
    return st.builds(build, counts, st.integers(0, 2**32 - 1), st.floats(-2, 4))


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-14), (np.float32, 1e-6)])
@settings(max_examples=40)
@given(data=st.data())
def test_inverse_undoes_forward_for_all_features(kind, dtype, rtol, data):
    physical, mask = data.draw(full_constituents(dtype))
    network = FULL.forward(kind(physical), kind(mask))
    back = np.asarray(FULL.inverse(network, kind(mask)))
    assert back.dtype == dtype and not np.asarray(network)[~mask].any() and not back[~mask].any()
    logarithmic = [COLUMN[name] for name in ("pt", *IMPACT)]
    # to rounding of the logarithm: relative to 1 + |value|
    difference = np.abs(back - physical)[..., logarithmic]
    assert (difference <= rtol * (1 + np.abs(physical[..., logarithmic]))).all()
    others = [c for c in range(14) if c not in logarithmic]
    np.testing.assert_allclose(
        back[..., others], physical[..., others], rtol=2 * np.finfo(dtype).eps, atol=0
    )
    raw = [c for c in others if c > 2]  # mass, charge, flags and errors are as they are
    np.testing.assert_array_equal(np.asarray(network)[..., raw], physical[..., raw])


def test_literal_values_of_all_features():
    """Official code of paper 2: sign(d) log1p(|d| + 1e-5), d in mm; the rest raw."""
    physical = np.array([[10, 0.1, -0.2, 0.14, -1, 1, 0, 0, 0, 0, -0.5, 0.01, 2.0, 0.02]])
    network = FULL.forward(physical)[0]
    np.testing.assert_allclose(network[:3], [math.log(11.00001) - 1.8, 0.3, -0.6], rtol=1e-14)
    np.testing.assert_array_equal(network[3:10], physical[0, 3:10])
    np.testing.assert_allclose(network[10], -math.log(1.50001), rtol=1e-14)
    np.testing.assert_allclose(network[12], math.log(3.00001), rtol=1e-14)
    assert (network[11], network[13]) == (0.01, 0.02)


@pytest.mark.parametrize("name", IMPACT)
@given(size=st.floats(0, 1e4))
def test_impact_parameters_keep_their_sign(name, size):
    """An odd, rising function that is zero at zero only."""
    physical = np.zeros((3, 14))
    physical[:, COLUMN[name]] = size, -size, 0
    mapped = FULL.forward(physical)[:, COLUMN[name]]
    assert mapped[0] == -mapped[1] and mapped[2] == 0
    assert math.isclose(mapped[0], math.log1p(size + 1e-5) if size else 0, rel_tol=1e-14)
    back = FULL.inverse(FULL.forward(physical))[:, COLUMN[name]]
    assert back[0] == -back[1] and np.sign(back[0]) >= 0


def test_a_negative_mass_becomes_zero_both_ways():
    physical = np.zeros((3, 14))
    physical[:, COLUMN["mass"]] = -1e-3, 0, 0.1
    np.testing.assert_array_equal(FULL.forward(physical)[:, COLUMN["mass"]], [0, 0, 0.1])
    network = np.zeros((2, 14))
    network[:, COLUMN["mass"]] = -0.3, 0.2
    np.testing.assert_array_equal(FULL.inverse(network)[:, COLUMN["mass"]], [0, 0.2])


def test_other_features_leave_the_kinematics_alone():
    physical = np.abs(np.random.default_rng(0).normal(size=(4, 14)))
    np.testing.assert_array_equal(FULL.forward(physical)[:, :3], MAPS[0].forward(physical[:, :3]))
    assert FEATURE_SETS == {"kinematics": KINEMATICS, "full": CONSTITUENT_FEATURES}
    assert (FULL.n_features, MAPS[0].n_features) == (14, 3)


def test_a_chosen_order_of_features_is_kept():
    """Columns are found by name, not by place."""
    some = Preprocessing(features=(*KINEMATICS, "dzval", "charge", "mass"))
    physical = np.array([[5.0, 0.1, 0.2, -3.0, -1.0, -0.5]])
    network = some.forward(physical)
    np.testing.assert_allclose(network[0, 3:], [-math.log1p(3.00001), -1, 0], rtol=1e-14)
    assert Preprocessing.from_dict(json.loads(json.dumps(some.to_dict()))) == some


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (CONSTITUENT_FEATURES, None),
        (list(CONSTITUENT_FEATURES), None),
        (CONSTITUENT_FEATURES[:-1], "found nothing in column 13; expected dzerr"),
        ((*CONSTITUENT_FEATURES, "energy"), "found energy in column 14; expected nothing"),
        (("eta_rel", "pt", *CONSTITUENT_FEATURES[2:]), "found eta_rel in column 0; expected pt"),
        (
            (*CONSTITUENT_FEATURES[:10], "dzval", "dzerr", "d0val", "d0err"),
            "found dzval in column 10; expected d0val",
        ),
        (KINEMATICS, "found nothing in column 3; expected mass"),
    ],
)
def test_columns_are_checked_by_name(columns, message):
    if message is None:
        FULL.check(columns)
        return
    with pytest.raises(JetfmError, match=f"input: {message}"):
        FULL.check(columns, "input")


@pytest.mark.parametrize(
    "features",
    [
        ("eta_rel", "pt", "phi_rel"),
        ("pt", "eta_rel"),
        (*KINEMATICS, "mass", "mass"),
        (*KINEMATICS, "energy"),
        (),
    ],
)
def test_features_that_cannot_be_preprocessed(features):
    with pytest.raises(JetfmError, match=r"preprocessing\.features.*pt, eta_rel, phi_rel"):
        Preprocessing.from_dict({"features": list(features)})


def test_the_wrong_width_names_the_columns():
    with pytest.raises(JetfmError, match=r"shape \(2, 3\); expected \(\.\.\., 14\): pt, eta_rel"):
        FULL.forward(np.ones((2, 3)))
    with pytest.raises(JetfmError, match=r"shape \(5, 14\); expected \(\.\.\., 3\): pt"):
        MAPS[0].inverse(torch.ones(5, 14))
