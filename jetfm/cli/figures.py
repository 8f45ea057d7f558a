"""Commands that show: figures, stages, budget, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetfm.cli.options import (
    AnyPtOption,
    BranchesOption,
    DataOption,
    DryRunOption,
    ProfileOption,
    SeedOption,
    layout_of,
    pipeline_of,
    profile_of,
)
from jetfm.settings.profiles import Profile


def figures(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Draw these figures alone, from the stages that they read: names "
            "(fig05_finetuning), beginnings (fig04), patterns ('fig02_class_*'), or a paper's "
            "figure (2403.05618:7, or fig07 where no notebook has that number)."
        ),
    ] = None,
) -> None:
    """Execute the notebooks in order and make every figure. Up-to-date ones are left alone.

    Ends with a page of all figures and claims, index.html in the figures' folder.
    """
    if only:
        _alone(profile_of(profile, data, seed, dry_run), only)
        return
    from jetfm import ledger
    from jetfm.notebooks import run_all
    from jetfm.results.state import PAGE, is_up_to_date
    from jetfm.storage.paths import figures_folder

    settings = profile_of(profile, data, seed, dry_run)
    executed = run_all(settings)
    folder = figures_folder(settings.name)
    if not executed:
        typer.echo(f"Nothing to do: every notebook and figure of '{settings.name}' is up to date.")
    entries = ledger.load(folder / "ledger.json")
    typer.echo(f"\n{ledger.as_text(entries)}\n{ledger.summary(entries)}")
    typer.echo(f"{len(list(folder.glob('*.png')))} figures in {folder}")
    if not is_up_to_date(settings.name):
        # seconds of imports, which a second call does without
        from jetfm.results.page import make_page

        make_page(settings)
    typer.echo(f"all of it on one page: {folder / PAGE}")


def _alone(settings: Profile, patterns: list[str]) -> None:
    from jetfm.results.alone import draw_alone, figures_named

    for path in draw_alone(settings, figures_named(patterns)):
        typer.echo(path)


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


def budget(
    profile: ProfileOption = "gpu",
    data: DataOption = None,
) -> None:
    """Show what a profile costs on one GPU, by arithmetic, and what it has less of than the papers.

    Nothing is made. Each training counts to its last step; rates are those of docs/gpu.md.
    """
    from jetfm.settings.budget import as_list, as_table, disk_of
    from jetfm.settings.profiles import load_profile

    settings = profile_of(profile, data, seed=None, short=False)
    typer.echo(f"{as_table(settings)}\n\n¹ an estimate")
    typer.echo(
        f"Disk: {disk_of(settings) / 1e9:.1f} GB\n\n{as_list(settings, load_profile('paper'))}"
    )


def compare(
    jets: Annotated[
        list[Path],
        typer.Option(help="A jets store, or ROOT, parquet or h5 files or folders of them."),
    ],
    other: Annotated[list[Path], typer.Option("--with", help="The jets to hold them against.")],
    out: Annotated[Path, typer.Option(help="Folder for the numbers and the figure.")] = Path(
        "compare"
    ),
    classes: Annotated[
        str,
        typer.Option(
            help="Only jets of these classes, commas between, e.g. QCD; or by expression, e.g. "
            "'QCD: jet_label >= 161'."
        ),
    ] = "",
    n_jets: Annotated[
        int | None, typer.Option(help="At most so many of each, at random; all by default.")
    ] = None,
    tests: Annotated[
        int, typer.Option(help="Classifier tests, each with another seed; 0 for none.")
    ] = 3,
    seed: SeedOption = None,
    any_pt: AnyPtOption = False,
    branches: BranchesOption = None,
) -> None:
    """Compare two sets of jets: means, quantiles, KS distances, a classifier test, one figure."""
    from jetfm.judging.compare import as_text, compare_files

    layout, names = layout_of(branches, classes)
    options = {"n_jets": n_jets, "n_seeds": tests, "seed": seed or 0}
    options |= {"any_pt": any_pt, "layout": layout}
    result = compare_files(jets, other, out, names, **options)
    typer.echo(as_text(result, tuple(result["names"])))
    typer.echo(f"numbers and figure in {out}")
