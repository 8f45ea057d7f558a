"""Compiled blocks and cross-entropy: the plain form's values and gradients, in few graphs."""

from __future__ import annotations

import pytest
import torch

from jetfm.models import heads
from jetfm.models.compiled import compiled, compiled_form
from jetfm.models.jet_model import JetModel
from jetfm.settings import TrainingSettings
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.models.test_jet_model import model_of
from tests.toys import randomise, small_tokenizer_settings, token_batch_of, training_settings


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


@pytest.fixture(autouse=True)
def fresh_graphs():
    compiled_form.cache_clear()
    torch._dynamo.reset()
    yield
    compiled_form.cache_clear()
    torch._dynamo.reset()


def step_of(model: JetModel, batch: dict) -> tuple[torch.Tensor, list[torch.Tensor]]:
    loss, _ = model.loss(model.plan(batch, torch.Generator().manual_seed(5)))
    return loss, torch.autograd.grad(loss, list(model.parameters()))


@pytest.mark.parametrize(
    ("name", "backend"),
    [("ntp", "eager"), pytest.param("joint", "inductor", marks=pytest.mark.soak)],
)
def test_a_compiled_step_is_the_plain_one(name, backend, tokenizer, monkeypatch):
    """On jets of two lengths; each graph is made once. A minute of compiling is for `make soak`."""
    monkeypatch.setattr("jetfm.models.compiled.BACKEND", backend)
    model = model_of(name)
    batches = [token_batch_of(tokenizer, counts) for counts in ([6, 1, 3, 9], [4, 2, 13, 5, 7])]
    plain = [step_of(model, batch) for batch in batches]
    counters = torch._dynamo.utils.counters
    counters.clear()
    with compiled(model):
        (loss, grads), n_graphs = step_of(model, batches[0]), counters["stats"]["unique_graphs"]
        again = step_of(model, batches[1])
    assert 0 < n_graphs == counters["stats"]["unique_graphs"] <= 8
    assert not counters["graph_break"]
    for found, expected in (((loss, grads), plain[0]), (again, plain[1])):
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
        largest = max(float(grad.abs().max()) for grad in expected[1])
        for grad, of_plain in zip(found[1], expected[1], strict=True):
            torch.testing.assert_close(grad, of_plain, rtol=1e-4, atol=1e-5 * largest)
    assert not any(getattr(part, "compiled", False) for part in model.modules())


def test_the_cross_entropy_without_cachefuls():
    """What a GPU runs, or compiles, against torch's own."""
    torch.manual_seed(0)
    logits, bias = torch.randn(7, 11, dtype=torch.float64).float(), torch.randn(11)
    targets = torch.randint(11, (7,))
    whole = (logits + bias).requires_grad_()
    expected = torch.nn.functional.cross_entropy(whole, targets, reduction="none")
    (slope,) = torch.autograd.grad(expected.sum(), whole)
    gradient, losses, correct = heads._softmax_gradient(logits, bias, targets)
    torch.testing.assert_close(losses, expected.detach())
    torch.testing.assert_close(gradient, slope)
    assert torch.equal(correct, whole.argmax(1) == targets)


def test_a_training_is_compiled_where_its_settings_say(tokenizer, monkeypatch):
    seen = []
    model = model_of("ntp")
    plain = type(model).loss
    monkeypatch.setattr(
        type(model), "loss",
        lambda self, batch: seen.append(self.ntp_head.compiled) or plain(self, batch),
    )  # fmt: skip
    monkeypatch.setattr("jetfm.models.transformer.compiled_form", lambda function: function)
    monkeypatch.setattr("jetfm.models.heads.compiled_form", lambda function: function)
    batch = token_batch_of(tokenizer, [3, 5])
    for where in ("no", "gpu", "yes"):
        settings = training_settings(max_steps=1, validate_every=1, compile=where)
        fit(Training(model, lambda step: model.plan(batch), settings, progress=False))
    assert seen == [False, False, True] and not model.ntp_head.compiled
    assert TrainingSettings(batch_size=1, max_steps=1, validate_every=1, compile="gpu").compiles_on(
        "cuda"
    )
