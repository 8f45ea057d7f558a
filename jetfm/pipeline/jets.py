"""Notebook 00: files of jets, stores, the calibration against published numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from jetfm.data.conversion import convert, in_parts
from jetfm.data.jet_files import jet_files
from jetfm.data.store import JetStore, build_store
from jetfm.data.toplandscape import build_toplandscape_store
from jetfm.errors import JetfmError
from jetfm.figures import style
from jetfm.pipeline.stage import Run, SourceFiles, Stage
from jetfm.schema import CLASSES, SPLITS
from jetfm.settings import DataSettings, LandscapeSettings
from jetfm.simulation import calibration
from jetfm.simulation.processes import campaign_by_name
from jetfm.simulation.shipped import shipped_files
from jetfm.simulation.simulate import recipe, simulate
from jetfm.simulation.soft_constituents import published, soft_constituents_of
from jetfm.storage.files import read_json, sha256, write_json
from jetfm.storage.paths import sample_folder, shipped_folder

JETCLASS, TOPLANDSCAPE = "jetclass", "toplandscape"


class JetStages:
    """From the simulation, or the user's files, to jets stores.

    Jets of two kinds: of the campaign 'jetclass', which everything learns from, and of
    'toplandscape', another generator set-up and detector, for transfer.
    """

    def __init__(self, run: Run) -> None:
        self.run, self.profile = run, run.profile

    def stages(self) -> Iterator[Stage]:
        """All of the profile."""
        used = dict.fromkeys((JETCLASS, *(t.jets for t in self.profile.finetuning.tasks.values())))
        yield from (self.stored(split, campaign) for campaign in used for split in SPLITS)
        yield self.calibrated()

    def read_by(self, figure: str) -> list[Stage]:
        """The stages that a figure of the notebook reads."""
        if figure in ("fig00_calibration", "fig00_widths", "fig00_quantiles"):
            return [self.calibrated()]
        return [self.stored("test")] if figure == "fig00_classes" else []

    # Declared ------------------------------------------------------------------------------------

    def simulated(self, split: str, campaign: str = JETCLASS) -> Stage:
        """Simulated files of a split."""
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
                progress=self.run.progress,
            )
            return {"jets_per_class": n_jets}

        return self.run.stage(f"jets-{split}", make, variant=_variant(campaign), settings=request)

    def stored(self, split: str, campaign: str = JETCLASS) -> Stage:
        """Jets store of a split, at most `jets_per_class` of each class."""
        data, files = self._data(campaign), self._files([split], campaign)
        limit = getattr(data.jets_per_class, split) or None

        def make(folder: Path) -> dict:
            paths, shown = files.paths(), self.run.progress
            if in_parts(paths):
                store = convert(paths, folder, data.workers, jets_per_class=limit, progress=shown)
            elif paths[0].suffix == ".h5":
                store = build_toplandscape_store(paths, folder, shown, jets_per_class=limit)
            else:
                store = build_store(paths, folder, shown, jets_per_class=limit)
            return {"n_jets": len(store)}

        return self.run.stage(
            f"store-{split}",
            make,
            variant=_variant(campaign),
            settings={"jets_per_class": limit},
            files=files,
        )

    def calibrated(self) -> Stage:
        """Table of all splits' jets beside the published statistics of JetClass."""
        files = self._files(SPLITS, JETCLASS)
        if self.profile.data.source == "folder":
            # real files hold 100 000 jets: one a class will do
            files = SourceFiles(partial(_one_a_class, files))

        def make(folder: Path) -> dict:
            rows = calibration.calibrate(files.paths(), self.run.say)
            write_json(folder / "table.json", calibration.as_records(rows))
            return {
                "within": sum(row.ok is True for row in rows),
                "outside": sum(row.ok is False for row in rows),
            }

        published = {"published": sha256(calibration.REFERENCE)}
        return self.run.stage("calibration", make, settings=published, files=files)

    # Asked for -----------------------------------------------------------------------------------

    def files(self, split: str, campaign: str = JETCLASS) -> list[Path]:
        """Files of a split: the sample's, shipped, simulated now, or the user's.

        JetClass ROOT files, or the Top Landscape's h5.
        """
        data = self._data(campaign)
        if data.source == "simulate":
            return sorted(self.simulated(split, campaign).folder.glob("*.root"))
        if data.source == "shipped":
            n_jets = getattr(data.jets_per_class, split)
            files = shipped_files(shipped_folder(), campaign, split, n_jets)
            return _of_classes(files, data.classes)
        folder = sample_folder() if data.source == "sample" else data.path
        if campaign != JETCLASS:
            path = folder / f"{split}.h5"
            if not path.exists():
                raise JetfmError(path, "no such file", "the Top Landscape's h5 file of this split")
            return [path]
        folders = [path for path in sorted(folder.glob(f"{split}*")) if path.is_dir()]
        files = _of_classes(jet_files(folders, (".root",)), data.classes) if folders else []
        if not files:
            expected = f"JetClass ROOT files in {split}*/"
            raise JetfmError(folder, "no such file", expected)
        return files

    def store(self, split: str, campaign: str = JETCLASS) -> JetStore:
        """Jets store of a split."""
        return JetStore(self.stored(split, campaign).folder)

    def count_by_class(self, split: str) -> dict[str, int]:
        """Jets of each class in a split."""
        labels = np.asarray(self.store(split).labels)
        counts = {c.name: int((labels == c.index).sum()) for c in CLASSES}
        return {name: n_jets for name, n_jets in counts.items() if n_jets}

    def calibration(self) -> list[calibration.Comparison]:
        """Statistics of all splits' jets beside the published ones of JetClass."""
        table = read_json(self.calibrated().folder / "table.json")
        return [calibration.Comparison(**row) for row in table]

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

    def soft_constituents(self) -> dict[str, dict[str, dict]]:
        """Soft constituents of jets like the Top Landscape's: real, and as simulated for shipping,
        with and without multi-parton interactions; by class, then 'real', 'with' and 'without'."""
        campaigns = {"with": TOPLANDSCAPE, "without": f"{TOPLANDSCAPE}-described"}
        files = {
            key: shipped_files(shipped_folder(), campaign, "test", 0)
            for key, campaign in campaigns.items()
        }
        return {
            name: {"real": real}
            | {key: soft_constituents_of(_of_classes(files[key], (name,))) for key in files}
            for name, real in published().items()
        }

    # Inside --------------------------------------------------------------------------------------

    def _data(self, campaign: str) -> DataSettings | LandscapeSettings:
        return self.profile.data if campaign == JETCLASS else self.profile.landscape

    def _files(self, splits, campaign: str) -> SourceFiles:
        made_by = ()
        if self._data(campaign).source == "simulate":
            made_by = tuple(self.simulated(split, campaign) for split in splits)
        return SourceFiles(partial(self._paths, splits, campaign), made_by)

    def _paths(self, splits, campaign: str) -> list[Path]:
        return [path for split in splits for path in self.files(split, campaign)]


def _variant(campaign: str) -> str:
    return "" if campaign == JETCLASS else campaign


def _of_classes(files: list[Path], classes: tuple[str, ...]) -> list[Path]:
    """Those of the classes; all where none is named."""
    prefixes = tuple(c.prefix + "_" for c in CLASSES if not classes or c.name in classes)
    return [path for path in files if path.name.startswith(prefixes)] if classes else files


def _one_a_class(files: SourceFiles) -> list[Path]:
    first = {path.name.rsplit("_", 1)[0]: path for path in files.paths()[::-1]}
    return list(first.values())
