"""The real jet that is most like a generated one.

In two steps: the few that are near in the observables of `jetfm.judging.memorisation`, and of
these the one with the smallest energy mover's distance, which compares constituents. To ask all
real jets for the second would take longer than one likes to wait for a slider.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from jetfm.errors import JetfmError
from jetfm.explore.jet import Jet, jet_in
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.memorisation import OBSERVABLES
from jetfm.physics.energy_mover import energy_mover_distance

N_CANDIDATES = 300  # our choice: a fraction of a second


@dataclass(frozen=True)
class Neighbour:
    """A real jet, its place in the sample, and its energy mover's distance [Delta R].

    The distance is NaN from a jet without constituents.
    """

    jet: Jet
    index: int
    distance: float


class RealJets:
    """Jets among which neighbours are looked for.

    Parameters
    ----------
    sample : those without physical constituents are nobody's neighbours
    n_candidates : near ones in the observables whose constituents are compared

    Raises
    ------
    JetfmError
        No jet with constituents.
    """

    def __init__(self, sample: JetSample, n_candidates: int = N_CANDIDATES) -> None:
        self.sample = sample
        self._places = np.flatnonzero(sample.physical.n_constituents > 0)
        if not len(self._places):
            raise JetfmError("real jets", "no constituents", "a jet that has some")
        table = _table(sample)[self._places]
        self._mean, spread = table.mean(0), table.std(0)
        self._spread = np.where(spread > 0, spread, 1.0)
        self._tree = cKDTree((table - self._mean) / self._spread)
        self._n_candidates = min(n_candidates, len(self._places))

    def __len__(self) -> int:
        return len(self.sample)

    def nearest(self, constituents: np.ndarray) -> Neighbour:
        """The nearest to a jet, (n, 3) pt [GeV], eta_rel, phi_rel, of physical constituents."""
        asked = JetSample(constituents, np.array([0, len(constituents)]))
        vector = (_table(asked)[0] - self._mean) / self._spread
        near = self._tree.query(vector, k=np.arange(1, self._n_candidates + 1))[1]
        indices = self._places[near]
        jets = [jet_in(self.sample, index) for index in indices]
        distances = [energy_mover_distance(constituents, jet.constituents) for jet in jets]
        best = int(np.argmin(distances))  # of NaNs the first: the nearest in the observables
        return Neighbour(jets[best], int(indices[best]), distances[best])


def _table(sample: JetSample) -> np.ndarray:
    """(n_jets, 5) observables; what is undefined counts as zero, so that small jets are alike."""
    table = np.stack([sample.observables[name] for name in OBSERVABLES], axis=1)
    return np.nan_to_num(table)
