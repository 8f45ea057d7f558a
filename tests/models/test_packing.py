"""Jets one after the other: nothing lost on the way, attention within each, the padded step's."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from jetfm.models.attention import attention
from jetfm.models.packing import Packing
from jetfm.models.transformer import Transformer
from jetfm.settings import PretrainingSettings
from jetfm.tokenizers.vqvae import VQVAE
from tests.models.test_jet_model import STRATEGIES, model_of
from tests.models.test_masking import mask_of
from tests.toys import randomise, small_tokenizer_settings, token_batch_of

COUNTS = [6, 1, 0, 9, 2, 14]


def packing_of(counts: list[int], extra: int = 0) -> Packing:
    return Packing.of(mask_of(counts, extra), sum(counts))


@given(st.lists(st.sampled_from([1, 2, 3, 17, 130]), min_size=1, max_size=5), st.integers(0, 3))
def test_packed_and_padded_again(counts, extra):
    packing = packing_of(counts, extra)
    x = torch.randn(*packing.mask.shape, 4)
    rows = packing.pack(x)
    assert torch.equal(rows, x[packing.mask])
    assert packing.starts.tolist() == [sum(counts[:i]) for i in range(len(counts) + 1)]
    assert torch.equal(packing.unpack(rows), torch.where(packing.mask[..., None], x, 0))


@pytest.mark.parametrize("causal", [False, True])
def test_attention_stays_within_each_jet(causal):
    counts = [3, 1, 7]
    q, k, v = torch.randn(3, sum(counts), 2, 4, dtype=torch.float64)
    found = packing_of(counts, 2).attention(q, k, v, causal)
    alone = [
        attention(*(t.transpose(0, 1)[None] for t in jet), causal=causal)[0].transpose(0, 1)
        for jet in zip(*(t.split(counts) for t in (q, k, v)), strict=True)
    ]
    torch.testing.assert_close(found, torch.cat(alone))


def test_the_kernel_is_told_where_jets_start(monkeypatch):
    """What a GPU's kernel is given, without one: its arguments, and both kinds of windows."""
    given = []

    def kernel(q, k, v, starts_q, starts_k, longest_q, longest_k, *, window_size):
        given.append((starts_q.tolist(), starts_k.dtype, longest_q, longest_k, window_size))
        return v

    class OnCuda(torch.Tensor):
        device = torch.device("cuda")

    monkeypatch.setattr("jetfm.models.packing.varlen_attn", kernel)
    packing = packing_of([3, 1, 7], 2)
    x = torch.randn(11, 2, 4, dtype=torch.bfloat16).as_subclass(OnCuda)
    for causal in (False, True):
        packing.attention(x, x, x, causal)
    expected = ([0, 3, 4, 11], torch.int32, 9, 9)
    assert given == [(*expected, (-1, -1)), (*expected, (-1, 0))]


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "pairs"])
def test_the_packed_step_is_the_padded_one(name):
    """Loss, what is logged, and every gradient; jets of 0 to 14 constituents."""
    torch.manual_seed(0)
    tokenizer = randomise(VQVAE(small_tokenizer_settings())).eval()
    batch, found = token_batch_of(tokenizer, COUNTS, extra_padding=2), []
    batch["n_constituents"][3] = 30  # truncated: no stop
    for layout in ("padded", "packed"):
        model = model_of(name, layout=layout).double()
        doubled = batch | {"decoded": batch["decoded"].double()}
        loss, metrics = model.loss(model.plan(doubled, torch.Generator().manual_seed(5)))
        loss.backward()
        found.append((loss, metrics, {n: p.grad for n, p in model.named_parameters()}))
    (expected, logged, grads), (loss, metrics, packed) = found
    # the cross-entropy and its gradients are float32
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    assert {n: v for n, v in metrics.items() if "accuracy" in n} == {
        n: v for n, v in logged.items() if "accuracy" in n
    }
    for weight, grad in grads.items():
        torch.testing.assert_close(packed[weight], grad, rtol=1e-4, atol=1e-6, msg=weight)


def test_dropout_on_what_the_attention_adds():
    """Of each number either nothing or, at a probability of one half, twice of it."""
    torch.manual_seed(0)
    block = randomise(Transformer(16, 1, 4, residual_dropout=0.5)).blocks[0]
    with torch.no_grad():
        block.mlp_scale.zero_()
        x = torch.randn(50, 5, 16)
        dropped, update = block(x) - x, block.eval()(x) - x
    lost = dropped == 0
    torch.testing.assert_close(dropped, torch.where(lost, 0, 2 * update), rtol=1e-3, atol=1e-5)
    assert lost.float().mean() == pytest.approx(0.5, abs=5 * 0.5 / lost.numel() ** 0.5)


def test_what_packed_jets_have_no_kernel_for_is_refused():
    with pytest.raises(ValidationError, match="dropout_on: residual"):
        PretrainingSettings(layout="packed")
    with pytest.raises(ValidationError, match="has no pair_bias"):
        PretrainingSettings.model_validate(
            {"layout": "packed", "backbone": {"pair_bias": True, "dropout": 0}}
        )
    packed = {"layout": "packed", "backbone": {"dropout_on": "residual"}}
    settings = PretrainingSettings.model_validate(packed)
    assert settings.backbone.attention_dropouts == {
        "attention_dropout": 0.0,
        "residual_dropout": 0.1,
    }
