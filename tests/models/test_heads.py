"""Heads: sizes, the chunked cross-entropy, the class token."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from jetfm.models import heads
from jetfm.models.backbone import Backbone
from jetfm.models.heads import ClassHead, TokenHead, linear_cross_entropy
from jetfm.models.transformer import n_parameters
from jetfm.settings import BackboneSettings
from tests.toys import randomise


def test_paper_sizes():
    """Counts of the official example configuration."""
    token_head, class_head = TokenHead(128, 8, 8192), ClassHead(128, 8, 10)
    assert n_parameters(token_head) == 1_322_754
    assert n_parameters(class_head) == 417_034
    backbone = Backbone(BackboneSettings())
    mask_vectors = 100 * 128  # of the joint model, one per rank
    joint = n_parameters(backbone) + 2 * n_parameters(token_head) + mask_vectors
    assert joint == 4_248_455


@pytest.mark.parametrize("n", [0, 1, 37])
def test_chunked_cross_entropy_and_its_gradients(n, monkeypatch):
    monkeypatch.setattr(heads, "_CHUNK_ROWS", 8)
    torch.manual_seed(0)
    tensors = [torch.randn(n, 5), torch.randn(11, 5), torch.randn(11)]
    targets = torch.randint(0, 11, (n,))
    ours = [t.clone().requires_grad_() for t in tensors]
    loss, n_correct = linear_cross_entropy(*ours, targets)
    (3 * loss).backward()
    plain = [t.clone().requires_grad_() for t in tensors]
    logits = F.linear(*plain)
    expected = F.cross_entropy(logits, targets, reduction="sum") / max(n, 1)
    (3 * expected).backward()
    torch.testing.assert_close(loss, expected)
    assert n_correct == (logits.argmax(1) == targets).sum()
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(*tensors, targets)[0], expected)


def test_token_head_counts_targets_only():
    torch.manual_seed(0)
    head = randomise(TokenHead(16, 4, 20)).eval()
    hidden = torch.randn(3, 6, 16)
    targets = torch.randint(0, 22, (3, 6))
    targets[torch.rand(3, 6) < 0.4] = -1
    loss, n_targets, n_correct = head.loss(
        hidden, None, True, (targets.flatten() >= 0).nonzero().squeeze(1), targets[targets >= 0]
    )
    logits = head(hidden, None, True)
    expected = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    torch.testing.assert_close(loss, expected)
    assert n_targets == (targets >= 0).sum()
    assert n_correct == ((logits.argmax(-1) == targets) & (targets >= 0)).sum()


def test_class_head_sees_a_set_of_real_constituents():
    torch.manual_seed(0)
    head = randomise(ClassHead(16, 4, 3)).eval()
    x = torch.randn(4, 7, 16)
    mask = torch.arange(7) < torch.tensor([7, 3, 1, 0])[:, None]
    x[~mask] = 50.0
    logits = head(x, mask)
    order = torch.randperm(7)
    torch.testing.assert_close(head(x[:, order], mask[:, order]), logits)
    for i, n in enumerate([7, 3, 1]):
        torch.testing.assert_close(head(x[i : i + 1, :n], mask[i : i + 1, :n])[0], logits[i])
    assert torch.isfinite(logits).all()


def test_class_attention_block_by_its_definition():
    """Key and value LN([token, x]), raw token as query, LN after attention, residuals."""
    torch.manual_seed(0)
    block = randomise(heads.ClassAttentionBlock(16, 4)).eval()
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(block.qkv.weight)
        reference.in_proj_bias.copy_(block.qkv.bias)
        reference.out_proj.load_state_dict(block.out.state_dict())
    token, x = torch.randn(2, 1, 16), torch.randn(2, 5, 16)
    mask = torch.arange(5) < torch.tensor([5, 2])[:, None]
    keys = block.norm(torch.cat([token, x], 1))
    hidden = torch.cat([torch.zeros(2, 1, dtype=torch.bool), ~mask], 1)
    update = reference(token, keys, keys, key_padding_mask=hidden)[0]
    middle = block.attention_norm(update) + token
    torch.testing.assert_close(block(token, x, mask), middle + block.mlp(middle))
