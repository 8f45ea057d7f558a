"""Masked particles: shares per jet, ranks by hand, nothing lost on the way out and back."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from jetfm.models.masking import draw_masked, pt_ranks, put_back, visible_part, whole_rows

jets = st.lists(st.sampled_from([0, 1, 2, 3, 40, 128]), min_size=1, max_size=8)


def mask_of(counts, extra: int = 0) -> torch.Tensor:
    counts = torch.as_tensor(counts)
    return torch.arange(max(int(counts.max()), 1) + extra) < counts[:, None]


@given(counts=jets, fraction=st.sampled_from([0.1, 0.4, 0.9]), seed=st.integers(0, 1000))
def test_every_jet_loses_its_own_share(counts, fraction, seed):
    torch.manual_seed(seed)
    mask = mask_of(counts, extra=3)
    masked = draw_masked(mask, fraction)
    assert not (masked & ~mask).any()  # padding is never masked
    n, lost = np.array(counts), masked.sum(1).numpy()
    assert (lost >= np.floor(fraction * n - 1e-6)).all()
    assert (lost <= np.floor(fraction * n) + 1).all() and (lost <= n).all()


def test_the_share_is_exact_on_average_and_every_constituent_equally_likely():
    torch.manual_seed(0)
    masked = draw_masked(mask_of([3] * 60_000), 0.4)
    per_slot = masked.float().mean(0)
    sigma = (0.4 * 0.6 / 60_000) ** 0.5
    assert (per_slot - 0.4).abs().max() < 5 * sigma
    assert set(masked.sum(1).tolist()) == {1, 2}  # 1.2 on average


def test_ranks_by_hand():
    pt = torch.tensor([[5.0, 1.0, 9.0, 7.0], [2.0, 8.0, 3.0, 0.0]])
    masked = torch.tensor([[1, 1, 0, 1], [0, 0, 1, 0]]).bool()
    assert pt_ranks(pt, masked).tolist() == [[1, 2, -1, 0], [-1, -1, 0, -1]]


@given(counts=jets, seed=st.integers(0, 1000))
def test_out_and_back_puts_everything_where_it_was(counts, seed):
    """Visible constituents carry their own number, masked ones the vector of their rank."""
    torch.manual_seed(seed)
    mask = mask_of(counts, extra=2)
    masked = draw_masked(mask, 0.4)
    visible = visible_part(mask, masked)
    number = torch.arange(1.0, mask.numel() + 1).view(*mask.shape, 1)
    taken = visible.take(number)
    assert (visible.mask.sum(1) == (mask & ~masked).sum(1)).all()
    ranks = pt_ranks(torch.rand(mask.shape), masked)
    start = torch.full((len(mask), 1, 1), -1.0)
    vectors = -100.0 - torch.arange(128.0)[:, None]
    rows = whole_rows(visible, ranks, len(vectors))
    whole = put_back(torch.cat([start, taken], 1), rows, vectors)
    assert (whole[:, 0, 0] == -1).all()
    expected = torch.where(masked, -100.0 - ranks, torch.where(mask, number[..., 0], 0.0))
    assert torch.equal(whole[:, 1:, 0], expected)


def test_more_masked_than_vectors_share_the_last_one():
    mask = mask_of([4])
    masked = torch.ones_like(mask)
    visible = visible_part(mask, masked)
    ranks = pt_ranks(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), masked)
    rows = whole_rows(visible, ranks, 2)
    whole = put_back(torch.zeros(1, 2, 1), rows, torch.tensor([[1.0], [2.0]]))
    assert whole[0, :, 0].tolist() == [0, 1, 2, 2, 2]


def test_gradients_reach_the_visible_states_and_the_mask_vectors():
    mask = mask_of([5, 3])
    torch.manual_seed(1)
    masked = draw_masked(mask, 0.4)
    visible = visible_part(mask, masked)
    hidden = torch.randn(2, 1 + visible.mask.shape[1], 4, requires_grad=True)
    vectors = torch.randn(3, 4, requires_grad=True)
    ranks = pt_ranks(torch.rand(mask.shape), masked)
    put_back(hidden, whole_rows(visible, ranks, 3), vectors).sum().backward()
    kept = torch.cat([torch.ones(2, 1, dtype=torch.bool), visible.mask], 1)
    assert torch.equal(hidden.grad[..., 0], kept.float())
    used = torch.bincount(ranks[ranks >= 0], minlength=3)
    assert torch.equal(vectors.grad[:, 0], used.float())
