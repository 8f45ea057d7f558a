"""Settings of the jets: where they come from and how many.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149), C the
example configuration of P2's official code, O that of P1's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from jetfm.settings.base import Positive, Settings, known_classes


class SplitSizes(Settings):
    """Jets per class in each split; zero means all that the source has."""

    train: int = Field(ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)


class DataSettings(Settings):
    """Where the jets come from.

    The sample for tests, the jets that ship, a simulation, or a folder of JetClass files.
    """

    source: Literal["sample", "shipped", "simulate", "folder"]
    path: Path | None = None  # source 'folder': has train/, val/ and test/ with CLASS_NNN.root
    classes: tuple[str, ...] = ()  # JetClass labels without 'label_'; empty means all ten
    jets_per_class: SplitSizes
    jets_per_file: Positive = 1000  # simulation: one task, one file, one seed
    detector: str = "cms"  # a card in jetfm/simulation/cards
    workers: int = Field(0, ge=0)  # 0: one per core
    max_constituents: Positive = 128  # P1 II.A, C: pad_length

    @field_validator("classes")
    @classmethod
    def _known(cls, names):
        return known_classes(names)

    @model_validator(mode="after")
    def _path_with_folder(self):
        if (self.source == "folder") != (self.path is not None):
            raise ValueError("'path' belongs to source 'folder', and only to it")
        return self


class LandscapeSettings(Settings):
    """Top tagging out of distribution: jets like the Top Landscape's (14 TeV, ATLAS-like detector
    of 2015, 550 to 650 GeV): those that ship, simulated, or real."""

    source: Literal["shipped", "simulate", "folder"] = "simulate"
    path: Path | None = None  # source 'folder': has train.h5, val.h5 and test.h5
    classes: tuple[Literal["QCD", "Tbqq"], ...] = ()  # empty means both
    # about the real ones
    jets_per_class: SplitSizes = SplitSizes(train=600_000, val=200_000, test=200_000)
    jets_per_file: Positive = 1000
    detector: str = "atlas-2015"
    workers: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _complete(self):
        if (self.source == "folder") != (self.path is not None):
            raise ValueError("'path' belongs to source 'folder', and only to it")
        sizes = self.jets_per_class
        if self.source == "simulate" and not min(sizes.train, sizes.val, sizes.test):
            raise ValueError("jets_per_class should be positive where jets are simulated")
        return self
