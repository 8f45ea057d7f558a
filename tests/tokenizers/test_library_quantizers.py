"""Other libraries' quantisers behind our interface: ids and codes agree with what they compute."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import torch

from jetfm.errors import JetfmError
from jetfm.settings import TokenizerSettings
from jetfm.tokenizers import load_tokenizer, make_tokenizer
from jetfm.tokenizers.library_quantizers import (
    FiniteScalarQuantizer,
    ResidualQuantizer,
    make_quantizer,
)
from jetfm.tokenizers.quantizer import VectorQuantizer, nearest_code

SMALL = dict(dim=16, n_blocks=1, n_heads=2)


def latents(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def residual(n_codes: int = 64, n_residual: int = 2, trained: bool = True) -> ResidualQuantizer:
    torch.manual_seed(0)
    made = make_quantizer(
        TokenizerSettings(
            quantizer="residual", n_codes=n_codes, n_residual=n_residual, latent_dim=4
        )
    )
    if trained:
        for step in range(5):
            made(latents(500, 4, seed=step))
    return made.eval()


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def unchanged(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# Finite scalar quantisation ----------------------------------------------------------------------


@pytest.mark.parametrize("levels", [(8, 8, 8), (5, 4, 3), (7, 3, 3, 3, 4)])
def test_fsq_ids_and_codes_are_one_to_one(levels):
    """Every id has a code of its own, and is what comes out where that code goes in."""
    fsq = FiniteScalarQuantizer(levels).eval()
    assert (fsq.n_codes, fsq.dim) == (np.prod(levels), len(levels))
    codes = fsq.lookup(torch.arange(fsq.n_codes))
    assert len(codes.unique(dim=0)) == fsq.n_codes
    for component, n in zip(codes.T, levels, strict=True):
        steps = component.unique().diff()  # n levels, equally spaced
        assert len(steps) == n - 1 and torch.allclose(steps, steps[0])
    # a latent that the library's bounded tanh maps onto the code
    half, offset = (torch.tensor(levels) - 1) * (1 + 1e-3) / 2, 1 - torch.tensor(levels) % 2
    on_code = torch.atanh((codes * (torch.tensor(levels) // 2) + offset / 2) / half)
    z = on_code - torch.atanh(offset / 2 / half)
    assert torch.equal(fsq.nearest(z), torch.arange(fsq.n_codes))


def test_fsq_output_is_the_code_of_its_id_with_a_gradient_and_no_loss():
    fsq = FiniteScalarQuantizer((5, 4, 3))
    z = latents(300, 3).requires_grad_()
    out = fsq(z)
    assert torch.equal(fsq.lookup(out.ids), out.latents.detach())
    assert torch.equal(fsq.nearest(z), out.ids) and out.loss == 0
    out.latents.sum().backward()
    assert (z.grad > 0).all()  # through the rounding, along the monotonic bound
    assert not list(fsq.parameters())


# Residual quantisation ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_residual", [2, 3])
def test_residual_ids_give_what_the_library_gives(n_residual):
    quantizer = residual(4**n_residual, n_residual)
    z = latents(400, 4, seed=9)
    out, ids, _ = quantizer.layer(z[None])
    torch.testing.assert_close(quantizer.lookup(quantizer.nearest(z)), out[0])
    joined = ids[0] @ (4 ** torch.arange(n_residual - 1, -1, -1))
    assert torch.equal(quantizer.nearest(z), joined)
    found = quantizer(z)
    assert torch.equal(found.ids, joined)
    torch.testing.assert_close(found.latents, out[0])


def test_residual_id_is_its_stages_in_one_number():
    quantizer = residual(4**3, 3)
    books = quantizer.layer.codebooks
    ids = torch.arange(64)
    stages = torch.stack([ids // 16, ids // 4 % 4, ids % 4], 1)
    expected = sum(book[stage] for book, stage in zip(books, stages.T, strict=True))
    torch.testing.assert_close(quantizer.lookup(ids), expected)
    assert torch.equal(quantizer._joined(stages), ids)
    assert (quantizer.lookup(torch.tensor([-1])) == 0).all()


def test_each_residual_stage_takes_the_nearest_code_of_what_is_left():
    quantizer, left = residual(), latents(200, 4, seed=3).double()
    ids = quantizer.nearest(left.float())
    for codebook, stage in zip(quantizer.layer.codebooks, (ids // 8, ids % 8), strict=True):
        assert torch.equal(torch.cdist(left, codebook.double()).argmin(1), stage)
        left = left - codebook[stage]


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_asking_a_residual_quantizer_for_ids_moves_nothing(trained, training):
    """Not even a codebook that still waits for its k-means start."""
    quantizer = residual(trained=trained).train(training)
    before = state(quantizer)
    z = latents(100, 4, seed=4)
    first = quantizer.nearest(z)
    assert unchanged(quantizer, before)
    assert torch.equal(quantizer.nearest(z), first) and quantizer.training == training
    quantizer.train()(z)
    assert not unchanged(quantizer, before)


def test_residual_loss_is_the_commitment_with_its_factor():
    """(1 - beta) times the sum over stages of the mean square of what is left."""
    quantizer, z = residual().train(), latents(300, 4, seed=5)
    first, second = (book.clone() for book in quantizer.layer.codebooks)
    ids = quantizer.nearest(z)
    left = z - first[ids // 8]
    expected = left.square().mean() + (left - second[ids % 8]).square().mean()
    torch.testing.assert_close(quantizer(z).loss, 0.1 * expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("kind", ["fsq", "residual"])
def test_padding_is_not_seen(kind):
    torch.manual_seed(0)
    make = (
        (lambda: FiniteScalarQuantizer((5, 4, 3, 3)))
        if kind == "fsq"
        else lambda: residual().train()
    )
    plain, padded = make(), make()
    z = latents(30, 4, seed=6).view(6, 5, 4)
    mask = torch.arange(5) < torch.tensor([5, 3, 0, 1, 4, 2])[:, None]
    torch.manual_seed(1)
    a = plain(z[mask])
    torch.manual_seed(1)
    b = padded(torch.where(mask[..., None], z, 1e4), mask)
    assert torch.equal(a.ids, b.ids[mask]) and (b.ids[~mask] == -1).all()
    assert torch.equal(a.latents, b.latents[mask]) and (b.latents[~mask] == 0).all()
    assert torch.equal(a.loss, b.loss) and torch.equal(a.perplexity, b.perplexity)
    assert unchanged(padded, plain.state_dict())


# vqtorch -----------------------------------------------------------------------------------------


@pytest.fixture
def vqtorch():
    return pytest.importorskip("vqtorch", reason="vqtorch is not installed")


def vqtorch_twins(**options):
    """The library's layer behind our interface, and ours, with the same codes."""
    settings = dict(n_codes=48, latent_dim=4, replace_after=1000) | options
    torch.manual_seed(2)
    theirs = make_quantizer(TokenizerSettings(quantizer="vqtorch", **settings))
    ours = make_quantizer(TokenizerSettings(**settings))
    assert type(ours) is VectorQuantizer
    with torch.no_grad():
        ours.codebook.copy_(theirs.layer.codebook.weight)
        if ours.affine_lr > 0:
            for name in ("scale", "bias"):
                value = 0.1 * latents(1, 4, seed=len(name))
                getattr(ours, name).copy_(value[0])
                getattr(theirs.layer.affine_transform, name).copy_(value)
    return theirs, ours


@pytest.mark.parametrize("options", [{}, {"nu": 2.0, "affine_lr": 0.0, "beta": 0.3}])
def test_vqtorch_gives_what_ours_gives(vqtorch, options):
    """Ids, codes, output, loss and gradient, in a padded batch."""
    theirs, ours = vqtorch_twins(**options)
    data = latents(30, 4, seed=6).view(6, 5, 4)
    mask = torch.arange(5) < torch.tensor([5, 3, 0, 1, 4, 2])[:, None]
    data = torch.where(mask[..., None], data, 1e3)
    found = []
    for quantizer in (theirs, ours):
        z = data.clone().requires_grad_()
        out = quantizer(z, mask)
        (out.loss + (out.latents * latents(30, 4, seed=7).view(6, 5, 4)).sum()).backward()
        found.append((out, z.grad))
    (a, a_grad), (b, b_grad) = found
    assert torch.equal(a.ids, b.ids)
    for got, expected in ((a.latents, b.latents), (a.loss, b.loss), (a_grad, b_grad)):
        torch.testing.assert_close(got, expected)
    torch.testing.assert_close(a.perplexity, b.perplexity)
    torch.testing.assert_close(theirs.layer.codebook.weight.grad, ours.codebook.grad)
    ids = torch.arange(-1, 48)
    torch.testing.assert_close(theirs.lookup(ids), ours.lookup(ids).detach())
    z = latents(500, 4, seed=8)
    assert torch.equal(theirs.nearest(z), ours.nearest(z))
    assert len(theirs.nearest(z[:0])) == 0


def test_asking_vqtorch_for_ids_moves_nothing(vqtorch):
    theirs, _ = vqtorch_twins(replace_after=2)
    before = state(theirs.train())
    for _ in range(4):
        theirs.nearest(latents(10, 4))
    assert unchanged(theirs, before) and theirs.layer.training
    for _ in range(4):
        theirs(latents(10, 4))
    assert not unchanged(theirs, before)  # codes were replaced


def test_a_tokenizer_with_vqtorch_is_saved_and_loaded(vqtorch, tmp_path):
    tokenizer = make_tokenizer(
        TokenizerSettings(quantizer="vqtorch", n_codes=32, latent_dim=4, **SMALL)
    ).eval()
    x, mask = torch.randn(3, 5, 3), torch.ones(3, 5).bool()
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert torch.equal(loaded.encode(x, mask), tokenizer.encode(x, mask))
    assert loaded.hash == tokenizer.hash


def test_without_vqtorch_the_error_says_what_to_do(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "vqtorch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "vqtorch", None)
    with pytest.raises(JetfmError) as caught:
        make_tokenizer(TokenizerSettings(quantizer="vqtorch", **SMALL))
    text = str(caught.value)
    assert "quantizer: vqtorch" in text and "github.com/minyoungg/vqtorch" in text
    assert "quantizer: jetfm" in text


# The search that ours and the residual one share -------------------------------------------------


@pytest.mark.parametrize("n_codes", [1, 2, 63, 64, 65, 100, 8192])
@pytest.mark.parametrize("n", [0, 1, 300])
def test_nearest_code_agrees_with_brute_force(n_codes, n):
    z, codes = latents(n, 4), latents(n_codes, 4, seed=1)
    distances = (z.double()[:, None] - codes.double()).square().sum(-1)
    assert torch.equal(nearest_code(z, codes), distances.argmin(1))


def test_the_first_of_equal_codes_is_found():
    codes = latents(50, 4).repeat(5, 1)  # ids k, k + 50, ... are the same code
    found = nearest_code(latents(400, 4, seed=1), codes)
    assert found.max() < 50 and len(found.unique()) > 30
    assert (nearest_code(torch.zeros(3, 4), torch.ones(130, 4)) == 0).all()


def test_chunks_do_not_matter(monkeypatch):
    z, codes = latents(700, 8), latents(300, 8, seed=1)
    expected = nearest_code(z, codes)
    for held in (1, 1000, 10**7):
        monkeypatch.setattr("jetfm.tokenizers.quantizer._CHUNK", held)
        assert torch.equal(nearest_code(z, codes), expected)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_still_gets_an_id(bad):
    """So that a training that diverges ends with a message about its loss, not with an index."""
    z = latents(20, 4)
    z[3, 1] = bad
    found = nearest_code(z, latents(100, 4, seed=1))
    assert ((found >= 0) & (found < 100)).all()
