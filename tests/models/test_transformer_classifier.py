"""The jet transformer: a function of a set, whatever its size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jetfm.errors import JetfmError
from jetfm.models.transformer import n_parameters
from jetfm.models.transformer_classifier import TransformerClassifier
from tests.toys import randomise, toy_jets


def small(seed: int = 0) -> TransformerClassifier:
    torch.manual_seed(seed)
    return randomise(TransformerClassifier(3, 10, dim=16, n_blocks=2, n_heads=4)).eval()


def test_paper_size():
    """Five blocks of width 128, two of class attention, hidden layers 128 and 128."""
    embedding, token = 3 * 128 + 128, 128
    linear, norm = 128 * 128 + 128, 2 * 128
    block = 4 * linear + 2 * linear + 3 * norm  # query, key, value, output; MLP
    class_mlp = 2 * 128 * 512 + 512 + 128 + 2 * 512 + norm
    class_block = 4 * linear + 2 * norm + class_mlp
    out = 2 * linear + 128 * 10 + 10
    expected = embedding + token + 5 * block + 2 * class_block + out
    assert n_parameters(TransformerClassifier()) == expected == 933_258


def test_order_of_constituents_does_not_matter():
    network = small()
    x, mask = toy_jets([20] * 5)
    order = torch.stack([torch.randperm(20) for _ in range(5)])
    shuffled = x.gather(1, order[..., None].expand(-1, -1, 3))
    with torch.no_grad():
        logits = network(x, mask)
        torch.testing.assert_close(network(shuffled, mask), logits, rtol=1e-4, atol=1e-5)
    assert (logits[0] - logits[1]).abs().max() > 1e-3  # and jets do matter


@pytest.mark.parametrize("extra", [0, 1, 30])
def test_padding_never_changes_logits(extra):
    network, counts = small(), [0, 1, 2, 17, 128]
    x, mask = toy_jets(counts, extra_padding=extra)
    x = torch.where(mask[..., None], x, 50.0)  # whatever the padding holds
    with torch.no_grad():
        together = network(x, mask)
        for i, n in enumerate(counts):
            alone = network(x[i : i + 1, :n], mask[i : i + 1, :n])
            torch.testing.assert_close(alone[0], together[i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 128])
@pytest.mark.parametrize("training", [True, False])
def test_jets_of_any_size_have_finite_loss_and_gradients(n, training):
    network = small().train(training)
    x, mask = toy_jets([n, n])
    loss, metrics = network.loss({"x": x, "mask": mask, "label": torch.tensor([3, 9])})
    loss.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)
    assert metrics["weight"] == 2


def test_gradient_reaches_every_parameter():
    network = small()
    x, mask = toy_jets([5, 9, 30])
    network.loss({"x": x, "mask": mask, "label": torch.tensor([0, 1, 2])})[0].backward()
    without = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert without == []


def test_a_fresh_network_attends_from_the_first_step():
    torch.manual_seed(0)
    network = TransformerClassifier(3, 10, dim=16, n_blocks=2, n_heads=4)
    x, mask = toy_jets([5, 9, 30])
    network.loss({"x": x, "mask": mask, "label": torch.tensor([0, 1, 2])})[0].backward()
    for block in network.encoder.blocks:
        assert block.attention.qkv.weight.grad.abs().sum() > 0
    assert 0.8 < network.embedding.weight.std() < 1.2


def test_loss_is_cross_entropy_and_accuracy_counts():
    network = small()
    x, mask = toy_jets([4, 8, 12, 16])
    with torch.no_grad():
        logits = network(x, mask)
        label = logits.argmax(1)
        label[0] = (label[0] + 1) % 10
        loss, metrics = network.loss({"x": x, "mask": mask, "label": label})
    torch.testing.assert_close(loss, F.cross_entropy(logits, label))
    assert metrics["accuracy"] == 0.75 and metrics["weight"] == 4


def test_heads_must_divide_the_width():
    with pytest.raises(JetfmError, match="n_heads"):
        TransformerClassifier(3, 10, dim=10, n_blocks=1, n_heads=4)
