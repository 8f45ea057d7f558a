"""Generated jets beside tokenised ones: histograms, physics checks, the classifier test."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetfm.classifier_test import classifier_test
from jetfm.data.token_store import TokenStore
from jetfm.features import Preprocessing
from jetfm.files import read_json, write_json, write_npy
from jetfm.generation import GeneratedJets
from jetfm.plotting import BINS, histogram, to_data
from jetfm.tokenizers.quality import decoded_jets, observables

JET_LEVEL = ("jet_mass", "jet_pt", "tau21", "tau32")
CONSTITUENT_LEVEL = ("pt", "eta_rel", "phi_rel")


def compare(
    generated: GeneratedJets,
    tokens: TokenStore,
    preprocessing: Preprocessing,
    folder: Path,
    seed: int,
    seconds: float,
    progress: bool = True,
) -> dict:
    """Write generated jets, the histograms of both samples and the classifier test.

    Parameters
    ----------
    tokens : tokenised jets that the model has not been trained on; their decoded constituents are
        the target (arXiv 2512.04149, figure 3)
    seconds : that the generation took
    """
    physical = preprocessing.inverse(generated.decoded.astype(np.float64))
    for name, array in (
        ("ids", generated.ids),
        ("decoded", generated.decoded),
        ("offsets", generated.offsets),
        ("requested", generated.requested),
    ):
        write_npy(folder / f"{name}.npy", array)
    reference = decoded_jets(tokens, preprocessing)
    sides = {
        "reconstructed": (reference, np.asarray(tokens.offsets)),
        "generated": (physical, generated.offsets),
    }
    histograms = {
        quantity: {side: {} for side in sides}
        for quantity in (*JET_LEVEL, *CONSTITUENT_LEVEL, "n_constituents")
    }
    for side, (constituents, offsets) in sides.items():
        jets = observables(constituents, offsets) | {"n_constituents": np.diff(offsets)}
        columns = dict(zip(CONSTITUENT_LEVEL, constituents.T, strict=True))
        for quantity, values in (jets | columns).items():
            histograms[quantity][side] = to_data(histogram(values, BINS[quantity]))
    good = np.isfinite(physical).all(1) & (physical[:, 0] > 0)
    test = classifier_test(
        (generated.decoded, generated.offsets),
        (np.asarray(tokens.decoded), np.asarray(tokens.offsets)),
        folder / "training",
        seed,
        progress=progress,
    )
    result = {
        "histograms": histograms,
        "n_jets": {side: len(offsets) - 1 for side, (_, offsets) in sides.items()},
        "n_unphysical": int((~good).sum()),
        "n_unfinished": int((~generated.finished).sum()),
        "n_other_multiplicity": int((generated.n_constituents != generated.requested).sum()),
        "classifier_test": test,
    }
    write_json(folder / "comparison.json", result)
    # Beside the result and not part of it: a wall time differs from run to run.
    write_json(folder / "training" / "speed.json", {"seconds": seconds})
    return {key: value for key, value in result.items() if key != "histograms"}


@dataclass(frozen=True)
class Comparison:
    """A finished comparison, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "result", read_json(self.folder / "comparison.json"))

    @property
    def n_jets(self) -> int:
        """Generated jets."""
        return self.result["n_jets"]["generated"]

    @property
    def n_unphysical(self) -> int:
        """Generated constituents whose pt is not above zero, or that are not finite."""
        return self.result["n_unphysical"]

    @property
    def classifier_test(self) -> dict:
        """AUC of the classifier test, with its uncertainty and sample sizes."""
        return self.result["classifier_test"]

    @property
    def jets_per_second(self) -> float:
        """Speed of the sampling alone, on the machine that made these jets."""
        return self.n_jets / read_json(self.folder / "training" / "speed.json")["seconds"]

    def figure_data(self) -> dict:
        """Numbers behind the generation figure."""
        order = (*JET_LEVEL, *CONSTITUENT_LEVEL, "n_constituents")
        histograms = {quantity: self.result["histograms"][quantity] for quantity in order}
        return {"histograms": histograms, "n_jets": self.result["n_jets"]}
