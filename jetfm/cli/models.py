"""Commands that train and use models: tokenize, pretrain, generate, finetune."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from jetfm.cli.options import (
    AnyPtOption,
    BranchesOption,
    DataOption,
    DryRunOption,
    OfModelsOption,
    ProfileOption,
    SeedOption,
    ShippedStrategyOption,
    StrategyOption,
    known_strategy,
    layout_of,
    pipeline_of,
    pretrained,
    profile_of,
    shipped_for,
)
from jetfm.errors import JetfmError
from jetfm.runtime.cores import AGENT, watch_parent
from jetfm.runtime.distributed import SHARDING, rank
from jetfm.runtime.distributed import sharding as check_sharding
from jetfm.training.launch import PROCESSES, n_processes


def tokenize(
    profile: OfModelsOption = None,
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="With --jets: folder of a trained tokenizer; by default the joint model's that "
            "comes with the repository."
        ),
    ] = None,
    jets: Annotated[
        list[Path] | None,
        typer.Option(help="A jets store, or ROOT, parquet or h5 files or folders of them."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --jets: folder for the token store.")
    ] = None,
    workers: Annotated[
        int, typer.Option(help="With --jets: processes, a part of the jets store each.")
    ] = 1,
    dask_address: Annotated[
        str | None, typer.Option(help="With --jets: a Dask scheduler, to run on its workers.")
    ] = None,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="With --jets: check finished tokens against checksums, remake damaged ones.",
        ),
    ] = False,
    any_pt: AnyPtOption = False,
    branches: BranchesOption = None,
) -> None:
    """Write token stores: of a profile's jets, or of your own with a trained tokenizer.

    With --jets and --out, encodes those. Without, trains the profile's tokenizer (or finds it
    trained) and tokenises its three splits. Either is streamed and can be repeated.
    """
    if tokenizer is None and not jets and out is None:
        pipeline = pipeline_of(profile, data, seed, dry_run)
        for split in ("train", "val", "test"):
            typer.echo(pipeline.tokenizers.tokens(split).folder)
        return
    for name, value in (("--jets", jets), ("--out", out)):
        if not value:
            raise JetfmError(name, "nothing", "--jets and --out together")
    if tokenizer is None:
        if profile is None:
            tokenizer = shipped_for(None).tokenizer
        else:
            tokenizer = pipeline_of(profile, data, seed, dry_run).tokenizers.trained().folder
    from jetfm.tokenizers.own_jets import tokenize_files

    tokens = tokenize_files(
        tokenizer,
        jets,
        out,
        1 if seed is None else seed,
        workers=workers,
        dask_address=dask_address,
        verify=verify,
        any_pt=any_pt,
        layout=layout_of(branches)[0],
    )
    typer.echo(f"{len(tokens)} jets, {len(tokens.ids)} tokens in {out}")


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
    the whole batch, but for the dropout, which each draws for itself. --processes starts
    them here. Across machines run `jetfm tokenize` once, then this under torchrun or srun, see
    examples/.
    """
    if sharding is not None:
        os.environ[SHARDING] = sharding  # its processes have to know, too
    check_sharding()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        watch_parent(int(os.environ.get(AGENT, os.getppid())))  # ours, or torchrun's own
    if processes is not None:
        os.environ[PROCESSES] = str(n_processes(processes))
    pipeline = pipeline_of(profile, data, seed, dry_run)
    known_strategy(pipeline, strategy)
    folders = [stage.folder for stage in pipeline.pretraining.repeated(strategy)]
    if rank() == 0:
        typer.echo("\n".join(map(str, folders)))


def generate(
    profile: OfModelsOption = None,
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    strategy: ShippedStrategyOption = None,
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
            "model's validation jets by default."
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
    (laptop by default) and judges each against its own truth.
    """
    if out is None:
        sampling = (n_jets, n_constituents, multiplicities, temperature, top_k, top_p)
        given = any(value is not None for value in (*sampling, model, tokenizer))
        if given or strategy is not None:
            raise JetfmError("--out", "nothing", "a .root or .parquet file for the jets asked for")
        pipeline = pipeline_of(profile, data, seed, dry_run)
        typer.echo(pipeline.generation.study().as_text())
        typer.echo(f"\njets of the main model: {pipeline.generation.generated().folder}")
        return
    from jetfm.generation.sampling import Choice
    from jetfm.generation.to_file import Request, generate_file, multiplicities_of

    settings = profile_of(profile, data, seed, dry_run)
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
        if profile is None:
            found = shipped_for(strategy)
            known, drawn = found.settings, found.multiplicities
        else:
            pipeline = pipeline_of(profile, data, seed, dry_run)
            known = known_strategy(pipeline, strategy or "main")
            drawn = pipeline.tokenizers.tokens("val", known.tokenizer).n_constituents
        if not known.predicts_next:
            found = f"{known.label}, without a next-token head"
            raise JetfmError("--strategy", found, "one with it")
        if held_out is None:
            held_out = drawn
    shipped = profile is None
    model, tokenizer, _ = pretrained(settings, strategy, model, tokenizer, shipped)
    written = generate_file(request, model, tokenizer, held_out)
    typer.echo(f"{written.n_jets} jets in {out}")
    if written.n_left_out or written.n_empty:
        typer.echo(
            f"left out: {written.n_left_out} constituents without pt or outside what JetClass has, "
            f"and {written.n_empty} jets without constituents"
        )


def finetune(
    profile: OfModelsOption = None,
    data: DataOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    strategy: ShippedStrategyOption = None,
    train: Annotated[
        list[Path] | None,
        typer.Option(
            help="Jets of your own to train on: JetClass ROOT, parquet or Top Landscape h5 "
            "files, folders of them, or a jets store."
        ),
    ] = None,
    test: Annotated[list[Path] | None, typer.Option(help="With --train: jets to score.")] = None,
    val: Annotated[
        list[Path] | None,
        typer.Option(help="With --train: jets that stop it; a tenth of --train by default."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --train: folder for scores, metrics and ROC figure.")
    ] = None,
    classes: Annotated[
        str,
        typer.Option(
            help="With --train: classes to tell apart, e.g. QCD,Tbqq, the signal last; or by "
            "expression, e.g. 'QCD: jet_label >= 161, Hbb: jet_label == 0'."
        ),
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
    any_pt: AnyPtOption = False,
    branches: BranchesOption = None,
) -> None:
    """Fine-tune: every task of the profile, or one classifier on jets of your own.

    With --train, --test and --out: one fit, scores of the test jets as parquet, a ROC figure, and
    the classifier, which `jetfm score` uses on other jets.
    Without: all tasks, contenders and training sizes of the profile.
    """
    given = {"--train": train, "--test": test, "--out": out}
    if not any(given.values()):
        of_files = (strategy, n_train, model, tokenizer, baseline, branches)
        if val or classes or any_pt or any(value is not None for value in of_files):
            raise JetfmError("--train", "nothing", "--train, --test and --out for jets of your own")
        study = pipeline_of(profile, data, seed, dry_run).finetuning.study()
        typer.echo(study.as_text())
        typer.echo(study.folder)
        return
    for name, value in given.items():
        if not value:
            raise JetfmError(name, "nothing", "--train, --test and --out together")
    from jetfm.finetuning.contenders import Contender
    from jetfm.finetuning.own_jets import OWN_STARTS, OwnJets, finetune_files
    from jetfm.settings import BASELINES

    if weights not in OWN_STARTS:
        raise JetfmError("--weights", repr(weights), f"one of {', '.join(OWN_STARTS)}")
    layout, names = layout_of(branches, classes)
    names = names or tuple(name for name, _ in layout.classes)
    settings = profile_of(profile, data, seed, dry_run)
    if baseline is not None:
        if baseline not in BASELINES:
            raise JetfmError("--baseline", repr(baseline), f"one of {', '.join(BASELINES)}")
        start = {"--strategy": strategy, "--model": model, "--tokenizer": tokenizer}
        for name in [name for name, value in start.items() if value is not None]:
            found = f"a pre-trained model ({name})"
            raise JetfmError("--baseline", found, "none: baselines train from scratch")
        if weights == "fixed":
            raise JetfmError("--weights", "fixed, with --baseline", "a pre-trained model to fix")
        contender = Contender(baseline, "scratch")
    else:
        shipped = profile is None
        model, tokenizer, label = pretrained(settings, strategy, model, tokenizer, shipped)
        contender = Contender(strategy or model.name, weights, label, model)
    own = OwnJets(train, test, val or None, names, n_train, any_pt, layout)
    limit = settings.data.max_constituents
    metrics = finetune_files(
        own, contender, settings.finetuning, out, settings.seed, tokenizer, limit
    )
    text = f"accuracy {metrics['accuracy']:.4f} +- {metrics['accuracy_error']:.4f} (test jets)"
    typer.echo(f"{contender.text}, {metrics['n_train']} training jets: {text}")
    typer.echo(f"scores, metrics, ROC figure and the classifier, for `jetfm score`, in {out}")
