"""Notebook 01: trained tokenizers and the tokens of the jets.

Tokenizers go by name: 'main' is the one of pre-training, the others are those of the profile's
``token_quality``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from jetfm.data.batches import InOrderBatches
from jetfm.data.token_store import TokenStore
from jetfm.physics.features import Preprocessing
from jetfm.pipeline.history import HISTORY, learning_curves
from jetfm.pipeline.jets import JETCLASS, JetStages
from jetfm.pipeline.stage import Run, Stage
from jetfm.schema import KINEMATICS, SPLITS
from jetfm.settings import MAIN, PretrainingSettings
from jetfm.storage.artifacts import Artifact
from jetfm.storage.files import write_json
from jetfm.tokenizers import Tokenizer, load_tokenizer, make_tokenizer
from jetfm.tokenizers.encoding import jet_batch, tokenize, tokenize_mirrored
from jetfm.tokenizers.interface import preprocessing_of


class TokenizerStages:
    """From jets to tokenizers and token stores."""

    def __init__(self, run: Run, jets: JetStages) -> None:
        self.run, self.profile, self.jets = run, run.profile, jets

    def stages(self) -> Iterator[Stage]:
        """All of the profile; those of other tokens come with the stages that read them."""
        yield from map(self.trained, self.profile.tokenizers)
        yield from (self.tokenised(split) for split in SPLITS)

    def read_by(self, figure: str) -> list[Stage]:
        """The stages that a figure of the notebook reads."""
        return [self.trained()] if figure == "fig01_tokenizer" else []

    # Declared ------------------------------------------------------------------------------------

    def trained(self, name: str = MAIN) -> Stage:
        """A trained tokenizer."""
        settings, limit = self.profile.tokenizers[name], self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            train, val = self.jets.store("train"), self.jets.store("val")
            tokenizer = make_tokenizer(settings, seed=self.profile.seed)
            result = tokenizer.fit(
                train, val, folder / "training", self.profile.seed, limit, self.run.progress
            )
            metrics = result["metrics"]
            data_hash = train.hash_of_arrays()
            usage = self._usage(tokenizer.eval(), limit)
            tokenizer.save(folder, usage=usage, training_data=data_hash, **metrics)
            write_json(folder / HISTORY, result["history"])
            return metrics

        return self.run.stage(
            "tokenizer",
            make,
            variant=name,
            settings={"tokenizer": settings, "max_constituents": limit},
            inputs={split: self.jets.stored(split) for split in ("train", "val")},
            version=2,  # 1: constituents of short jets counted more in training
        )

    def tokenised(self, split: str, name: str = MAIN, campaign: str = JETCLASS) -> Stage:
        """Tokens of a split; jets keep the index they have in the jets store."""
        trained, stored = self.trained(name), self.jets.stored(split, campaign)
        limit = self.profile.data.max_constituents
        seed = (self.profile.seed, SPLITS.index(split))

        def make(folder: Path) -> dict:
            store = self.jets.store(split, campaign)
            tokenizer = load_tokenizer(trained.folder).to(self.run.device)
            # parts side by side on a CPU, but for a worker, which has its one thread
            workers = torch.get_num_threads() if self.run.device == "cpu" else 1
            tokens = tokenize(
                tokenizer, store, folder, seed, limit, progress=self.run.progress, workers=workers
            )
            return {"n_jets": len(tokens), "n_truncated": store.n_truncated(limit)}

        return self.run.stage(
            f"tokens-{split}",
            make,
            variant=name if campaign == JETCLASS else f"{name} {campaign}",
            settings={"max_constituents": limit},
            inputs={"tokenizer": trained, "store": stored},
        )

    def mirrored(self, name: str, classes: tuple[str, ...]) -> Stage:
        """Tokens of the training jets of some classes and of their mirror images."""
        limit, seed = self.profile.data.max_constituents, (self.profile.seed, len(SPLITS))

        def make(folder: Path) -> dict:
            tokenizer = load_tokenizer(self.trained(name).folder).to(self.run.device)
            options = (seed, classes, limit)
            store = self.jets.store("train")
            tokens = tokenize_mirrored(
                tokenizer, store, folder, *options, progress=self.run.progress
            )
            return {"n_jets": len(tokens)}

        return self.run.stage(
            "tokens-mirrored",
            make,
            variant=f"{name} {' '.join(classes)}",
            settings={"max_constituents": limit, "classes": classes},
            inputs={"tokenizer": self.trained(name), "store": self.jets.stored("train")},
        )

    def learned(
        self, settings: PretrainingSettings, classes: tuple[str, ...] = ()
    ) -> dict[str, Stage]:
        """Tokens that a pre-training learns from and is validated on."""
        name = settings.tokenizer
        train = self.mirrored(name, classes) if settings.mirrored else self.tokenised("train", name)
        return {"train": train, "val": self.tokenised("val", name)}

    # Asked for -----------------------------------------------------------------------------------

    def train_all(self) -> dict[str, Artifact]:
        """All tokenizers of the profile, trained side by side, one core each.

        The main one's jets are tokenised by the core that trained it, but for those of a store in
        parts, which all cores share later.
        """
        every = {name: self.trained(name) for name in self.profile.tokenizers}
        stages = {name: stage for name, stage in every.items() if self.run.wants(stage)}
        groups = [[stage] for stage in stages.values()]
        if MAIN in stages and not self.jets.store("train").parts:
            groups[0] += [self.tokenised(split) for split in SPLITS]
        self.run.side_by_side("train tokenizers", groups, "tokenizer")
        return {name: stage.artifact for name, stage in stages.items()}

    def load(self, name: str = MAIN) -> Tokenizer:
        """A trained tokenizer, in evaluation mode."""
        return load_tokenizer(self.trained(name).folder)

    def tokens(self, split: str, name: str = MAIN, campaign: str = JETCLASS) -> TokenStore:
        """Token store of a split."""
        return TokenStore(self.tokenised(split, name, campaign).folder)

    def codebook_usage(self, split: str = "test") -> float:
        """Share of the main tokenizer's codes that occur in a split."""
        tokens = self.tokens(split)
        return np.count_nonzero(tokens.count_ids()) / tokens.n_codes

    def history(self) -> dict:
        """Learning curves of the main tokenizer, as `jetfm.figures.training` takes them."""
        return learning_curves(self.trained().artifact)

    # Described -----------------------------------------------------------------------------------

    def preprocessing(self, name: str = MAIN) -> Preprocessing:
        """Network space of a tokenizer, and of the models that predict its tokens."""
        return preprocessing_of(self.profile.tokenizers[name])

    def describe(self, name: str) -> dict:
        """What tables and figures say of a tokenizer."""
        settings = self.profile.tokenizers[name]
        n_features = self.preprocessing(name).n_features
        return {
            "name": name,
            "label": settings.label,
            "family": settings.family,
            "n_codes": settings.n_codes,
        } | ({"n_features": n_features} if n_features > len(KINEMATICS) else {})

    def families(self) -> set[str]:
        """Kinds of tokenizers in the profile."""
        return {settings.family for settings in self.profile.tokenizers.values()}

    # Inside --------------------------------------------------------------------------------------

    def _usage(self, tokenizer: Tokenizer, max_constituents: int) -> np.ndarray:
        """How often each code occurs in the validation jets, (K,)."""
        val = self.jets.store("val")
        usage = np.zeros(tokenizer.n_codes, np.int64)
        for step, indices in enumerate(InOrderBatches(val.n_constituents, 500)):
            batch = jet_batch(val, tokenizer, indices, max_constituents, (self.profile.seed, step))
            ids = tokenizer.encode(batch["x"], batch["mask"])
            usage += tokenizer.usage(ids).numpy()
        return usage
