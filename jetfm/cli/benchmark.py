"""The command of the few-label benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetfm.cli.options import ProfileOption, pipeline_of, profile_of
from jetfm.errors import JetfmError
from jetfm.storage.paths import work_folder

#: Whose jets the benchmark of the repository is made of.
PROFILE = "overnight"


def benchmark(
    profile: ProfileOption = PROFILE,
    model: Annotated[
        Path | None,
        typer.Option(help="Add rows of a pre-trained model: its folder, as in weights/models."),
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            help="Add a row of anybody's model: a folder of class probabilities of the test jets, "
            "TASK_SIZE_SEED.npy or .parquet, with about.yaml."
        ),
    ] = None,
    write_splits: Annotated[
        Path | None,
        typer.Option(help="Write the jets as parquet, for models that are not jetfm's, here."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Of the row and its file; by default the folder's."),
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="Some of the tasks, e.g. tagging,landscape; by default all.")
    ] = "",
    sizes: Annotated[
        str, typer.Option(help="Some of the numbers of labels, e.g. 100,1000; by default all.")
    ] = "",
    starts: Annotated[
        str,
        typer.Option(
            help="With --model: its starts; by default fixed,linear,finetuned, those there are."
        ),
    ] = "",
    tokenizer: Annotated[
        Path | None,
        typer.Option(help="With --model: folder of its tokenizer, where it is not found."),
    ] = None,
    about: Annotated[
        Path | None,
        typer.Option(help="With --model: YAML file of who, n_pretraining_jets, tuned, note, ..."),
    ] = None,
    splits: Annotated[
        Path | None,
        typer.Option(help="With --scores: folder that --write-splits wrote; nothing is simulated."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of benchmark.md and its files; by default docs, and of other profiles "
            f"than {PROFILE} work/benchmark/PROFILE."
        ),
    ] = None,
) -> None:
    """The few-label benchmark: add rows, and write its page.

    Without --model, --scores or --write-splits: the rows of all contenders of the profile, where
    its fine-tuning is finished, and the page of all rows that there are. The jets are the
    profile's, simulated first if they are not there. docs/benchmark.md has the rules.
    """
    given = {"--model": model, "--scores": scores, "--write-splits": write_splits}
    actions = [option for option, value in given.items() if value is not None]
    if len(actions) > 1:
        raise JetfmError(", ".join(actions), "several", "one of them")
    needs = {"--starts": (starts, "--model"), "--tokenizer": (tokenizer, "--model"),
             "--about": (about, "--model"), "--splits": (splits, "--scores")}  # fmt: skip
    for option, (value, action) in needs.items():
        if value and action not in actions:
            raise JetfmError(option, "nothing to use it", action)
    if (name or tasks or sizes) and not actions:
        raise JetfmError("--name, --tasks, --sizes", "no row to add", f"with {', '.join(given)}")
    if out is None:
        out = (
            Path("docs") if profile == PROFILE else work_folder() / "benchmark" / Path(profile).stem
        )
    settings = profile_of(profile, None, None, False)
    from jetfm.benchmark import adding

    wanted = adding.Wanted(_words(tasks), _numbers(sizes), name)
    if scores is not None:
        typer.echo(adding.add_scores(settings, scores, wanted, out, splits))
        return
    pipeline = pipeline_of(profile, None, None, False)
    if write_splits is not None:
        typer.echo(adding.write_jets(pipeline, write_splits, wanted, out))
    elif model is not None:
        own = adding.Pretrained(model, tokenizer, _words(starts), about)
        typer.echo(adding.add_model(pipeline, own, wanted, out))
    else:
        typer.echo(adding.collect(pipeline, out))


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    words = _words(text)
    for word in words:
        if not word.isdecimal() or not int(word):
            raise JetfmError("--sizes", repr(word), "numbers of labelled jets, e.g. 100,1000")
    return tuple(map(int, words))
