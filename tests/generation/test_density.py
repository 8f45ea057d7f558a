"""Sampling without tokens: one seed one sample, the model's own density, requests, acceptance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import nn

from jetfm.errors import JetfmError
from jetfm.generation.density import generate_continuous
from jetfm.models.continuous_model import ContinuousModel
from jetfm.settings import BackboneSettings, ContinuousSettings
from tests.toys import randomise


def small_model(dropout=0.0) -> ContinuousModel:
    torch.manual_seed(0)
    backbone = BackboneSettings(dim=32, n_blocks=2, n_heads=4, n_registers=3, dropout=dropout)
    made = randomise(ContinuousModel(ContinuousSettings(backbone=backbone, n_components=3))).eval()
    with torch.no_grad():
        made.head.out.bias[0] = -2.5  # jets of a dozen constituents
    return made


@pytest.fixture(scope="module")
def model() -> ContinuousModel:
    return small_model()


REQUESTED = np.random.default_rng(0).integers(1, 41, 64)


def sample(model, requested=REQUESTED, **options):
    options = {"seed": 5, "max_constituents": 40, "progress": False} | options
    return generate_continuous(model, requested, **options)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_one_seed_gives_the_same_jets_whatever_the_batch_size(model, batch_size):
    expected = sample(model, REQUESTED[:24], batch_size=10)
    got = sample(model, REQUESTED[:24], batch_size=batch_size)
    assert np.array_equal(got.offsets, expected.offsets)
    assert np.array_equal(got.finished, expected.finished)
    np.testing.assert_allclose(got.decoded, expected.decoded, atol=1e-4)


def test_generated_jets_are_consistent(model):
    jets = sample(model)
    assert len(jets.offsets) == 65 and jets.offsets[-1] == len(jets.decoded)
    assert jets.decoded.dtype == np.float32 and np.isfinite(jets.decoded).all()
    assert (jets.n_constituents[~jets.finished] == 40).all()
    assert len(np.unique(jets.n_constituents)) > 5 and jets.finished.any()
    assert np.array_equal(jets.requested, REQUESTED)
    other = sample(model, seed=6)
    assert not np.array_equal(other.offsets, jets.offsets)


def test_every_draw_inverts_the_plain_forwards_density(model):
    """Jet by jet without caches or batches, from the same numbers: the same jet."""
    jets = sample(model, REQUESTED[:8])
    for j, (begin, end) in enumerate(zip(jets.offsets[:-1], jets.offsets[1:], strict=True)):
        x = torch.from_numpy(jets.decoded[begin:end])[None]
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        with torch.no_grad():
            following = model(x, mask, torch.as_tensor(REQUESTED[j : j + 1]))
        stream = np.random.Generator(np.random.Philox(key=np.array([5, j], dtype=np.uint64)))
        u = torch.from_numpy(stream.random((41, 5)))[: end - begin + 1]
        stop, drawn = following.draw(u[None])
        assert stop[0].tolist() == [False] * (end - begin) + [bool(jets.finished[j])]
        torch.testing.assert_close(drawn[0, :-1].float(), x[0], rtol=0, atol=1e-4)


def test_first_constituents_follow_the_density(model):
    """A mixture's cumulative distribution of pt, in closed form, against 4000 jets."""
    n = np.full(4000, 2)
    with torch.no_grad():
        first = model.next_constituent(None, torch.tensor([2]), model.new_caches())
    jets = sample(model, n, max_constituents=2, batch_size=4000, seed=2)
    some = jets.n_constituents > 0
    p_stop = torch.sigmoid(first.stop_logit).item()
    assert (~some).mean() == pytest.approx(p_stop, abs=5 * np.sqrt(p_stop / 4000))
    pt = jets.decoded[jets.offsets[:-1][some], 0]
    weights, means, scales = (
        t[0].double().numpy()
        for t in (first.log_weights.exp(), first.means[..., 0], first.scales[..., 0])
    )
    normal = torch.distributions.Normal(torch.tensor(means), torch.tensor(scales))

    def cdf(values):
        return normal.cdf(torch.as_tensor(values)[:, None]).numpy() @ weights

    assert kstest(pt.astype(float), cdf).pvalue > 1e-3


def test_jets_without_a_stop_are_cut_and_marked():
    model = small_model()
    with torch.no_grad():
        model.head.out.bias[0] -= 100
    cut = sample(model, np.array([3, 5]), max_constituents=6)
    with torch.no_grad():
        model.head.out.bias[0] += 200
    none = sample(model, np.array([3, 5]))
    assert cut.n_constituents.tolist() == [6, 6] and not cut.finished.any()
    assert none.n_constituents.tolist() == [0, 0] and none.finished.all()
    assert none.decoded.shape == (0, 3)


def test_long_jets():
    """Beyond 128, where a store would cut; the caches grow with them."""
    model = small_model()
    with torch.no_grad():
        model.head.out.bias[0] -= 100
    jets = sample(model, np.array([150, 2]), max_constituents=150)
    assert jets.n_constituents.tolist() == [150, 150] and np.isfinite(jets.decoded).all()


def test_modes_are_given_back_and_dropout_is_off():
    made = small_model(dropout=0.5).train()
    a, b = (sample(made, np.full(8, 5)) for _ in range(2))
    assert np.array_equal(a.decoded, b.decoded) and made.training


@pytest.mark.parametrize(
    "options, message",
    [
        ({"requested": np.zeros(0, int)}, "at least one jet"),
        ({"requested": np.array([3, 0])}, "multiplicities from 0 to 3"),
        ({"requested": np.array([41])}, "1 to 40"),
        ({"requested": np.array([3.5])}, "integers"),
        ({"requested": np.array([[3]])}, "at least one jet"),
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"model": nn.Linear(1, 1)}, "a ContinuousModel"),
    ],
)
def test_bad_requests_are_refused(model, options, message):
    with pytest.raises(JetfmError, match=message):
        sample(**({"model": model} | options))
