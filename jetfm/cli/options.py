"""Options that several commands share, and what they stand for.

Imports inside functions, here and in the commands, save the seconds that torch and the readers take
to load: ``--help`` and a mistyped option answer at once.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jetfm.errors import JetfmError
from jetfm.settings import PretrainingSettings
from jetfm.settings.base import MAX_SEED
from jetfm.settings.profiles import Profile, available_profiles, dry_run, load_profile, with_folder

if TYPE_CHECKING:
    from jetfm.data.layout import Layout
    from jetfm.pipeline import Pipeline
    from jetfm.pretraining.shipped import Shipped

ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile", "-p", help=f"{', '.join(available_profiles())}, or a YAML file of settings."
    ),
]
DataOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of JetClass ROOT files with train*/, val*/ and test*/, used instead of the "
        "profile's own jets."
    ),
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="A few jets and steps of every stage, on any machine.")
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="Seed of everything random; the profile's own by default.", min=0, max=MAX_SEED
    ),
]

AnyPtOption = Annotated[
    bool,
    typer.Option(
        "--any-pt",
        help="Take jets of your own of any pT, known to be in GeV; by default those of the data "
        "sets' selection alone.",
    ),
]

BranchesOption = Annotated[
    Path | None,
    typer.Option(
        "--branches",
        help="YAML file for jets of your own: what ROOT and parquet files call the "
        "branches of JetClass, e.g. part_px: constituents.px, and classes by expression.",
    ),
]

StrategyOption = Annotated[
    str, typer.Option(help="'main', or one of the profile's 'strategies', e.g. joint.")
]

#: Of commands that use a model: those that come with the repository, or a profile's.
OfModelsOption = Annotated[
    str | None,
    typer.Option(
        "--profile",
        "-p",
        help=f"Take the models of {', '.join(available_profiles())}, or of a YAML file of "
        "settings, made first if they are not there; by default those that come with the "
        "repository.",
    ),
]
ShippedStrategyOption = Annotated[
    str | None,
    typer.Option(
        help="joint (default), main, mpm, omnijet; with --profile 'main' (default), or one of its "
        "'strategies'."
    ),
]


def layout_of(branches: Path | None, classes: str = "") -> tuple[Layout, tuple[str, ...]]:
    """What files of jets call things and which jets make which class; the classes asked for."""
    from jetfm.data.layout import JETCLASS, read_layout, with_classes

    layout = JETCLASS if branches is None else read_layout(branches)
    return with_classes(layout, classes)


def profile_of(name: str | None, data: Path | None, seed: int | None, short: bool) -> Profile:
    """The profile of this name, by default laptop."""
    profile = load_profile(name or "laptop", **({} if seed is None else {"seed": seed}))
    if data is not None:
        profile = with_folder(profile, data)
    return dry_run(profile) if short or os.environ.get("DRY_RUN") == "1" else profile


def pipeline_of(name: str | None, data: Path | None, seed: int | None, short: bool) -> Pipeline:
    profile = profile_of(name, data, seed, short)  # what is wrong with it is said at once
    from jetfm.pipeline import Pipeline

    return Pipeline(profile)


def known_strategy(pipeline: Pipeline, name: str) -> PretrainingSettings:
    """Settings of a strategy."""
    known = pipeline.profile.models
    if name not in known:
        raise JetfmError("--strategy", repr(name), f"one of {', '.join(known)}")
    return known[name]


def shipped_for(strategy: str | None) -> Shipped:
    """The model that comes with the repository for what was asked."""
    from jetfm.pretraining.shipped import DEFAULT, shipped_model, shipped_models

    known = shipped_models()
    if strategy is not None and known and strategy not in known:
        expected = f"one of {', '.join(known)}, or --profile for those of a profile"
        raise JetfmError("--strategy", repr(strategy), expected)
    return shipped_model(strategy or DEFAULT)


def pretrained(
    settings: Profile,
    strategy: str | None,
    model: Path | None,
    tokenizer: Path | None,
    shipped: bool = False,
) -> tuple[Path, Path, str]:
    """Folders of model and tokenizer: a user's, one that comes with the repository, or those of a
    strategy of the profile."""
    if (model is None) != (tokenizer is None):
        raise JetfmError("--model, --tokenizer", "one of them", "both, or neither")
    if model is not None:
        return model, tokenizer, model.name
    if shipped:
        found = shipped_for(strategy)
        return found.model, found.tokenizer, found.settings.label
    strategy = strategy or "main"
    from jetfm.pipeline import Pipeline

    pipeline = Pipeline(settings)
    known = known_strategy(pipeline, strategy)
    folder = pipeline.pretraining.pretrained(strategy).folder
    return folder, pipeline.tokenizers.trained(known.tokenizer).folder, known.label
