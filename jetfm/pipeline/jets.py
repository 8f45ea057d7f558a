"""Stages that make jets: files, stores, the calibration against published numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jetfm.data.conversion import convert, in_parts
from jetfm.data.store import JetStore, build_store
from jetfm.data.toplandscape import build_toplandscape_store
from jetfm.errors import JetfmError
from jetfm.figures import style
from jetfm.pipeline.stages import Stages
from jetfm.schema import CLASSES, SPLITS
from jetfm.settings import DataSettings, LandscapeSettings
from jetfm.simulation import calibration
from jetfm.storage.artifacts import Artifact
from jetfm.storage.files import read_json, sha256, write_json
from jetfm.storage.paths import project_folder, sample_folder

JETCLASS, TOPLANDSCAPE = "jetclass", "toplandscape"

_HASHED = 64 * 2**20  # bytes; larger source files are known by name, size and time


class JetStages(Stages):
    """From the simulation, or the user's files, to jets stores.

    Jets of two kinds: of the campaign 'jetclass', which everything learns from, and of
    'toplandscape', another generator set-up and detector, for transfer.
    """

    def jet_files(self, split: str, campaign: str = JETCLASS) -> list[Path]:
        """Files of a split: the sample's, simulated now, or the user's.

        JetClass ROOT files, or the Top Landscape's h5.
        """
        data = self._data(campaign)
        if data.source == "simulate":
            artifact = self._simulated(split, campaign)
            return sorted(artifact.folder.glob("*.root"))
        folder = sample_folder() if data.source == "sample" else project_folder() / data.path
        if campaign != JETCLASS:
            path = folder / f"{split}.h5"
            if not path.exists():
                raise JetfmError(path, "no such file", "the Top Landscape's h5 file of this split")
            return [path]
        files = sorted(folder.glob(f"{split}*/*.root"))
        if data.classes:
            prefixes = tuple(c.prefix + "_" for c in CLASSES if c.name in data.classes)
            files = [path for path in files if path.name.startswith(prefixes)]
        if not files:
            expected = f"JetClass ROOT files in {split}*/"
            raise JetfmError(folder, "no such file", expected)
        return files

    def _data(self, campaign: str) -> DataSettings | LandscapeSettings:
        return self.profile.data if campaign == JETCLASS else self.profile.landscape

    def _simulated(self, split: str, campaign: str) -> Artifact:
        from jetfm.simulation.processes import campaign_by_name
        from jetfm.simulation.simulate import recipe, simulate

        data = self._data(campaign)
        n_jets = getattr(data.jets_per_class, split)
        classes = data.classes or tuple(campaign_by_name(campaign).processes)
        request = {
            "campaign": campaign,
            "jets_per_class": n_jets,
            "jets_per_file": data.jets_per_file,
            "recipes": {name: recipe(campaign, name, data.detector) for name in classes},
        }

        def make(folder: Path) -> dict:
            simulate(
                folder,
                campaign=campaign,
                classes=classes,
                jets_per_class=n_jets,
                split=split,
                seed=self.profile.seed,
                workers=data.workers,
                jets_per_file=data.jets_per_file,
                detector=data.detector,
                progress=self.progress,
            )
            return {"jets_per_class": n_jets}

        return self._stage(f"jets-{split}", make, _variant(campaign), settings=request)

    def store(self, split: str, campaign: str = JETCLASS) -> JetStore:
        """Jets store of a split, at most `jets_per_class` of each class."""
        return JetStore(self._store(split, campaign).folder)

    def _store(self, split: str, campaign: str) -> Artifact:
        files = self.jet_files(split, campaign)
        limit = getattr(self._data(campaign).jets_per_class, split) or None

        workers = self._data(campaign).workers

        def make(folder: Path) -> dict:
            if in_parts(files):
                store = convert(
                    files, folder, workers, jets_per_class=limit, progress=self.progress
                )
            elif files[0].suffix == ".h5":
                store = build_toplandscape_store(files, folder, self.progress, jets_per_class=limit)
            else:
                store = build_store(files, folder, self.progress, jets_per_class=limit)
            return {"n_jets": len(store)}

        return self._stage(
            f"store-{split}",
            make,
            _variant(campaign),
            settings={"jets_per_class": limit},
            inputs=_digests(files),
        )

    def count_by_class(self, split: str) -> dict[str, int]:
        """Jets of each class in a split."""
        labels = np.asarray(self.store(split).labels)
        counts = {c.name: int((labels == c.index).sum()) for c in CLASSES}
        return {name: n_jets for name, n_jets in counts.items() if n_jets}

    def calibration(self) -> list[calibration.Comparison]:
        """Statistics of all splits' jets beside the published ones of JetClass."""
        files = [path for split in SPLITS for path in self.jet_files(split)]
        if (
            self.profile.data.source == "folder"
        ):  # real files hold 100 000 jets: one a class will do
            files = list({path.name.rsplit("_", 1)[0]: path for path in files[::-1]}.values())
        artifact = self._stage(
            "calibration",
            lambda folder: _calibrate(files, folder),
            settings={"published": sha256(calibration.REFERENCE)},
            inputs=_digests(files),
        )
        return [calibration.Comparison(**row) for row in read_json(artifact / "table.json")]

    def class_histograms(
        self, classes: tuple[str, ...] = ("QCD", "Hbb", "Wqq", "Tbqq", "Tbl")
    ) -> dict:
        """Histogram data of soft-drop mass, multiplicity and tau32 of the test jets, by class."""
        store = self.store("test")
        with np.errstate(divide="ignore", invalid="ignore"):
            values = {
                "sdmass": store.jets["sdmass"],
                "n_constituents": store.n_constituents,
                "tau32": store.jets["tau3"] / store.jets["tau2"],
            }
        edges = {
            "sdmass": np.linspace(0, 240, 25),
            "n_constituents": np.arange(0.5, 121, 6),
            "tau32": np.linspace(0, 1.1, 23),
        }
        present = [name for name in classes if len(store.indices_of(name))]
        return {
            quantity: {
                name: style.to_data(style.histogram(array[store.indices_of(name)], edges[quantity]))
                for name in present
            }
            for quantity, array in values.items()
        }


def _variant(campaign: str) -> str:
    return "" if campaign == JETCLASS else campaign


def _calibrate(files: list[Path], folder: Path) -> dict:
    rows = calibration.calibrate(files)
    write_json(folder / "table.json", calibration.as_records(rows))
    return {
        "within": sum(row.ok is True for row in rows),
        "outside": sum(row.ok is False for row in rows),
    }


def _digests(files: list[Path]) -> dict[str, str]:
    return {f"{path.parent.name}/{path.name}": _source_digest(path) for path in files}


def _source_digest(path: Path) -> str:
    status = path.stat()
    if status.st_size <= _HASHED:
        return sha256(path)
    return f"{path.name}:{status.st_size}:{status.st_mtime_ns}"
