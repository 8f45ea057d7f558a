"""Detector cards: the constants of a parametrised detector, validated, with lookups by (pT, eta).

A card is a YAML file in ``jetfm/simulation/cards`` whose comments give the source of each constant.
Bins follow the formulas of the Delphes cards: a bin of |eta| or pT includes its upper edge.
"""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import Generic, Literal, TypeVar

import numpy as np
import yaml
from pydantic import Field, ValidationError, model_validator

from jetfm.errors import JetfmError
from jetfm.settings import Settings

CARDS_DIR = Path(__file__).parent / "cards"

Entry = TypeVar("Entry")


class Tracker(Settings):
    """Cylinder of the magnetic field; the calorimeter stands on its surface."""

    radius: float = Field(gt=0)  # m
    half_length: float = Field(gt=0)  # m
    field: float = Field(ge=0)  # T, along +z


class BinnedTable(Settings):
    """A function of (pT, |eta|), constant in bins; zero below the first pT edge and beyond |eta|.

    The last pT bin has no upper edge.
    """

    eta_edges: tuple[float, ...]  # upper edges
    pt_edges: tuple[float, ...]  # GeV, lower edges
    values: tuple[tuple[float, ...], ...]  # (eta bin, pT bin)

    @model_validator(mode="after")
    def _shape(self):
        if len(self.values) != len(self.eta_edges):
            raise ValueError("'values' needs one row per bin of |eta|")
        if any(len(row) != len(self.pt_edges) for row in self.values):
            raise ValueError("each row of 'values' needs one entry per bin of pT")
        return self

    @cached_property
    def _padded(self) -> np.ndarray:
        padded = np.zeros((len(self.eta_edges) + 1, len(self.pt_edges) + 1))
        padded[:-1, 1:] = self.values
        return padded

    def __call__(self, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
        row = np.searchsorted(self.eta_edges, np.abs(eta), side="left")
        return self._padded[row, np.searchsorted(self.pt_edges, pt, side="left")]


class TrackResolution(Settings):
    """Relative transverse-momentum resolution: sqrt(constant^2 + (slope pT)^2) per |eta| bin."""

    eta_edges: tuple[float, ...]
    constant: tuple[float, ...]
    slope: tuple[float, ...]  # 1/GeV

    @model_validator(mode="after")
    def _shape(self):
        if not len(self.eta_edges) == len(self.constant) == len(self.slope):
            raise ValueError("'eta_edges', 'constant' and 'slope' need equal lengths")
        return self

    def __call__(self, pt: np.ndarray, eta: np.ndarray) -> np.ndarray:
        row = np.searchsorted(self.eta_edges, np.abs(eta), side="left")
        constant, slope = np.array([*self.constant, 0.0]), np.array([*self.slope, 0.0])
        return np.hypot(constant[row], slope[row] * pt)


class PerKind(Settings, Generic[Entry]):  # noqa: UP046 - Python 3.11 has no class PerKind[Entry]
    """One entry for each kind of track."""

    hadron: Entry
    electron: Entry
    muon: Entry


class ImpactParameter(Settings):
    """Resolutions of the transverse and longitudinal impact parameters, mm."""

    d0: BinnedTable
    dz: BinnedTable


class CellRun(Settings):
    """Towers between consecutive eta edges, each ring cut into ``n_phi`` equal cells."""

    n_phi: int = Field(gt=0)
    edges: tuple[float, ...] = ()
    start: float | None = None
    width: float | None = None
    count: int | None = None

    @model_validator(mode="after")
    def _one_form(self):
        steps = (self.start, self.width, self.count)
        if (len(self.edges) >= 2) == (None not in steps):
            raise ValueError("give either 'edges' or 'start', 'width' and 'count'")
        return self

    @property
    def eta_edges(self) -> np.ndarray:
        if self.edges:
            return np.array(self.edges)
        return self.start + self.width * np.arange(self.count + 1)


class EnergyResolution(Settings):
    """Resolution of towers up to ``eta_max``; see the comment in the cards for the formula."""

    eta_max: float
    constant: float = Field(ge=0)
    stochastic: float = Field(ge=0)  # sqrt(GeV)
    noise: float = Field(0.0, ge=0)  # GeV
    scale: tuple[float, float, float] = (1.0, 0.0, 0.0)


class Calorimeter(Settings):
    """One calorimeter: thresholds, energy fractions, cells and resolution."""

    threshold: float = Field(ge=0)  # GeV
    significance: float = Field(ge=0)  # in units of the resolution
    fractions: dict[str | int, float]  # by |PDG code|, with 'default' for the others
    cells: tuple[CellRun, ...]
    resolution: tuple[EnergyResolution, ...]

    @cached_property
    def grid(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Eta edges (n+1,), cells in phi of each ring (n,), index of a ring's first cell (n,)."""
        runs = [run.eta_edges for run in self.cells]
        for left, right in zip(runs, runs[1:], strict=False):
            if abs(left[-1] - right[0]) > 1e-6:
                raise JetfmError("cells", f"a gap at eta={left[-1]:g}", "adjoining runs of cells")
        edges = np.concatenate([runs[0][:1], *(run[1:] for run in runs)])
        n_phi = np.concatenate(
            [np.full(len(e) - 1, c.n_phi) for e, c in zip(runs, self.cells, strict=True)]
        )
        return edges, n_phi, np.concatenate([[0], np.cumsum(n_phi)[:-1]])

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.grid[1].sum())

    def sigma(self, energy: np.ndarray, eta: np.ndarray) -> np.ndarray:
        """Resolution of towers [GeV]; zero beyond the last ``eta_max``."""
        row = np.searchsorted([r.eta_max for r in self.resolution], np.abs(eta), side="left")
        table = [(r.constant, r.stochastic, r.noise, *r.scale) for r in self.resolution]
        c, s, n, scale, curvature, centre = np.array([*table, (0.0,) * 6])[row].T
        shape = scale + curvature * (np.abs(eta) - centre) ** 2
        return shape * np.sqrt((c * energy) ** 2 + s**2 * energy + n**2)

    def fraction(self, pid: np.ndarray) -> np.ndarray:
        """Part of a particle's energy that this calorimeter takes, by |PDG code|.

        Neutrinos and muons leave nothing, whatever the card's default.
        """
        known = {k: v for k, v in self.fractions.items() if k != "default"}
        known = sorted((known | dict.fromkeys((12, 13, 14, 16), 0.0)).items())
        codes, fractions = (np.array(column) for column in zip(*known, strict=True))
        row = np.minimum(np.searchsorted(codes, np.abs(pid)), len(codes) - 1)
        return np.where(codes[row] == np.abs(pid), fractions[row], self.fractions["default"])


class DetectorCard(Settings):
    """Everything that describes one detector."""

    name: str
    energy_flow: Literal["weighted mean", "subtraction"]  # `jetfm.simulation.calorimeter`
    momentum_smearing: Literal["log-normal", "normal"]
    massless_tracks: bool  # E = |p|, as in Delphes until March 2021
    tracker: Tracker
    efficiency: PerKind[BinnedTable]
    momentum_resolution: PerKind[TrackResolution]
    exact_tracks: bool
    eta_at_calorimeter: bool
    impact_parameter: ImpactParameter
    ecal: Calorimeter
    hcal: Calorimeter

    @model_validator(mode="after")
    def _one_calorimeter(self):
        if self.energy_flow == "subtraction" and self.ecal.cells != self.hcal.cells:
            raise ValueError("energy_flow 'subtraction' needs the same cells in ecal and hcal")
        return self


def available_cards() -> list[str]:
    """Names of the cards that ship with jetfm."""
    return sorted(path.stem for path in CARDS_DIR.glob("*.yaml"))


@lru_cache
def load_card(name: str) -> DetectorCard:
    """Read and validate a shipped card (``cms``, ``atlas-2015``, ...) or a YAML file of its form.

    Raises
    ------
    JetfmError
        Unknown card, or a setting that is missing, unknown or of the wrong type.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else CARDS_DIR / f"{name}.yaml"
    if not path.exists():
        raise JetfmError("detector", repr(str(name)), f"one of {', '.join(available_cards())}")
    try:
        return DetectorCard.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"])
        raise JetfmError(
            f"{path.name}: {setting}", f"{first.get('input')!r:.60}", first["msg"]
        ) from None
