"""Profiles: the settings of all stages together, from a YAML file.

A profile is one YAML file in ``jetfm/profiles``; it may build on another (``extends: smoke``) and
then names only what differs. Paths in it are relative to its file; of the profiles that ship, to
the clone. What it does not name has the papers' value (`jetfm.settings`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from jetfm.errors import JetfmError
from jetfm.settings import (
    BASELINES,
    COMBINED,
    MAIN,
    ContinuousSettings,
    DataSettings,
    FinetuningSettings,
    FlowSettings,
    GenerationSettings,
    GenerativeQualitySettings,
    LandscapeSettings,
    PretrainingSettings,
    ScalingSettings,
    Settings,
    TokenizerSettings,
    TokenQualitySettings,
    merged,
)
from jetfm.settings.base import MAX_SEED
from jetfm.storage.files import write_text
from jetfm.storage.paths import expanded, project_folder

PROFILES_DIR = Path(__file__).parents[1] / "profiles"
_SUFFIXES = (".yaml", ".yml")  # else it is the name of a profile that ships
TOPLANDSCAPE = "TopLandscape"  # folder of its h5 files, inside that of the JetClass files


class Profile(Settings):
    """All settings of one run, from data to figures."""

    name: str
    seed: int = Field(1, ge=0, le=MAX_SEED)
    data: DataSettings
    tokenizer: TokenizerSettings = TokenizerSettings()  # whose tokens pre-training predicts
    token_quality: TokenQualitySettings = TokenQualitySettings()
    pretraining: PretrainingSettings = PretrainingSettings()  # whose model the later stages use
    strategies: dict[str, PretrainingSettings] = {}  # others, trained on the same tokens
    scaling: ScalingSettings = ScalingSettings()  # foretells the main model's loss
    flow: FlowSettings = FlowSettings()  # EPiC-FM, the rival without tokens
    continuous: ContinuousSettings = ContinuousSettings()  # the backbone with a density as its head
    generation: GenerationSettings = GenerationSettings()
    generative_quality: GenerativeQualitySettings = GenerativeQualitySettings()
    landscape: LandscapeSettings = LandscapeSettings()  # the other set-up's jets
    finetuning: FinetuningSettings = FinetuningSettings()

    @property
    def tokenizers(self) -> dict[str, TokenizerSettings]:
        """All of them, the main one first."""
        return {MAIN: self.tokenizer, **self.token_quality.tokenizers}

    @property
    def models(self) -> dict[str, PretrainingSettings]:
        """All pre-trainings on tokens, the main one first."""
        return {MAIN: self.pretraining, **self.strategies}

    @property
    def n_parameters(self) -> int:
        """Of the largest model's blocks, about: 12 matrices of dim x dim in each."""
        models = (*self.models.values(), self.generative_quality.model)
        return max(
            12 * model.backbone.dim**2 * (model.backbone.n_blocks + model.head.n_blocks)
            for model in models
        )

    @model_validator(mode="after")
    def _names_are_known(self):
        tokenizers = self.tokenizers
        trained = {
            "pretraining": self.pretraining,
            **self.strategies,
            "generative_quality.model": self.generative_quality.model,
        }
        for name, settings in trained.items():
            if settings.tokenizer not in tokenizers:
                found = f"the tokenizer of '{name}' is '{settings.tokenizer}'"
                raise ValueError(f"{found}: expected one of {', '.join(tokenizers)}")
        masks = {name: one.masks for name, one in self.models.items()}
        masks[COMBINED] = self.generative_quality.model.masks
        models = dict.fromkeys((*self.models, *BASELINES))
        usual = {name for task in FinetuningSettings().tasks.values() for name in task.contenders}
        for task, settings in self.finetuning.tasks.items():
            for name, starts in settings.contenders.items():
                if "beside" in starts and not masks.get(name, True):
                    found = f"contender '{name}' of task '{task}' starts 'beside'"
                    able = ", ".join(one for one, does in masks.items() if does) or "none here"
                    raise ValueError(
                        f"{found}, but was not pre-trained with masked particles: expected another"
                        f" start, or a model that was ({able})"
                    )
                if name not in models and name not in usual:  # those may lack a pre-training here
                    found = f"a contender of task '{task}' is '{name}'"
                    raise ValueError(f"{found}: expected one of {', '.join(models)}")
        return self


def available_profiles() -> list[str]:
    """Names of the profiles that ship with jetfm."""
    return sorted(path.stem for path in PROFILES_DIR.glob("*.yaml"))


def load_profile(name: str | Path = "smoke", **overrides: Any) -> Profile:
    """Read and validate a profile.

    Parameters
    ----------
    name : a shipped profile's name, or the path of a YAML file
    overrides : replace top-level entries, e.g. ``seed=2``; nested dictionaries are merged; paths
        are relative to the current folder

    Raises
    ------
    JetfmError
        Unknown profile, unreadable YAML, an unknown setting or one of the wrong type; the message
        names the setting.
    """
    path, values = _resolve(expanded(name), seen=())
    values = merged(values, _with_paths_from(Path.cwd(), overrides))
    values.setdefault("name", path.stem)
    try:
        return Profile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        setting = ".".join(str(part) for part in first["loc"]) or "profile"
        found = f"{first['input']!r:.80}" if first["type"] != "missing" else "nothing"
        expected = "a known setting" if first["type"] == "extra_forbidden" else first["msg"]
        raise JetfmError(f"{path.name}: {setting}", found, expected) from None


def save_profile(profile: Profile, path: str | Path) -> Path:
    """Write all settings of a profile, so that `load_profile` of the file gives the same again."""
    values = profile.model_dump(mode="json")
    return write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _resolve(name: str | Path, seen: tuple[Path, ...]) -> tuple[Path, dict]:
    path = Path(name)
    if path.suffix not in _SUFFIXES:
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
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # other values: dates, bytes
        raise JetfmError(
            path, f"unreadable YAML ({error})".replace("\n", " "), "a profile"
        ) from None
    if not isinstance(values, dict):
        raise JetfmError(path, type(values).__name__, "a mapping of settings")
    here = project_folder() if path.parent == PROFILES_DIR else path.resolve().parent
    values = _with_paths_from(here, values)
    base = values.pop("extends", None)
    if base is not None:
        if Path(str(base)).suffix in _SUFFIXES:
            base = here / expanded(base)
        _, inherited = _resolve(base, (*seen, path))
        inherited.pop("name", None)
        values = merged(inherited, values)
    return path, values


def _with_paths_from(folder: Path, values: dict) -> dict:
    """The same settings with the paths of jets from a folder on."""
    found = dict(values)
    for part in ("data", "landscape"):
        section = values.get(part)
        if isinstance(section, dict) and isinstance(section.get("path"), str | Path):
            found[part] = section | {"path": folder / expanded(section["path"])}
    return found


def with_folder(profile: Profile, folder: str | Path) -> Profile:
    """The same profile over the JetClass files of a folder with train*/, val*/ and test*/.

    With ``TopLandscape/`` inside, top tagging on other jets takes its h5 files, too; where there
    are none, neither here nor where the profile looks, such jets are simulated.
    """
    folder = expanded(folder)
    if not folder.is_dir():
        raise JetfmError(folder, "no such folder", "a folder with train*/, val*/ and test*/")
    data = profile.data.model_copy(update={"source": "folder", "path": folder.resolve()})
    other = profile.data.source != "folder"  # figures of real and simulated jets stay apart
    name = f"{profile.name}-data" if other else profile.name
    changes = {"data": data, "name": name}
    if (folder / TOPLANDSCAPE).is_dir():
        real = {"source": "folder", "path": (folder / TOPLANDSCAPE).resolve()}
        changes["landscape"] = profile.landscape.model_copy(update=real)
    elif profile.landscape.path is not None and not profile.landscape.path.is_dir():
        simulated = {"source": "simulate", "path": None}
        changes["landscape"] = profile.landscape.model_copy(update=simulated)
    return profile.model_copy(update=changes)


def dry_run(profile: Profile) -> Profile:
    """A few jets and steps of every stage with this profile's networks, on any machine.

    Jets come from the profile's folder where it exists, else from those that ship.
    """
    training = {"max_steps": 2, "validate_every": 1, "batch_size": 8}
    values = profile.model_dump()
    if profile.data.path is None or not profile.data.path.is_dir():
        values["data"] |= {"source": "sample", "path": None}
    values["name"] = f"{profile.name}-dry-run"
    values["data"]["jets_per_class"] = {"train": 10, "val": 5, "test": 40}
    quality = values["token_quality"]
    for tokenizer in (values["tokenizer"], *quality["tokenizers"].values()):
        tokenizer["training"] |= training
    quality |= {"n_reconstructions": 1, "n_conditioning": 2, "n_seeds": 1, "n_train": 20}
    for classifier in ("deepsets", "transformer"):
        quality[classifier]["training"] |= training
    judged = values["generative_quality"]
    models = (values["pretraining"], *values["strategies"].values(), judged["model"])
    for model in (*models, values["flow"], values["continuous"]):
        model["training"] |= training
    values["flow"]["n_steps"] = 2
    values["generation"] |= {"n_jets": 16, "batch_size": 8}
    judged["classifier_epochs"] = {k: min(n, 2) for k, n in judged["classifier_epochs"].items()}
    judged |= {"n_bootstrap": 2, "steps_of_single": None}
    if profile.landscape.path is None or not profile.landscape.path.is_dir():
        values["landscape"] |= {"source": "shipped", "path": None}
    values["landscape"]["jets_per_class"] = {"train": 10, "val": 5, "test": 10}
    values["finetuning"]["recipe"] = None  # it is in the values already
    values["finetuning"] |= {"sizes": (20,), "n_seeds": 1, "max_steps": 2, "batch_size": 8}
    values["finetuning"] |= {"small_batch_size": 8, "validate_every": 1, "n_bootstrap": 2}
    values["finetuning"] |= {"limit_val_jets": 20, "limit_test_jets": 40}
    tasks = values["finetuning"]["tasks"]
    for name in [name for name, task in tasks.items() if "train_on" in task]:
        del tasks[name]  # of a few jets all may be on one side
    for task in tasks.values():
        task["sizes"] = ()
    return Profile.model_validate(values)
