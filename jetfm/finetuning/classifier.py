"""A trained classifier with all that it needs to score jets, in one folder.

``classifier.json`` has the classes in their order, the network's sizes, the preprocessing, the
length that jets are cut to, the range of pt of the jets it was trained on, and for a network of
tokens the tokenizer; ``weights.safetensors`` the weights of both. No profile, no pre-trained model
and no work folder is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import awkward as ak
import numpy as np
import torch
from torch import Tensor

from jetfm.data.batches import InOrderBatches, spread_over
from jetfm.data.jet_columns import check_radians, check_unit
from jetfm.data.jet_files import Paths, named
from jetfm.data.labelled import network_batch
from jetfm.data.own_jets import store_of
from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.finetuning.contenders import Contender, baseline
from jetfm.finetuning.study import log_probabilities
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import BatchClassifier, JetClassifier
from jetfm.models.physical_input import PhysicalInput, falling_rank, sorted_by
from jetfm.physics.features import Preprocessing
from jetfm.physics.jagged import padded
from jetfm.runtime.device import current_device, evaluation_batch
from jetfm.runtime.progress import Progress
from jetfm.schema import KINEMATICS
from jetfm.settings import BASELINES, BackboneSettings, BaselineSettings
from jetfm.storage.weights import SavedModule
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.kinds import tokenizer_of
from jetfm.tokenizers.own_jets import tokenize_files

_AT_ONCE = 50_000  # jets in memory
_WINDOWS = 1024  # random orders that jets share
_FOR_THE_RANGE = 10_000  # jets whose pt is looked at
_CENTRAL = (0.01, 0.99)  # quantiles: the range of pt of the training jets


class Classifier(SavedModule):
    """A trained classifier; `load` reads one, in evaluation mode on the CPU.

    Parameters
    ----------
    network : maps a batch to logits (B, K)
    architecture : what rebuilds it, see `architecture_of`
    classes : K names, in the order of the network's outputs
    preprocessing : network space of the constituents
    max_constituents : longer jets keep their leading ones in pt
    pt_range : GeV, of the jets that it was trained on (`pt_range_of`)
    tokenizer : whose ids the network reads; None for constituents
    seed : of the order of constituents, where the tokenizer wants it random
    """

    kind = "classifier"

    def __init__(
        self,
        network: BatchClassifier,
        architecture: dict[str, Any],
        classes: Sequence[str],
        preprocessing: Preprocessing,
        max_constituents: int,
        pt_range: tuple[float, float],
        tokenizer: Tokenizer | None = None,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.network, self.tokenizer = network, tokenizer
        self.architecture, self.classes = architecture, tuple(classes)
        self.preprocessing, self.max_constituents = preprocessing, max_constituents
        self.pt_range, self.seed = pt_range, seed
        half_width = None if tokenizer is None else tokenizer.settings.half_width
        self.input = PhysicalInput(preprocessing, max_constituents, half_width)
        shuffle = np.random.default_rng(seed).permutation(max(_WINDOWS, max_constituents))
        self.register_buffer("shuffle", torch.as_tensor(shuffle), persistent=False)

    # Use -----------------------------------------------------------------------------------------

    def probabilities(self, pt, eta, phi, any_pt: bool = False, **others) -> np.ndarray:
        """Probability of each class for some jets, (jets, K) float32, in the order of `classes`.

        Parameters
        ----------
        pt, eta, phi : (jets, constituents) of the constituents: GeV, and absolute angles, as
            detectors have them; the axis of the jet is found here. Arrays with pt 0 where there is
            no constituent, or awkward arrays of lists. In any order.
        others : the same for every further feature of the model, named as in the schema
            (``input.names`` lists all); a kinematic model has none
        any_pt : take jets of another pt than those that the classifier was trained on

        Raises
        ------
        JetfmError
            A missing or unknown feature, shapes that differ, values that are not finite, a negative
            pt, azimuths in degrees, or jets whose median pt is far from `pt_range`: MeV for GeV,
            mostly.

        Notes
        -----
        A causal network of a tokenizer that wants constituents in random order gets them in one, as
        it was trained, which the jet itself decides; files get another one, as test jets do.
        """
        arrays = _dense(self.input.names, {"pt": pt, "eta": eta, "phi": phi, **others})
        pt = arrays[0]
        if not any_pt:
            self.check_pt("pt", _jet_pt(pt, arrays[2]))
        found = np.empty((len(pt), len(self.classes)), np.float32)
        if not len(pt):
            return found
        device = current_device()
        self.to(device).eval()
        with torch.no_grad():
            for jets in InOrderBatches((pt > 0).sum(1), evaluation_batch()):
                used = np.flatnonzero((pt[jets] > 0).any(0)).max(initial=0) + 1
                some = (torch.as_tensor(array[jets, :used]).to(device) for array in arrays)
                found[jets] = self(*some).cpu().numpy()
        self.to("cpu")
        return found

    def probabilities_of(
        self, jets: JetStore | Paths, any_pt: bool = False, progress: bool = False
    ) -> np.ndarray:
        """The same for all jets of a store or of files, in their order.

        Parameters
        ----------
        jets : a jets store, or what `jetfm.data.own_jets.store_of` takes
        any_pt : as for `probabilities`

        Raises
        ------
        JetfmError
            Unreadable files, jets without a feature of the model, or far from `pt_range`.
        """
        with TemporaryDirectory(prefix="jetfm-") as scratch:
            name = jets.folder if isinstance(jets, JetStore) else named(jets)
            if not isinstance(jets, JetStore):
                features = self.preprocessing.features
                jets = store_of(jets, Path(scratch) / "jets", progress, features, any_pt=True)
            chunks = self.scored(jets, scratch, any_pt, progress, name)
            found = [chunk.log_p for chunk in chunks]
        return np.exp(np.concatenate(found))

    def scored(
        self,
        store: JetStore,
        scratch: str | Path,
        any_pt: bool = False,
        progress: bool = True,
        name: object = None,
    ) -> Iterator[Scored]:
        """The jets of a store with their scores, a chunk after the other; as fine-tuning tests.

        Parameters
        ----------
        scratch : folder for the tokens of the jets, where the network reads them
        any_pt : as for `probabilities`
        name : what an error calls the jets; the store's folder by default

        Raises
        ------
        JetfmError
            Jets without a feature of the model, or far from `pt_range`.
        """
        store.columns(self.preprocessing.features)  # what is missing is said at once
        if not any_pt:
            some = spread_over(len(store), _FOR_THE_RANGE)
            self.check_pt(name or store.folder, _summed_pt(store, some))
        tokens = None
        if self.tokenizer is not None:
            folder = Path(scratch) / "tokens"
            options = (self.seed, self.max_constituents, progress)
            tokens = tokenize_files(self.tokenizer, store.folder, folder, *options)
            self.tokenizer.to("cpu")
        with Progress("score", len(store), unit="jet", show=progress) as bar:
            for start in range(0, len(store), _AT_ONCE):
                jets = np.arange(start, min(start + _AT_ONCE, len(store)))
                held = store.hold(jets)
                side = _Side(self, held, None if tokens is None else tokens.hold(jets))
                scores = log_probabilities(self.network, side, side)
                yield Scored(jets, np.asarray(held.labels), scores)
                bar.update(len(jets), len(jets))

    def check_pt(self, where: object, pt: np.ndarray) -> None:
        """Refuse jets whose median pt (jets,) [GeV] is far from `pt_range`; empty ones don't count.

        Raises
        ------
        JetfmError
            Naming `where`.
        """
        pt = pt[pt > 0]
        if len(pt):
            check_unit(where, "summed constituent pt", pt, self.pt_range, slack=2.0)

    def forward(self, *arrays: Tensor) -> Tensor:
        """Probabilities (B, K) of the arrays (B, T) of `PhysicalInput`."""
        x, mask, n_constituents = self.input(*arrays)
        if self.tokenizer is not None:
            x = self.tokenizer.encode_known(x, mask).clamp(min=0)
        if getattr(self.network, "causal", False):  # it needs them in order, padding last
            key = torch.where(mask, arrays[0], 0)
            if self.tokenizer is not None and self.tokenizer.settings.order == "random":
                key = self._random_key(key, x, mask)
            x, mask = sorted_by(key, x, mask)
        batch = {"x": x, "mask": mask, "n_constituents": n_constituents}
        return self.network(batch).softmax(1)

    def _random_key(self, pt: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, T) keys of a random order of each jet's constituents, 0 where padded.

        In integers, so that it is the same wherever it runs: the constituents, in falling pt, take
        places in a row from one permutation of all classifiers of this seed, and their tokens say
        from where on.
        """
        start = torch.where(mask, ids, 0).sum(1, keepdim=True)
        return torch.where(
            mask, 1 + self.shuffle[(start + falling_rank(pt)) % len(self.shuffle)], 0
        )

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        config = {
            "architecture": self.architecture,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "max_constituents": self.max_constituents,
            "pt_range": list(self.pt_range),
        }
        if self.tokenizer is not None:
            config |= {"tokenizer": self.tokenizer.config, "seed": self.seed}
        return config

    @classmethod
    def load(cls, folder: str | Path) -> Classifier:
        if not (Path(folder) / f"{cls.kind}.json").exists():
            expected = "the folder that `jetfm finetune` left at --out"
            raise JetfmError(folder, f"no {cls.kind}.json", expected)
        return super().load(folder)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Classifier:
        preprocessing = Preprocessing.from_dict(config["preprocessing"])
        classes, architecture = config["classes"], config["architecture"]
        tokenizer = tokenizer_of(config["tokenizer"]) if "tokenizer" in config else None
        low, high = config["pt_range"]
        return cls(
            _network(architecture, len(classes), preprocessing),
            architecture,
            classes,
            preprocessing,
            config["max_constituents"],
            (low, high),
            tokenizer,
            config.get("seed", 1),
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """Some jets of a store: their places, labels of the store (-1 unknown), and ln p (n, K)."""

    jets: np.ndarray
    labels: np.ndarray
    log_p: np.ndarray


class _Side:
    """Jets in memory, as `jetfm.finetuning.study.log_probabilities` asks for them."""

    def __init__(self, classifier: Classifier, store: JetStore, tokens: TokenStore | None) -> None:
        self._classifier, self.store, self._tokens = classifier, store, tokens
        self.folder, self.indices = store.folder, np.arange(len(store))

    def batch(self, indices: np.ndarray) -> dict[str, Tensor]:
        known = self._classifier
        return network_batch(
            self.store, indices, known.preprocessing, known.max_constituents, self._tokens
        )


def architecture_of(
    contender: Contender, network: BatchClassifier, settings: BaselineSettings
) -> dict[str, Any]:
    """What rebuilds the network of a contender, as JSON values."""
    if contender.model in BASELINES:
        return {"kind": contender.model, "settings": settings.model_dump(mode="json")}
    backbone = network.backbone
    return {
        "kind": "backbone",
        "settings": backbone.settings.model_dump(mode="json"),
        "n_features": backbone.n_features,
        "n_codes": backbone.n_codes,
    }


def _network(
    architecture: dict[str, Any], n_classes: int, preprocessing: Preprocessing
) -> BatchClassifier:
    kind, settings = architecture["kind"], architecture["settings"]
    if kind in BASELINES:
        settings = BaselineSettings.model_validate(settings)
        return baseline(kind, n_classes, preprocessing, settings)
    sizes = architecture["n_features"], architecture["n_codes"]
    settings = BackboneSettings.model_validate(settings)
    return JetClassifier(Backbone(settings, *sizes, preprocessing), n_classes)


def pt_range_of(store: JetStore, indices: np.ndarray) -> tuple[float, float]:
    """Where the summed constituents' pt of some jets lies, GeV: the central 98 % of them."""
    pt = _summed_pt(store, indices[spread_over(len(indices), _FOR_THE_RANGE)])
    low, high = np.quantile(pt[pt > 0], _CENTRAL) if pt.any() else (0.0, 0.0)
    return round(float(low), 3), round(float(high), 3)


def _summed_pt(store: JetStore, indices: np.ndarray) -> np.ndarray:
    """(jets,) GeV."""
    physical, _ = store.dense(indices, features=KINEMATICS)
    return _jet_pt(physical[..., 0], physical[..., 2])


def _jet_pt(pt: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """(jets,) of the constituents (jets, constituents)."""
    return np.hypot((pt * np.cos(phi)).sum(1), (pt * np.sin(phi)).sum(1))


def _dense(names: Sequence[str], given: dict[str, Any]) -> list[np.ndarray]:
    """(jets, constituents) float64 arrays in the order of `names`, zero where padded."""
    for name in [*given, *names]:
        if name not in given or name not in names:
            found = f"{', '.join(given)}"
            raise JetfmError("constituents", found, f"{', '.join(names)}, which the model reads")
    counts = ak.to_numpy(ak.num(given["pt"])) if isinstance(given["pt"], ak.Array) else None
    arrays = []
    for name in names:
        values = given[name]
        if isinstance(values, ak.Array) and counts is not None:
            if not np.array_equal(ak.to_numpy(ak.num(values)), counts):
                raise JetfmError(name, "lists of another length", "as many values as in pt")
            mask = np.arange(max(counts.max(initial=0), 1)) < counts[:, None]
            values = padded(ak.to_numpy(ak.flatten(values)), mask, np.float64)
        values = np.asarray(values, np.float64)
        shape = arrays[0].shape if arrays else values.shape
        if values.ndim != 2 or values.shape != shape:
            expected = f"{shape}, as of pt" if arrays else "(jets, constituents)"
            raise JetfmError(name, f"shape {values.shape}", expected)
        arrays.append(values)
    pt = arrays[0]
    if not pt.shape[1]:
        return [np.zeros((len(pt), 1)) for _ in arrays]
    for name, values in zip(names, arrays, strict=True):
        bad = ~np.isfinite(values) | ((values < 0) if name == "pt" else False)
        bad &= pt != 0
        if bad.any():
            jet, place = np.argwhere(bad)[0]
            expected = "finite values, pt >= 0"
            raise JetfmError(name, f"{values[jet, place]} in jet {jet}", expected)
        if name == "phi":
            check_radians(name, values[pt > 0])
    return arrays
