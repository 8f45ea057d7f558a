"""Notebook 02: what jets lose as tokens, tokenizer by tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jetfm.pipeline.jets import JetStages
from jetfm.pipeline.stage import Run, Stage
from jetfm.pipeline.tokenizers import TokenizerStages
from jetfm.schema import SPLITS
from jetfm.storage.files import read_json, write_json
from jetfm.token_quality.classifier_jets import ClassifierJets
from jetfm.token_quality.classifiers import TokenClassifiers, run_study
from jetfm.token_quality.jet_scale import compare_scaled, measure_scale
from jetfm.token_quality.measurement import compare, original_observables
from jetfm.token_quality.study import TokenQualityStudy
from jetfm.token_quality.token_map import map_data, token_map

SCALED_RESULT = "scaled.json"
MAP_POINTS = 5_000  # drawn of each tokenizer, which keeps the figure and its data small


class TokenQualityStages:
    """From token stores to comparisons, maps and classifiers."""

    def __init__(self, run: Run, jets: JetStages, tokenizers: TokenizerStages) -> None:
        self.run, self.profile = run, run.profile
        self.jets, self.tokenizers = jets, tokenizers

    def stages(self) -> Iterator[Stage]:
        """All of the profile."""
        yield self.original()
        for name in self.profile.tokenizers:
            yield from self._of(name)
        yield self.classified()
        if self._classified("full"):
            yield self.classified("full")

    def read_by(self, figure: str) -> list[Stage]:
        """The stages that a figure of the notebook reads."""
        names = self.profile.tokenizers
        if figure == "fig02_token_map":
            return [self.mapped(name) for name in names]
        if figure == "fig02_classifiers":
            return [self.classified()]
        if figure == "fig02_features":
            return [self.classified("full")] if self._classified("full") else []
        if figure[:5] != "fig02":
            return []
        return [self.original(), *map(self.compared, names), *map(self.scaled, names)]

    # Declared ------------------------------------------------------------------------------------

    def original(self, half_width: float | None = None) -> Stage:
        """Observables of the test jets before tokenisation; within a tokenizer's cuts."""
        limit = self.profile.data.max_constituents
        cuts = {} if half_width is None else {"half_width": half_width}
        return self.run.stage(
            "observables",
            lambda folder: original_observables(self.jets.store("test"), folder, limit, half_width),
            variant="" if half_width is None else f"within {half_width:g}",
            settings={"max_constituents": limit} | cuts,
            inputs={"store": self.jets.stored("test")},
        )

    def compared(self, name: str) -> Stage:
        """Test jets before and after a tokenizer."""
        signal, limit = self.profile.token_quality.signal, self.profile.data.max_constituents
        original, tokenised = self._given(name), self.tokenizers.tokenised("test", name)

        def make(folder: Path) -> dict | None:
            store, tokens = self.jets.store("test"), self.tokenizers.tokens("test", name)
            preprocessing = self.tokenizers.load(name).preprocessing
            return compare(store, tokens, preprocessing, original.folder, folder, signal, limit)

        return self.run.stage(
            "token-quality",
            make,
            variant=name,
            settings={"signal": signal, "max_constituents": limit},
            inputs={
                "original": original,
                "store": self.jets.stored("test"),
                "tokens": tokenised,
            },
        )

    def scaled(self, name: str) -> Stage:
        """Test jets after a tokenizer and a scale of pt and angles, from validation jets."""
        signal, original = self.profile.token_quality.signal, self._given(name)

        def make(folder: Path) -> dict[str, float]:
            preprocessing = self.tokenizers.load(name).preprocessing
            val, test = (self.tokenizers.tokens(split, name) for split in ("val", "test"))
            scale = measure_scale(self.jets.store("val"), val, preprocessing)
            result = compare_scaled(test, preprocessing, scale, original.folder, signal)
            write_json(folder / SCALED_RESULT, result)
            return result["scale"]

        return self.run.stage(
            "token-scale",
            make,
            variant=name,
            settings={"signal": signal},
            inputs={"original": original, "store": self.jets.stored("val")}
            | {split: self.tokenizers.tokenised(split, name) for split in ("val", "test")},
        )

    def mapped(self, name: str) -> Stage:
        """What every token of a tokenizer stands for in physical space."""
        settings, seed = self.profile.token_quality, self.profile.seed
        n_reconstructions, n_conditioning = settings.n_reconstructions, settings.n_conditioning
        descriptor = self.tokenizers.describe(name)

        def make(folder: Path) -> None:
            tokenizer = self.tokenizers.load(name)
            points = token_map(tokenizer, n_reconstructions, n_conditioning, seed)
            panel = map_data(points, descriptor, n_conditioning, MAP_POINTS, seed)
            write_json(folder / "map.json", panel)

        return self.run.stage(
            "token-map",
            make,
            variant=name,
            settings={
                "n_reconstructions": n_reconstructions,
                "n_conditioning": n_conditioning,
                "descriptor": descriptor,
            },
            inputs={"tokenizer": self.tokenizers.trained(name)},
            version=3,  # 1 did not measure the volume, 2 not its uncertainty
        )

    def classified(self, features: str = "kinematics") -> Stage:
        """Ten-class classifiers on original and on reconstructed constituents: with these features,
        'kinematics' or 'full', and the tokenizers that have the same."""
        settings, limit = self.profile.token_quality, self.profile.data.max_constituents
        inputs = {split: self.jets.stored(split) for split in SPLITS}
        names = self._classified(features)
        for name in names:
            inputs |= {f"{name} {s}": self.tokenizers.tokenised(s, name) for s in SPLITS}

        def make(folder: Path) -> dict | None:
            stores = {s: self.jets.store(s) for s in SPLITS}
            jets = {s: ClassifierJets(stores[s], None, limit, features) for s in SPLITS}
            sources = {"original": jets}
            for name in names:
                preprocessing = self.tokenizers.load(name).preprocessing
                tokens = {s: self.tokenizers.tokens(s, name) for s in SPLITS}
                sources[name] = {
                    s: ClassifierJets(tokens[s], preprocessing, limit, features) for s in SPLITS
                }
            return run_study(sources, settings, folder, self.profile.seed, self.run.progress)

        return self.run.stage(
            "token-classifiers",
            make,
            variant="" if features == "kinematics" else features,
            settings=settings.model_dump(
                mode="json", include={"n_train", "n_seeds", "deepsets", "transformer"}
            )
            | {"classified": list(names)},
            inputs=inputs,
            version=3,  # 1 had batches of one length, 2 padded all jets of a batch alike
        )

    # Asked for -----------------------------------------------------------------------------------

    def study(self) -> TokenQualityStudy:
        """Test jets before and after tokenisation, for every tokenizer of the profile."""
        self._study_all()
        names = list(self.profile.tokenizers)
        return TokenQualityStudy(
            self.original().folder,
            {name: self.compared(name).folder for name in names},
            {name: self.tokenizers.describe(name) for name in names},
            self.profile.token_quality.signal,
            {name: self._given(name).folder for name in names},
            {name: read_json(self.scaled(name).folder / SCALED_RESULT) for name in names},
        )

    def maps(self) -> list[dict]:
        """A panel of paper 1's figure 3 for every tokenizer."""
        self._study_all()
        folders = [self.mapped(name).folder for name in self.profile.tokenizers]
        return [read_json(folder / "map.json") for folder in folders]

    def classifiers(self) -> TokenClassifiers:
        """Ten-class accuracy on original and reconstructed constituents."""
        self._study_all()
        return TokenClassifiers(self.classified().folder)

    def feature_classifiers(self) -> dict:
        """Arguments of `jetfm.figures.feature_classifiers`: the same with all 14 features; no rows
        where the profile classifies no tokenizer of these."""
        if not self._classified("full"):
            return {"rows": [], "tokenizers": [], "n_train": 0, "n_test": 0}
        self._study_all()
        found = TokenClassifiers(self.classified("full").folder)
        tokenizers = [self.tokenizers.describe(name) for name in self._classified("full")]
        return found.shown | {"tokenizers": tokenizers}

    # Inside --------------------------------------------------------------------------------------

    def _study_all(self) -> None:
        """Train, compare and map every tokenizer, side by side."""
        self.tokenizers.train_all()
        groups = [self._of(name) for name in self.profile.tokenizers]
        self.run.side_by_side("study tokenizers", groups, "tokenizer")

    def _classified(self, features: str) -> list[str]:
        """Tokenizers of these features whose jets are classified."""
        settings = self.profile.tokenizers
        names = self.profile.token_quality.classified
        return [name for name in names if settings[name].features == features]

    def _given(self, name: str) -> Stage:
        """The test jets as a tokenizer is given them."""
        return self.original(self.profile.tokenizers[name].half_width)

    def _of(self, name: str) -> list[Stage]:
        stages = [self.compared(name), self.scaled(name), self.mapped(name)]
        if name in self.profile.token_quality.classified:
            stages += [self.tokenizers.tokenised(split, name) for split in SPLITS]
        return stages
