"""Small Top Landscape files for tests: random jets, written by pandas as the real ones were."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas

COLUMNS = [f"{name}_{i}" for i in range(200) for name in ("E", "PX", "PY", "PZ")]
TRUTH = ["truthE", "truthPX", "truthPY", "truthPZ"]


def random_momenta(counts, seed: int = 0) -> np.ndarray:
    """(jets, 200, 4) float32 E, px, py, pz: falling pt, zero where padded, summed pt near 600 GeV.

    Jets lie on both sides of eta = 0 and across the wrap of phi.
    """
    rng = np.random.default_rng(seed)
    counts = np.asarray(counts, np.int64)
    shape = (len(counts), 200)
    mask = np.arange(200) < counts[:, None]
    pt = np.sort((rng.exponential(1.0, shape) + 0.02) * mask, axis=1)[:, ::-1]
    pt = 600 * pt / np.maximum(pt.sum(axis=1), 1e-9)[:, None]
    eta = rng.uniform(-2, 2, (len(counts), 1)) + rng.normal(0, 0.1, shape)
    phi = rng.uniform(-np.pi, np.pi, (len(counts), 1)) + rng.normal(0, 0.1, shape)
    p4 = np.stack([pt * np.cosh(eta), pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], -1)
    return p4.astype(np.float32)


def frame(momenta: np.ndarray, labels) -> pandas.DataFrame:
    """The 806 columns for (jets, 200, 4) momenta and (jets,) labels."""
    table = pandas.DataFrame(momenta.reshape(len(momenta), 800), columns=COLUMNS)
    truth = pandas.DataFrame(np.zeros((len(momenta), 4), np.float32), columns=TRUTH)
    flags = pandas.DataFrame({"ttv": 0, "is_signal_new": np.asarray(labels, np.int64)})
    return pandas.concat([table, truth, flags.astype(np.int64)], axis=1)


def toplandscape_file(path: Path, counts, seed: int = 0, labels=None, **changed) -> Path:
    """Write random jets, alternating q/g and top; `changed` columns replace or, as None, go."""
    labels = np.arange(len(counts)) % 2 if labels is None else labels
    table = frame(random_momenta(counts, seed), labels)
    for name, values in changed.items():
        if values is None:
            del table[name]
        else:
            table[name] = values
    return write(path, table)


def write(path: Path, table: pandas.DataFrame, key: str = "table", **options) -> Path:
    """As the files of the Top Landscape: format 'table', compressed with Blosc."""
    table.to_hdf(path, key=key, mode="w", **{"format": "table", "complib": "blosc", "complevel": 5}
                 | options)  # fmt: skip
    return path
