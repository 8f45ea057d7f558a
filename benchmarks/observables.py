"""Jet observables and dense batches: all jets at once against one by one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import combinations

import fastjet
import numpy as np

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.physics.observables import R0, energy_correlation_d2, four_momenta, jet_observables
from jetfm.schema import KINEMATICS

N_JETS, N_PLAIN = 10_000, 300
COUNTS = np.random.default_rng(0).normal(40, 15, N_JETS).clip(3, 128).astype(int)
OFFSETS = np.concatenate([[0], np.cumsum(COUNTS)])


def run() -> Iterator[dict]:
    """Rows of the benchmark; the plain paths take fewer jets and are scaled."""
    rng = np.random.default_rng(1)
    n = OFFSETS[-1]
    physical = np.column_stack([rng.exponential(15, n) + 0.5, *rng.normal(0, 0.25, (2, n))])
    few = OFFSETS[: N_PLAIN + 1]
    yield _row(
        "observables: tau1..3 about exclusive kt axes",
        lambda: jet_observables(physical, OFFSETS, axes="kt"),
        lambda: [_kt_taus(physical[a:b]) for a, b in zip(few[:-1], few[1:], strict=True)],
    )
    yield _row(
        "observables: D2",
        lambda: energy_correlation_d2(physical, OFFSETS),
        lambda: [_d2(physical[a:b]) for a, b in zip(few[:20], few[1:21], strict=True)],
        n_plain=20,
    )
    yield _row("observables: tau1..3, minimised", lambda: jet_observables(physical, OFFSETS))
    with tempfile.TemporaryDirectory() as folder:
        with JetStoreWriter(folder, KINEMATICS) as writer:
            writer.append(physical, COUNTS, np.zeros(N_JETS, JET_DTYPE))
        store = JetStore(folder)
        batches = np.array_split(rng.permutation(N_JETS), N_JETS // 250)
        yield _row(
            "store: dense batches of 250",
            lambda: [store.dense(batch) for batch in batches],
            lambda: [_dense(store, batch) for batch in batches[:2]],
            n_plain=500,
        )


def _row(name: str, fast: Callable, plain: Callable | None = None, n_plain: int = N_PLAIN) -> dict:
    value = N_JETS / _seconds(fast)
    reference = n_plain / _seconds(plain) if plain else None
    return {
        "name": name,
        "value": round(value),
        "unit": "jets/s",
        "reference": reference and round(reference),
        "ratio": reference and round(value / reference, 1),
    }


def _seconds(action: Callable) -> float:
    """The better of two runs."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def _kt_taus(rows: np.ndarray) -> list[float]:
    """One jet through fastjet's plain objects."""
    particles = [fastjet.PseudoJet(*map(float, p)) for p in four_momenta(rows)]
    definition = fastjet.JetDefinition(fastjet.kt_algorithm, R0)
    sequence = fastjet._swig.ClusterSequence(particles, definition)
    taus = []
    for n in (1, 2, 3):
        axes = [(axis.eta(), axis.phi()) for axis in sequence.exclusive_jets(n)]
        angles = rows[:, None, 1:] - np.array(axes)
        angles[..., 1] = (angles[..., 1] + np.pi) % (2 * np.pi) - np.pi
        nearest = np.hypot(*np.moveaxis(angles, -1, 0)).min(axis=1)
        taus.append(float(rows[:, 0] @ nearest / rows[:, 0].sum() / R0))
    return taus


def _d2(rows: np.ndarray) -> float:
    """Loops over pairs and triples."""
    pt, n = rows[:, 0], range(len(rows))
    apart = np.hypot(*(rows[:, None, 1:] - rows[None, :, 1:]).transpose(2, 0, 1))
    e2 = sum(pt[i] * pt[j] * apart[i, j] for i, j in combinations(n, 2))
    e3 = sum(
        pt[i] * pt[j] * pt[k] * apart[i, j] * apart[j, k] * apart[k, i]
        for i, j, k in combinations(n, 3)
    )
    return e3 * pt.sum() ** 3 / e2**3


def _dense(store: JetStore, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A loop over jets."""
    counts = store.n_constituents[batch]
    x = np.zeros((len(batch), counts.max(), 3), np.float32)
    mask = np.zeros(x.shape[:2], bool)
    for row, jet in enumerate(batch):
        start, stop = store.offsets[jet], store.offsets[jet + 1]
        x[row, : stop - start] = store.constituents[start:stop]
        mask[row, : stop - start] = True
    return x, mask
