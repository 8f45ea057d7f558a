"""Commands that make jets, or bring them: simulate, download, convert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetfm.cli.options import AnyPtOption, BranchesOption, layout_of
from jetfm.errors import JetfmError
from jetfm.settings.base import MAX_SEED


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the ROOT files.")],
    campaign: Annotated[
        str,
        typer.Option(
            help="jetclass (13 TeV, CMS-like), toplandscape (14 TeV, ATLAS-like), or "
            "toplandscape-described (without multi-parton interactions)."
        ),
    ] = "jetclass",
    classes: Annotated[
        str | None, typer.Option(help="Labels with commas between, e.g. QCD,Tbqq; all by default.")
    ] = None,
    jets_per_class: Annotated[int, typer.Option(help="Jets of each class.")] = 1000,
    split: Annotated[
        str, typer.Option(help="train, val or test: each has seeds of its own.")
    ] = "train",
    seed: Annotated[
        int,
        typer.Option(help="Same seed, same jets, whatever the workers.", min=0, max=MAX_SEED),
    ] = 1,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.")] = 0,
    jets_per_file: Annotated[int, typer.Option(help="Jets in a file, one task each.")] = 1000,
    detector: Annotated[
        str | None, typer.Option(help="cms, atlas-2015 or atlas; the campaign's own by default.")
    ] = None,
    dask_address: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, to run on its workers.")
    ] = None,
) -> None:
    """Simulate jets with Pythia 8 and write them as JetClass ROOT files, CLASS_NNN.root.

    Finished files are kept: an interrupted command continues where it was.
    """
    from jetfm.simulation.simulate import simulate as run

    names = [name.strip() for name in classes.split(",")] if classes else None
    paths = run(
        out,
        campaign=campaign,
        classes=names,
        jets_per_class=jets_per_class,
        split=split,
        seed=seed,
        workers=workers,
        jets_per_file=jets_per_file,
        detector=detector,
        dask_address=dask_address,
    )
    typer.echo(f"{len(paths)} files in {out}")


def download(
    dataset: Annotated[str, typer.Argument(help="jetclass or toplandscape.")],
    part: Annotated[
        str,
        typer.Option(
            help="With commas between: val, test, train; of JetClass also train0 to train9, a "
            "tenth of the training jets each."
        ),
    ],
    dest: Annotated[
        Path | None, typer.Option(help="Folder; JetClass or TopLandscape, here, by default.")
    ] = None,
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", help="Only files of this class of JetClass, e.g. HToBB, out of one part."
        ),
    ] = None,
    files: Annotated[int, typer.Option(help="With --class: how many, of 100,000 jets each.")] = 1,
    jobs: Annotated[int, typer.Option(help="Archives at once; Zenodo asks for few.")] = 2,
    keep_archives: Annotated[
        bool, typer.Option("--keep-archives", help="Do not delete the tars once unpacked.")
    ] = False,
    url: Annotated[
        str | None,
        typer.Option(help="Folder of the archives on another server; or JETFM_DOWNLOAD_URL."),
    ] = None,
) -> None:
    """Download JetClass or the Top Landscape from Zenodo, checked, to where --data finds it.

    An interrupted command continues where it was. JetClass takes 8 (val), 30 (test) and 15 GB
    (train0 to train9), twice that while an archive is unpacked.
    """
    from jetfm.download import archives as data

    parts = [name.strip() for name in part.split(",") if name.strip()]
    if dataset not in ("jetclass", "toplandscape"):
        raise JetfmError("data set", repr(dataset), "jetclass or toplandscape")
    if dataset == "toplandscape":
        if class_name is not None:
            raise JetfmError("--class", class_name, "it with jetclass only")
        paths = data.download_toplandscape(dest or "TopLandscape", parts, jobs=jobs, base_url=url)
    elif class_name is None:
        paths = data.download_jetclass(
            dest or "JetClass", parts, jobs=jobs, base_url=url, keep_archives=keep_archives
        )
    else:
        if len(parts) != 1:
            raise JetfmError("--part", part, "one part, with --class")
        paths = data.download_class_files(
            dest or "JetClass", parts[0], class_name, files, base_url=url
        )
    folders = sorted({str(path.parent) for path in paths})
    typer.echo(f"{len(paths)} file{'s' * (len(paths) != 1)} in {', '.join(folders)}")


def convert(
    jets: Annotated[
        list[Path],
        typer.Option(help="ROOT, parquet or h5 files, or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the jets store.")],
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.")] = 0,
    dask_address: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, to run on its workers.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            help="Constituent features, with commas between; by default all that the files have."
        ),
    ] = None,
    jets_per_class: Annotated[
        int | None, typer.Option(help="Keep the first so many of each class.")
    ] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add to the store what it does not have yet.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Check finished parts; make damaged ones anew.")
    ] = False,
    any_pt: AnyPtOption = False,
    branches: BranchesOption = None,
) -> None:
    """Convert JetClass ROOT, parquet or Top Landscape h5 files to one jets store, in parallel.

    A file is a part of the store; finished parts are kept, and an interrupted command continues
    where it was.
    """
    from jetfm.data.conversion import convert as run

    names = [name.strip() for name in features.split(",")] if features else None
    layout, _ = layout_of(branches)
    options = {"any_pt": any_pt, "layout": layout}
    store = run(jets, out, workers, dask_address, names, jets_per_class, append, verify, **options)
    typer.echo(f"{len(store)} jets in {len(store.parts)} parts, {out}")
