"""One jet as a display shows it: constituents, their kinds, and the jet's observables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jetfm.data.store import JetStore
from jetfm.judging.jet_sample import JetSample
from jetfm.schema import CLASSES, KINEMATICS

#: Flags of the schema that tell kinds of constituents, each true for one kind.
KINDS = (
    "is_charged_hadron", "is_neutral_hadron", "is_photon", "is_electron", "is_muon",
)  # fmt: skip


@dataclass(frozen=True)
class Jet:
    """One jet.

    Parameters
    ----------
    constituents : (n, 3) float64 pt [GeV], eta_rel, phi_rel, falling in pt
    kinds : (n,) int places in `KINDS`, -1 unknown; None where nothing identifies particles
    class_name : as in the schema, empty where it is not known
    """

    constituents: np.ndarray
    kinds: np.ndarray | None = None
    class_name: str = ""


def jet_of(store: JetStore, index: int, max_constituents: int = 128) -> Jet:
    """A jet of a store; a longer one keeps its leading constituents, as models see it."""
    identified = all(name in store.features for name in KINDS)
    columns = (*KINEMATICS, *KINDS) if identified else KINEMATICS
    rows = store.dense([index], max_constituents, columns)[0][0]
    kinds = np.where(rows[:, 3:].any(1), rows[:, 3:].argmax(1), -1) if identified else None
    label = int(store.labels[index])
    name = store.class_names[label] if label >= 0 else ""
    return Jet(rows[:, :3].astype(np.float64), kinds, name)


def jet_in(sample: JetSample, index: int) -> Jet:
    """A jet of a sample, without constituents that no observable can be computed with."""
    physical = sample.physical
    rows = physical.constituents[physical.offsets[index] : physical.offsets[index + 1]]
    label = -1 if sample.labels is None else int(sample.labels[index])
    name = CLASSES[label].name if label >= 0 else ""
    return Jet(rows[np.argsort(-rows[:, 0], kind="stable")], None, name)


def observables_of(constituents: np.ndarray) -> dict[str, float]:
    """n_constituents, jet_mass, jet_pt [GeV], tau21 and tau32 of one jet (papers' definitions).

    NaN where undefined, as in `jetfm.judging.jet_sample.JetSample.observables`.

    Parameters
    ----------
    constituents : (n, 3) pt [GeV], eta_rel, phi_rel
    """
    found = JetSample(constituents, np.array([0, len(constituents)])).observables
    return {name: float(values[0]) for name, values in found.items()}
