"""Commands for what others see: results and weights in the repository, the map to the code."""

from __future__ import annotations

from pathlib import Path
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


def results(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    out: Annotated[Path, typer.Option(help="Folder for RESULTS.md and its pictures.")] = Path(
        "docs"
    ),
    keep: Annotated[
        Path, typer.Option(help="Folder for the numbers behind the figures, by profile.")
    ] = Path("results"),
    readme: Annotated[
        Path | None,
        typer.Option(help="Write the first claims that a reader asks for into this file, too."),
    ] = None,
) -> None:
    """Write pictures and ledger of a finished profile as Markdown, for readers of a repository.

    The numbers behind the figures are kept, too: `jetfm redraw` draws all of it from them again.
    """
    settings = profile_of(profile, data, seed, dry_run)
    from jetfm.results.redrawn import keep_results
    from jetfm.results.repository import write_headlines, write_results

    numbers = keep_results(settings.name, keep / settings.name)
    typer.echo(f"written to {write_results(settings.name, out)}, numbers kept in {numbers}")
    if readme is not None:
        typer.echo(f"claims in {write_headlines(numbers, readme)}")


def redraw(
    kept: Annotated[Path, typer.Argument(help="Folder of kept results.")] = Path("results/laptop"),
) -> None:
    """Draw every figure and the page of kept results; nothing is trained, no notebook run."""
    from jetfm.results.redrawn import redraw as draw_again

    typer.echo(f"all of it on one page: {draw_again(kept)}")


def keep(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    out: Annotated[Path, typer.Option(help="Folder for the stages and fits.")] = Path("kept"),
    largest: Annotated[
        float, typer.Option(help="Leave out files larger than this, in MB.", min=0)
    ] = 100.0,
) -> None:
    """Copy all that a profile has finished, but for jets and tokens, to go on on another machine.

    There, JETFM_KEPT=weights:FOLDER makes every command take from it what it finds. Jets and tokens
    are made anew; fits of the study are taken where the jets came out the same, bit for bit.
    """
    pipeline = pipeline_of(profile, data, seed, dry_run)
    from jetfm.results.keeping import keep_finished

    typer.echo(f"kept in {keep_finished(pipeline, out, round(largest * 1e6))}")


def paper_map(
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("docs/paper_map.md"),
) -> None:
    """Write the map from each figure, table and claim of the papers to what makes it here."""
    from jetfm.results.paper_map import write_map

    typer.echo(f"written to {write_map(out)}")


def ship(
    profile: ProfileOption = "overnight",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    out: Annotated[Path, typer.Option(help="Folder for models, cards and checksums.")] = Path(
        "weights"
    ),
) -> None:
    """Write a profile's pre-trained models for others to use, in half precision, with their cards.

    They are what `jetfm finetune`, `generate`, `tokenize` and `score` take by default. Those of one
    profile do not replace another's.
    """
    pipeline = pipeline_of(profile, data, seed, dry_run)
    from jetfm.results.shipping import ship as write

    typer.echo(f"written to {write(pipeline, out)}")
