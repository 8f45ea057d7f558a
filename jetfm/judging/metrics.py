"""How good are generated jets? Every number by which this repository judges a generator.

A sample is held against a truth it was not trained on (for generators of tokens: the decoded
tokens of test jets, arXiv 2512.04149, figure 3) and against its training jets. Distances come
with uncertainty and floor (`jetfm.judging.distances`); constituents that are not physical are
counted (`jetfm.judging.jet_sample.Violations`) and left out of the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jetfm.data.batches import seed_of_repeat
from jetfm.judging.classifier_test import classifier_test, over_seeds
from jetfm.judging.distances import N_BOOTSTRAP, Frechet, QuantileKL, Values, Wasserstein, judge
from jetfm.judging.jet_sample import JetSample, acceptance_of, count_violations
from jetfm.judging.memorisation import coverage, neighbours, token_duplicates
from jetfm.physics.energy_flow_polynomials import energy_flow_polynomials
from jetfm.physics.features import Preprocessing
from jetfm.schema import CLASSES, KINEMATICS

#: Quantities of the distances, with their units; those of `KINEMATICS` are the constituents'.
JET_QUANTITIES = {
    "jet_mass": "GeV",
    "jet_pt": "GeV",
    "tau21": "",
    "tau32": "",
    "n_constituents": "",
}
CONSTITUENT_QUANTITIES = dict(zip(KINEMATICS, ("GeV", "", ""), strict=True))
QUANTITIES = JET_QUANTITIES | CONSTITUENT_QUANTITIES
MIN_JETS = 50  # our choice: with fewer of a class it is not judged on its own

NETWORK_SPACE = Preprocessing()  # that the classifier tests see, whatever the generator used


def evaluate_sample(
    sample: JetSample,
    truth: JetSample,
    training: JetSample | None = None,
    *,
    classifiers: Mapping[str, int] | None = None,
    classifier_seeds: int = 1,
    folder: str | Path | None = None,
    n_bootstrap: int = N_BOOTSTRAP,
    seed: int = 0,
    progress: bool = True,
) -> dict:
    """Judge generated jets, all together and, where both samples have labels, class by class.

    Parameters
    ----------
    sample, truth : generated jets, and jets from the distribution that they should have
    training : jets that the generator learned from, for memorisation; if all three have ids,
        tokens are compared as well
    classifiers : epochs of the classifier test, by network of
        `jetfm.judging.classifier_test.NETWORKS`
    classifier_seeds : tests of each network
    folder : for the classifiers' checkpoints; None keeps them in memory

    Returns
    -------
    JSON-able: 'combined', and 'classes' by name, each an entry with

    n_jets : of 'sample', 'truth' and, if given, 'training'
    wasserstein, kl : by quantity of `QUANTITIES`, in its unit and in nat; 'kl' also has 'n_bins'
        and 'n_missed', see `jetfm.judging.distances.QuantileKL`
    frechet : of energy-flow polynomials, see `jetfm.physics.energy_flow_polynomials`
    memorisation : 'distance_ratio', 'close' and, for tokens, 'copied', 'repeated' and the same
        with '_sequence' (`jetfm.judging.memorisation`); None without training jets
    coverage : of the truth by the sample
    classifiers : by network, what `classifier_test` returns; of several tests what
        `jetfm.judging.classifier_test.over_seeds` makes of them
    violations : counts of 'sample' and 'truth', and the 'acceptance' in abs(eta_rel), abs(phi_rel)
        that they refer to: the training jets', or else the truth's

    A measurement is 'value', 'uncertainty', 'n', 'n_undefined' and 'floor', which has the same
    entries and is what the truth scores; None where nothing was defined. Classes with fewer than
    50 jets in either sample are left out; training jets are of the class if they have labels.

    Raises
    ------
    JetfmError
        Bad samples (`JetSample`), fewer than two resamplings, an unknown network.
    """
    options = {
        "classifiers": dict(classifiers or {}),
        "n_tests": classifier_seeds,
        "n_bootstrap": n_bootstrap,
        "seed": seed,
        "progress": progress,
    }
    folder = None if folder is None else Path(folder)
    acceptance = acceptance_of(truth if training is None else training)
    result = {"combined": _entry(sample, truth, training, acceptance, folder, **options)}
    result["classes"] = {}
    if sample.labels is None or truth.labels is None:
        return result
    for jet_class in CLASSES:
        of_class = [_of_class(side, jet_class.index) for side in (sample, truth)]
        if min(map(len, of_class)) < MIN_JETS:
            continue
        known = training
        if training is not None and training.labels is not None:
            jets = _of_class(training, jet_class.index)
            known = training.take(jets) if len(jets) else None
        sides = (side.take(jets) for side, jets in zip((sample, truth), of_class, strict=True))
        inside = None if folder is None else folder / jet_class.name
        entry = _entry(*sides, known, acceptance, inside, **options)
        result["classes"][jet_class.name] = entry
    return result


def _entry(
    sample,
    truth,
    training,
    acceptance,
    folder,
    *,
    classifiers,
    n_tests,
    n_bootstrap,
    seed,
    progress,
) -> dict:
    again = {"n_bootstrap": n_bootstrap, "seed": seed}
    counts = {"sample": len(sample), "truth": len(truth)}
    entry = {"n_jets": counts if training is None else counts | {"training": len(training)}}
    entry |= _distances(sample, truth, again)
    found = {}
    if training is not None:
        found |= neighbours(sample, truth, training, **again)
        if not any(side.ids is None for side in (sample, truth, training)):
            found |= token_duplicates(sample, truth, training, seed)
    entry["memorisation"] = {name: one.to_dict() for name, one in found.items()} or None
    entry["coverage"] = coverage(sample, truth, seed).to_dict()
    entry["classifiers"] = {
        network: over_seeds(
            [
                classifier_test(
                    _network_space(sample),
                    _network_space(truth),
                    None if folder is None else folder / _named(network, number),
                    seed_of_repeat(seed, number),
                    epochs=epochs,
                    progress=progress,
                    network=network,
                )
                for number in range(n_tests)
            ]
        )
        for network, epochs in classifiers.items()
    }
    entry["violations"] = {
        "sample": count_violations(sample, acceptance).to_dict(),
        "truth": count_violations(truth, acceptance).to_dict(),
        "acceptance": list(acceptance),
    }
    return entry


def _named(network: str, number: int) -> str:
    return f"{network}-{number + 1}" if number else network


def _distances(sample: JetSample, truth: JetSample, again: dict) -> dict:
    entry = {"wasserstein": {}, "kl": {}}
    for quantity in QUANTITIES:
        sides = [values_of(side, quantity) for side in (sample, truth)]
        entry["wasserstein"][quantity] = judge(Wasserstein, *sides, **again).to_dict()
        divergence = judge(QuantileKL, *sides, **again).to_dict()
        if divergence["value"] is not None:
            bins = QuantileKL(*sides)
            divergence |= {"n_bins": bins.n_bins, "n_missed": bins.n_missed}
        entry["kl"][quantity] = divergence
    polynomials = [
        Values.of_jets(energy_flow_polynomials(side.physical.constituents, side.physical.offsets))
        for side in (sample, truth)
    ]
    entry["frechet"] = judge(Frechet, *polynomials, **again).to_dict()
    return entry


def values_of(sample: JetSample, quantity: str) -> Values:
    """Values of one of `QUANTITIES`, by jet or by constituent; what is not physical is left out."""
    if quantity in JET_QUANTITIES:
        return Values.of_jets(sample.observables[quantity], quantity)
    physical, column = sample.physical, KINEMATICS.index(quantity)
    return Values.of_constituents(physical.constituents[:, column], physical.offsets, quantity)


def _network_space(sample: JetSample) -> tuple[np.ndarray, np.ndarray]:
    return NETWORK_SPACE.forward(sample.physical.constituents), sample.physical.offsets


def _of_class(sample: JetSample, index: int) -> np.ndarray:
    return np.flatnonzero(sample.labels == index)
