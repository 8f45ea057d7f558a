"""Samples of jets to judge and to judge by: from a generator's folder, a token or a jets store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.judging.jet_sample import JetSample
from jetfm.physics.features import Preprocessing
from jetfm.schema import KINEMATICS
from jetfm.storage.files import read_json, write_json, write_npy

# Beside the jets and not part of them: a wall time differs from run to run.
_SPEED = Path("training") / "speed.json"


class Generated(Protocol):
    """What every generator returns; those of tokens have `ids` as well."""

    decoded: np.ndarray  # (n_total, F) network space
    offsets: np.ndarray  # (n_jets + 1,)
    requested: np.ndarray  # (n_jets,)


def write_generated(folder: Path, jets: Generated, seconds: float) -> dict:
    """Write generated jets and how long they took; return what there is to count at once.

    Returns
    -------
    'n_jets', and 'n_unfinished': jets that were cut at the largest length, None for a generator
    that always gives the multiplicity asked for
    """
    for name in ("decoded", "offsets", "requested", "ids"):
        array = getattr(jets, name, None)
        if array is not None:
            write_npy(folder / f"{name}.npy", array)
    write_json(folder / _SPEED, {"seconds": seconds})
    finished = getattr(jets, "finished", None)
    n_unfinished = None if finished is None else int((~finished).sum())
    return {"n_jets": len(jets.requested), "n_unfinished": n_unfinished}


def read_generated(folder: Path, preprocessing: Preprocessing) -> JetSample:
    """Generated jets in physical space.

    Parameters
    ----------
    preprocessing : network space of the generator
    """
    arrays = {
        name: np.load(folder / f"{name}.npy", allow_pickle=False)
        for name in ("decoded", "offsets", "requested", "ids")
        if (folder / f"{name}.npy").exists()
    }
    physical = _kinematics(arrays["decoded"], preprocessing)
    return JetSample(physical, arrays["offsets"], arrays["requested"], ids=arrays.get("ids"))


def seconds_per_1000(folder: Path, n_jets: int) -> float:
    """Time that 1000 jets took, on the machine and the one core that made them."""
    return 1000 * read_json(folder / _SPEED)["seconds"] / n_jets


def decoded_sample(
    tokens: TokenStore,
    preprocessing: Preprocessing,
    classes: Sequence[str] = (),
    n_jets: int | None = None,
    seed: int = 0,
) -> JetSample:
    """Tokenised and decoded jets: the truth of a generator that learns tokens.

    Parameters
    ----------
    classes : of the jets; none named means all
    n_jets : at most so many, drawn at random; None takes all
    """
    jets = _some(tokens.jets_of(classes), n_jets, seed)
    ids, decoded, mask = tokens.dense(jets)
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
    labels = np.asarray(tokens.labels)[jets]
    physical = _kinematics(decoded[mask], preprocessing)
    return JetSample(physical, offsets, labels=labels, ids=ids[mask])


def original_sample(
    store: JetStore,
    max_constituents: int,
    classes: Sequence[str] = (),
    n_jets: int | None = None,
    seed: int = 0,
) -> JetSample:
    """Jets as they are, but for those beyond the cap, which keep their leading constituents.

    Parameters are those of `decoded_sample`, which takes the same jets of the same split.
    """
    jets = _some(store.jets_of(classes), n_jets, seed)
    physical, mask = store.dense(jets, max_constituents, KINEMATICS)
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
    return JetSample(physical[mask], offsets, labels=store.labels[jets])


def _kinematics(network: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """Physical pt, eta_rel and phi_rel, (n, 3) float64; further features are left out."""
    return preprocessing.inverse(network.astype(np.float64))[:, : len(KINEMATICS)]


def _some(jets: np.ndarray, n_jets: int | None, seed: int) -> np.ndarray:
    """At most `n_jets` of the jets, at random, in ascending order."""
    if n_jets is None or n_jets >= len(jets):
        return jets
    return np.sort(np.random.default_rng([seed, 37]).choice(jets, n_jets, replace=False))
