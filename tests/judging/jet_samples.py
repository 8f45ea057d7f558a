"""Random jets for the tests of generative metrics."""

from __future__ import annotations

import numpy as np

from jetfm.judging.jet_sample import JetSample


def random_sample(seed: int, counts, width: float = 0.2, **more) -> JetSample:
    """Jets with a falling pt spectrum; `width` is that of the angles."""
    rng = np.random.default_rng([seed, 3])
    n = int(np.sum(counts))
    x = np.column_stack([rng.exponential(15, n) + 0.5, rng.normal(0, width, (n, 2))])
    return JetSample(x, np.concatenate([[0], np.cumsum(counts)]), **more)


def sample_of(seed: int, n_jets: int, width: float = 0.2, **more) -> JetSample:
    """Jets of 3 to 30 constituents."""
    return random_sample(seed, np.random.default_rng(seed).integers(3, 31, n_jets), width, **more)


def joined(*samples: JetSample) -> JetSample:
    """Jets of several samples, with ids where all have them."""
    counts = np.concatenate([sample.n_constituents for sample in samples])
    ids = None
    if all(sample.ids is not None for sample in samples):
        ids = np.concatenate([sample.ids for sample in samples])
    constituents = np.concatenate([sample.constituents for sample in samples])
    return JetSample(constituents, np.concatenate([[0], np.cumsum(counts)]), ids=ids)
