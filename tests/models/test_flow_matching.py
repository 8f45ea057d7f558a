"""Flow matching: path, loss and solver against formulas; standardisation and files close."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.integrate import solve_ivp
from torch import nn

from jetfm.errors import JetfmError
from jetfm.models.flow_matching import FlowModel, midpoint, straight_path
from jetfm.physics.features import Preprocessing
from jetfm.settings import FlowSettings
from tests.toys import randomise, toy_jets

SMALL = FlowSettings(n_layers=2, dim=16, global_dim=4, n_steps=10)


def flow(settings: FlowSettings = SMALL, **options) -> FlowModel:
    torch.manual_seed(0)
    model = randomise(FlowModel(settings, **options)).eval()
    model.set_standardisation([0.5, -0.1, 0.2][: model.n_features], [1.3, 0.4, 0.5])
    return model


# --- the path and the loss ---


def test_path_ends_at_the_data_and_its_velocity_is_its_derivative():
    generator = torch.Generator().manual_seed(0)
    noise, data = torch.randn(2, 4, 5, 3, generator=generator, dtype=torch.float64)
    sigma = 0.01
    for t in (0.0, 0.3, 1.0):
        t = torch.full((4,), t, dtype=torch.float64)
        z, velocity = straight_path(noise, data, t, sigma)
        later, _ = straight_path(noise, data, t + 1e-3, sigma)
        torch.testing.assert_close((later - z) / 1e-3, velocity)
    torch.testing.assert_close(straight_path(noise, data, 0 * t, sigma)[0], noise)
    torch.testing.assert_close(z, data + sigma * noise)


def test_path_at_a_time_of_each_jet():
    noise, data = torch.tensor([[[1.0]], [[1.0]]]), torch.tensor([[[3.0]], [[3.0]]])
    z, velocity = straight_path(noise, data, torch.tensor([0.25, 1.0]), 0.0)
    assert z.flatten().tolist() == [1.5, 3.0] and velocity.flatten().tolist() == [2.0, 2.0]


@pytest.mark.parametrize("garbage", [0.0, 7.0, float("nan")])
def test_loss_against_its_formula(garbage, monkeypatch):
    """Jet by jet, constituent by constituent, with the times and the noise that it draws."""
    model = flow()
    counts = [0, 1, 2, 9]
    x, mask = toy_jets(counts, extra_padding=3)
    x[~mask] = garbage
    torch.manual_seed(3)
    loss, metrics = model.loss({"x": x, "mask": mask})
    torch.manual_seed(3)
    t = torch.rand(4)
    noise = torch.randn(*x.shape)
    s = model.settings.sigma_min
    errors = []
    for j, n in enumerate(counts):
        data = 5 * (x[j, :n] - model.mean) / model.std
        z = (1 - (1 - s) * t[j]) * noise[j, :n] + t[j] * data
        velocity = model.network(z[None], mask[j : j + 1, :n], t[j : j + 1])[0]
        errors += [(velocity - (data - (1 - s) * noise[j, :n])) ** 2]
    assert metrics["weight"] == 12 and len(torch.cat(errors)) == 12
    torch.testing.assert_close(loss, torch.cat(errors).mean())


def test_loss_of_jets_without_constituents_is_zero():
    loss, metrics = flow().loss({"x": torch.zeros(2, 4, 3), "mask": torch.zeros(2, 4).bool()})
    assert loss.item() == 0 and metrics["weight"] == 0


def test_exact_velocity_of_a_point_has_no_loss():
    """All data at one point: v = (z_1 - z) / (1 - t) is the flow, and its loss is zero."""
    model = FlowModel(FlowSettings(n_layers=1, dim=4, sigma_min=0.0), 2)
    point = torch.tensor([0.4, -0.2])

    class Exact(nn.Module):
        def forward(self, z, mask, t):
            return (5 * point - z) / (1 - t)[:, None, None]

    model.network = Exact()
    mask = torch.ones(50, 3).bool()
    torch.manual_seed(0)
    loss, _ = model.loss({"x": point.expand(50, 3, 2), "mask": mask})
    assert loss.item() < 1e-6
    model.network.forward = lambda z, mask, t: torch.zeros_like(z)
    assert model.loss({"x": point.expand(50, 3, 2), "mask": mask})[0].item() > 1


# --- the solver ---


def test_midpoint_converges_with_order_two():
    """A linear, time-dependent field with the closed solution z exp(-3/2)."""
    z = torch.tensor([1.0, -2.0], dtype=torch.float64)
    exact = z * np.exp(-1.5)
    errors = [
        float((midpoint(lambda z, t: -(1 + t) * z, z, n) - exact).abs().max())
        for n in (10, 20, 40, 80)
    ]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (abs(orders - 2) < 0.1).all()


def test_midpoint_rotates_and_is_exact_for_straight_lines():
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64) * np.pi / 2
    z = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    turned = midpoint(lambda z, t: z @ turn, z, 200)
    np.testing.assert_allclose(turned, [[0.0, 1.0]], atol=1e-4)
    line = midpoint(lambda z, t: torch.full_like(z, 2 * t), z, 1)  # 1: the midpoint's time is used
    np.testing.assert_allclose(line, z + 1)


def test_midpoint_is_scipys_solution():
    """Of a field that is neither linear nor constant in time, to the second order of the step."""
    turn = np.array([[0.5, 2.0, 0.0], [-1.0, 0.3, 1.0], [0.7, -2.0, 0.1]])
    start = np.array([1.0, -0.5, 0.2])
    expected = solve_ivp(
        lambda t, z: np.tanh(z @ turn) * (1 + t**2), (0, 1), start, rtol=1e-10, atol=1e-10
    ).y[:, -1]
    weights = torch.from_numpy(turn)
    found = midpoint(
        lambda z, t: torch.tanh(z @ weights) * (1 + t**2), torch.from_numpy(start), 400
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_transport_is_the_solver_on_the_network():
    """Weights cached during the solution change nothing, and padding stays zero."""
    model = flow()
    mask = torch.arange(6) < torch.tensor([6, 1, 0, 4])[:, None]
    noise = torch.where(mask[..., None], torch.randn(4, 6, 3), 0)
    with torch.no_grad():
        z = noise
        for k in range(4):
            t = torch.full((4,), k / 4)
            half = z + model.network(z, mask, t) / 8
            z = z + model.network(half, mask, t + 1 / 8) / 4
        expected = torch.where(mask[..., None], model.restore(z), 0)
        got = model.transport(noise, mask, n_steps=4)
    torch.testing.assert_close(got, expected)
    assert not torch.allclose(got, model.transport(noise, mask), atol=1e-4)  # its own ten steps


# --- standardisation, files ---


def test_standardisation_closes_and_has_the_settings_spread():
    x, mask = toy_jets([40] * 200)
    model = FlowModel(SMALL)
    rows = x[mask]
    model.set_standardisation(rows.mean(0), rows.std(0, correction=0))
    z = model.standardise(rows)
    np.testing.assert_allclose(z.mean(0), 0, atol=1e-4)
    np.testing.assert_allclose(z.std(0), 5, rtol=1e-3)
    torch.testing.assert_close(model.restore(z), rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "mean, std, found",
    [
        ([0, 0, 0], [1, 0, 1], "std 0 in column 1"),
        ([0, np.nan, 0], [1, 1, 1], "mean nan"),
        ([0, 0], [1, 1], r"shapes \(2,\) and \(2,\)"),
    ],
)
def test_impossible_standardisation_is_refused(mean, std, found):
    with pytest.raises(JetfmError, match=found):
        FlowModel(SMALL).set_standardisation(mean, std)


@pytest.mark.parametrize("preprocessing", [None, Preprocessing(pt_map="log")])
def test_saved_model_comes_back(tmp_path, preprocessing):
    model = flow(preprocessing=preprocessing)
    identity = model.save(tmp_path, note="test")
    again = FlowModel.load(tmp_path)
    assert again.hash == model.hash == identity and again.preprocessing == preprocessing
    torch.testing.assert_close(again.std, torch.tensor([1.3, 0.4, 0.5]))
    assert json.loads((tmp_path / "flow.json").read_text())["note"] == "test"
    mask = torch.ones(2, 5).bool()
    noise = torch.randn(2, 5, 3)
    with torch.no_grad():
        torch.testing.assert_close(again.transport(noise, mask), model.transport(noise, mask))


def test_another_standardisation_is_another_model():
    model = flow()
    before = model.hash
    model.set_standardisation([0, 0, 0], [1, 1, 1])
    assert model.hash != before


def test_files_that_are_no_model_are_refused(tmp_path):
    flow().save(tmp_path)
    record = json.loads((tmp_path / "flow.json").read_text())
    record["config"]["settings"]["dim"] = 32
    (tmp_path / "flow.json").write_text(json.dumps(record))
    with pytest.raises(JetfmError, match="changed 'config'"):
        FlowModel.load(tmp_path)
    with pytest.raises(JetfmError, match="flow.json"):
        FlowModel.load(tmp_path / "nothing")


def test_preprocessing_of_other_features_is_refused():
    with pytest.raises(JetfmError, match="3 features.*the model's 4"):
        FlowModel(SMALL, 4, Preprocessing())


# --- settings ---


def test_settings_are_the_official_example_configuration():
    settings = FlowSettings()
    assert (settings.n_layers, settings.dim, settings.global_dim) == (20, 300, 16)
    assert settings.training.max_steps == 500 * 2930
    shares, factors = zip(*settings.training.optimizer.schedule, strict=True)
    assert shares[0] == 0 and factors[0] == 0 and max(factors) == 1
    assert shares[-1] == pytest.approx(1) and factors[-1] == pytest.approx(0)
    cosine = np.cos(np.pi / 2 * (np.linspace(0.04, 1, 200) - 0.04) / 0.96) ** 2
    drawn = np.interp(np.linspace(0.04, 1, 200), shares, factors)
    np.testing.assert_allclose(drawn, cosine, atol=5e-3)


@pytest.mark.parametrize("wrong", [{"classes": ["top"]}, {"sigma_min": 1.0}, {"n_steps": 0}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        FlowSettings(**wrong)
