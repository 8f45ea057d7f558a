"""Settings of classification: which jets are told apart, by whom, from how many labels.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149).
"""

from __future__ import annotations

import operator
from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator, model_validator

from jetfm.settings.base import Positive, Settings, known_classes
from jetfm.settings.training import OptimizerSettings

#: With which weights a backbone starts that is trained, or whose head is.
Weights = Literal["scratch", "fixed", "finetuned"]

#: What reads a fixed backbone without a network: `jetfm.finetuning.probes`.
Probe = Literal["linear", "neighbours"]

PROBES = get_args(Probe)
Start = Weights | Probe | Literal["beside"]

#: A number for training sets of up to so many jets; larger ones have the last.
BySize = Annotated[tuple[tuple[Positive, Positive], ...], Field(min_length=1)]

#: Paper 1's model of q/g and t->bqq' jets together, which generates and is fine-tuned (P1 III B).
COMBINED = "omnijet-combined"

#: Classifiers without pre-training, trained on the same jets as the others.
BASELINES = {
    "deepsets": "DeepSets",
    "transformer": "Transformer",
    "part": "Transformer, pair bias (ParT)",
    "lgatr": "Lorentz-equivariant (L-GATr-slim)",
}

#: What `FinetuningSettings.recipe` decides.
RECIPE = (
    "optimizer", "rates", "ema", "max_steps", "patience_epochs", "monitor", "validate_every",
    "batch_size", "small_batch_size", "small_size",
)  # fmt: skip

_CONTENDERS: dict[str, tuple[Start, ...]] = {
    "main": ("scratch", "fixed", "finetuned"),
    "ntp-token-id": ("scratch", "finetuned"),
    "mpm": ("fixed", "finetuned"),
    "mpm-causal": ("fixed", "finetuned"),
    "joint": ("fixed", "finetuned"),
    **dict.fromkeys(("deepsets", "transformer", "part"), ("scratch",)),
}


class TaskSettings(Settings):
    """One classification task and its contenders."""

    # JetClass-like jets, or the Top Landscape's: another generator set-up, another detector.
    jets: Literal["jetclass", "toplandscape"] = "jetclass"
    # Named as in the schema; a jet's label is the place of its class here, so that the last of two
    # is the signal. Empty: all ten.
    classes: tuple[str, ...] = ()
    # Train and validate on jets in these ranges (low <= value < high; GeV) alone; test on all,
    # those inside and those outside told apart. Ours.
    train_on: dict[Literal["jet_pt", "jet_abs_eta"], tuple[float, float]] = Field(
        {}, exclude_if=operator.not_
    )
    # By name of a pre-training of the profile ('main' is ``pretraining``), or `COMBINED`: with
    # which weights its backbone starts. 'scratch' are random ones, 'fixed' and 'finetuned' the
    # pre-trained, as have the probes of a fixed one, 'linear' and 'neighbours'. 'beside' is
    # fine-tuned and goes on learning masked particles. By name of a baseline (`BASELINES`):
    # 'scratch'. Those of no profile entry are left out.
    contenders: dict[str, tuple[Start, ...]] = _CONTENDERS  # P2's strategies, and baselines
    sizes: tuple[Positive, ...] = ()  # training jets; empty: those of the study
    # By contender, or contender and start ('joint beside'), the most of them that it is fitted
    # with; the others have all.
    most_labels: dict[str, Positive] = Field({}, exclude_if=operator.not_)
    # Fits of a point, where they are other than the study's.
    n_seeds: Positive | BySize | None = Field(None, exclude_if=lambda n_seeds: n_seeds is None)

    @field_validator("classes")
    @classmethod
    def _known(cls, names):
        if len(names) == 1:
            raise ValueError("classes should be at least two, or none for all ten")
        return known_classes(names)

    @field_validator("train_on")
    @classmethod
    def _ranges_rise(cls, ranges):
        for name, (low, high) in ranges.items():
            if not low < high:
                raise ValueError(f"{name} should rise, found {low:g} to {high:g}")
        return ranges

    @property
    def ranges(self) -> tuple[tuple[str, float, float], ...]:
        """`train_on` as `jetfm.data.jet_ranges` takes it."""
        return tuple((name, low, high) for name, (low, high) in self.train_on.items())

    def most_labels_of(self, model: str, start: Start) -> int:
        """The most labels that a contender is fitted with; zero means all."""
        return self.most_labels.get(f"{model} {start}", self.most_labels.get(model, 0))

    @model_validator(mode="after")
    def _limits_contenders(self):
        starts = {f"{name} {start}" for name, some in self.contenders.items() for start in some}
        for name in self.most_labels:
            if name not in self.contenders.keys() | starts:
                raise ValueError(f"most_labels names {name!r}, which is no contender of the task")
        return self

    @field_validator("contenders")
    @classmethod
    def _baselines_from_scratch(cls, contenders):
        for name, weights in contenders.items():
            if name in BASELINES and not set(weights) <= {"scratch"}:
                raise ValueError(f"{name} is a baseline: its weights should be [scratch], or none")
        return contenders


def _of_size(numbers: BySize, size: int) -> int:
    fitting = [number for limit, number in numbers if size <= limit]
    return fitting[0] if fitting else numbers[-1][1]


class LorentzSettings(Settings):
    """Size of the Lorentz-equivariant baseline; by default one for few labels and no GPU (ours).

    Profile `paper` has the size of arXiv 2512.17011 (official configuration).
    """

    n_vectors: Positive = 16  # channels of a token, each a four-vector
    n_scalars: Positive = 32
    n_blocks: Positive = 4
    n_heads: Positive = 4
    mlp_ratio: Positive = 2


class BaselineSettings(Settings):
    """Sizes of the classifiers without pre-training; of the backbone where not said otherwise."""

    dim: Positive = 128
    n_blocks: Positive = 8
    n_heads: Positive = 8
    deepsets: tuple[Positive, ...] = (100, 100, 256)  # P1 A.2: layers on a constituent
    # Absent from files by default: fits of before this setting keep their hashes.
    lgatr: LorentzSettings = Field(
        LorentzSettings(), exclude_if=lambda sizes: sizes == LorentzSettings()
    )


class FinetuningSettings(Settings):
    """Classification by number of labelled jets. Grid and optimiser: P1 A.4; batches: P2."""

    tasks: dict[str, TaskSettings] = {
        # P1 figure 7: OmniJet-alpha, t->bqq' against q/g
        "tagging": TaskSettings(
            classes=("QCD", "Tbqq"), contenders={COMBINED: ("scratch", "fixed", "finetuned")}
        ),
        # P2 figures 4 and 5
        "ten-classes": TaskSettings(sizes=(100, 1000, 10_000, 100_000, 1_000_000, 10_000_000)),
        "landscape": TaskSettings(
            jets="toplandscape",
            classes=("QCD", "Tbqq"),
            sizes=(100, 1000, 10_000, 100_000, 1_200_000),
        ),
    }
    sizes: tuple[Positive, ...] = (100, 1000, 10_000, 100_000, 1_000_000, 2_000_000)
    n_seeds: Positive | BySize = 5  # fits of a point; by size, since those of few labels are cheap
    max_steps: Positive = 100_000
    batch_size: Positive = 1000
    small_batch_size: Positive = 100  # P2: for training sets up to small_size
    small_size: Positive = 10_000
    patience_epochs: BySize = (  # P1 A.4
        (10_000, 20),
        (1_000_000, 10),
        (2_000_000, 5),
    )
    # What has to improve in validation: P1's loss; of few labels it rises, as the classifier grows
    # too sure of itself, while the accuracy does, too
    monitor: Literal["loss", "accuracy"] = "loss"
    validate_every: Positive = 10  # steps at least; our choice: an epoch may be a single step
    limit_val_jets: int = Field(0, ge=0)  # validate and test on so many, at random; zero: all
    limit_test_jets: int = Field(0, ge=0)
    optimizer: OptimizerSettings = OptimizerSettings(
        name="adamw", lr=1e-4, weight_decay=1e-2, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0
    )
    rates: dict[Weights, Annotated[float, Field(gt=0)]] = {}  # by start, instead of optimizer.lr
    # As in `TrainingSettings`; what is tested is computed in fp32 whatever stands here
    precision: Literal["fp32", "bf16"] = Field("fp32", exclude_if=lambda name: name == "fp32")
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of averaged weights, if wanted
    # Of masked particles in the loss of 'beside'. Our choice: a token's loss starts at ln K, four
    # times that of ten classes, and is to help and not to lead.
    mpm_weight: float = Field(0.1, ge=0, exclude_if=lambda weight: weight == 0.1)
    # 'paper': what `RECIPE` names is paper 1's and paper 2's, whatever stands beside
    recipe: Literal["paper"] | None = None
    baselines: BaselineSettings = BaselineSettings()
    n_bootstrap: int = Field(200, ge=2)  # resamplings behind every uncertainty from test jets

    @model_validator(mode="before")
    @classmethod
    def _papers_recipe(cls, values):
        if isinstance(values, dict) and values.get("recipe") == "paper":
            return {name: value for name, value in values.items() if name not in RECIPE}
        return values

    def optimizer_of(self, weights: Start) -> OptimizerSettings:
        """Optimiser of the fits with this start; that of fine-tuning for 'beside'."""
        rate = self.rates.get("finetuned" if weights == "beside" else weights)
        usual = self.optimizer
        if rate is None:
            return usual
        others = None if usual.lr_others is None else usual.lr_others * rate / usual.lr
        return usual.model_copy(update={"lr": rate, "lr_others": others})

    def sizes_of(self, task: str) -> tuple[int, ...]:
        """Training sizes of a task."""
        return self.tasks[task].sizes or self.sizes

    def patience(self, size: int) -> int:
        """Epochs without improvement that end a training on `size` jets."""
        return _of_size(self.patience_epochs, size)

    def seeds(self, task: str, size: int) -> range:
        """Repetitions of a task's fit on `size` jets."""
        n_seeds = self.tasks[task].n_seeds or self.n_seeds
        return range(_of_size(n_seeds, size) if isinstance(n_seeds, tuple) else n_seeds)
