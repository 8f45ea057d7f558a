"""``python -m jetfm``: the stages of the notebooks as commands, for a terminal or a cluster job."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

import jetfm
from jetfm.errors import JetfmError
from jetfm.runtime.cores import AGENT, watch_parent
from jetfm.runtime.distributed import SHARDING, rank
from jetfm.runtime.distributed import sharding as check_sharding
from jetfm.settings.profiles import Profile, available_profiles, dry_run, load_profile, with_folder

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Jet foundation models: simulate jets, tokenise, pre-train, generate, fine-tune, draw.",
)

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
    int | None, typer.Option(help="Seed of everything random; the profile's own by default.")
]

StrategyOption = Annotated[
    str, typer.Option(help="'main', or one of the profile's 'strategies', e.g. joint.")
]


@app.command()
def simulate(
    out: Annotated[Path, typer.Option(help="Folder for the ROOT files.")],
    campaign: Annotated[
        str, typer.Option(help="jetclass (13 TeV, CMS-like) or toplandscape (14 TeV, ATLAS-like).")
    ] = "jetclass",
    classes: Annotated[
        str | None, typer.Option(help="Labels with commas between, e.g. QCD,Tbqq; all by default.")
    ] = None,
    jets_per_class: Annotated[int, typer.Option(help="Jets of each class.")] = 1000,
    split: Annotated[
        str, typer.Option(help="train, val or test: each has seeds of its own.")
    ] = "train",
    seed: Annotated[int, typer.Option(help="Same seed, same jets, whatever the workers.")] = 1,
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.")] = 0,
    jets_per_file: Annotated[int, typer.Option(help="Jets in a file, one task each.")] = 1000,
    detector: Annotated[
        str | None, typer.Option(help="cms or atlas; the campaign's own by default.")
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


@app.command()
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


@app.command()
def convert(
    jets: Annotated[
        list[Path],
        typer.Option(help="A ROOT or h5 file, or a folder of them; can be given several times."),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the jets store.")],
    workers: Annotated[int, typer.Option(help="Processes; 0 is one per core.")] = 0,
    dask_address: Annotated[
        str | None, typer.Option(help="Address of a Dask scheduler, to run on its workers.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="Constituent features, with commas between; all by default.")
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
) -> None:
    """Convert JetClass ROOT or Top Landscape h5 files to one jets store, in parallel.

    A file is a part of the store; finished parts are kept, and an interrupted command continues
    where it was.
    """
    from jetfm.data.conversion import convert as run

    names = [name.strip() for name in features.split(",")] if features else None
    store = run(jets, out, workers, dask_address, names, jets_per_class, append, verify)
    typer.echo(f"{len(store)} jets in {len(store.parts)} parts, {out}")


@app.command()
def tokenize(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a trained tokenizer, for jets of your own.")
    ] = None,
    jets: Annotated[
        Path | None,
        typer.Option(help="With --tokenizer: a jets store, a ROOT file or a folder of them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --tokenizer: folder for the token store.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="With --tokenizer: processes, a part of the jets store each.")
    ] = 1,
    dask_address: Annotated[
        str | None, typer.Option(help="With --tokenizer: a Dask scheduler, to run on its workers.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="With --tokenizer: check finished tokens against checksums, remake damaged ones.",
        ),
    ] = False,
) -> None:
    """Write token stores: of a profile's jets, or of your own with a trained tokenizer.

    Without --tokenizer, trains the profile's tokenizer (or finds it trained) and tokenises its
    three splits. With it, encodes --jets into --out. Either is streamed and can be repeated.
    """
    if tokenizer is None and jets is None and out is None:
        pipeline = _pipeline(profile, data, seed, dry_run)
        for split in ("train", "val", "test"):
            typer.echo(pipeline.tokens(split).folder)
        return
    for name, value in (("--tokenizer", tokenizer), ("--jets", jets), ("--out", out)):
        if value is None:
            raise JetfmError(name, "nothing", "--tokenizer, --jets and --out together")
    from jetfm.tokenizers.files import tokenize_files

    tokens = tokenize_files(
        tokenizer,
        jets,
        out,
        1 if seed is None else seed,
        workers=workers,
        dask_address=dask_address,
        verify=verify,
    )
    typer.echo(f"{len(tokens)} jets, {len(tokens.ids)} tokens in {out}")


@app.command()
def pretrain(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    strategy: StrategyOption = "main",
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes of this machine that train together; by default JETFM_PROCESSES, "
            "or one per GPU where there are several."
        ),
    ] = None,
    sharding: Annotated[
        str | None,
        typer.Option(
            help="What each of several processes holds: ddp, all weights (default), or fsdp, a "
            "share of them."
        ),
    ] = None,
) -> None:
    """Pre-train a model, with every stage before it.

    Several processes each take their share of every batch; the step is that of one process with
    the whole batch, but for masks and dropout, which each draws for itself. --processes starts
    them here. Across machines run `jetfm tokenize` once, then this under torchrun or srun, see
    examples/.
    """
    if sharding is not None:
        os.environ[SHARDING] = sharding  # its processes have to know, too
    check_sharding()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        watch_parent(int(os.environ.get(AGENT, os.getppid())))  # ours, or torchrun's own
    pipeline = _pipeline(profile, data, seed, dry_run)
    _known_strategy(pipeline, strategy)
    folder = pipeline.pretraining(strategy, processes).folder
    if rank() == 0:
        typer.echo(folder)


@app.command()
def generate(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    strategy: StrategyOption = "main",
    out: Annotated[
        Path | None, typer.Option(help="File for the jets, .root (JetClass-like) or .parquet.")
    ] = None,
    n_jets: Annotated[
        int | None, typer.Option(help="With --out: how many; the profile's number by default.")
    ] = None,
    n_constituents: Annotated[
        int | None, typer.Option(help="With --out: multiplicity to ask for, in every jet.")
    ] = None,
    multiplicities: Annotated[
        Path | None,
        typer.Option(
            help="With --out: a token or jets store whose multiplicities to draw from; the "
            "profile's validation jets by default."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="With --out: divides the logits; 1 by default.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="With --out: only the k most probable tokens.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="With --out: only the nucleus that holds this share.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="With --out: folder of a model of your own.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="With --model: folder of the tokenizer it was trained on.")
    ] = None,
) -> None:
    """Generate jets with a pre-trained model.

    With --out, writes them to a file. Without it, generates with every generator of the profile
    and judges each against its own truth.
    """
    if out is None:
        sampling = (n_jets, n_constituents, multiplicities, temperature, top_k, top_p)
        given = any(value is not None for value in (*sampling, model, tokenizer))
        if given or strategy != "main":
            raise JetfmError("--out", "nothing", "a .root or .parquet file for the jets asked for")
        pipeline = _pipeline(profile, data, seed, dry_run)
        typer.echo(pipeline.generation().as_text())
        typer.echo(f"\njets of the main model: {pipeline.generated().folder}")
        return
    from jetfm.generation.sampling import Choice
    from jetfm.generation.to_file import Request, generate_file, multiplicities_of

    settings = _profile(profile, data, seed, dry_run)
    default = settings.generation
    request = Request(
        out,
        default.n_jets if n_jets is None else n_jets,
        settings.seed,
        default.batch_size,
        n_constituents,
        Choice(
            default.temperature if temperature is None else temperature,
            default.top_k if top_k is None else top_k,
            default.top_p if top_p is None else top_p,
        ),
        settings.data.max_constituents,
    )
    held_out = None if multiplicities is None else multiplicities_of(multiplicities)
    if model is None and tokenizer is None:
        from jetfm.pipeline import Pipeline

        pipeline = Pipeline(settings)
        known = _known_strategy(pipeline, strategy)
        if not known.predicts_next:
            found = f"{known.label}, without a next-token head"
            raise JetfmError("--strategy", found, "one with it")
        if held_out is None:
            held_out = pipeline.tokens("val", known.tokenizer).n_constituents
    model, tokenizer, _ = _pretrained(settings, strategy, model, tokenizer)
    written = generate_file(request, model, tokenizer, held_out)
    typer.echo(f"{written.n_jets} jets in {out}")
    if written.n_left_out or written.n_empty:
        typer.echo(
            f"left out: {written.n_left_out} constituents without pt or outside what JetClass has, "
            f"and {written.n_empty} jets without constituents"
        )


@app.command()
def finetune(
    profile: ProfileOption = "laptop",
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    strategy: StrategyOption = "main",
    train: Annotated[
        Path | None,
        typer.Option(
            help="Jets of your own to train on: JetClass ROOT or Top Landscape h5 files, a folder "
            "of them, or a jets store."
        ),
    ] = None,
    test: Annotated[Path | None, typer.Option(help="With --train: jets to score.")] = None,
    val: Annotated[
        Path | None,
        typer.Option(help="With --train: jets that stop it; a tenth of --train by default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --train: folder for scores, metrics and ROC figure.")
    ] = None,
    classes: Annotated[
        str,
        typer.Option(help="With --train: classes to tell apart, e.g. QCD,Tbqq, the signal last."),
    ] = "",
    n_train: Annotated[
        int | None, typer.Option(help="With --train: so many of its jets, balanced.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="With --train: finetuned, fixed (backbone) or scratch.")
    ] = "finetuned",
    model: Annotated[
        Path | None,
        typer.Option(help="With --train: folder of a model of your own, instead of --strategy."),
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="With --model: folder of the tokenizer it was trained on.")
    ] = None,
    baseline: Annotated[
        str | None,
        typer.Option(help="With --train: deepsets, transformer or part, without pre-training."),
    ] = None,
) -> None:
    """Fine-tune: every task of the profile, or one classifier on jets of your own.

    With --train, --test and --out: one fit, scores of the test jets as parquet, and a ROC figure.
    Without: all tasks, contenders and training sizes of the profile.
    """
    given = {"--train": train, "--test": test, "--out": out}
    if not any(given.values()):
        if any(value is not None for value in (val, n_train, model, tokenizer, baseline)):
            raise JetfmError("--train", "nothing", "--train, --test and --out for jets of your own")
        study = _pipeline(profile, data, seed, dry_run).finetuning()
        typer.echo(study.as_text())
        typer.echo(study.folder)
        return
    for name, value in given.items():
        if value is None:
            raise JetfmError(name, "nothing", "--train, --test and --out together")
    from jetfm.finetuning.contenders import STARTS, Contender
    from jetfm.finetuning.own_jets import OwnJets, finetune_files
    from jetfm.settings import BASELINES

    if weights not in STARTS:
        raise JetfmError("--weights", repr(weights), f"one of {', '.join(STARTS)}")
    settings = _profile(profile, data, seed, dry_run)
    if baseline is not None:
        if baseline not in BASELINES:
            raise JetfmError("--baseline", repr(baseline), f"one of {', '.join(BASELINES)}")
        contender, tokenizer = Contender(baseline, "scratch"), None
    else:
        model, tokenizer, label = _pretrained(settings, strategy, model, tokenizer)
        contender = Contender(strategy, weights, label, model)
    names = tuple(name.strip() for name in classes.split(",") if name.strip())
    own = OwnJets(train, test, val, names, n_train)
    limit = settings.data.max_constituents
    metrics = finetune_files(
        own, contender, settings.finetuning, out, settings.seed, tokenizer, limit
    )
    text = f"accuracy {metrics['accuracy']:.4f} +- {metrics['accuracy_error']:.4f} (test jets)"
    typer.echo(f"{contender.text}, {metrics['n_train']} training jets: {text}")
    typer.echo(f"scores, metrics and ROC figure in {out}")


def _pretrained(
    settings: Profile, strategy: str, model: Path | None, tokenizer: Path | None
) -> tuple[Path, Path, str]:
    """Folders of model and tokenizer: a user's, or those of a strategy of the profile."""
    if (model is None) != (tokenizer is None):
        raise JetfmError("--model, --tokenizer", "one of them", "both, or neither")
    if model is not None:
        return model, tokenizer, model.name
    from jetfm.pipeline import Pipeline

    pipeline = Pipeline(settings)
    known = _known_strategy(pipeline, strategy)
    folder = pipeline.pretraining(strategy).folder
    return folder, pipeline.tokenizer_artifact(known.tokenizer).folder, known.label


@app.command()
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

    settings = _profile(profile, data, seed, dry_run)
    executed = run_all(settings)
    folder = figures_folder(settings.name)
    if not executed:
        typer.echo(f"Nothing to do: every notebook and figure of '{settings.name}' is up to date.")
    entries = ledger.load(folder / "ledger.json")
    typer.echo(f"\n{ledger.as_text(entries)}\n{ledger.summary(entries)}")
    typer.echo(f"{len(list(folder.glob('*.png')))} figures in {folder}")


def _profile(name: str, data: Path | None, seed: int | None, short: bool) -> Profile:
    profile = load_profile(name, **({} if seed is None else {"seed": seed}))
    if data is not None:
        profile = with_folder(profile, data)
    return dry_run(profile) if short or os.environ.get("DRY_RUN") == "1" else profile


def _pipeline(name: str, data: Path | None, seed: int | None, short: bool):
    from jetfm.pipeline import Pipeline

    return Pipeline(_profile(name, data, seed, short))


def _known_strategy(pipeline, name: str):
    """Settings of a strategy."""
    known = pipeline.pretraining_settings
    if name not in known:
        raise JetfmError("--strategy", repr(name), f"one of {', '.join(known)}")
    return known[name]


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(jetfm.__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: bad input ends in one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # the terminal's encoding may lack an alpha
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app()
    except JetfmError as error:
        typer.echo(f"jetfm: {error}", err=True)
        sys.exit(getattr(error, "code", 2))  # several processes end with the code of one of them
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of Ctrl-C
            typer.echo("jetfm: interrupted; the same command continues from here", err=True)
        raise
