"""A classifier as an ONNX file: pt, eta and phi of constituents in, probabilities out."""

from __future__ import annotations

from pathlib import Path

from jetfm.finetuning.classifier import Classifier
from jetfm.models.onnx_file import write_onnx
from jetfm.version import __version__


def export_classifier(folder: str | Path, out: str | Path) -> Classifier:
    """Write what `Classifier.probabilities` computes as an ONNX file; see docs/onnx.md.

    Parameters
    ----------
    folder : that ``jetfm finetune`` left
    out : the file

    Raises
    ------
    JetfmError
        No such classifier, or packages that are not installed.
    """
    classifier = Classifier.load(folder)
    notes = {
        "jetfm": __version__,
        "hash": classifier.hash,
        "classes": ",".join(classifier.classes),
        "max_constituents": str(classifier.max_constituents),
        "pt_range": ",".join(map(str, classifier.pt_range)),
    }
    write_onnx(classifier, out, classifier.input.names, "probabilities", notes)
    return classifier
