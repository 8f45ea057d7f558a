"""Which jets go into which batch: jets of similar length together, reproducible from the step.

Padding is wasted work, and attention pays for it quadratically. A batch is therefore a pure
function of (seed, step): a resumed training sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jetfm.errors import JetfmError

CHUNK_BATCHES = 64  # our choice: jets are sorted by length within this many batches

# Our choices for stores too large to shuffle jet by jet. Files hold one class each: with 512 blocks
# the share of a class in a group, 10 %, is right within 1.3 %. A block is some 100 kB of tokens.
BLOCK_JETS, GROUP_BLOCKS = 128, 512
MANY_JETS = 2_000_000  # from here on, batches come from blocks
_FOR_A_MEAN = 10_000  # jets


def seed_of(*numbers: int) -> int:
    """Seed of one of torch's generators, a hash of e.g. (seed, step)."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def seed_of_repeat(seed: int, number: int) -> int:
    """Seed of the repeat `number` of a training, its own for 0; a prime apart is our choice."""
    return seed + 1_000_003 * number


def spread_over(n: int, most: int) -> np.ndarray:
    """Evenly spaced places among n, at most so many, ascending."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).astype(np.int64))


def mean_length(n_constituents: np.ndarray, indices: np.ndarray | None = None) -> float:
    """Mean of the jets' lengths, of ten thousand evenly spaced ones where there are more.

    Parameters
    ----------
    n_constituents : (n_jets,) int, anything that numpy indices index
    indices : jets that count, default all
    """
    some = spread_over(len(n_constituents if indices is None else indices), _FOR_A_MEAN)
    return float(np.mean(n_constituents[some if indices is None else indices[some]]))


class LengthBucketedBatches:
    """Shuffled batches of jets of similar length; every jet exactly once an epoch.

    Each epoch shuffles all jets, cuts them into chunks of 64 batches, sorts a chunk by length,
    cuts it into batches, and shuffles the order of the batches. The last, partial batch is kept.
    With chunks of one batch jets of any length are together: for classifiers, since length tells
    the class, and a batch of nearly one class pulls the scores its way.

    Parameters
    ----------
    n_constituents : (n_jets,) int, length of every jet of the store
    batch_size : jets in a batch
    seed : of all epochs
    indices : jets to draw from, default all
    shuffle : False keeps the given order of the jets and does not bucket
    chunk_batches : batches in a chunk
    """

    def __init__(
        self,
        n_constituents: np.ndarray,
        batch_size: int,
        seed: int,
        indices: np.ndarray | None = None,
        shuffle: bool = True,
        chunk_batches: int = CHUNK_BATCHES,
    ):
        self._lengths, pool = _checked(n_constituents, batch_size, indices)
        # 32 bits are enough for any store, and halve what an epoch keeps in memory
        self._pool = None if indices is None else pool.astype(np.int32)
        self.n_jets = len(pool)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.chunk_batches = chunk_batches
        self._epoch: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_jets // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Jets of batch `step` (0, 1, ... without end), as (at most batch_size,) int64."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._begin(epoch)
        place = self._batches[batch]
        if self.shuffle:
            self._sort(place // self.chunk_batches)
        start = place * self.batch_size
        return self._order[start : start + self.batch_size].astype(np.int64)

    def _begin(self, epoch: int) -> None:
        pool = np.arange(self.n_jets, dtype=np.int32) if self._pool is None else self._pool
        self._order, self._batches = pool, np.arange(self.steps_per_epoch)
        if self.shuffle:
            rng = np.random.default_rng([self.seed, epoch])
            self._order, self._batches = rng.permutation(pool), rng.permutation(self._batches)
        self._sorted = np.zeros(-(-self.steps_per_epoch // self.chunk_batches), bool)
        self._epoch = epoch

    def _sort(self, chunk: int) -> None:
        """Sort a chunk by length when its first batch is asked for."""
        if self._sorted[chunk]:
            return
        size = self.chunk_batches * self.batch_size  # whole: only the last batch is partial
        jets = self._order[chunk * size : (chunk + 1) * size]
        jets[:] = jets[np.argsort(self._lengths[jets], kind="stable")]
        self._sorted[chunk] = True


class BlockShuffledBatches:
    """Like `LengthBucketedBatches`, for any number of jets: memory and reading stay local.

    An epoch is a random order of blocks of neighbouring jets. A group, the jets of successive
    blocks, is shuffled, sorted by length and cut into batches, which come in random order; then
    the next. Every jet exactly once an epoch; the last, partial batch is kept, and a batch is a
    pure function of (seed, step). In memory: four bytes a block and one group.

    Parameters
    ----------
    n_constituents : (n_jets,) int, anything that numpy indices index; only read by group
    batch_size, seed, indices : as there; `indices` best ascend, so that blocks are neighbours
    block_jets : jets in a block, what is read in one piece
    group_blocks : blocks in a group, or as many more as a batch needs
    """

    def __init__(
        self,
        n_constituents: np.ndarray,
        batch_size: int,
        seed: int,
        indices: np.ndarray | None = None,
        block_jets: int = BLOCK_JETS,
        group_blocks: int = GROUP_BLOCKS,
    ):
        self._lengths, self._pool = n_constituents, indices
        self.n_jets = len(n_constituents if indices is None else indices)
        _check_request(self.n_jets, batch_size)
        self.batch_size, self.seed, self.block_jets = batch_size, seed, block_jets
        self._batches = max(block_jets * group_blocks // batch_size, 1)  # in a group
        self._epoch: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n_jets // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Jets of batch `step` (0, 1, ... without end), as (at most batch_size,) int64."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            n_blocks = -(-self.n_jets // self.block_jets)
            rng = np.random.default_rng([self.seed, epoch])
            self._order = rng.permutation(np.arange(n_blocks, dtype=np.int32))
            self._short = int(np.argmax(self._order == n_blocks - 1))  # where the last block is
            self._epoch, self._group = epoch, None
        group, place = divmod(batch, self._batches)
        if group != self._group:
            self._begin(epoch, group)
        start = self._order_of_batches[place] * self.batch_size
        return self._jets[start : start + self.batch_size]

    def group(self, step: int, rank: int = 0, world: int = 1) -> tuple[tuple[int, int], np.ndarray]:
        """Which group the batch of this step is in, and its jets, ascending.

        Of several processes, those of number `rank`: every `world`-th jet of each batch.
        """
        self.indices(step)
        places = np.arange(len(self._jets)) % self.batch_size
        return (self._epoch, self._group), np.sort(self._jets[places % world == rank])

    def _begin(self, epoch: int, group: int) -> None:
        size = self._batches * self.batch_size
        places = np.arange(group * size, min((group + 1) * size, self.n_jets))
        # Only the last block of the store may be short; places behind it are shifted by its gap.
        missing = -self.n_jets % self.block_jets
        end_of_short = (self._short + 1) * self.block_jets - missing
        places = np.where(places >= end_of_short, places + missing, places)
        block, within = np.divmod(places, self.block_jets)
        jets = self._order[block].astype(np.int64) * self.block_jets + within
        jets = jets if self._pool is None else np.asarray(self._pool[jets], np.int64)
        lengths = self._lengths[jets]  # neighbours, in the order of the store
        rng = np.random.default_rng([self.seed, epoch, group])
        order = rng.permutation(len(jets))
        order = order[np.argsort(lengths[order], kind="stable")]
        self._jets = jets[order]
        self._order_of_batches = rng.permutation(-(-len(jets) // self.batch_size))
        self._group = group


def shuffled_batches(
    n_constituents: np.ndarray, batch_size: int, seed: int, indices: np.ndarray | None = None
) -> LengthBucketedBatches | BlockShuffledBatches:
    """Batches for training: jets shuffled one by one, or by blocks where there are very many."""
    n_jets = len(n_constituents if indices is None else indices)
    kind = LengthBucketedBatches if n_jets < MANY_JETS else BlockShuffledBatches
    return kind(n_constituents, batch_size, seed, indices)


class InOrderBatches:
    """Batches for evaluation: all jets once, from short to long, so that little is padded.

    Concatenate the results of all batches and index them with `inverse` to get them in the order
    of `indices` (or of the store).
    """

    def __init__(
        self, n_constituents: np.ndarray, batch_size: int, indices: np.ndarray | None = None
    ):
        lengths, pool = _checked(n_constituents, batch_size, indices)
        by_length = np.argsort(lengths[pool], kind="stable")
        self.batch_size = batch_size
        self.order = pool[by_length]
        self.inverse = np.empty_like(by_length)
        self.inverse[by_length] = np.arange(len(pool))

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.order) // self.batch_size)

    def __len__(self) -> int:
        return self.steps_per_epoch

    def indices(self, step: int) -> np.ndarray:
        """Jets of batch `step`, from 0 to ``steps_per_epoch - 1``."""
        if not 0 <= step < self.steps_per_epoch:
            raise JetfmError("step", str(step), f"0 to {self.steps_per_epoch - 1}")
        return self.order[step * self.batch_size : (step + 1) * self.batch_size]

    def __iter__(self):
        return (self.indices(step) for step in range(self.steps_per_epoch))


#: Says which jets are in which batch.
Schedule = LengthBucketedBatches | BlockShuffledBatches | InOrderBatches


class Reading:
    """Where the jets of a step are to be read: in the store, or in memory, a group at a time.

    Groups of `BlockShuffledBatches` are read when the first of their jets is asked for.

    Parameters
    ----------
    store : with ``hold(jets)``, as `jetfm.data.store.RaggedFolder`
    rank, world : the part of every batch that will be asked for
    """

    def __init__(self, store: Any, schedule: Schedule, rank: int = 0, world: int = 1) -> None:
        self.store, self.schedule, self.rank, self.world = store, schedule, rank, world
        self._key = self._held = self._jets = None

    def of(self, step: int, jets: np.ndarray) -> tuple[Any, np.ndarray]:
        """A store, and the indices there of jets of the batch of this step."""
        if not isinstance(self.schedule, BlockShuffledBatches) or not len(jets):
            return self.store, jets
        key, held = self.schedule.group(step, self.rank, self.world)
        if key != self._key:
            self._held = None  # first let go of the last one
            self._held, self._jets, self._key = self.store.hold(held), held, key
        return self._held, np.searchsorted(self._jets, jets)


class EvaluationBatches:
    """All jets once, short ones first, fetched anew in the same order at every iteration.

    Parameters
    ----------
    schedule : says which jets are in which batch
    collate : fetches a batch, ``collate(indices)``
    """

    def __init__(self, schedule: InOrderBatches, collate: Callable[[np.ndarray], Any]) -> None:
        self.schedule, self.collate = schedule, collate

    def __iter__(self) -> Iterator[Any]:
        return (self.collate(indices) for indices in self.schedule)

    def __len__(self) -> int:
        return len(self.schedule)


def _checked(n_constituents, batch_size: int, indices) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.asarray(n_constituents)
    pool = np.arange(len(lengths)) if indices is None else np.array(indices, np.int64)
    _check_request(len(pool), batch_size)
    return lengths, pool


def _check_request(n_jets: int, batch_size: int) -> None:
    if n_jets == 0:
        raise JetfmError("batches", "no jets", "at least one")
    if batch_size < 1:
        raise JetfmError("batch_size", str(batch_size), "a positive number")
