"""Stages of tokenizers: training, token stores, and the study of what tokens lose."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from jetfm.data.token_store import TokenStore
from jetfm.physics.features import Preprocessing
from jetfm.pipeline.jets import JETCLASS, JetStages
from jetfm.pipeline.stages import silent
from jetfm.runtime.distributed import rank
from jetfm.runtime.parallel import run_fits
from jetfm.schema import SPLITS
from jetfm.settings import TokenizerSettings
from jetfm.settings.profiles import Profile
from jetfm.storage.artifacts import Artifact, fingerprint
from jetfm.storage.files import read_json, write_json
from jetfm.token_quality.classifiers import TokenClassifiers
from jetfm.token_quality.study import TokenQualityStudy
from jetfm.tokenizers.interface import Tokenizer, preprocessing_of
from jetfm.tokenizers.kinds import load_tokenizer

#: Name of the tokenizer whose tokens pre-training predicts.
MAIN = "main"

MAP_POINTS = 5_000  # drawn of each tokenizer, which keeps the figure and its data small


class TokenStages(JetStages):
    """From jets to tokenizers, token stores and token quality.

    Tokenizers go by name: 'main' is the one of pre-training, the others are those of the
    profile's ``token_quality``.
    """

    @property
    def tokenizer_settings(self) -> dict[str, TokenizerSettings]:
        """Settings of every tokenizer of the profile, the main one first."""
        return {MAIN: self.profile.tokenizer, **self.profile.token_quality.tokenizers}

    @property
    def preprocessing(self) -> Preprocessing:
        """Network space of the main tokenizer."""
        return self.preprocessing_of(MAIN)

    def preprocessing_of(self, name: str) -> Preprocessing:
        """Network space of a tokenizer, and of the models that predict its tokens."""
        return preprocessing_of(self.tokenizer_settings[name])

    def descriptor(self, name: str) -> dict:
        """What tables and figures say of a tokenizer."""
        settings = self.tokenizer_settings[name]
        return {
            "name": name,
            "label": settings.label,
            "family": settings.family,
            "n_codes": settings.n_codes,
        }

    def families(self) -> set[str]:
        """Kinds of tokenizers in the profile."""
        return {settings.family for settings in self.tokenizer_settings.values()}

    # Tokenizers ----------------------------------------------------------------------------------

    def tokenizer_artifact(self, name: str = MAIN) -> Artifact:
        """Folder of a trained tokenizer."""
        from jetfm.tokenizers import make_tokenizer

        settings = self.tokenizer_settings[name]
        train, val = self.store("train"), self.store("val")
        limit = self.profile.data.max_constituents

        def make(folder: Path) -> dict:
            tokenizer = make_tokenizer(settings, seed=self.profile.seed)
            result = tokenizer.fit(
                train, val, folder / "training", self.profile.seed, limit, self.progress
            )
            metrics = result["metrics"]
            data_hash = fingerprint(train.info["sha256"], length=64)
            usage = self._usage(tokenizer.eval(), limit)
            tokenizer.save(folder, usage=usage, training_data=data_hash, **metrics)
            write_json(folder / "history.json", result["history"])
            return metrics

        return self._stage(
            "tokenizer",
            make,
            variant=name,
            settings={"tokenizer": settings, "max_constituents": limit},
            inputs={"train": self._found["store-train"].digest,
                    "val": self._found["store-val"].digest},
        )  # fmt: skip

    def _usage(self, tokenizer: Tokenizer, max_constituents: int) -> np.ndarray:
        """How often each code occurs in the validation jets, (K,)."""
        from jetfm.data.batches import InOrderBatches
        from jetfm.tokenizers.encoding import jet_batch

        val = self.store("val")
        usage = np.zeros(tokenizer.n_codes, np.int64)
        for step, indices in enumerate(InOrderBatches(val.n_constituents, 500)):
            batch = jet_batch(val, tokenizer, indices, max_constituents, (self.profile.seed, step))
            ids = tokenizer.encode(batch["x"], batch["mask"])
            usage += tokenizer.usage(ids).numpy()
        return usage

    def tokenizer(self, name: str = MAIN) -> Tokenizer:
        """A trained tokenizer, in evaluation mode."""
        return load_tokenizer(self.tokenizer_artifact(name).folder)

    def train_tokenizers(self) -> dict[str, Artifact]:
        """All tokenizers of the profile, trained side by side, one core each."""
        self._in_parallel("train tokenizers", _train, self.tokenizer_settings)
        return {name: self.tokenizer_artifact(name) for name in self.tokenizer_settings}

    def study_tokenizers(self) -> None:
        """Compare every tokenizer's jets with the originals, and map its tokens, side by side."""
        self.train_tokenizers()
        self._original_observables()
        self._in_parallel("study tokenizers", _study, self.tokenizer_settings)

    def _in_parallel(
        self, title: str, function: Callable, names: Iterable[str], unit: str = "tokenizer"
    ) -> None:
        """Call ``function(stages, name)`` in worker processes, for what is not made yet."""
        for split in SPLITS:  # made here: two workers would do the same work
            self.store(split)
        missing = [name for name in names if not self.is_made(partial(function, self, name))]
        tasks = [(type(self), function, self.profile, name) for name in missing]
        if tasks and rank() == 0:
            run_fits(_with_own_stages, tasks, 0, title, self.progress, unit)

    def tokens(self, split: str, name: str = MAIN, campaign: str = JETCLASS) -> TokenStore:
        """Token store of a split; jets keep the index they have in the jets store."""
        from jetfm.tokenizers.encoding import tokenize

        trained, store = self.tokenizer_artifact(name), self.store(split, campaign)
        limit = self.profile.data.max_constituents
        seed = (self.profile.seed, SPLITS.index(split))

        def make(folder: Path) -> dict:
            tokenizer = load_tokenizer(trained.folder).to(self.device)
            # parts side by side on a CPU, but for a worker, which has its one thread
            workers = torch.get_num_threads() if self.device == "cpu" else 1
            tokens = tokenize(
                tokenizer, store, folder, seed, limit, progress=self.progress, workers=workers
            )
            return {"n_jets": len(tokens), "n_truncated": store.n_truncated(limit)}

        artifact = self._stage(
            f"tokens-{split}",
            make,
            variant=name if campaign == JETCLASS else f"{name} {campaign}",
            settings={"max_constituents": limit},
            inputs={"tokenizer": trained.digest, "store": self._store(split, campaign).digest},
        )
        return TokenStore(artifact.folder)

    def codebook_usage(self, split: str = "test") -> float:
        """Share of the main tokenizer's codes that occur in a split."""
        tokens = self.tokens(split)
        return np.count_nonzero(tokens.count_ids()) / tokens.n_codes

    # Token quality -------------------------------------------------------------------------------

    def token_quality(self) -> TokenQualityStudy:
        """Test jets before and after tokenisation, for every tokenizer of the profile."""
        self.study_tokenizers()
        original = self._original_observables()
        names = list(self.tokenizer_settings)
        return TokenQualityStudy(
            original.folder,
            {name: self._comparison(name).folder for name in names},
            {name: self.descriptor(name) for name in names},
            self.profile.token_quality.signal,
        )

    def _original_observables(self) -> Artifact:
        from jetfm.token_quality.study import original_observables

        store, limit = self.store("test"), self.profile.data.max_constituents
        return self._stage(
            "observables",
            lambda folder: original_observables(store, folder, limit),
            settings={"max_constituents": limit},
            inputs={"store": self._found["store-test"].digest},
        )

    def _comparison(self, name: str) -> Artifact:
        from jetfm.token_quality.study import compare

        store, tokens = self.store("test"), self.tokens("test", name)
        original = self._original_observables()
        preprocessing = self.tokenizer(name).preprocessing
        signal, limit = self.profile.token_quality.signal, self.profile.data.max_constituents
        return self._stage(
            "token-quality",
            lambda folder: compare(
                store, tokens, preprocessing, original.folder, folder, signal, limit
            ),
            variant=name,
            settings={"signal": signal, "max_constituents": limit},
            inputs={
                "original": original.digest,
                "store": self._found["store-test"].digest,
                "tokens": self._found[f"tokens-test {name}"].digest,
            },
        )

    def token_maps(self) -> list[dict]:
        """What every token stands for in physical space: a panel of figure 3 per tokenizer."""
        self.study_tokenizers()
        return [read_json(self._token_map(name) / "map.json") for name in self.tokenizer_settings]

    def _token_map(self, name: str) -> Artifact:
        from jetfm.token_quality.token_map import map_data, token_map

        settings, seed = self.profile.token_quality, self.profile.seed
        n_reconstructions, n_conditioning = settings.n_reconstructions, settings.n_conditioning
        trained = self.tokenizer_artifact(name)

        def make(folder: Path) -> None:
            tokenizer = load_tokenizer(trained.folder)
            points = token_map(tokenizer, n_reconstructions, n_conditioning, seed)
            panel = map_data(points, self.descriptor(name), n_conditioning, MAP_POINTS, seed)
            write_json(folder / "map.json", panel)

        return self._stage(
            "token-map",
            make,
            variant=name,
            settings={
                "n_reconstructions": n_reconstructions,
                "n_conditioning": n_conditioning,
                "descriptor": self.descriptor(name),
            },
            inputs={"tokenizer": trained.digest},
        )

    def token_classifiers(self) -> TokenClassifiers:
        """Ten-class accuracy on original and reconstructed constituents."""
        from jetfm.token_quality.classifiers import ClassifierJets, run_study

        settings = self.profile.token_quality
        limit = self.profile.data.max_constituents
        self.study_tokenizers()
        sources = {
            "original": {s: ClassifierJets(self.store(s), max_constituents=limit) for s in SPLITS}
        }
        inputs = {s: self._found[f"store-{s}"].digest for s in SPLITS}
        for name in settings.classified:
            preprocessing = self.tokenizer(name).preprocessing
            sources[name] = {
                s: ClassifierJets(self.tokens(s, name), preprocessing, limit) for s in SPLITS
            }
            inputs |= {f"{name} {s}": self._found[f"tokens-{s} {name}"].digest for s in SPLITS}
        artifact = self._stage(
            "token-classifiers",
            lambda folder: run_study(sources, settings, folder, self.profile.seed, self.progress),
            settings=settings.model_dump(
                mode="json",
                include={"classified", "n_train", "n_seeds", "deepsets", "transformer"},
            ),
            inputs=inputs,
            version=3,  # 1 had batches of one length, 2 padded all jets of a batch alike
        )
        return TokenClassifiers(artifact.folder)


def _train(stages: TokenStages, name: str) -> None:
    stages.tokenizer_artifact(name)


def _study(stages: TokenStages, name: str) -> None:
    stages._comparison(name)
    stages._token_map(name)
    if name in stages.profile.token_quality.classified:
        for split in SPLITS:
            stages.tokens(split, name)


def _with_own_stages(kind: type[TokenStages], function: Callable, profile: Profile, name: str):
    function(kind(profile, progress=False, say=silent), name)
