"""``python -m jetfm``: the stages of the notebooks as commands, for a terminal or a cluster job.

A module a group of commands: jets, models, classifiers, benchmark, figures, results; shared options
in ``options``. Commands check what was typed, call the library and say what came out; nothing is
computed here.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jetfm.cli import benchmark, classifiers, figures, jets, models, results
from jetfm.errors import JetfmError
from jetfm.storage.paths import expanded
from jetfm.version import __version__

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Jet foundation models: simulate jets, tokenise, pre-train, generate, fine-tune, draw.",
)
for command in (
    jets.simulate,
    jets.download,
    jets.convert,
    models.tokenize,
    models.pretrain,
    models.generate,
    models.finetune,
    classifiers.score,
    classifiers.export,
    benchmark.benchmark,
    figures.figures,
    figures.stages,
    figures.budget,
    figures.compare,
    results.results,
    results.redraw,
    results.keep,
    results.paper_map,
    results.ship,
):
    app.command()(command)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


LISTS = ("--jets", "--with", "--train", "--test", "--val", "--only")  # options that take several


def _one_by_one(arguments: list[str]) -> list[str]:
    """``--jets a b`` as ``--jets a --jets b``: what a shell makes of ``--jets *.root``.

    No command takes arguments that belong to no option.
    """
    found, option, n_values = [], "", 0
    for argument in arguments:
        if argument.startswith("--"):
            name, equals, _ = argument.partition("=")
            option, n_values = name if name in LISTS else "", len(equals)
        elif option and n_values:
            found.append(option)
        else:
            n_values += 1
        found.append(argument)
    return found


def _with_homes(arguments: list[str]) -> list[str]:
    """Arguments as a shell would give them: with ``~`` after an equals sign, too."""
    found = []
    for argument in arguments:
        is_option = argument.startswith("--")
        name, equals, value = argument.partition("=") if is_option else ("", "", argument)
        found.append(f"{name}{equals}{expanded(value)}" if value.startswith("~") else argument)
    return found


def main() -> None:
    """Entry point: bad input ends in one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):  # the terminal's encoding may lack an alpha
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        app(_with_homes(_one_by_one(sys.argv[1:])))
    except JetfmError as error:
        typer.echo(f"jetfm: {error}", err=True)
        sys.exit(getattr(error, "code", 2))  # several processes end with the code of one of them
    except SystemExit as ended:
        if ended.code == 130:  # what typer makes of Ctrl-C
            typer.echo("jetfm: interrupted; the same command continues from here", err=True)
        raise
