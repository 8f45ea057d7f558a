"""Two sets of jets side by side: is a simulation like the jets that it is meant to be like?

Each quantity of a jet is compared by its mean, its quantiles and the Kolmogorov-Smirnov distance,
each beside what chance alone gives; whole jets by the classifier test
(`jetfm.judging.classifier_test`), whose null is the same test between two random halves of all
jets. All quantities are those of the constituents' momenta, whatever else a file stores.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from scipy.stats import ks_2samp, kstwobign

from jetfm.data.jet_files import Paths, named, several
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.own_jets import classes_of, store_of
from jetfm.errors import JetfmError
from jetfm.figures import generation, style
from jetfm.judging.classifier_test import EPOCHS, classifier_test
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.metrics import NETWORK_SPACE, values_of
from jetfm.judging.samples import original_sample
from jetfm.judging.study import PANELS
from jetfm.physics.jagged import segment_sum
from jetfm.physics.observables import four_momenta, jet_observables
from jetfm.physics.substructure import momenta, substructure
from jetfm.runtime.parallel import one_thread
from jetfm.schema import latex_of
from jetfm.storage.files import make_folder, write_json

MIN_JETS = 50  # of each set: our choice
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
UNITS = {"pt": "GeV", "mass": "GeV", "sdmass": "GeV"}  # the other quantities have none

NUMBERS, FIGURE = "numbers.json", "figure"


def quantities(jets: JetSample) -> dict[str, np.ndarray]:
    """By name, a value for each jet; constituents are taken for massless.

    Returns
    -------
    n_constituents; pt, mass, sdmass [GeV] (soft drop with beta = 0, z_cut = 0.1, R = 0.8); tau1 to
    tau4 as JetClass has them; tau21, tau32, NaN below three constituents; leading_share, the first
    constituent's in the sum of all pt; width, the mean distance from the axis with the
    weight of the transverse momentum
    """
    jets = jets.physical
    pt, eta, phi = jets.constituents.T
    found = jet_observables(jets.constituents, jets.offsets)
    shapes = substructure(momenta(*four_momenta(jets.constituents).T, jets.n_constituents))
    found |= {name: shapes[name] for name in ("sdmass", "tau4")}
    sums = segment_sum(np.stack([pt, pt * np.hypot(eta, phi)], 1), jets.offsets)
    found["leading_share"] = np.maximum.reduceat(pt, jets.offsets[:-1]) / sums[:, 0]
    found["width"] = sums[:, 1] / sums[:, 0]
    return found


def compare(
    jets: JetSample,
    other: JetSample,
    n_seeds: int = 3,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """Hold two sets of jets against each other.

    Parameters
    ----------
    n_seeds : classifier tests, and as many of the null; 0 leaves them out
    epochs : of each classifier test

    Returns
    -------
    JSON-able, pairs in the order of the arguments:

    n_jets : of both
    quantities : by name of `quantities`: 'mean' and 'error', of both; 'ratio' of the means and
        'ratio_error'; 'quantiles', a pair for each of `QUANTILES`; 'ks', 'ks_expected', the mean of
        that distance for jets of one origin, and 'p_value'
    classifier : 'auc' and 'null', one for each seed
    histograms : of `jetfm.judging.study.PANELS`, 'jets' and 'other'

    Raises
    ------
    JetfmError
        Fewer than 50 jets in a set.
    """
    for name, one in (("--jets", jets), ("--with", other)):
        if min(len(one), int((one.physical.n_constituents > 0).sum())) < MIN_JETS:
            raise JetfmError(name, f"{len(one)} jets", f"at least {MIN_JETS} with constituents")
    sides = [one.take(np.flatnonzero(one.physical.n_constituents > 0)) for one in (jets, other)]
    values = [quantities(side) for side in sides]
    with one_thread():
        tests = _classifier_tests(sides, n_seeds, epochs, seed, progress)
    return {
        "n_jets": [len(side) for side in sides],
        "quantities": {name: _compared(values[0][name], values[1][name]) for name in values[0]},
        "classifier": tests,
        "histograms": {
            name: {
                side: style.to_data(style.histogram(values_of(one, name).values, style.BINS[name]))
                for side, one in zip(("jets", "other"), sides, strict=True)
            }
            for name in PANELS
        },
    }


def _compared(first: np.ndarray, second: np.ndarray) -> dict:
    sides = [values[~np.isnan(values)] for values in (first, second)]
    means = [float(side.mean()) for side in sides]
    errors = [float(side.std() / np.sqrt(len(side))) for side in sides]
    ratio = means[0] / means[1] if means[1] else np.nan
    relative = np.hypot(errors[0] / (means[0] or np.nan), errors[1] / (means[1] or np.nan))
    test = ks_2samp(*sides)
    n_effective = len(sides[0]) * len(sides[1]) / (len(sides[0]) + len(sides[1]))
    quantiles = np.stack([np.quantile(side, QUANTILES) for side in sides], 1)
    return {
        "mean": means,
        "error": errors,
        "ratio": float(ratio),
        "ratio_error": float(abs(ratio) * relative),
        "quantiles": dict(zip(map(str, QUANTILES), quantiles.tolist(), strict=True)),
        "ks": float(test.statistic),
        "ks_expected": float(kstwobign.mean() / np.sqrt(n_effective)),
        "p_value": float(test.pvalue),
    }


def _classifier_tests(sides, n_seeds: int, epochs: int, seed: int, progress: bool) -> dict:
    """AUC between the two sets, and between random halves of both together."""

    def test(pair, number: int) -> float:
        network = [(NETWORK_SPACE.forward(one.constituents), one.offsets) for one in pair]
        return classifier_test(*network, None, number, epochs=epochs, progress=progress)["auc"]

    sides = [side.physical for side in sides]
    n_each = min(map(len, sides))
    found = {"auc": [], "null": []}
    for number in range(seed, seed + n_seeds):
        rng = np.random.default_rng([number, 53])
        equal = [side.take(rng.choice(len(side), n_each, replace=False)) for side in sides]
        offsets = np.concatenate([equal[0].offsets, equal[0].offsets[-1] + equal[1].offsets[1:]])
        both = JetSample(np.concatenate([one.constituents for one in equal]), offsets)
        order = rng.permutation(2 * n_each)
        halves = [both.take(order[:n_each]), both.take(order[n_each:])]
        found["auc"].append(test(equal, number))
        found["null"].append(test(halves, number))
    return found


def as_text(result: Mapping, names: tuple[str, str] = ("jets", "with")) -> str:
    """Table of a comparison, its notes below."""
    lines = [
        f"{'':16s}{names[0]:>22s}{names[1]:>22s}{'ratio':>18s}{'KS':>7s}{'by chance':>11s}{'p':>8s}"
    ]
    for name, one in result["quantities"].items():
        label = f"{name} [{UNITS[name]}]" if name in UNITS else name
        means = [f"{m:.4g} +- {e:.2g}" for m, e in zip(one["mean"], one["error"], strict=True)]
        ratio = f"{one['ratio']:.3f} +- {one['ratio_error']:.3f}"
        lines.append(
            f"{label:16s}{means[0]:>22s}{means[1]:>22s}{ratio:>18s}"
            f"{one['ks']:7.3f}{one['ks_expected']:11.3f}{one['p_value']:8.2g}"
        )
    lines.append(f"{result['n_jets'][0]:,} jets against {result['n_jets'][1]:,}; means")
    auc, null = (np.array(result["classifier"][key]) for key in ("auc", "null"))
    if len(auc):
        spreads = [style.seed_spread(tests) for tests in (auc, null)]
        lines.append(
            f"classifier test: AUC {auc.mean():.3f} +- {spreads[0]:.3f} over {len(auc)} seeds; "
            f"between random halves of all jets {null.mean():.3f} +- {spreads[1]:.3f}"
        )
    return "\n".join(lines)


def compare_files(
    jets: Paths,
    other: Paths,
    out: str | Path,
    classes: tuple[str, ...] = (),
    max_constituents: int = 200,
    n_seeds: int = 3,
    epochs: int = EPOCHS,
    n_jets: int | None = None,
    seed: int = 0,
    progress: bool = True,
    any_pt: bool = False,
    layout: Layout = JETCLASS,
) -> dict:
    """`compare` jets in files, and write ``numbers.json`` and ``figure.pdf``, ``.png``.

    Parameters
    ----------
    jets, other : jets stores, JetClass ROOT, parquet or Top Landscape h5 files, or folders of them
    out : folder; the jets' stores go there, too
    classes : only jets of these
    max_constituents : leading ones of each jet that are looked at
    n_jets : at most so many of each, at random
    any_pt : take jets of another selection than the data sets'
    layout : what files call their branches, and classes by expression; files with JetClass's own
        names are read by those

    Raises
    ------
    JetfmError
        Files that cannot be read, or fewer than 50 jets.
    """
    classes = tuple(dict.fromkeys(classes_of(classes, layout, jets, other)))
    out, samples = make_folder(out), []
    for number, path in enumerate((jets, other)):
        store = store_of(path, out / f"store-{number}", progress, any_pt=any_pt, layout=layout)
        if classes and not len(store.indices_of(*classes)):
            found = f"no jets of {', '.join(classes)}"
            raise JetfmError(named(path), found, "some, with their labels; or no --classes")
        samples.append(original_sample(store, max_constituents, classes, n_jets, seed))
    names = _names(several(jets)[0], several(other)[0])
    result = {"names": names, **compare(*samples, n_seeds, epochs, seed, progress)}
    write_json(out / NUMBERS, result)
    style.use_style()
    figure = generation(
        {
            quantity: {names[1]: pair["other"], names[0]: pair["jets"]}
            for quantity, pair in result["histograms"].items()
        },
        {names[1]: result["n_jets"][1]},
        [{"label": names[0], "truth": names[1], "n_jets": result["n_jets"][0]}],
        ", ".join(latex_of(name) for name in classes) or "All classes",
    )
    style.save(figure, result["histograms"], FIGURE, out)
    return result


def _names(first: str | Path, second: str | Path) -> list[str]:
    """What to call the two sets: the shortest ends of their paths that differ."""
    parts = [Path(path).resolve().parts for path in (first, second)]
    for length in range(1, max(map(len, parts)) + 1):
        ends = ["/".join(some[-length:]) for some in parts]
        if ends[0] != ends[1]:
            return ends
    return ["first", "second"]
