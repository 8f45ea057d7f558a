"""The block in cachefuls against the block as it is defined: outputs, gradients, dropout."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from jetfm.models import fast_block
from jetfm.models.attention import RandomBits
from jetfm.models.transformer import Block
from tests.toys import randomise

COUNTS = [7, 3, 1, 5, 7]  # of constituents


@pytest.fixture
def block() -> Block:
    torch.manual_seed(0)
    return randomise(Block(16, 4, mlp_ratio=3)).double()


def inputs():
    torch.manual_seed(1)
    x = torch.randn(len(COUNTS), 7, 16, dtype=torch.float64, requires_grad=True)
    mask = torch.arange(7) < torch.tensor(COUNTS)[:, None]
    return x, mask


def both(block, x, *args):
    """Output and gradients of the fast and of the plain form, for a random loss."""
    torch.manual_seed(2)
    weight = torch.randn_like(x)
    found = []
    for form in (block.in_pieces, block.plain):
        y = form(x, *args)
        found.append((y, torch.autograd.grad((y * weight).sum(), (x, *block.parameters()))))
    return found


@pytest.mark.parametrize("cache", [1, 300, 10**9])  # a jet or row a piece, a few, all at once
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("filled_up", [False, True])
def test_agrees_with_the_plain_block(block, monkeypatch, cache, masked, causal, filled_up):
    monkeypatch.setattr(fast_block, "CACHE", cache)
    monkeypatch.setattr(fast_block, "ROWS", 4)
    monkeypatch.setattr(fast_block, "_fills_up", lambda dtype: filled_up)
    x, mask = inputs()
    (y, grads), (expected, plain_grads) = both(block, x, mask if masked else None, causal)
    torch.testing.assert_close(y, expected)
    for a, b in zip(grads, plain_grads, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("cache", [1, 300, 10**9])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(5, 4, 7, 7), (1, 4, 7, 7), (5, 1, 7, 7)])
def test_a_bias_and_its_gradient_agree_with_the_plain_block(
    block, monkeypatch, cache, masked, causal, shape
):
    monkeypatch.setattr(fast_block, "CACHE", cache)
    x, mask = inputs()
    bias = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mask, weight = mask if masked else None, torch.randn_like(x)
    y, expected = block(x, mask, causal, None, bias), block.plain(x, mask, causal, None, bias)
    torch.testing.assert_close(y, expected)
    assert (y - block(x, mask, causal)).abs().max() > 1e-3
    sources = (bias, x, *block.parameters())
    for a, b in zip(
        torch.autograd.grad((y * weight).sum(), sources),
        torch.autograd.grad((expected * weight).sum(), sources),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("options", "training", "biased", "expected"),
    [
        ({}, True, False, "plain"),
        ({}, True, True, "in_pieces"),
        ({"dropout": 0.1}, True, False, "in_pieces"),
        ({"attention_dropout": 0.1}, True, False, "in_pieces"),
        ({"dropout": 0.1, "attention_dropout": 0.1}, False, False, "plain"),
    ],
)
def test_the_faster_way_is_taken(options, training, biased, expected, monkeypatch):
    block, taken = Block(16, 4, **options).train(training), []
    for way in ("plain", "in_pieces"):
        monkeypatch.setattr(block, way, lambda *_, way=way: taken.append(way))
    block(torch.randn(2, 3, 16), bias=torch.zeros(1, 1, 3, 3) if biased else None)
    assert taken == [expected]


def test_dropout_by_its_definition(block, monkeypatch):
    """With the bits known, dropout multiplies weights and hidden layer by keep / (1 - p)."""
    p = 0.25
    keep_weights = torch.rand(len(COUNTS), 4, 7, 7) > p
    keep_hidden = torch.rand(len(COUNTS) * 7, 48) > p
    threshold = -(2**15) + round(p * 2**16)

    def draw(self, shape):
        keep = keep_weights if len(shape) == 4 else keep_hidden
        return torch.where(keep, threshold, threshold - 1).to(torch.int16).view(shape)

    monkeypatch.setattr(RandomBits, "draw", draw)
    monkeypatch.setattr(fast_block, "CACHE", 10**9)
    x, _ = inputs()
    bias = torch.randn(len(COUNTS), 4, 7, 7, dtype=torch.float64, requires_grad=True)
    y = fast_block.mlp_half(fast_block.attention_half(x, block, bias, p), block, p)

    attention = block.attention
    q, k, v = attention.qkv(block.attention_norm(x)).view(5, 7, 3, 4, 4).permute(2, 0, 3, 1, 4)
    weights = (q @ k.mT / 2 + bias).softmax(-1) * keep_weights / (1 - p)
    update = attention.out((weights @ v).transpose(1, 2).flatten(2))
    middle = x + block.attention_scale * update
    hidden = F.gelu(block.mlp_in(block.mlp_norm(middle))) * keep_hidden.view(5, 7, 48) / (1 - p)
    expected = middle + block.mlp_scale * block.mlp_out(hidden)
    torch.testing.assert_close(y, expected)
    sources = (x, bias, *block.parameters())
    weight = torch.randn_like(y)
    for a, b in zip(
        torch.autograd.grad((y * weight).sum(), sources),
        torch.autograd.grad((expected * weight).sum(), sources),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_dropout_follows_the_seed_and_falls_silent_in_evaluation():
    torch.manual_seed(0)
    block = randomise(Block(16, 4, dropout=0.3, attention_dropout=0.3))
    x = torch.randn(3, 6, 16)
    outputs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outputs.append(block(x))
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    torch.testing.assert_close(block.eval()(x), block.plain(x))


def test_gradients_agree_with_finite_differences(block, monkeypatch):
    monkeypatch.setattr(fast_block, "CACHE", 100)
    x, mask = inputs()
    assert torch.autograd.gradcheck(
        lambda x: block.in_pieces(x[:2, :4], mask[:2, :4])[mask[:2, :4]], (x,), atol=1e-6
    )
    bias = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda bias: block(x[:2, :3], bias=bias), bias, atol=1e-6)


class Products(TorchDispatchMode):
    """Notes the sizes of products of matrices in bfloat16."""

    def __init__(self):
        super().__init__()
        self.sizes = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            a, b = args[-2:]
            if a.dtype == torch.bfloat16:
                self.sizes |= {*a.shape, *b.shape}
        return function(*args, **(kwargs or {}))


def test_products_in_bfloat16_come_in_few_sizes():
    """A kernel is made for each size: 40 lengths of jets are to need no more than a few."""
    block = randomise(Block(32, 4, dropout=0.1, attention_dropout=0.1))
    for n_constituents in range(1, 41):
        with Products() as products:
            with torch.autocast("cpu", torch.bfloat16):
                y = block(torch.randn(5, n_constituents, 32, requires_grad=True))
            y.sum().backward()
        rows = -(-5 * n_constituents // fast_block.ROWS) * fast_block.ROWS
        assert products.sizes == {32, 96, 128, rows}


def test_bfloat16_products_stay_near_float32():
    """Autocast rounds the factors of products to 8 bits: relative errors of some 1e-2, no more."""
    torch.manual_seed(0)
    block = randomise(Block(32, 4))
    x = torch.randn(6, 9, 32, requires_grad=True)
    grads = []
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            y = block(x)
        assert y.dtype == torch.float32
        grads.append(torch.autograd.grad(y.square().sum(), (x, *block.parameters())))
    for exact, rounded in zip(*grads, strict=True):
        assert exact.dtype == rounded.dtype
        assert (rounded - exact).norm() < 0.03 * exact.norm()
