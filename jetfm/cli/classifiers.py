"""Commands that use a classifier of one's own: score, export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jetfm.cli.options import BranchesOption, layout_of
from jetfm.errors import JetfmError


def score(
    classifier: Annotated[
        Path | None,
        typer.Option(
            help="Folder that `jetfm finetune --out` has left; by default the classifier of ten "
            "classes that comes with the repository."
        ),
    ] = None,
    jets: Annotated[
        list[Path] | None,
        typer.Option(
            help="Jets to score: files or folders of them, or a jets store; labels may be absent."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Parquet file for the scores.")] = None,
    any_pt: Annotated[
        bool,
        typer.Option(
            "--any-pt",
            help="Take jets of any pT, known to be in GeV; by default those near the pT of the "
            "classifier's training jets alone.",
        ),
    ] = False,
    branches: BranchesOption = None,
) -> None:
    """Score jets with a classifier that `jetfm finetune` made, which needs nothing else.

    Writes the probability of every class for each jet, in the order of the files. Where jets have
    labels, says the accuracy, too.
    """
    for name, value in (("--jets", jets), ("--out", out)):
        if not value:
            raise JetfmError(name, "nothing", "--jets and --out together")
    if classifier is None:
        from jetfm.pretraining.shipped import shipped_classifier

        classifier = shipped_classifier()
    from jetfm.finetuning.scoring import score_files

    found = score_files(classifier, jets, out, any_pt, layout=layout_of(branches)[0])
    typer.echo(f"{found.n_jets} jets, {len(found.classes)} classes in {out}")
    if found.accuracy is not None:
        text = f"accuracy {found.accuracy.value:.4f} +- {found.accuracy.uncertainty:.4f}"
        typer.echo(f"{text} ({found.n_labelled} jets of {', '.join(found.labelled_classes)})")


def export(
    onnx: Annotated[Path | None, typer.Option(help="ONNX file to write.")] = None,
    classifier: Annotated[
        Path | None, typer.Option(help="Folder that `jetfm finetune --out` has left.")
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a trained tokenizer: its encoder is written.")
    ] = None,
) -> None:
    """Write a classifier, or a tokenizer's encoder, as an ONNX file for analyses in any language.

    It takes pT [GeV], eta and phi of the constituents, zero-padded, and gives the probabilities of
    the classes, or token ids; the preprocessing is inside. docs/onnx.md shows its use from C++.
    """
    if onnx is None:
        raise JetfmError("--onnx", "nothing", "a file to write, e.g. classifier.onnx")
    if (classifier is None) == (tokenizer is None):
        found = "neither" if classifier is None else "both"
        raise JetfmError("--classifier, --tokenizer", found, "one of them")
    if classifier is not None:
        from jetfm.finetuning.export import export_classifier

        made = export_classifier(classifier, onnx)
        gives = f"probabilities of {', '.join(made.classes)}"
    else:
        from jetfm.tokenizers.physical_encoder import export_tokenizer

        made = export_tokenizer(tokenizer, onnx)
        gives = f"ids below {made.tokenizer.n_codes}, -1 for none"
    typer.echo(f"{onnx}: takes {', '.join(made.input.names)} (jets, constituents); gives {gives}")
