"""Does a generator copy its training jets, and does it reach all of the truth?

Two questions with the same yardstick, the truth itself: jets of the test set meet training jets by
chance as well. For jets of tokens, equality is exact. For others, nearness in a few observables:
copies are nearer to the training jets than fresh jets are.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.spatial import cKDTree

from jetfm.errors import JetfmError
from jetfm.judging.distances import N_BOOTSTRAP, Judged
from jetfm.judging.jet_sample import JetSample
from jetfm.physics.statistics import Estimate

#: Axes of the space in which jets are near each other, in units of the truth's spread.
OBSERVABLES = ("jet_mass", "jet_pt", "tau21", "tau32", "n_constituents")
CLOSE = 0.01  # our choice: the share of truth jets that count as close to a training jet


def token_duplicates(
    sample: JetSample, truth: JetSample, training: JetSample, seed: int = 0
) -> dict[str, Judged]:
    """Shares of jets whose tokens occur among the training jets, or earlier in the same sample.

    Parameters
    ----------
    sample, truth, training : with `ids` of one tokenizer

    Returns
    -------
    'copied' : share of jets with the tokens of a training jet, in any order (a multiset)
    'copied_sequence' : the same tokens in the same order
    'repeated', 'repeated_sequence' : share of jets that repeat an earlier one of their sample. It
        grows with the number of jets, so equally many of sample and truth are taken, at random.

    The floor is the truth's share, uncertainties are binomial.

    Raises
    ------
    JetfmError
        A sample without ids.
    """
    sides = {"sample": sample, "truth": truth, "training": training}
    missing = [name for name, side in sides.items() if side.ids is None]
    if missing:
        raise JetfmError("token duplicates", f"no ids of {', '.join(missing)}", "ids of all three")
    rng = np.random.default_rng([seed, 23])
    n_each = min(len(sample), len(truth))
    result = {}
    for suffix, ordered in (("", False), ("_sequence", True)):
        known = set(_keys(training, ordered))
        keys = {"sample": _keys(sample, ordered), "truth": _keys(truth, ordered)}
        copied = {k: np.array([key in known for key in v]) for k, v in keys.items()}
        result[f"copied{suffix}"] = Judged(share(copied["sample"]), share(copied["truth"]))
        repeated = {}
        for name, all_keys in keys.items():
            some = [all_keys[i] for i in rng.permutation(len(all_keys))[:n_each]]
            n_repeats = n_each - len(set(some))
            repeated[name] = share(np.arange(n_each) < n_repeats)
        result[f"repeated{suffix}"] = Judged(repeated["sample"], repeated["truth"])
    return result


def neighbours(
    sample: JetSample,
    truth: JetSample,
    training: JetSample,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
) -> dict[str, Judged]:
    """How near to the training jets a sample lies, compared with the truth.

    Returns
    -------
    'distance_ratio' : median distance to the nearest training jet, of the sample over that of the
        truth. Below one: nearer than fresh jets are; above: off the truth. The uncertainty is of a
        bootstrap over jets of both; the floor is one, with the spread of truth over truth.
    'close' : share of jets nearer to a training jet than all but 1 % of the truth are, which finds
        copies among many other jets; the floor is thus 0.01

    Notes
    -----
    Distances are Euclidean in `OBSERVABLES`, each in units of the truth's standard deviation. Jets
    for which one is undefined are left out and counted. A median of zero leaves no ratio (NaN).
    """
    vectors, n_undefined = _vectors(sample, truth, training)
    nothing = Estimate(math.nan, math.nan, 0, n_undefined)
    if not all(map(len, vectors)):
        return {"distance_ratio": Judged(nothing, nothing), "close": Judged(nothing, nothing)}
    of_sample, of_truth, of_training = vectors
    tree = cKDTree(of_training)
    distances, expected = tree.query(of_sample)[0], tree.query(of_truth)[0]
    n, rng = min(len(distances), len(expected)), np.random.default_rng([seed, 29])

    def median(values: np.ndarray, size: int) -> float:
        return float(np.median(rng.choice(values, size)))

    drawn, floors = [], []
    for _ in range(n_bootstrap):
        below = median(expected, len(expected))
        if below > 0:
            drawn.append(median(distances, len(distances)) / below)
            floors.append(median(expected, len(distances)) / below)
    below = float(np.median(expected))
    ratio = float(np.median(distances)) / below if below > 0 else math.nan
    spread, floor_spread = (np.std(x, ddof=1) if len(x) > 1 else math.nan for x in (drawn, floors))
    threshold = np.quantile(expected, CLOSE, method="lower")
    return {
        "distance_ratio": Judged(
            Estimate(ratio, float(spread), n, n_undefined),
            Estimate(1.0, float(floor_spread), n, n_undefined),
        ),
        "close": Judged(
            share(distances <= threshold, n_undefined), share(expected <= threshold, n_undefined)
        ),
    }


def coverage(sample: JetSample, truth: JetSample, seed: int = 0) -> Judged:
    """Share of truth jets that are the nearest to some jet of the sample, in `OBSERVABLES`.

    What is covered is a random half of the truth; the floor is the share that the other half
    covers, with as many jets on both sides. Low coverage is a sign of missing modes or too little
    variety. The uncertainty is binomial.
    """
    rng = np.random.default_rng([seed, 31])
    (of_sample, of_truth), n_undefined = _vectors(sample, truth)
    of_truth, half = rng.permutation(of_truth), len(of_truth) // 2
    n_each = min(len(of_sample), half)
    if n_each == 0:
        nothing = Estimate(math.nan, math.nan, 0, n_undefined)
        return Judged(nothing, nothing)
    tree = cKDTree(of_truth[:half])
    covered = []
    for jets in (rng.permutation(of_sample)[:n_each], of_truth[half : half + n_each]):
        found = np.zeros(half, bool)
        found[tree.query(jets)[1]] = True
        covered.append(share(found, n_undefined))
    return Judged(*covered)


def share(hits: np.ndarray, n_undefined: int = 0) -> Estimate:
    """Share of true entries; binomial uncertainty, as if one more hit and miss had been seen.

    Without these a share of none would be known exactly (our choice: Laplace's estimate).
    """
    n = len(hits)
    p = (hits.sum() + 1) / (n + 2)
    return Estimate(float(hits.mean()), math.sqrt(p * (1 - p) / n), n, n_undefined)


def _keys(sample: JetSample, ordered: bool) -> list[bytes]:
    """The tokens of every jet as bytes: equal if and only if the jets are."""
    ids = np.asarray(sample.ids, np.int64)
    if not ordered:
        of_jet = np.repeat(np.arange(len(sample)), sample.n_constituents)
        ids = ids[np.lexsort((ids, of_jet))]
    bounds = sample.offsets.tolist()
    return [ids[a:b].tobytes() for a, b in zip(bounds[:-1], bounds[1:], strict=True)]


def _vectors(sample: JetSample, truth: JetSample, *more: JetSample) -> tuple[list, int]:
    """(n, 5) standardised observables of each, and how many jets had to be left out."""
    tables = [
        np.stack([side.observables[name] for name in OBSERVABLES], axis=1)
        for side in (sample, truth, *more)
    ]
    defined = [table[~np.isnan(table).any(1)] for table in tables]
    n_undefined = sum(map(len, tables)) - sum(map(len, defined))
    if not len(defined[1]):
        return defined, n_undefined
    mean, spread = defined[1].mean(0), defined[1].std(0)
    spread[spread == 0] = 1.0
    return [(table - mean) / spread for table in defined], n_undefined
