"""Generation that stays on a device: the jets of the other way, and no question in a step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jetfm.errors import JetfmError
from jetfm.generation import autoregressive, on_device
from jetfm.generation.on_device import LOOK, OnDevice
from jetfm.generation.sampling import PLAIN, Choice
from jetfm.models.jet_model import JetModel
from jetfm.tokenizers.vqvae import VQVAE
from tests.generation.test_autoregressive import KINDS, K, sample
from tests.models.test_nothing_waits import OneDevice
from tests.toys import randomise, small_tokenizer_settings

N = 40
REQUESTED = np.random.default_rng(0).integers(1, N + 1, 100)


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


def model_of(kind: str, tokenizer: VQVAE, stop: float = 2.0) -> JetModel:
    torch.manual_seed(0)
    made = randomise(JetModel(KINDS[kind](), K, 3, tokenizer.hash, tokenizer.preprocessing)).eval()
    with torch.no_grad():
        made.ntp_head.unembedding.bias[K + 1] += stop  # 2: jets of a dozen constituents
    return made


@pytest.fixture
def stays(monkeypatch):
    monkeypatch.setattr(autoregressive, "_stays_on", lambda device, model: True)


def assert_same(one, two) -> None:
    for name in ("ids", "offsets", "requested", "finished"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name
    np.testing.assert_allclose(two.decoded, one.decoded, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [32, 100])
@pytest.mark.parametrize("kind", ["continuous", "token-id", "omnijet"])
def test_the_jets_are_those_of_the_other_way(kind, batch_size, tokenizer, monkeypatch):
    """Batches of several sizes, which serve again; rows move to smaller ones as jets end."""
    model = model_of(kind, tokenizer)
    options = {"batch_size": batch_size}
    plain = sample(model, tokenizer, REQUESTED, **options)
    monkeypatch.setattr(autoregressive, "_stays_on", lambda device, model: True)
    sizes = []
    take = on_device._Rows.steps
    monkeypatch.setattr(
        on_device._Rows,
        "steps",
        lambda self, *n: sizes.append(len(self.state.jets)) or take(self, *n),
    )
    assert_same(plain, sample(model, tokenizer, REQUESTED, **options))
    if batch_size == 100:
        assert sizes[0] >= 64 and sizes[-1] < sizes[0]
    assert 0 < plain.finished.mean()


@pytest.mark.parametrize("stop", [-30.0, 30.0])
def test_jets_that_never_stop_and_jets_that_do_at_once(stop, tokenizer, stays):
    model = model_of("continuous", tokenizer, stop)
    found = sample(model, tokenizer, REQUESTED)
    assert (found.n_constituents == (0 if stop > 0 else N)).all()
    assert (found.finished == (stop > 0)).all()


@pytest.mark.parametrize("n", [1, 2, LOOK, LOOK + 1])
def test_any_largest_number_of_constituents(n, tokenizer, monkeypatch):
    model, requested = model_of("continuous", tokenizer), np.ones(3, int)
    plain = sample(model, tokenizer, requested, max_constituents=n)
    monkeypatch.setattr(autoregressive, "_stays_on", lambda device, model: True)
    assert_same(plain, sample(model, tokenizer, requested, max_constituents=n))


def test_choices_are_honoured(tokenizer, monkeypatch):
    model, options = model_of("continuous", tokenizer), {"top_k": 5, "top_p": 0.9}
    plain = sample(model, tokenizer, REQUESTED, temperature=0.7, **options)
    monkeypatch.setattr(autoregressive, "_stays_on", lambda device, model: True)
    assert_same(plain, sample(model, tokenizer, REQUESTED, temperature=0.7, **options))


def test_logits_that_are_no_numbers_are_an_error(tokenizer, stays):
    model = model_of("continuous", tokenizer)
    with torch.no_grad():
        model.ntp_head.unembedding.bias[3] = torch.nan
    with pytest.raises(JetfmError, match="not diverged"):
        sample(model, tokenizer, REQUESTED)


@pytest.mark.parametrize("choice", [PLAIN, Choice(0.7, 5, 0.9)])
@pytest.mark.parametrize("kind", ["continuous", "omnijet"])
def test_steps_ask_for_nothing(kind, choice, tokenizer):
    """On torch's device without data, which stands for a GPU."""
    model = model_of(kind, tokenizer).to("meta")
    decoder = VQVAE(small_tokenizer_settings()).to("meta").eval()
    requested = torch.empty(50, dtype=torch.int64, device="meta")
    numbers = torch.empty(50, N + 1, dtype=torch.float64, device="meta")
    made = OnDevice(model, decoder, choice, N)
    with torch.inference_mode(), OneDevice():
        rows = made._on(64, *made._begin(requested, numbers), slice(None))
        rows.steps(0, LOOK)
        rows.steps(LOOK, LOOK)
