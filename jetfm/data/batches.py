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


class LengthBucketedBatches:
    """Shuffled batches of jets of similar length; every jet exactly once an epoch.

    Each epoch shuffles all jets, cuts them into chunks of 64 batches, sorts a chunk by length,
    cuts it into batches, and shuffles the order of the batches. The last, partial batch is kept.

    Parameters
    ----------
    n_constituents : (n_jets,) int, length of every jet of the store
    batch_size : jets in a batch
    seed : of all epochs
    indices : jets to draw from, default all
    shuffle : False keeps the given order of the jets and does not bucket
    """

    def __init__(
        self,
        n_constituents: np.ndarray,
        batch_size: int,
        seed: int,
        indices: np.ndarray | None = None,
        shuffle: bool = True,
    ):
        self._lengths, self._pool = _checked(n_constituents, batch_size, indices)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self._epoch: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._pool) // self.batch_size)

    def indices(self, step: int) -> np.ndarray:
        """Jets of batch `step` (0, 1, ... without end), as (at most batch_size,) int64."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._order, self._batches = self._permutation(epoch)
            self._epoch = epoch
        start = self._batches[batch] * self.batch_size
        return self._order[start : start + self.batch_size]

    def _permutation(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        batches = np.arange(self.steps_per_epoch)
        if not self.shuffle:
            return self._pool, batches
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(self._pool)
        size = CHUNK_BATCHES * self.batch_size  # a whole number: only the last batch is partial
        for start in range(0, len(order), size):
            chunk = order[start : start + size]
            order[start : start + size] = chunk[np.argsort(self._lengths[chunk], kind="stable")]
        return order, rng.permutation(batches)


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


def shuffle_constituents(offsets: np.ndarray, seed: int) -> np.ndarray:
    """Random order of the constituents within every jet.

    Paper 2 feeds jets in random order of their constituents, not in falling pt (arXiv 2512.04149,
    Fig. 2 and official code).

    Parameters
    ----------
    offsets : (n_jets + 1,) int

    Returns
    -------
    (n_total,) int64 permutation of the flat constituent axis that leaves every jet in its place
    """
    counts = np.diff(offsets)
    keys = np.repeat(np.arange(len(counts), dtype=np.float64), counts)
    # below one half: rounding can never lift a key into the next jet
    keys += 0.5 * np.random.default_rng(seed).random(len(keys))
    return np.argsort(keys)


def shuffle_dense(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random order of the constituents of a padded batch: (B, T) int64, padding stays last.

    Apply as ``np.take_along_axis(x, order[..., None], axis=1)``; the mask stays as it is.
    """
    return np.argsort(np.where(mask, rng.random(mask.shape), 2.0), axis=1)


def _checked(n_constituents, batch_size: int, indices) -> tuple[np.ndarray, np.ndarray]:
    lengths = np.asarray(n_constituents)
    pool = np.arange(len(lengths)) if indices is None else np.array(indices, np.int64)
    if len(pool) == 0:
        raise JetfmError("batches", "no jets", "at least one")
    if batch_size < 1:
        raise JetfmError("batch_size", str(batch_size), "a positive number")
    return lengths, pool
