"""A GPU computes what a CPU does, within stated tolerances.

``make gpu-check`` runs these on a card. In `make test` they are a rehearsal of the same lines on
the CPU, which then is compared with itself, with fewer jets.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu import Sizes, rows
from jetfm.generation import autoregressive
from jetfm.generation.autoregressive import generate
from jetfm.models.compiled import compiled
from jetfm.models.jet_model import JetModel
from jetfm.settings import BackboneSettings, PretrainingSettings, TokenizerSettings
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.fit import fit
from jetfm.training.job import Training
from tests.models.test_jet_model import STRATEGIES, K, model_of
from tests.models.test_nothing_waits import CLASSIFIERS
from tests.toys import (
    randomise,
    small_tokenizer_settings,
    token_batch_of,
    toy_jets,
    training_settings,
)
from tests.training.interrupted import whole_and_resumed

pytestmark = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
N_JETS = 64 if DEVICE == "cuda" else 6
COUNTS = np.random.default_rng(0).integers(1, 60 if DEVICE == "cuda" else 12, N_JETS)


def on(device: str, batch: dict) -> dict:
    return {name: tensor.to(device) for name, tensor in batch.items()}


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


def assert_same_step(module: torch.nn.Module, batch: dict) -> None:
    """Loss within 1e-5; gradients within 1e-3, or 1e-4 of the largest."""
    found = []
    for device in ("cpu", DEVICE):
        module.to(device).zero_grad()
        loss, _ = module.loss(on(device, batch))
        loss.backward()
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad and p.numel()}
        grads = {name: p.grad.cpu().clone() for name, p in trained.items()}
        found.append((loss.detach().cpu(), grads))
    (expected, plain), (loss, grads) = found
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    largest = max(float(grad.abs().max()) for grad in plain.values())
    for name, grad in plain.items():
        torch.testing.assert_close(grads[name], grad, rtol=1e-3, atol=1e-4 * largest, msg=name)


def test_ids_and_what_they_decode_to(tokenizer):
    """A latent on the border of two codes may fall to either side: one id in a thousand."""
    x, mask = toy_jets(COUNTS)
    ids = tokenizer.cpu().encode(x, mask)
    other = tokenizer.to(DEVICE).encode(x.to(DEVICE), mask.to(DEVICE)).cpu()
    assert (ids == other)[mask].float().mean() > 0.999
    decoded = tokenizer.decode(ids.to(DEVICE), mask.to(DEVICE)).cpu()
    torch.testing.assert_close(decoded, tokenizer.cpu().decode(ids, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", STRATEGIES)
def test_pretraining_loss_and_gradients(name, tokenizer):
    model = model_of(name)
    batch = model.plan(token_batch_of(tokenizer.cpu(), COUNTS), torch.Generator().manual_seed(5))
    assert_same_step(model, batch)


@pytest.mark.parametrize("name", ["token-id", "joint"])
def test_packed_jets_give_the_loss_and_gradients_of_padded_ones(name, tokenizer):
    """In bfloat16, the kernel's type: within two in a hundred of the largest gradient."""
    batch, found = token_batch_of(tokenizer.cpu(), COUNTS), []
    for layout in ("padded", "packed"):
        model = model_of(name, layout=layout).to(DEVICE)
        planned = on(DEVICE, model.plan(batch, torch.Generator().manual_seed(5)))
        with torch.autocast(DEVICE, torch.bfloat16):
            loss, _ = model.loss(planned)
        loss.backward()
        found.append((loss.item(), {n: p.grad for n, p in model.named_parameters()}))
    (expected, padded), (loss, packed) = found
    assert loss == pytest.approx(expected, rel=2e-3)
    largest = max(float(grad.abs().max()) for grad in padded.values())
    for weight, grad in padded.items():
        torch.testing.assert_close(packed[weight], grad, rtol=0, atol=0.02 * largest, msg=weight)


@pytest.mark.skipif(DEVICE == "cpu", reason="compiled on CPUs by tests/models/test_compiled.py")
@pytest.mark.parametrize("name", ["omnijet", "joint"])
def test_a_compiled_step_is_the_plain_one(name, tokenizer):
    model = model_of(name).to(DEVICE)
    batch = model.plan(token_batch_of(tokenizer.cpu(), COUNTS), torch.Generator().manual_seed(5))
    expected, _ = model.loss(on(DEVICE, batch))
    plain = torch.autograd.grad(expected, list(model.parameters()))
    with compiled(model):
        loss, _ = model.loss(on(DEVICE, batch))
        grads = torch.autograd.grad(loss, list(model.parameters()))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    largest = max(float(grad.abs().max()) for grad in plain)
    for grad, of_plain in zip(grads, plain, strict=True):
        torch.testing.assert_close(grad, of_plain, rtol=1e-3, atol=1e-4 * largest)


@pytest.mark.parametrize("name", ["backbone", "DeepSets", "transformer", "ParT", "L-GATr-slim"])
def test_classifiers_loss_and_gradients(name):
    torch.manual_seed(0)
    x, mask = toy_jets(COUNTS)
    n = mask.sum(1)
    batch = {"x": x, "mask": mask, "n_constituents": n, "label": n % 2}
    assert_same_step(CLASSIFIERS[name]().eval(), batch)  # without dropout


@pytest.mark.parametrize("preset", ["hybrid", "omnijet"])
def test_tokenizer_loss_and_gradients(preset):
    torch.manual_seed(0)
    x, mask = toy_jets(COUNTS)
    tokenizer = randomise(VQVAE(small_tokenizer_settings(preset=preset))).eval()
    assert_same_step(tokenizer, {"x": x, "mask": mask})


@pytest.mark.parametrize("name", ["joint", "omnijet"])
def test_generated_jets(name, tokenizer, monkeypatch):
    """The way of a GPU, recorded steps and all, against the CPU's: all but one jet in fifty."""
    model = model_of(name)
    with torch.no_grad():
        model.ntp_head.unembedding.bias[K + 1] += 2  # jets of a dozen constituents
    asked = np.random.default_rng(1).integers(1, 41, 4 * N_JETS)
    jets = []
    for device in ("cpu", DEVICE):
        stays = device != "cpu" or len(jets) > 0
        monkeypatch.setattr(autoregressive, "_stays_on", lambda *_, stays=stays: stays)
        jets.append(
            generate(model, tokenizer, asked, seed=3, max_constituents=40, batch_size=2 * N_JETS,
                     device=device, progress=False)
        )  # fmt: skip
    ids = [np.split(found.ids, found.offsets[1:-1]) for found in jets]
    same = [np.array_equal(one, two) for one, two in zip(*ids, strict=True)]
    assert np.mean(same) > 0.98


def test_a_stopped_training_continues(tokenizer, tmp_path):
    """Exactly on a CPU; on a GPU sums over threads differ, within 1e-4."""
    batch = token_batch_of(tokenizer.cpu(), COUNTS)

    def trained(folder, batches):
        torch.manual_seed(1)
        model = JetModel(PretrainingSettings.model_validate(STRATEGIES["joint"]), K)
        settings = training_settings(max_steps=8, validate_every=2)
        job = Training(
            model, lambda step: model.plan(batches(step), torch.Generator().manual_seed(step)),
            settings, folder=folder, device=DEVICE, progress=False,
        )  # fmt: skip
        fit(job)
        return {name: weight.cpu() for name, weight in model.state_dict().items()}

    whole, resumed = whole_and_resumed(trained, lambda step: batch, tmp_path, at=5)
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-3, atol=1e-4, msg=name)


def test_bfloat16_finds_the_loss_of_float32(tokenizer):
    model = model_of("joint").to(DEVICE)
    batch = token_batch_of(tokenizer.cpu(), COUNTS)
    batch = on(DEVICE, model.plan(batch, torch.Generator().manual_seed(5)))
    plain, _ = model.loss(batch)
    with torch.autocast(DEVICE, torch.bfloat16):
        low, _ = model.loss(batch)
    assert low.item() == pytest.approx(plain.item(), rel=0.02)


def test_rates_are_measured_to_the_end():
    """The rows of the check, at sizes that take seconds."""
    small = BackboneSettings(dim=32, n_blocks=2, n_heads=4)
    sizes = Sizes(
        n_codes=64, backbone=small, n_constituents=6, batch=8, tokenizer_batch=8, generated=(8, 40),
        fitted=20, fit_steps=2, n_steps=1, matrix=64, max_constituents=8,
        tokenizer=TokenizerSettings(n_codes=64, dim=32, n_blocks=1, n_heads=4),
    )  # fmt: skip
    found = {row["name"]: row for row in rows(DEVICE, sizes)}
    assert set(gpu.MEASURED) - set(found) <= {f"generation, batch {n}" for n in (64, 512, 4096)}
    assert all(row["value"] > 0 for name, row in found.items() if not name.startswith("matmul"))
    assert "generation, batch 40" in found and "fit of 20 jets, 2 steps" in found
