"""What is trained to classify jets: a backbone with a new head, or a baseline."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.finetuning.masking_beside import MaskingBeside
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import BatchClassifier, HeadOnly, JetClassifier, SetClassifier
from jetfm.models.deepsets import DeepSets
from jetfm.models.jet_model import load_backbone, load_model
from jetfm.models.lorentz_transformer import LorentzTransformer
from jetfm.models.particle_transformer import ParticleTransformer
from jetfm.physics.features import Preprocessing
from jetfm.settings import BASELINES, PROBES, BaselineSettings

#: How each kind of start is called in legends.
STARTS = {
    "scratch": "from scratch",
    "fixed": "backbone fixed",
    "finetuned": "fine-tuned",
    "beside": "fine-tuned, MPM beside",
    "linear": "linear probe",
    "neighbours": "nearest neighbours",
}

#: Starts that leave the backbone as it is: their jets are encoded once.
ON_A_FIXED_BACKBONE = ("fixed", *PROBES)


@dataclass(frozen=True)
class Contender:
    """One way to classify.

    Parameters
    ----------
    model : name of a pre-training, or of a baseline (`jetfm.settings.BASELINES`)
    weights : one of `STARTS`
    label : what legends call the model
    folder : of the pre-trained model; 'scratch' has a backbone of the same size
    others : folders of further pre-trainings of this model, which differ in their seed
    """

    model: str
    weights: str
    label: str = ""
    folder: Path | None = None
    others: tuple[Path, ...] = ()

    def trainings(self) -> list[Contender]:
        """One a pre-training."""
        return [replace(self, folder=folder, others=()) for folder in (self.folder, *self.others)]

    def of(self, repetition: int) -> Contender:
        """With the pre-training that a repetition starts from: all of them in turn."""
        trainings = self.trainings()
        return trainings[repetition % len(trainings)]

    @property
    def name(self) -> str:
        """Name for files."""
        return f"{self.model}-{self.weights}"

    @property
    def text(self) -> str:
        """Model and start, for legends."""
        if self.model in BASELINES:
            return BASELINES[self.model]
        return f"{self.label or self.model}, {STARTS[self.weights]}"

    def backbone(
        self,
        preprocessing: Preprocessing | None = None,
        tokenizer_hash: str | None = None,
        loaded: Backbone | None = None,
    ) -> Backbone:
        """The backbone that it starts with; of random weights if 'scratch'.

        Parameters
        ----------
        preprocessing : of the constituents that it is to read
        tokenizer_hash : of the tokens that it is to read, if it reads ids
        loaded : the pre-trained one, where it is in memory already

        Raises
        ------
        JetfmError
            Its input is not these features, or not these tokens.
        """
        backbone = load_backbone(self.folder, tokenizer_hash) if loaded is None else loaded
        n_features = None if preprocessing is None else preprocessing.n_features
        if not backbone.reads_ids and n_features not in (None, backbone.n_features):
            expected = f"{n_features}: {', '.join(preprocessing.features)}"
            raise JetfmError(self.folder, f"a backbone of {backbone.n_features} features", expected)
        return backbone.fresh() if self.weights == "scratch" else backbone

    def module(
        self,
        n_classes: int,
        preprocessing: Preprocessing,
        settings: BaselineSettings,
        tokenizer_hash: str | None = None,
    ) -> BatchClassifier:
        """What is trained, from torch's global random state; arguments as for `backbone`.

        A fixed backbone is not part of it: only the head, for jets that it has encoded.
        """
        network = self.network(n_classes, preprocessing, settings, tokenizer_hash)
        return HeadOnly(network.head) if self.weights == "fixed" else network

    def beside(
        self,
        n_classes: int,
        preprocessing: Preprocessing,
        weight: float,
        tokenizer_hash: str | None = None,
    ) -> MaskingBeside:
        """What is trained of a contender that starts 'beside'.

        Parameters
        ----------
        weight : of masked particles in the loss
        tokenizer_hash : of the tokens that it is to predict

        Raises
        ------
        JetfmError
            As of `backbone`, or a model that was not pre-trained with masked particles.
        """
        model = load_model(self.folder, tokenizer_hash)
        self.backbone(preprocessing, loaded=model.backbone)
        return MaskingBeside(model, n_classes, weight)

    def network(
        self,
        n_classes: int,
        preprocessing: Preprocessing,
        settings: BaselineSettings,
        tokenizer_hash: str | None = None,
        loaded: Backbone | None = None,
    ) -> BatchClassifier:
        """All of it, a fixed backbone too; arguments as for `backbone`."""
        if self.model in BASELINES:
            return baseline(self.model, n_classes, preprocessing, settings)
        return JetClassifier(self.backbone(preprocessing, tokenizer_hash, loaded), n_classes)


def baseline(
    name: str, n_classes: int, preprocessing: Preprocessing, settings: BaselineSettings
) -> BatchClassifier:
    """A classifier without pre-training, of random weights; its name is one of `BASELINES`."""
    if name == "deepsets":
        network = DeepSets(preprocessing.n_features, n_classes, settings.deepsets)
        return SetClassifier(network)
    if name == "lgatr":
        return LorentzTransformer(preprocessing, n_classes, **dict(settings.lgatr))
    return ParticleTransformer(
        preprocessing,
        n_classes,
        settings.dim,
        settings.n_blocks,
        settings.n_heads,
        pair_bias=name == "part",
    )
