"""Token quality: what jets lose between encoding and decoding, for one tokenizer and for several.

Reads what `jetfm.token_quality.measurement` has measured, and prepares the tables and the
data of the figures (arXiv 2403.05618, III A and appendix B). Nothing here needs the jets or a
tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jetfm.errors import JetfmError
from jetfm.figures.style import BINS, histogram, to_data
from jetfm.physics.statistics import CORE
from jetfm.schema import CLASSES, KINEMATICS, class_by_name
from jetfm.storage.files import read_json
from jetfm.token_quality.measurement import (
    QUANTITIES,
    RESULT,
    compare,
    decoded_jets,
    observables,
    original_observables,
)
from jetfm.token_quality.table import quality_table

__all__ = [
    "QUANTITIES",
    "TokenQuality",
    "TokenQualityStudy",
    "compare",
    "decoded_jets",
    "observables",
    "original_observables",
    "residual_edges",
]

#: Residuals' histograms reach to a multiple of this, in the unit of the quantity.
RESIDUAL_STEPS = {"jet_mass": 5.0, "jet_pt": 5.0, "tau21": 0.05, "tau32": 0.05}
_BINS = 80
_DRAWN = ("conditional", "linear", "unconditional", "binned")  # kinds of paper 1
_FIT = ("sigma", "sigma_error", "mean", "mean_error")
_POINTS = 200  # of a curve of codebook usage

#: What 2403.05618, III A says of the mass of t->bqq' jets, in GeV. The "systematic shift of
#: approximately 15 GeV" is negative: unconditional tokens are said to underestimate masses.
PAPER = (
    {"n_codes": 512, "quantity": "sigma", "value": 8.3, "label": "2403.05618, conditional"},
    {"n_codes": 8192, "quantity": "sigma", "value": 4.0, "label": "2403.05618, conditional"},
    {"n_codes": 512, "quantity": "mean", "value": -15.0, "label": "2403.05618, unconditional"},
)


def residual_edges(residuals: Iterable[np.ndarray], step: float) -> np.ndarray:
    """Eighty bins, symmetric about zero, for the residuals of several tokenizers.

    They hold 99 % of the widest residuals, unless the peak of the narrowest, as wide as the window
    of its fit (2.5 core half-widths on both sides), would then span fewer than ten bins.

    Parameters
    ----------
    residuals : (n,) each, NaN left out
    step : the range is a multiple of this, at least once
    """
    ranges, half_widths = [], []
    for values in residuals:
        defined = values[~np.isnan(values)]
        if len(defined):
            low, high = np.quantile(defined, [(1 - CORE) / 2, (1 + CORE) / 2])
            half_widths.append((high - low) / 2)
            ranges.append(np.quantile(np.abs(defined), 0.99))
    widest = np.ceil(max(ranges, default=0) / step)
    # 5 half-widths are 10 bins of 2 * reach / _BINS
    finest = np.floor(min(half_widths, default=0) * 5 / 10 * _BINS / 2 / step)
    reach = step * max(1.0, min(widest, finest))
    return np.round(np.linspace(-reach, reach, _BINS + 1), 10)  # round numbers, short in JSON


@dataclass(frozen=True)
class TokenQuality:
    """The finished measurement of one tokenizer.

    Attributes
    ----------
    folder, original : that `compare` and `original_observables` have filled; the latter with the
        tokenizer's cuts
    signal : class of the residuals, as `compare` was told
    result : what `compare` returned
    """

    folder: Path
    original: Path
    signal: str = "Tbqq"

    def __post_init__(self) -> None:
        object.__setattr__(self, "result", read_json(Path(self.folder) / RESULT))

    @property
    def n_jets(self) -> int:
        """Jets compared, all classes."""
        return self.result["n_jets"]

    def values(self, side: str, quantity: str, jet_class: str | None = None) -> np.ndarray:
        """Observable of every jet, or of one class: side 'original' or 'reconstructed'."""
        folder = Path(self.original if side == "original" else self.folder)
        array = np.load(folder / f"{quantity}.npy")
        if jet_class is None:
            return array
        return array[np.load(folder / "labels.npy") == class_by_name(jet_class).index]

    def residuals(self, quantity: str, jet_class: str | None = None) -> np.ndarray:
        """Reconstructed minus original of one class, by default the signal."""
        jet_class = jet_class or self.signal
        after = self.values("reconstructed", quantity, jet_class)
        return after - self.values("original", quantity, jet_class)

    def beats_mean_mass(self) -> bool:
        """Whether tokens predict the mass of a signal jet better than the signal's mean mass."""
        spread = np.nanstd(self.values("original", "jet_mass", self.signal))
        return bool(np.nanstd(self.residuals("jet_mass")) < spread)

    def out_of_range(self, family: str) -> dict[str, float]:
        """Shares of constituents and of jets that a tokenizer of this family does not cover.

        A grid clips what lies outside. Learned tokenizers have no edge; out of their range is what
        lies outside the box spanned by all decoded constituents (see `compare`).
        """
        kind = "clipped" if family == "binned" else "beyond_decoded"
        return self.result["out_of_range"][kind]


class TokenQualityStudy:
    """Several tokenizers on the same jets; the methods give the arguments of figures by name.

    Parameters
    ----------
    original : folder of `original_observables`, of whole jets: what distributions are drawn over
    folders : of `compare`, by tokenizer's name, in the order of tables and legends
    descriptors : by name: 'name', 'label', 'family', 'n_codes'
    signal : class of the residuals, as `compare` was told
    within_cuts : folders of `original_observables` by name, for tokenizers that have cuts
    scaled : what `jetfm.token_quality.jet_scale.compare_scaled` returned, by name, of those that
        have been scaled

    Attributes
    ----------
    tokenizers : descriptors in order
    scaled : as given
    """

    def __init__(
        self,
        original: str | Path,
        folders: Mapping[str, str | Path],
        descriptors: Mapping[str, Mapping],
        signal: str = "Tbqq",
        within_cuts: Mapping[str, str | Path] | None = None,
        scaled: Mapping[str, Mapping] | None = None,
    ) -> None:
        if not folders:
            raise JetfmError("token quality", "no tokenizer", "at least one")
        self.original, self.signal, self.scaled = Path(original), signal, dict(scaled or {})
        self.tokenizers = [dict(descriptors[name]) for name in folders]
        given = dict.fromkeys(folders, original) | dict(within_cuts or {})
        self._measured = {
            name: TokenQuality(Path(folder), Path(given[name]), signal)
            for name, folder in folders.items()
        }

    def __getitem__(self, name: str) -> TokenQuality:
        return self._measured[name]

    @property
    def names(self) -> list[str]:
        """Tokenizers in order."""
        return list(self._measured)

    def only(self, *names: str) -> TokenQualityStudy:
        """The same study with fewer tokenizers, for figures that all of them would crowd."""
        return TokenQualityStudy(
            self.original,
            {name: self[name].folder for name in names},
            {tokenizer["name"]: tokenizer for tokenizer in self.tokenizers},
            self.signal,
            {name: self[name].original for name in names},
            {name: self.scaled[name] for name in names if name in self.scaled},
        )

    def _drawn(self) -> TokenQualityStudy:
        """Those whose histograms are drawn: more lines than these nobody tells apart."""
        first, *others = self.tokenizers
        chosen = [t["name"] for t in others if t["family"] in _DRAWN and "n_features" not in t]
        return self.only(first["name"], *chosen)

    @property
    def n_jets(self) -> int:
        """Jets compared, all classes."""
        return self._any.n_jets

    def beats_mean_mass(self, name: str) -> bool:
        """`TokenQuality.beats_mean_mass` of one tokenizer."""
        return self[name].beats_mean_mass()

    @property
    def _any(self) -> TokenQuality:
        """One of them, beside whole jets."""
        return replace(next(iter(self._measured.values())), original=self.original)

    # Figures -------------------------------------------------------------------------------------

    def token_quality(self) -> dict:
        """Arguments of `jetfm.figures.token_quality`, of paper 1's kinds of tokenizers and the
        first."""
        return self._drawn()._token_quality()

    def by_class(self, quantity: str, residual: bool = False) -> dict:
        """Arguments of `jetfm.figures.by_class`, of paper 1's kinds of tokenizers and the first,
        for the classes that have jets."""
        return self._drawn()._by_class(quantity, residual)

    def _token_quality(self) -> dict:
        return {
            "mass": self._beside_original("jet_mass"),
            "residuals": {
                quantity: self._residuals(quantity, [self.signal])[self.signal]
                for quantity in ("jet_mass", "tau32")
            },
            "fits": {
                name: {
                    quantity: {key: one.result["fits"][quantity][key] for key in _FIT}
                    for quantity in ("jet_mass", "tau32")
                }
                for name, one in self._measured.items()
            },
            "tokenizers": self.tokenizers,
            "n_jets": self.n_jets,
            "n_signal_jets": self._any.result["n_signal_jets"],
            "signal": self.signal,
        }

    def resolutions(self) -> dict:
        """Arguments of `jetfm.figures.resolutions`; the paper's values are of t->bqq' jets."""
        rows = []
        for tokenizer in self.tokenizers:
            fits = self[tokenizer["name"]].result["fits"]
            row = {"tokenizer": tokenizer} | {key: fits["jet_mass"][key] for key in _FIT}
            for key in ("bias", "bias_error", "sigma", "sigma_error"):
                row[f"tau32_{key}"] = fits["tau32"][key]
            if found := self.scaled.get(tokenizer["name"]):
                row["scaled"] = {key: found["fits"]["jet_mass"][key] for key in _FIT}
            rows.append(row)
        return {"rows": rows, "paper": list(PAPER) if self.signal == "Tbqq" else []}

    def _by_class(self, quantity: str, residual: bool) -> dict:
        labels = np.load(self._any.original / "labels.npy")
        counts = {c.name: int((labels == c.index).sum()) for c in CLASSES}
        counts = {name: n for name, n in counts.items() if n}
        if residual:
            histograms = self._residuals(quantity, counts)
        else:
            histograms = {name: self._beside_original(quantity, name) for name in counts}
        return {
            "quantity": quantity,
            "histograms": histograms,
            "tokenizers": self.tokenizers,
            "n_jets": counts,
            "residual": residual,
        }

    def codebook_usage(self) -> dict:
        """Arguments of `jetfm.figures.codebook_usage`, for the constituents of all jets."""
        usage = {}
        for name, one in self._measured.items():
            counts = np.sort(np.load(one.folder / "usage.npy"))[::-1]
            ranks = np.unique(np.linspace(0, len(counts) - 1, _POINTS).round().astype(int))
            usage[name] = {
                "share": (counts[ranks] / max(counts.sum(), 1)).tolist(),
                "rank": ((ranks + 1) / len(counts)).tolist(),
                "n_used": one.result["n_used"],
                "perplexity": one.result["perplexity"],
            }
        return {
            "usage": usage,
            "tokenizers": self.tokenizers,
            "n_constituents": self._any.result["n_constituents"],
        }

    def constituent_errors(self) -> dict:
        """Arguments of `jetfm.figures.constituent_errors`."""
        results = {name: one.result["constituents"] for name, one in self._measured.items()}
        return {
            "edges": next(iter(results.values()))["edges"],
            "errors": {
                name: {feature: found[feature] for feature in KINEMATICS}
                for name, found in results.items()
            },
            "tokenizers": self.tokenizers,
            "out_of_range": {t["name"]: self._out_of_range(t) for t in self.tokenizers},
        }

    def _out_of_range(self, tokenizer: Mapping) -> dict[str, float]:
        return self[tokenizer["name"]].out_of_range(tokenizer["family"])

    def _beside_original(self, quantity: str, jet_class: str | None = None) -> dict[str, dict]:
        values = {"original": self._any.values("original", quantity, jet_class)}
        for name, one in self._measured.items():
            values[name] = one.values("reconstructed", quantity, jet_class)
        return {name: to_data(histogram(v, BINS[quantity])) for name, v in values.items()}

    def _residuals(self, quantity: str, classes: Iterable[str]) -> dict[str, dict[str, dict]]:
        """By class and tokenizer, all with the same edges."""
        values = {
            jet_class: {
                name: one.residuals(quantity, jet_class) for name, one in self._measured.items()
            }
            for jet_class in classes
        }
        edges = residual_edges(
            [array for row in values.values() for array in row.values()], RESIDUAL_STEPS[quantity]
        )
        return {
            jet_class: {name: to_data(histogram(array, edges)) for name, array in row.items()}
            for jet_class, row in values.items()
        }

    # Text ----------------------------------------------------------------------------------------

    def as_text(self) -> str:
        """All tokenizers: fits and biases of the signal class, use of the codes, range."""
        return quality_table(
            self.tokenizers,
            {name: one.result for name, one in self._measured.items()},
            {t["name"]: self._out_of_range(t) for t in self.tokenizers},
            self.signal,
            self.scaled,
        )
