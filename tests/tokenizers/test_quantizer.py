"""The quantiser against plain formulas, against vqtorch, and blind to padding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from rangerlite import RangerLite
from scipy.stats import entropy

from jetfm.tokenizers.quantizer import VectorQuantizer, perplexity


def quantizer(n_codes=32, dim=4, **options) -> VectorQuantizer:
    torch.manual_seed(1)
    made = VectorQuantizer(n_codes, dim, **options)
    if made.affine_lr > 0:  # an affine map that is not the identity
        with torch.no_grad():
            made.scale.copy_(torch.tensor([0.1, -0.2, 0.05, 0.3]))
            made.bias.copy_(torch.tensor([0.2, 0.1, -0.3, 0.05]))
    return made


def test_codes_follow_the_affine_map():
    vq = quantizer(affine_lr=2.0)
    c, s, b = (t.detach().numpy() for t in (vq.codebook, vq.scale, vq.bias))
    np.testing.assert_allclose(vq.codes().detach().numpy(), (1 + 2 * s) * c + 2 * b, rtol=1e-6)


@pytest.mark.parametrize("n_codes", [32, 2000])
def test_nearest_code_agrees_with_brute_force(n_codes, monkeypatch):
    monkeypatch.setattr("jetfm.tokenizers.quantizer._CHUNK", 5 * n_codes)  # many chunks
    vq = quantizer(n_codes)
    z = torch.randn(203, 4)
    distances = np.linalg.norm(
        z.double().numpy()[:, None] - vq.codes().detach().double().numpy()[None], axis=-1
    )
    np.testing.assert_array_equal(vq.nearest(z).numpy(), distances.argmin(1))


def test_distances_are_float32_under_autocast():
    vq = quantizer(4096)
    z = 1 + 1e-3 * torch.randn(500, 4)  # bfloat16 could not tell these apart
    expected = vq.nearest(z)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vq.nearest(z), expected)
        assert torch.equal(vq(z).ids, expected)


@pytest.mark.parametrize("beta, nu", [(0.9, 1.0), (0.25, 2.0), (0.5, 0.0)])
def test_gradients_follow_the_formulas(beta, nu):
    """d/dz and d/dc of sum(w * out) + loss, from the definition, with affine map off."""
    vq = quantizer(beta=beta, nu=nu, affine_lr=0.0)
    z = torch.randn(50, 4, requires_grad=True)
    w = torch.randn(50, 4)
    out = vq(z)
    torch.testing.assert_close(out.latents, vq.codebook[out.ids], rtol=0, atol=0)
    ((w * out.latents).sum() + out.loss).backward()
    difference = (z - vq.codebook[out.ids]).detach()
    n = difference.numel()
    torch.testing.assert_close(z.grad, w + (1 - beta) * 2 * difference / n)
    expected = torch.zeros_like(vq.codebook)
    expected.index_add_(0, out.ids, nu * w - beta * 2 * difference / n)
    torch.testing.assert_close(vq.codebook.grad, expected)
    torch.testing.assert_close(out.loss, difference.square().mean())


def test_padding_changes_nothing():
    plain, padded = quantizer(replace_after=2), quantizer(replace_after=2)
    z = torch.randn(6, 5, 4)
    mask = torch.arange(5) < torch.tensor([5, 3, 0, 1, 4, 2])[:, None]
    z_padded = torch.where(mask[..., None], z, 1e6)  # what must not be seen
    for _ in range(3):  # beyond the replacement
        torch.manual_seed(4)
        a = plain(z[mask])
        torch.manual_seed(4)
        b = padded(z_padded, mask)
        torch.testing.assert_close(a.loss, b.loss, rtol=0, atol=0)
        assert torch.equal(a.ids, b.ids[mask]) and (b.ids[~mask] == -1).all()
        assert torch.equal(a.latents, b.latents[mask]) and (b.latents[~mask] == 0).all()
        assert torch.equal(a.perplexity, b.perplexity)
        assert torch.equal(plain.codebook, padded.codebook)
    assert padded.codebook.abs().max() < 1e3


def test_batch_without_a_constituent():
    vq = quantizer(replace_after=1)
    before = vq.codebook.detach().clone()
    out = vq(torch.randn(3, 2, 4), torch.zeros(3, 2, dtype=torch.bool))
    assert out.loss == 0 and out.perplexity == 0 and (out.ids == -1).all()
    assert torch.equal(vq.codebook, before) and (vq.unused == 0).all()


def test_replaced_codes_lie_exactly_on_real_latents_after_the_affine_map():
    vq = quantizer(n_codes=16, replace_after=3, replace_noise=0.0)
    z = 5 + torch.randn(40, 4)
    mask = torch.rand(40) > 0.3
    used = set(vq.nearest(z[mask]).tolist())
    for _ in range(3):
        vq(torch.where(mask[:, None], z, -50.0), mask)
    codes = vq.codes().detach()
    replaced = [k for k in range(16) if k not in used]
    assert replaced
    distance = torch.cdist(codes[replaced].double(), z[mask].double()).min(1).values
    assert distance.max() < 1e-5
    nearest = vq.nearest(z[mask])
    assert len(set(nearest.tolist())) > len(used)  # they are in use now
    assert (vq.unused[replaced] == 0).all()


def test_codes_are_replaced_only_when_due_and_never_in_evaluation():
    vq = quantizer(replace_after=4)
    z = torch.randn(8, 4)
    before = vq.codebook.detach().clone()
    vq.eval()
    for _ in range(10):
        vq(z)
    vq.train()
    for _ in range(3):
        vq(z)
    assert torch.equal(vq.codebook, before)
    used = vq.nearest(z).unique()
    vq(z)
    changed = (vq.codebook != before).any(1)
    assert not changed[used].any() and changed.sum() == 32 - len(used)


def test_a_gpu_replaces_the_codes_that_a_cpu_does(monkeypatch):
    """It works on all codes, to ask for no number, and takes over the dead ones alone."""
    after = []
    for everything in (False, True):
        vq = quantizer(n_codes=16, replace_after=3, replace_noise=0.0)
        if everything:
            monkeypatch.setattr(vq, "_candidates", lambda dead: torch.arange(len(dead)))
        optimizer = RangerLite(vq.parameters(), lr=1e-3, lookahead_steps=2)
        torch.manual_seed(3)
        z = 5 + torch.randn(40, 4)
        n_replaced = 0
        for _ in range(7):
            torch.manual_seed(4)
            optimizer.zero_grad()
            out = vq(z)
            (out.loss + out.latents.square().sum()).backward()
            n_replaced += int(vq._replaced[1].sum()) if vq._replaced is not None else 0
            optimizer.step()
            vq.after_step(optimizer)
        state = optimizer.state[vq.codebook]
        after.append([vq.codebook, vq.unused, *(v for v in state.values() if torch.is_tensor(v))])
        assert n_replaced > 4
    for one, two in zip(*after, strict=True):
        assert torch.equal(one, two)


def test_a_replaced_code_starts_anew_in_the_optimiser():
    """Ranger's lookahead must not pull it back to where it died."""
    vq = quantizer(n_codes=16, replace_after=3, replace_noise=0.0)
    optimizer = RangerLite(vq.parameters(), lr=1e-3, lookahead_steps=2)
    z = 5 + torch.randn(40, 4)
    for step in range(4):
        optimizer.zero_grad()
        out = vq(z)
        (out.loss + out.latents.square().sum()).backward()
        fresh = None if vq._replaced is None else [t.clone() for t in vq._replaced]
        optimizer.step()
        vq.after_step(optimizer)
        if step == 2:
            rows, _, values = fresh
            state = optimizer.state[vq.codebook]
            assert torch.equal(vq.codebook[rows], values)
            assert torch.equal(state["cached_params"][rows], values)
            assert (state["exp_avg"][rows] == 0).all() and (state["exp_avg_sq"][rows] == 0).all()
            others = np.setdiff1d(np.arange(16), rows)
            assert (state["exp_avg"][others] != 0).any()


def test_state_resumes_exactly():
    vq = quantizer(replace_after=3)
    z = torch.randn(4, 8, 4)
    vq(z[0]), vq(z[1])
    other = quantizer(replace_after=3)
    other.load_state_dict(copy.deepcopy(vq.state_dict()))
    for made in (vq, other):
        torch.manual_seed(9)
        made(z[2]), made(z[3])
    assert torch.equal(vq.codebook, other.codebook) and torch.equal(vq.unused, other.unused)


def test_perplexity_is_the_exponential_of_the_entropy():
    counts = np.array([5, 0, 1, 7, 100])
    assert perplexity(torch.as_tensor(counts)) == pytest.approx(np.exp(entropy(counts)), rel=1e-6)
    assert perplexity(torch.full((8,), 3)) == pytest.approx(8)
    assert perplexity(torch.zeros(8)) == 0


@pytest.mark.parametrize("nu, affine_lr", [(1.0, 2.0), (2.0, 0.0), (0.0, 1.0)])
def test_agrees_with_vqtorch(nu, affine_lr):
    """Ids, loss, output and all gradients over several optimiser steps, without padding."""
    vqtorch = pytest.importorskip("vqtorch.nn", reason="vqtorch is not installed")
    ours = VectorQuantizer(32, 4, beta=0.9, nu=nu, affine_lr=affine_lr, replace_after=10**6)
    theirs = vqtorch.VectorQuant(4, 32, beta=0.9, sync_nu=nu, affine_lr=affine_lr, dim=-1)
    with torch.no_grad():
        theirs.codebook.weight.copy_(ours.codebook)
    torch.manual_seed(3)
    work = torch.nn.Linear(4, 4)
    pairs = [(ours.codebook, theirs.codebook.weight)]
    if affine_lr:
        pairs += [
            (ours.scale, theirs.affine_transform.scale),
            (ours.bias, theirs.affine_transform.bias),
        ]
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (ours, theirs)]
    for _ in range(5):
        data = torch.randn(16, 6, 4)
        z1, z2 = data.clone().requires_grad_(), data.clone().requires_grad_()
        out, (z_q, info) = ours(z1), theirs(z2)
        assert torch.equal(out.ids, info["q"].squeeze(-1))
        torch.testing.assert_close(out.loss, info["loss"])
        torch.testing.assert_close(out.latents, z_q)
        for optimizer, value, loss in zip(
            optimizers, (out.latents, z_q), (out.loss, info["loss"]), strict=True
        ):
            optimizer.zero_grad()
            (work(value).square().mean() + loss).backward()
        torch.testing.assert_close(z1.grad, z2.grad)
        for a, b in pairs:
            torch.testing.assert_close(a.grad.flatten(), b.grad.flatten())
        for optimizer in optimizers:
            optimizer.step()
    for a, b in pairs:
        torch.testing.assert_close(a.flatten(), b.flatten())
