"""Batches: every jet once an epoch, a pure function of the step, little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data import batches as batches_module
from jetfm.data.batches import (
    BlockShuffledBatches,
    InOrderBatches,
    LengthBucketedBatches,
    shuffled_batches,
)
from jetfm.errors import JetfmError

SIZES = {"n_jets": st.integers(1, 300), "batch_size": st.integers(1, 40)}


def lengths_of(n_jets, seed=0):
    return np.random.default_rng(seed).normal(40, 15, n_jets).clip(1).astype(int)


def padded_share(lengths, batches):
    slots = sum(len(b) * lengths[b].max() for b in batches)
    return 1 - sum(lengths[b].sum() for b in batches) / slots


@settings(max_examples=60)
@given(**SIZES, epoch=st.integers(0, 3))
def test_every_jet_once_an_epoch(n_jets, batch_size, epoch):
    batches = LengthBucketedBatches(lengths_of(n_jets), batch_size, seed=5)
    steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
    drawn = [batches.indices(step) for step in steps]
    assert all(b.dtype == np.int64 for b in drawn)
    assert sorted(np.concatenate(drawn)) == list(range(n_jets))
    assert sorted(map(len, drawn))[1:] == [batch_size] * (len(drawn) - 1)  # one partial, kept


def test_a_batch_depends_on_seed_and_step_alone():
    lengths = lengths_of(1000)
    forward = LengthBucketedBatches(lengths, 32, seed=1)
    drawn = [forward.indices(step) for step in range(100)]
    backward = LengthBucketedBatches(lengths, 32, seed=1)  # a resumed training, in any order
    for step in reversed(range(100)):
        np.testing.assert_array_equal(backward.indices(step), drawn[step])
    other = LengthBucketedBatches(lengths, 32, seed=2)
    assert not np.array_equal(other.indices(0), drawn[0])
    first, second = drawn[0], drawn[forward.steps_per_epoch]
    assert not np.array_equal(np.sort(first), np.sort(second))  # epochs differ


def test_chunks_of_one_batch_do_not_sort_by_length():
    """Two classes, one of long jets: every batch has its share of both."""
    lengths = np.repeat([20, 60], 3000)
    bucketed, mixed = (
        LengthBucketedBatches(lengths, 32, seed=3, **options)
        for options in ({}, {"chunk_batches": 1})
    )
    share = np.array([(lengths[mixed.indices(step)] == 60).mean() for step in range(187)])
    assert 0.1 < share.min() and share.max() < 0.9
    pure = [len(set(lengths[bucketed.indices(step)])) == 1 for step in range(187)]
    assert np.mean(pure) > 0.9


def test_chosen_jets_only():
    chosen = np.array([7, 3, 900, 41])
    batches = LengthBucketedBatches(lengths_of(1000), 3, seed=0, indices=chosen)
    assert sorted(np.concatenate([batches.indices(0), batches.indices(1)])) == sorted(chosen)
    plain = LengthBucketedBatches(lengths_of(1000), 3, seed=0, indices=chosen, shuffle=False)
    np.testing.assert_array_equal(plain.indices(0), [7, 3, 900])
    np.testing.assert_array_equal(plain.indices(3), [41])  # the second epoch is like the first


def test_bucketing_saves_padding():
    lengths = lengths_of(20_000)
    bucketed = LengthBucketedBatches(lengths, 100, seed=0)
    plain = np.array_split(np.random.default_rng(0).permutation(20_000), 200)
    assert padded_share(lengths, plain) > 0.4
    assert padded_share(lengths, [bucketed.indices(i) for i in range(200)]) < 0.06


def test_lengths_of_successive_batches_are_not_ordered():
    lengths = lengths_of(20_000)
    batches = LengthBucketedBatches(lengths, 100, seed=0)
    means = [lengths[batches.indices(step)].mean() for step in range(200)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.25  # 3.5 standard errors


def test_neighbours_vary_between_epochs():
    """Jets of one length meet different others: buckets are cut from shuffled chunks."""
    lengths = np.full(1000, 40)
    batches = LengthBucketedBatches(lengths, 10, seed=0)

    def company(epoch):
        steps = range(epoch * 100, (epoch + 1) * 100)
        return next(set(b) for b in map(batches.indices, steps) if 0 in b)

    assert len(company(0) & company(1)) < 5


@given(**SIZES)
def test_in_order_batches_and_their_inverse(n_jets, batch_size):
    lengths = lengths_of(n_jets)
    chosen = np.random.default_rng(1).permutation(n_jets)[: max(n_jets // 2, 1)]
    for indices in (None, chosen):
        batches = InOrderBatches(lengths, batch_size, indices)
        drawn = list(batches)
        assert len(drawn) == len(batches) == batches.steps_per_epoch
        together = np.concatenate(drawn)
        assert (np.diff(lengths[together]) >= 0).all()
        expected = np.arange(n_jets) if indices is None else indices
        np.testing.assert_array_equal(together[batches.inverse], expected)


def test_bad_requests():
    with pytest.raises(JetfmError, match="no jets"):
        LengthBucketedBatches(np.array([]), 3, seed=0)
    with pytest.raises(JetfmError, match="batch_size"):
        InOrderBatches(np.array([1, 2]), 0)
    with pytest.raises(JetfmError, match="0 to 1"):
        InOrderBatches(np.array([1, 2, 3]), 2).indices(2)


# --- batches of blocks ---


@settings(max_examples=100)
@given(
    **SIZES,
    epoch=st.integers(0, 2),
    block=st.integers(1, 50),
    group=st.integers(1, 5),
    chosen=st.booleans(),
)
def test_blocks_give_every_jet_once_an_epoch(n_jets, batch_size, epoch, block, group, chosen):
    pool = np.flatnonzero(np.arange(n_jets) % 3 == 0) if chosen else None
    lengths = lengths_of(n_jets)
    batches = BlockShuffledBatches(lengths, batch_size, 5, pool, block, group)
    n_steps = batches.steps_per_epoch
    drawn = [batches.indices(step) for step in range(epoch * n_steps, (epoch + 1) * n_steps)]
    assert all(b.dtype == np.int64 for b in drawn)
    expected = range(n_jets) if pool is None else pool.tolist()
    assert sorted(np.concatenate(drawn)) == list(expected)
    assert sorted(map(len, drawn))[1:] == [batch_size] * (len(drawn) - 1)
    again = BlockShuffledBatches(lengths, batch_size, 5, pool, block, group)
    for step in reversed(range(n_steps)):  # a resumed training, in any order
        np.testing.assert_array_equal(again.indices(epoch * n_steps + step), drawn[step])


def test_epochs_and_seeds_of_blocks_differ():
    lengths = lengths_of(10_000)
    one, other = (BlockShuffledBatches(lengths, 100, seed, None, 16, 20) for seed in (1, 2))
    first, second = one.indices(0), one.indices(one.steps_per_epoch)
    assert len(np.intersect1d(first, second)) < 20
    assert len(np.intersect1d(first, other.indices(0))) < 20


def test_blocks_bucket_and_mix_as_jets_do():
    """Little padding, no order of lengths, and every class in every batch, from files of one."""
    lengths = lengths_of(200_000)
    batches = BlockShuffledBatches(lengths, 500, seed=0)
    drawn = [batches.indices(step) for step in range(batches.steps_per_epoch)]
    assert padded_share(lengths, drawn) < 0.06
    means = [lengths[b].mean() for b in drawn]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2
    of_class = [np.bincount(b // 20_000, minlength=10) / len(b) for b in drawn]  # ten files
    assert np.std(of_class) < 0.025 and np.min(of_class) > 0


def test_a_group_reads_its_blocks_alone():
    lengths = lengths_of(100_000)
    batches = BlockShuffledBatches(lengths, 100, 0, None, block_jets=50, group_blocks=40)
    blocks = np.unique(np.concatenate([batches.indices(step) for step in range(20)]) // 50)
    assert len(blocks) == 40


def test_many_jets_come_in_blocks(monkeypatch):
    assert isinstance(shuffled_batches(lengths_of(100), 10, 0), LengthBucketedBatches)
    monkeypatch.setattr(batches_module, "MANY_JETS", 100)
    assert isinstance(shuffled_batches(lengths_of(100), 10, 0), BlockShuffledBatches)
    few = shuffled_batches(lengths_of(100), 10, 0, np.arange(99))
    assert isinstance(few, LengthBucketedBatches)
    with pytest.raises(JetfmError, match="no jets"):
        BlockShuffledBatches(np.array([]), 3, seed=0)
    with pytest.raises(JetfmError, match="batch_size"):
        BlockShuffledBatches(np.array([1]), 0, seed=0)
