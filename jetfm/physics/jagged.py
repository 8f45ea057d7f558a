"""Constituents of many jets, one after another, and laid out jet by jet."""

from __future__ import annotations

import numpy as np


def padded(rows: np.ndarray, mask: np.ndarray, dtype=None) -> np.ndarray:
    """Lay rows (n, ...) out over the n true slots of a (B, T) mask, zero elsewhere."""
    x = np.zeros((mask.size, *rows.shape[1:]), dtype or rows.dtype)
    x[np.flatnonzero(mask)] = rows  # twice as fast as x[mask] on two axes
    return x.reshape(*mask.shape, *rows.shape[1:])


def segment_sum(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Sum over the first axis within each jet: (n_total, ...) -> (n_jets, ...), 0 where empty."""
    result = np.zeros((len(offsets) - 1, *values.shape[1:]), values.dtype)
    full = np.diff(offsets) > 0
    if full.any():  # reduceat misreads empty segments, so it sees only the full ones
        result[full] = np.add.reduceat(values, offsets[:-1][full], axis=0)
    return result
