"""Commands for readers: results for the repository, the map from the papers to the code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetfm.cli.options import DataOption, DryRunOption, ProfileOption, SeedOption, profile_of


def results(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    out: Annotated[Path, typer.Option(help="Folder for RESULTS.md and its pictures.")] = Path(
        "docs"
    ),
) -> None:
    """Write pictures and ledger of a finished profile as Markdown, for readers of a repository."""
    settings = profile_of(profile, data, seed, dry_run)
    from jetfm.results.repository import write_results

    typer.echo(f"written to {write_results(settings.name, out)}")


def paper_map(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("docs/paper_map.md"),
) -> None:
    """Write the map from each figure, table and claim of the papers to what makes it here."""
    from jetfm.results.paper_map import write_map

    typer.echo(f"written to {write_map(out)}")
