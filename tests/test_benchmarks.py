"""What `make bench` compares with computes the same: else its ratios would mean nothing."""

from __future__ import annotations

import pytest
import torch

from benchmarks import pretraining
from benchmarks._plain import plain_layers
from jetfm.models.fast_block import add_product
from jetfm.tokenizers.vqvae import VQVAE
from tests.models.test_jet_model import STRATEGIES, model_of
from tests.toys import randomise, small_tokenizer_settings, token_batch_of, toy_jets

COUNTS = [6, 1, 9, 2, 14]


@pytest.fixture(scope="module")
def batch() -> dict:
    torch.manual_seed(0)
    tokenizer = randomise(VQVAE(small_tokenizer_settings())).eval()
    return token_batch_of(tokenizer, COUNTS, extra_padding=3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_plain_step_is_ours(name, batch):
    """Loss and gradients, with the same masks."""
    found = []
    for plain in (False, True):
        model = model_of(name)
        torch.manual_seed(5)
        if plain:
            with plain_layers():
                loss = pretraining._plain_loss(model, batch)
                loss.backward()
        else:
            loss, _ = model.loss(batch)
            loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.numel())])
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("preset", ["hybrid", "omnijet"])
def test_plain_layers_of_tokenizers_are_ours(preset):
    torch.manual_seed(0)
    tokenizer = randomise(VQVAE(small_tokenizer_settings(preset=preset))).eval()
    x, mask = toy_jets(COUNTS, 0, 3)
    with torch.no_grad():
        z, ids = tokenizer._latents(x, mask), tokenizer.encode(x, mask)
        decoded = tokenizer.decode(ids)
        with plain_layers():
            torch.testing.assert_close(tokenizer._latents(x, mask)[mask], z[mask])
            torch.testing.assert_close(tokenizer.decode(ids)[mask], decoded[mask])


def test_products_added_in_place_are_counted():
    """As the weights' gradients are, a third of a step's multiplications."""
    a, b, total = torch.randn(8, 16), torch.randn(16, 4), torch.zeros(8, 4)
    assert pretraining._flops(lambda: a @ b) == 2 * 8 * 16 * 4
    assert pretraining._flops(lambda: add_product(total, a, b)) == 2 * 8 * 16 * 4
