"""Simulated jets: share of the time inside Pythia, jets per second, two workers against one."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks._rows import row
from jetfm.simulation.detector_card import load_card
from jetfm.simulation.processes import CAMPAIGNS
from jetfm.simulation.pythia import Generator
from jetfm.simulation.simulate import generate_jets, simulate

N_JETS = 300  # per class, for the share and the rate
SCALING = {"classes": ["QCD", "Tbqq"], "jets_per_class": 2000, "jets_per_file": 500}
SHARE_GOAL, SCALING_GOAL = 0.85, 1.8


class _Clocked:
    """Pythia with a clock around its event generation and its initialisation."""

    def __init__(self, pythia, clock: dict[str, float]):
        self._pythia, self._clock = pythia, clock

    def __getattr__(self, name):
        return getattr(self._pythia, name)

    def nextBatch(self, *args, **options):
        start = time.perf_counter()
        batch = self._pythia.nextBatch(*args, **options)
        self._clock["generation"] += time.perf_counter() - start
        return batch


@contextmanager
def _clocked_generators() -> Iterator[dict[str, float]]:
    clock = {"generation": 0.0, "initialisation": 0.0}
    original = Generator.__init__

    def start(self, *args, **options):
        begin = time.perf_counter()
        original(self, *args, **options)
        clock["initialisation"] += time.perf_counter() - begin
        self._pythia = _Clocked(self._pythia, clock)

    Generator.__init__ = start
    try:
        yield clock
    finally:
        Generator.__init__ = original


def run() -> Iterator[dict]:
    """Rows of the benchmark; references are the goals, except for rates."""
    card = load_card("cms")
    generate_jets("jetclass", "Wqq", 10, card, 1, np.random.default_rng(1))  # imports, first calls
    total = {"generation": 0.0, "initialisation": 0.0, "all": 0.0}
    classes = list(CAMPAIGNS["jetclass"].processes)
    for name in classes:
        with _clocked_generators() as clock:
            start = time.perf_counter()
            generate_jets("jetclass", name, N_JETS, card, 11, np.random.default_rng(1))
            wall = time.perf_counter() - start
        for key, value in (clock | {"all": wall}).items():
            total[key] += value
        rate = N_JETS / (wall - clock["initialisation"])
        yield row(f"simulation: {name}, one core", rate, "jets/s", None, digits=3)
    events = total["all"] - total["initialisation"]
    yield row(
        "simulation: ten classes, one core",
        N_JETS * len(classes) / events,
        "jets/s",
        None,
        digits=3,
    )
    share = total["generation"] / events
    yield row("simulation: share of the events' time in Pythia", share, "1", SHARE_GOAL, digits=3)
    share = (total["generation"] + total["initialisation"]) / total["all"]
    yield row("simulation: the same with Pythia's start", share, "1", SHARE_GOAL, digits=3)
    # A file of JetClass's default task holds 1000 jets, which makes the start a smaller part.
    share = total["generation"] / (events + total["initialisation"] * N_JETS / 1000)
    yield row("simulation: generation alone, 1000 jets a file", share, "1", SHARE_GOAL, digits=3)

    walls = []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            simulate(Path(folder), workers=workers, progress=False, **SCALING)
            walls.append(time.perf_counter() - start)
    n_jets = SCALING["jets_per_class"] * len(SCALING["classes"])
    yield row("simulation: two workers, files written", n_jets / walls[1], "jets/s", None, digits=3)
    yield row("simulation: two workers over one", walls[0] / walls[1], "1", SCALING_GOAL, digits=3)
