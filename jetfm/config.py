"""Profiles: every setting of every stage, validated, with units and sources.

A profile is one YAML file in ``jetfm/profiles``; it may build on another (``extends: smoke``) and
then names only what differs. The defaults below are the papers' values, with their source beside
them, so that a profile shows at a glance where it departs from the papers.

Sources: P1 is OmniJet-alpha (arXiv 2403.05618), P2 its successor (arXiv 2512.04149), C the
example configuration of P2's official code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from jetfm.data.schema import class_by_name
from jetfm.errors import JetfmError

PROFILES_DIR = Path(__file__).parent / "profiles"

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base of all settings: immutable, and a misspelt name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SplitSizes(Settings):
    """Jets per class in each split; zero means all that the source has."""

    train: int = Field(ge=0)
    val: int = Field(ge=0)
    test: int = Field(ge=0)


class DataSettings(Settings):
    """Where the jets come from: the shipped sample, a simulation, or a folder of JetClass files."""

    source: Literal["sample", "simulate", "folder"]
    path: Path | None = None  # source 'folder': has train/, val/ and test/ with CLASS_NNN.root
    classes: tuple[str, ...] = ()  # JetClass labels without 'label_'; empty means all ten
    jets_per_class: SplitSizes
    jets_per_file: Positive = 1000  # simulation: one task, one file, one seed
    detector: str = "cms"  # a card in jetfm/data/cards
    workers: int = Field(0, ge=0)  # 0: one per core
    max_constituents: Positive = 128  # P1 II.A, C: pad_length

    @field_validator("classes")
    @classmethod
    def _known(cls, names):
        return tuple(_known_class(name) for name in names)

    @model_validator(mode="after")
    def _path_with_folder(self):
        if (self.source == "folder") != (self.path is not None):
            raise ValueError("'path' belongs to source 'folder', and only to it")
        return self


def _known_class(name: str) -> str:
    try:
        return class_by_name(name).name
    except JetfmError as error:
        raise ValueError(f"Input should be {error.expected}") from None


class OptimizerSettings(Settings):
    """Optimiser and gradient clipping. Defaults: Ranger as in C."""

    name: Literal["ranger", "adamw"] = "ranger"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    betas: tuple[float, float] = (0.95, 0.999)
    eps: float = Field(1e-5, gt=0)
    warmup_steps: int = Field(5, ge=0)  # C: lr/3 for the first five steps
    clip: float = Field(1.0, gt=0)  # largest gradient norm


class TrainingSettings(Settings):
    """One training: batches, length, validation, early stopping."""

    batch_size: Positive
    max_steps: Positive
    validate_every: Positive  # steps; also the interval of checkpoints
    patience: Positive = 5  # validations without improvement before stopping
    optimizer: OptimizerSettings = OptimizerSettings()


class TokenizerSettings(Settings):
    """Conditional VQ-VAE. Defaults: C, the kinematic set; loss constants also P1 A.1."""

    n_codes: Positive = 8192
    latent_dim: Positive = 8
    dim: Positive = 128
    n_blocks: Positive = 4  # in the encoder, and again in the decoder
    n_heads: Positive = 8
    mlp_ratio: Positive = 4
    causal_decoder: bool = True
    alpha: float = Field(10.0, gt=0)  # weight of the commitment loss, eq. A1 of P1
    beta: float = Field(0.9, ge=0, le=1)  # codebook against encoder within it
    nu: float = Field(1.0, ge=0)  # synchronised update
    affine_lr: float = Field(2.0, ge=0)  # 0 switches the affine map off
    replace_after: Positive = 500  # training steps without use before a code is replaced
    training: TrainingSettings = TrainingSettings(
        batch_size=500,
        max_steps=1_000_000,
        validate_every=25_000,
        optimizer=OptimizerSettings(clip=5.0),
    )


class BackboneSettings(Settings):
    """The transformer that all heads share. Defaults: C."""

    dim: Positive = 128
    n_blocks: Positive = 8
    n_heads: Positive = 8
    mlp_ratio: Positive = 4
    n_registers: int = Field(8, ge=0)
    dropout: Fraction = 0.1
    layer_scale: float = Field(1.0, gt=0)


class TokenHeadSettings(Settings):
    """Head that predicts token ids. Defaults: C."""

    n_blocks: Positive = 2
    mlp_ratio: Positive = 2


class PretrainingSettings(Settings):
    """Next-token prediction with continuous input. Defaults: P2, C."""

    backbone: BackboneSettings = BackboneSettings()
    head: TokenHeadSettings = TokenHeadSettings()
    training: TrainingSettings = TrainingSettings(
        batch_size=1000, max_steps=1_000_000, validate_every=25_000
    )


class GenerationSettings(Settings):
    """Autoregressive sampling. Defaults: plain multinomial (P1 II.C, C)."""

    n_jets: Positive = 48_000  # P1 III.B
    batch_size: Positive = 512
    temperature: float = Field(1.0, gt=0)


class FinetuningSettings(Settings):
    """t->bqq' against q/g for several training sizes. Grid and optimiser: P1 A.4; batches: P2."""

    signal: str = "Tbqq"
    background: str = "QCD"
    sizes: tuple[Positive, ...] = (100, 1000, 10_000, 100_000, 1_000_000, 2_000_000)
    n_seeds: Positive = 5
    max_steps: Positive = 100_000
    batch_size: Positive = 1000
    small_batch_size: Positive = 100  # P2: for training sets up to small_size
    small_size: Positive = 10_000
    patience_epochs: tuple[tuple[Positive, Positive], ...] = (  # P1 A.4: up to this size
        (10_000, 20),
        (1_000_000, 10),
        (2_000_000, 5),
    )
    optimizer: OptimizerSettings = OptimizerSettings(
        name="adamw", lr=1e-4, weight_decay=1e-2, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0
    )

    @field_validator("signal", "background")
    @classmethod
    def _known(cls, name):
        return _known_class(name)

    def patience(self, size: int) -> int:
        """Epochs without improvement that end a training on `size` jets."""
        fitting = [epochs for limit, epochs in self.patience_epochs if size <= limit]
        return fitting[0] if fitting else self.patience_epochs[-1][1]


class Profile(Settings):
    """All settings of one run, from data to figures."""

    name: str
    seed: int = Field(1, ge=0)
    data: DataSettings
    tokenizer: TokenizerSettings = TokenizerSettings()
    pretraining: PretrainingSettings = PretrainingSettings()
    generation: GenerationSettings = GenerationSettings()
    finetuning: FinetuningSettings = FinetuningSettings()


def available_profiles() -> list[str]:
    """Names of the profiles that ship with jetfm."""
    return sorted(path.stem for path in PROFILES_DIR.glob("*.yaml"))


def load_profile(name: str | Path = "smoke", **overrides: Any) -> Profile:
    """Read and validate a profile.

    Parameters
    ----------
    name : a shipped profile's name, or the path of a YAML file
    overrides : replace top-level entries, e.g. ``seed=2``; nested dictionaries are merged

    Raises
    ------
    JetfmError
        Unknown profile, unreadable YAML, an unknown setting or one of the wrong type; the message
        names the setting.
    """
    path, values = _resolve(name, seen=())
    values = _merge(values, overrides)
    values.setdefault("name", path.stem)
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"]) or "profile"
        found = f"{first['input']!r:.80}" if first["type"] != "missing" else "nothing"
        expected = "a known setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise JetfmError(f"{path.name}: {setting}", found, expected) from None


def _resolve(name: str | Path, seen: tuple[Path, ...]) -> tuple[Path, dict]:
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES_DIR / f"{name}.yaml"
        if not path.exists():
            raise JetfmError(
                "profile", repr(str(name)), f"one of {', '.join(available_profiles())}"
            )
    if not path.exists():
        raise JetfmError(path, "no such file", "a profile in YAML")
    if path in seen:
        raise JetfmError(
            path, "a circle of 'extends'", "profiles that build on each other in a line"
        )
    try:
        values = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise JetfmError(
            path, f"unreadable YAML ({error})".replace("\n", " "), "a profile"
        ) from None
    if not isinstance(values, dict):
        raise JetfmError(path, type(values).__name__, "a mapping of settings")
    base = values.pop("extends", None)
    if base is not None:
        _, inherited = _resolve(base, (*seen, path))
        inherited.pop("name", None)
        values = _merge(inherited, values)
    return path, values


def _merge(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def with_folder(profile: Profile, folder: str | Path) -> Profile:
    """The same profile over the JetClass files of a folder with train*/, val*/ and test*/."""
    folder = Path(folder)
    if not folder.is_dir():
        raise JetfmError(folder, "no such folder", "a folder with train*/, val*/ and test*/")
    data = profile.data.model_copy(update={"source": "folder", "path": folder.resolve()})
    other = profile.data.source != "folder"  # figures of real and simulated jets stay apart
    name = f"{profile.name}-data" if other else profile.name
    return profile.model_copy(update={"data": data, "name": name})


def dry_run(profile: Profile) -> Profile:
    """A few jets and steps of every stage with this profile's networks, on any machine.

    Jets come from the profile's folder where it exists, else from the shipped sample.
    """
    training = {"max_steps": 2, "validate_every": 1, "batch_size": 8}
    values = profile.model_dump()
    if profile.data.path is None or not profile.data.path.is_dir():
        values["data"] |= {"source": "sample", "path": None}
    values["name"] = f"{profile.name}-dry-run"
    values["data"]["jets_per_class"] = {"train": 10, "val": 5, "test": 40}
    values["tokenizer"]["training"] |= training
    values["pretraining"]["training"] |= training
    values["generation"] |= {"n_jets": 8, "batch_size": 8}
    values["finetuning"] |= {"sizes": (20,), "n_seeds": 1, "max_steps": 2, "batch_size": 8}
    values["finetuning"] |= {"small_batch_size": 8}
    return Profile.model_validate(values)
