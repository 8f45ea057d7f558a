"""Token quality: what jets lose between encoding and decoding (arXiv 2403.05618, III A)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetfm.data.schema import KINEMATICS, class_by_name
from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.features import Preprocessing
from jetfm.files import read_json, write_json, write_npy
from jetfm.metrics import CORE, fit_resolution
from jetfm.observables import jet_observables
from jetfm.plotting import BINS, histogram, to_data

QUANTITIES = {"jet_mass": "GeV", "jet_pt": "GeV", "tau21": "", "tau32": ""}
RESIDUAL_STEPS = {"jet_mass": 10.0, "tau32": 0.1}  # the residuals' range is a multiple of these


def residual_edges(residuals: np.ndarray, step: float) -> np.ndarray:
    """Sixty bins, symmetric about zero, that hold all but one per cent of the residuals."""
    reach = np.nanquantile(np.abs(residuals), 0.99)
    reach = step * max(1.0, np.ceil(reach / step))
    return np.linspace(-reach, reach, 61)


def observables(physical: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Jet mass, pt, tau21, tau32 with the papers' definitions; NaN below three constituents.

    Parameters
    ----------
    physical : (n_total, 3) pt [GeV], eta_rel, phi_rel
    offsets : (n_jets + 1,)
    """
    found = jet_observables(physical, offsets, axes="kt")
    return {
        "jet_mass": found["mass"],
        "jet_pt": found["pt"],
        "tau21": found["tau21"],
        "tau32": found["tau32"],
    }


def decoded_jets(tokens: TokenStore, preprocessing: Preprocessing) -> np.ndarray:
    """Constituents (n_total, 3) that the tokens stand for, in physical space."""
    return preprocessing.inverse(np.asarray(tokens.decoded, dtype=np.float64))


def compare(
    store: JetStore,
    tokens: TokenStore,
    preprocessing: Preprocessing,
    folder: Path,
    signal: str = "Tbqq",
    max_constituents: int = 128,
) -> dict:
    """Write observables before and after tokenisation, and fit the residuals of `signal` jets.

    Returns
    -------
    metrics : number of jets and, by quantity, the fit of reconstructed minus original

    Notes
    -----
    Both sides use the same leading constituents, so that a jet longer than `max_constituents`
    does not count as badly tokenised.
    """
    rows, mask = store.rows_of(slice(None), max_constituents)
    kinematics = store.constituents[:, store.columns(KINEMATICS)]
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
    original = observables(np.asarray(kinematics[rows], dtype=np.float64), offsets)
    reconstructed = observables(decoded_jets(tokens, preprocessing), tokens.offsets)
    for side, values in (("original", original), ("reconstructed", reconstructed)):
        for quantity, array in values.items():
            write_npy(folder / f"{side}_{quantity}.npy", array)
    write_npy(folder / "labels.npy", store.labels)
    chosen = store.labels == class_by_name(signal).index
    fits = {}
    for quantity in QUANTITIES:
        residuals = (reconstructed[quantity] - original[quantity])[chosen]
        fit = fit_resolution(residuals)
        if not np.isfinite([fit.sigma, fit.sigma_uncertainty, fit.mean_uncertainty]).all():
            found = "residuals without a peak to fit"
            raise JetfmError(f"{quantity} of {signal} jets", found, "a tokenizer that has learned")
        fits[quantity] = {
            "sigma": fit.sigma,
            "sigma_error": fit.sigma_uncertainty,
            "mean": fit.mean,
            "mean_error": fit.mean_uncertainty,
            "n_undefined": fit.n_undefined,
            "bias": float(np.nanmean(residuals)),
            "bias_error": float(np.nanstd(residuals) / np.sqrt(np.isfinite(residuals).sum())),
        }
    result = {
        "n_jets": len(store),
        "n_signal_jets": int(chosen.sum()),
        "n_codes": tokens.n_codes,
        "fits": fits,
    }
    write_json(folder / "fits.json", result)
    return result


@dataclass(frozen=True)
class TokenQuality:
    """A finished comparison, read from its folder."""

    folder: Path
    signal: str = "Tbqq"

    def __post_init__(self) -> None:
        object.__setattr__(self, "result", read_json(self.folder / "fits.json"))

    @property
    def n_jets(self) -> int:
        """Jets compared, all classes."""
        return self.result["n_jets"]

    def values(self, side: str, quantity: str, signal_only: bool = False) -> np.ndarray:
        """Observable of every jet: side 'original' or 'reconstructed'."""
        array = np.load(self.folder / f"{side}_{quantity}.npy")
        if signal_only:
            array = array[np.load(self.folder / "labels.npy") == class_by_name(self.signal).index]
        return array

    def residuals(self, quantity: str) -> np.ndarray:
        """Reconstructed minus original of the signal class."""
        sides = ("reconstructed", "original")
        reconstructed, original = (self.values(side, quantity, True) for side in sides)
        return reconstructed - original

    def beats_mean_mass(self) -> bool:
        """Whether tokens predict a jet's mass better than the mean mass of its class does."""
        spread = np.nanstd(self.values("original", "jet_mass", True))
        return bool(np.nanstd(self.residuals("jet_mass")) < spread)

    def figure_data(self) -> dict:
        """Numbers behind the token-quality figure."""
        residuals = {quantity: self.residuals(quantity) for quantity in RESIDUAL_STEPS}
        fits = {}
        for quantity in RESIDUAL_STEPS:
            fit = self.result["fits"][quantity]
            differences = residuals[quantity] - fit["mean"]
            # The curve's height: the share of jets within one sigma fixes the area of the core.
            inside = (np.abs(differences) < fit["sigma"]).sum()
            share = inside / np.isfinite(differences).sum() / CORE
            fits[quantity] = fit | {"height": share / (fit["sigma"] * np.sqrt(2 * np.pi))}
        return {
            "mass": {
                side: to_data(histogram(self.values(side, "jet_mass"), BINS["jet_mass"]))
                for side in ("original", "reconstructed")
            },
            "residuals": {
                quantity: to_data(
                    histogram(residuals[quantity], residual_edges(residuals[quantity], step))
                )
                for quantity, step in RESIDUAL_STEPS.items()
            },
            "fits": fits,
            "n_codes": self.result["n_codes"],
            "n_jets": self.result["n_jets"],
            "n_signal_jets": self.result["n_signal_jets"],
        }

    def as_text(self) -> str:
        """Resolution table of the signal class."""
        lines = [f"{self.signal}, reconstructed - original   sigma of fit          mean of fit"]
        for quantity, fit in self.result["fits"].items():
            unit = QUANTITIES[quantity]
            lines.append(
                f"{quantity:10s} {fit['sigma']:22.3f} +- {fit['sigma_error']:.3f} "
                f"{fit['mean']:12.3f} +- {fit['mean_error']:.3f} {unit}"
            )
        return "\n".join(lines)
