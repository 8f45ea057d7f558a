"""Draws: streams, plain, tempered and truncated distributions, multiplicities."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from jetfm.errors import JetfmError
from jetfm.generation.sampling import Choice, draw, draw_multiplicities, uniforms, weights

LAST = 1 - 2**-53  # the largest number below one


def reference_probabilities(logits: np.ndarray, choice: Choice) -> np.ndarray:
    """Of one jet's tokens, by the definitions, a token at a time; the start id first."""
    with np.errstate(over="ignore", under="ignore"):
        scaled = np.where(np.arange(len(logits)) == 0, -np.inf, logits) / choice.temperature
        p = np.exp(scaled - scaled.max())
    order = sorted(range(len(p)), key=lambda i: -p[i])
    if choice.top_k is not None:
        least = p[order[min(choice.top_k, len(p)) - 1]]
        p = np.where(p >= least, p, 0)
    if choice.top_p is not None:
        held = 0.0
        for i in order:
            held += p[i]
            if held >= choice.top_p * p.sum() * (1 - 1e-12):
                p = np.where(p >= p[i], p, 0)
                break
    return p / p.sum()


def test_each_jet_has_its_own_stream():
    a = uniforms(3, np.arange(500), 20)
    assert np.array_equal(uniforms(3, np.array([7]), 9)[0], a[7, :9])
    assert len(np.unique(a)) == a.size and not np.array_equal(uniforms(4, np.arange(1), 20), a[:1])
    assert kstest(a.ravel(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(a[:-1].ravel(), a[1:].ravel())[0, 1]) < 0.05


def test_draw_inverts_the_cumulative_distribution():
    p = torch.tensor([0.5, 0.1, 0.0, 0.2, 0.2])  # the first is the start id: never
    logits = p.log().repeat(6, 1)
    u = torch.tensor([0.0, 0.19, 0.21, 0.59, 0.61, LAST], dtype=torch.float64)
    assert draw(logits, u).tolist() == [1, 1, 3, 3, 4, 4]


@pytest.mark.parametrize("n_tokens", [3, 64, 65, 130, 1000])
def test_draw_equals_a_plain_inverse_across_blocks(n_tokens):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (400, n_tokens)).astype(np.float32)
    u = rng.random(400)
    p = np.array([reference_probabilities(row, Choice()) for row in logits.astype(float)])
    cdf = p.cumsum(1)
    clear = np.abs(cdf - u[:, None]).min(1) > 1e-5  # beyond rounding
    expected = (cdf <= u[:, None]).sum(1)
    got = draw(torch.tensor(logits), torch.from_numpy(u)).numpy()
    assert clear.mean() > 0.9 and np.array_equal(got[clear], expected[clear])


CHOICES = [
    Choice(),
    Choice(temperature=0.3),
    Choice(temperature=5.0),
    Choice(top_k=1),
    Choice(top_k=7),
    Choice(top_k=10_000),
    Choice(top_p=0.5),
    Choice(top_p=1e-9),
    Choice(top_p=1.0),
    Choice(temperature=2.0, top_k=20, top_p=0.8),
]


@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_distributions_are_those_of_the_definition(choice):
    logits = np.random.default_rng(1).normal(0, 2, (30, 100)).astype(np.float32)
    logits[:, 0] += 20  # the start id would win, were it asked
    w = weights(torch.tensor(logits), choice).double()
    got = (w / w.sum(1, keepdim=True)).numpy()
    expected = np.array([reference_probabilities(row, choice) for row in logits.astype(float)])
    assert np.array_equal(got > 0, expected > 0)
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=1e-12)


def test_truncation_by_hand():
    logits = torch.tensor([[0.9, 0.4, 0.3, 0.2, 0.1]]).log()
    kept = [
        (Choice(top_k=2), [1, 2]),
        (Choice(top_p=0.4), [1]),
        (Choice(top_p=0.41), [1, 2]),
        (Choice(top_p=0.69), [1, 2]),
        (Choice(top_p=0.71), [1, 2, 3]),
        (Choice(top_k=2, top_p=0.5), [1]),  # of 0.4 / 0.7
        (Choice(top_k=2, top_p=0.6), [1, 2]),
    ]
    for choice, expected in kept:
        assert weights(logits.clone(), choice)[0].nonzero().squeeze(1).tolist() == expected


def test_tokens_as_probable_as_the_last_one_stay():
    logits = torch.tensor([[0.0, 1.0, 2.0, 1.0, 1.0, 0.0]])
    for choice in (Choice(top_k=2), Choice(top_k=3), Choice(top_p=0.5)):
        assert weights(logits.clone(), choice)[0].nonzero().squeeze(1).tolist() == [1, 2, 3, 4]


def test_frequencies_follow_a_truncated_distribution():
    choice = Choice(temperature=1.5, top_k=30, top_p=0.9)
    logits = np.random.default_rng(2).normal(0, 2, 200).astype(np.float32)
    u = torch.from_numpy(uniforms(1, np.arange(20_000), 1)[:, 0])
    tokens = draw(torch.tensor(logits).repeat(len(u), 1), u, choice)
    expected = reference_probabilities(logits.astype(float), choice) * len(u)
    observed = np.bincount(tokens, minlength=len(expected))
    used = expected > 0
    assert used.sum() < 31 and observed[~used].sum() == 0
    assert chisquare(observed[used], expected[used]).pvalue > 1e-4


finite = st.floats(-1e4, 1e4, width=32)


@settings(max_examples=50)
@given(
    st.lists(st.one_of(finite, st.just(-np.inf)), min_size=1, max_size=200),
    finite,
    st.floats(0, 1, exclude_max=True),
    st.floats(0.01, 100),
    st.one_of(st.none(), st.integers(1, 250)),
    st.one_of(st.none(), st.floats(1e-6, 1)),
)
@example([0.0] * 64 + [-np.inf] * 64 + [0.0], 1e4, LAST, 1.0, None, None)
@example([-np.inf] * 128 + [0.0], 0.0, 0.0, 1.0, None, None)
@example([0.0] + [-np.inf] * 199, 0.0, LAST, 1.0, 3, 1.0)
def test_never_the_start_nor_a_token_of_probability_zero(
    others, start, u, temperature, top_k, top_p
):
    logits = torch.tensor([[start, *others, 0.0]], dtype=torch.float32)  # the stop is possible
    choice = Choice(temperature, top_k, top_p)
    w = weights(logits.clone(), choice)
    token = int(draw(logits.clone(), torch.tensor([u], dtype=torch.float64), choice))
    assert 1 <= token <= len(others) + 1 and w[0, token] > 0
    assert logits[0, token] > -np.inf
    if top_k is not None:
        assert (logits[0, 1:] > logits[0, token]).sum() < top_k


def test_logits_that_are_not_numbers_are_refused():
    u = torch.zeros(2, dtype=torch.float64)
    for bad in (torch.nan, torch.inf):
        logits = torch.zeros(2, 5)
        logits[1, 3] = bad
        with pytest.raises(JetfmError, match="not numbers"):
            draw(logits, u)


def test_multiplicities_follow_the_held_out_histogram():
    held_out = np.array([5] * 10 + [20] * 30 + [0] * 5 + [300] * 5)
    drawn = draw_multiplicities(held_out, 5000, seed=1)
    assert drawn.dtype == np.int64 and set(drawn) == {1, 5, 20, 128}
    observed = [np.count_nonzero(drawn == n) for n in (1, 5, 20, 128)]
    assert chisquare(observed, np.array([5, 10, 30, 5]) * 100).pvalue > 1e-4
    assert np.array_equal(drawn, draw_multiplicities(held_out, 5000, seed=1))
    assert not np.array_equal(drawn, draw_multiplicities(held_out, 5000, seed=2))
    assert draw_multiplicities(held_out, 100, 1, max_constituents=10).max() == 10


def test_multiplicities_from_nothing_or_for_nobody_are_refused():
    for n_jets in (0, -3):
        with pytest.raises(JetfmError, match="at least one jet"):
            draw_multiplicities(np.array([3]), n_jets, seed=1)
    with pytest.raises(JetfmError, match="no held-out jets"):
        draw_multiplicities(np.array([], int), 3, seed=1)
