"""Commands that show: figures, stages."""

from __future__ import annotations

from typing import Annotated

import typer

from jetfm.cli.options import (
    DataOption,
    DryRunOption,
    ProfileOption,
    SeedOption,
    pipeline_of,
    profile_of,
)


def figures(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Execute the notebooks in order and make every figure. Up-to-date ones are left alone."""
    from jetfm import ledger
    from jetfm.notebooks import run_all
    from jetfm.storage.paths import figures_folder

    settings = profile_of(profile, data, seed, dry_run)
    executed = run_all(settings)
    folder = figures_folder(settings.name)
    if not executed:
        typer.echo(f"Nothing to do: every notebook and figure of '{settings.name}' is up to date.")
    entries = ledger.load(folder / "ledger.json")
    typer.echo(f"\n{ledger.as_text(entries)}\n{ledger.summary(entries)}")
    typer.echo(f"{len(list(folder.glob('*.png')))} figures in {folder}")


def stages(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    every: Annotated[
        bool, typer.Option("--all", help="A line for each stage, not one for all of a kind.")
    ] = False,
) -> None:
    """Show the stages: which feeds which, what is done, what it took. Nothing is made."""
    typer.echo(pipeline_of(profile, data, seed, dry_run).stages().as_text(every))
