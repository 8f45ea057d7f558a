"""The stages in order: what each needs, what it makes, and where its work is kept.

A ``Pipeline`` belongs to one profile. Asking it for a result makes that result and everything it
depends on, or finds them (`jetfm.artifacts`). Nothing passes from stage to stage in memory:

    jets -> store -> tokenizer -> tokens -> pretraining -> generation
              |                     `-> token quality          |
              `-> fine-tuning <--------------------------------' (backbone)
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from jetfm import ledger, plotting
from jetfm.artifacts import Artifact, as_json, fingerprint, produce
from jetfm.comparison import Comparison
from jetfm.config import Profile, load_profile
from jetfm.data import calibration
from jetfm.data.schema import CLASSES, SPLITS
from jetfm.data.store import JetStore, build_store
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.features import Preprocessing
from jetfm.files import read_json, sha256, write_json
from jetfm.finetuning import Study
from jetfm.paths import figures_folder, project_folder, sample_folder, work_folder
from jetfm.pretraining import NextTokenModel
from jetfm.tokenizers.quality import TokenQuality
from jetfm.tokenizers.vqvae import VQVAE

_HASHED = 64 * 2**20  # bytes; larger source files are known by name, size and time


class Pipeline:
    """All stages of one profile.

    Parameters
    ----------
    profile : name of a shipped profile, path of a YAML file, or a Profile
    progress : show progress bars
    """

    preprocessing = Preprocessing()

    def __init__(self, profile: str | Path | Profile = "smoke", progress: bool = True) -> None:
        self.profile = profile if isinstance(profile, Profile) else load_profile(profile)
        self.progress = progress
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        plotting.use_style()
        self._found: dict[str, Artifact] = {}

    def _stage(self, name: str, make: Callable[[Path], dict | None], **request) -> Artifact:
        if name not in self._found:
            request = {"work": work_folder(), "seed": self.profile.seed} | request
            self._found[name] = produce(name, make, **request)
        return self._found[name]

    # Jets ----------------------------------------------------------------------------------------

    def jet_files(self, split: str) -> list[Path]:
        """JetClass ROOT files of a split: the sample's, simulated now, or the user's."""
        data = self.profile.data
        if data.source == "simulate":
            artifact = self._simulated(split)
            return sorted(artifact.folder.glob("*.root"))
        folder = sample_folder() if data.source == "sample" else project_folder() / data.path
        files = sorted(folder.glob(f"{split}*/*.root"))
        if data.classes:
            prefixes = tuple(c.prefix + "_" for c in CLASSES if c.name in data.classes)
            files = [path for path in files if path.name.startswith(prefixes)]
        if not files:
            expected = f"JetClass ROOT files in {split}*/"
            raise JetfmError(folder, "no such file", expected)
        return files

    def _simulated(self, split: str) -> Artifact:
        from jetfm.data.simulate import recipe, simulate

        data = self.profile.data
        n_jets = getattr(data.jets_per_class, split)
        classes = data.classes or tuple(c.name for c in CLASSES)
        request = {
            "campaign": "jetclass",
            "jets_per_class": n_jets,
            "jets_per_file": data.jets_per_file,
            "recipes": {name: recipe("jetclass", name, data.detector) for name in classes},
        }

        def make(folder: Path) -> dict:
            simulate(
                folder,
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

        return self._stage(f"jets-{split}", make, settings=request)

    def store(self, split: str) -> JetStore:
        """Jets store of a split, at most `jets_per_class` of each class."""
        files = self.jet_files(split)
        limit = getattr(self.profile.data.jets_per_class, split) or None
        artifact = self._stage(
            f"store-{split}",
            lambda folder: {
                "n_jets": len(build_store(files, folder, self.progress, jets_per_class=limit))
            },
            settings={"jets_per_class": limit},
            inputs=_digests(files),
        )
        return JetStore(artifact.folder)

    def count_by_class(self, split: str) -> dict[str, int]:
        """Jets of each class in a split."""
        counts = Counter(self.store(split).labels.tolist())
        return {c.name: counts[c.index] for c in CLASSES if counts[c.index]}

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
                name: plotting.to_data(
                    plotting.histogram(array[store.indices_of(name)], edges[quantity])
                )
                for name in present
            }
            for quantity, array in values.items()
        }

    # Tokens --------------------------------------------------------------------------------------

    def tokenizer_artifact(self) -> Artifact:
        """Folder of the trained tokenizer."""
        from jetfm.tokenizers.training import train_tokenizer

        train, val = self.store("train"), self.store("val")

        def make(folder: Path) -> dict:
            data_hash = fingerprint(train.info["sha256"], length=64)
            tokenizer, result = train_tokenizer(
                train,
                val,
                self.profile.tokenizer,
                folder / "training",
                self.profile.seed,
                self.profile.data.max_constituents,
                self.progress,
            )
            metrics = {"best_loss": result.best_metric, "best_step": result.best_step}
            tokenizer.save(folder, training_data=data_hash, **metrics)
            write_json(folder / "history.json", result.history)
            return metrics | {"last_step": result.last_step}

        return self._stage(
            "tokenizer",
            make,
            settings={
                "tokenizer": self.profile.tokenizer,
                "max_constituents": self.profile.data.max_constituents,
            },
            inputs={"train": self._found["store-train"].digest,
                    "val": self._found["store-val"].digest},
        )  # fmt: skip

    def tokenizer(self) -> VQVAE:
        """The trained tokenizer, in evaluation mode."""
        return VQVAE.load(self.tokenizer_artifact().folder)

    def tokens(self, split: str) -> TokenStore:
        """Token store of a split; jets keep the index they have in the jets store."""
        from jetfm.tokenizers.encoding import tokenize

        trained, store = self.tokenizer_artifact(), self.store(split)
        limit = self.profile.data.max_constituents
        seed = (self.profile.seed, SPLITS.index(split))

        def make(folder: Path) -> dict:
            tokens = tokenize(
                VQVAE.load(trained.folder).to(self.device),
                store,
                folder,
                seed,
                limit,
                progress=self.progress,
            )
            return {"n_jets": len(tokens), "n_truncated": store.n_truncated(limit)}

        artifact = self._stage(
            f"tokens-{split}",
            make,
            settings={"max_constituents": limit},
            inputs={
                "tokenizer": trained.digest,
                "store": self._found[f"store-{split}"].digest,
            },
        )
        return TokenStore(artifact.folder)

    def codebook_usage(self, split: str = "test") -> float:
        """Share of the codes that occur in a split."""
        tokens = self.tokens(split)
        return len(np.unique(tokens.ids)) / tokens.n_codes

    def token_quality(self) -> TokenQuality:
        """Test jets before and after tokenisation."""
        from jetfm.tokenizers.quality import compare

        store, tokens = self.store("test"), self.tokens("test")
        limit = self.profile.data.max_constituents
        artifact = self._stage(
            "token-quality",
            lambda folder: compare(
                store, tokens, self.preprocessing, folder, max_constituents=limit
            ),
            inputs={
                "store": self._found["store-test"].digest,
                "tokens": self._found["tokens-test"].digest,
            },
        )
        return TokenQuality(artifact.folder)

    # Pre-training and generation -----------------------------------------------------------------

    def pretraining(self) -> Artifact:
        """Folder of the model pre-trained by next-token prediction."""
        from jetfm.pretraining import pretrain

        train, val = self.tokens("train"), self.tokens("val")

        def make(folder: Path) -> dict:
            model, result = pretrain(
                train,
                val,
                self.profile.pretraining,
                folder / "training",
                self.profile.seed,
                self.progress,
            )
            metrics = {"best_loss": result.best_metric, "best_step": result.best_step}
            model.save(folder, **metrics)
            write_json(folder / "history.json", result.history)
            return metrics | {"last_step": result.last_step}

        return self._stage(
            "pretraining",
            make,
            settings=self.profile.pretraining,
            inputs={"train": self._found["tokens-train"].digest,
                    "val": self._found["tokens-val"].digest},
        )  # fmt: skip

    def pretraining_summary(self) -> dict:
        """Validation loss beside what no model and token frequencies alone would give, in nats."""
        train, val = self.tokens("train"), self.tokens("val")
        counts = np.bincount(train.ids, minlength=train.n_codes + 1) + 1.0
        counts[-1] = len(train) + 1  # the stop token, once a jet
        log_p = np.log(counts / counts.sum())
        n_predicted = len(val.ids) + len(val)
        return {
            "n_codes": train.n_codes,
            "uniform": float(np.log(train.n_codes + 2)),
            "unigram": float(-(log_p[val.ids].sum() + len(val) * log_p[-1]) / n_predicted),
            "validation": self.pretraining().metrics["best_loss"],
        }

    def history(self, stage: str) -> dict:
        """Learning curves of 'tokenizer' or 'pretraining', as the training figure takes them."""
        artifact = self.tokenizer_artifact() if stage == "tokenizer" else self.pretraining()
        rows = read_json(artifact / "history.json")
        history = {}
        for split, name in (("train", "train"), ("val", "validation")):
            chosen = [row for row in rows if row["split"] == name]
            keys = [key for key in chosen[0] if key != "split"] if chosen else []
            history[split] = {key: [row[key] for row in chosen] for key in keys}
        return {"history": history, "best_step": artifact.metrics["best_step"]}

    def generation(self) -> Comparison:
        """Jets drawn from the pre-trained model, compared with the tokenised test jets."""
        from jetfm.comparison import compare
        from jetfm.generation import generate

        settings, seed = self.profile.generation, self.profile.seed
        trained, model = self.tokenizer_artifact(), self.pretraining()
        val, test = self.tokens("val"), self.tokens("test")
        limit = self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            rng = np.random.default_rng([seed, 5])
            lengths = np.clip(rng.choice(val.n_constituents, settings.n_jets), 1, limit)
            start = time.monotonic()
            generated = generate(
                NextTokenModel.load(model.folder),
                VQVAE.load(trained.folder),
                lengths,
                seed=seed,
                batch_size=settings.batch_size,
                temperature=settings.temperature,
                max_constituents=limit,
                device=self.device,
                progress=self.progress,
            )
            seconds = time.monotonic() - start
            return compare(
                generated, test, self.preprocessing, folder, seed, seconds, self.progress
            )

        artifact = self._stage(
            "generation",
            make,
            settings={"generation": settings, "max_constituents": limit},
            inputs={
                "model": model.digest,
                "tokenizer": trained.digest,
                "multiplicity": self._found["tokens-val"].digest,
                "reference": self._found["tokens-test"].digest,
            },
        )
        return Comparison(artifact.folder)

    # Fine-tuning ---------------------------------------------------------------------------------

    def finetuning(self) -> Study:
        """Top tagging from scratch, fine-tuned, and with a fixed backbone."""
        from jetfm.data.labelled import LabelledJets
        from jetfm.finetuning import Jets, run_study

        settings, model = self.profile.finetuning, self.pretraining()
        stores = {split: self.store(split) for split in SPLITS}
        limit = self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            jets = Jets(
                *(
                    LabelledJets(stores[split], settings, self.preprocessing, limit)
                    for split in SPLITS
                )
            )
            result = run_study(
                jets, model.folder, settings, folder, self.profile.seed, self.progress
            )
            return {"sizes": result["sizes"]}

        artifact = self._stage(
            "finetuning",
            make,
            settings={"finetuning": settings, "max_constituents": limit},
            inputs={"model": model.digest}
            | {split: self._found[f"store-{split}"].digest for split in SPLITS},
        )
        return Study(artifact.folder)

    # Figures and the ledger ----------------------------------------------------------------------

    @cached_property
    def figures(self) -> Path:
        """Folder of this profile's figures."""
        return figures_folder(self.profile.name)

    def figure(self, name: str, draw: Callable[..., Figure], **data) -> Figure:
        """Draw a figure and save it as PDF, PNG and JSON; the JSON holds `data`."""
        data = as_json(data)
        figure = draw(**data)
        plotting.save(figure, data, name, self.figures)
        return figure

    def ledger(self) -> list[dict]:
        """Every claim beside what was measured; written to ``ledger.json`` of the figures."""
        from jetfm.measurements import measure

        book = ledger.Ledger(self.profile.name)
        measure(book, self.token_quality(), self.generation(), self.finetuning())
        book.save(self.figures / "ledger.json")
        return book.entries()

    def gallery(self) -> list[tuple[str, Path]]:
        """Caption and picture of every figure of the notebooks, in order.

        Raises
        ------
        JetfmError
            A figure that has not been made yet; names the notebook that makes it.
        """
        from jetfm.figures import CAPTIONS

        pictures = []
        for name, caption in CAPTIONS.items():
            path = self.figures / f"{name}.png"
            if not path.exists():
                raise JetfmError(path, "no such figure", f"notebook {name[3:5]} to have run")
            pictures.append((caption, path))
        return pictures


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
