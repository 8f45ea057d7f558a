"""Networks as ONNX files, for runtimes without Python.

By the exporter that captures the network with symbols for its sizes (``dynamo=True``). The older
one (``dynamo=False``), which records a run, fails in torch 2.13 at the first step of each network,
for it has no sinh.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from jetfm.errors import JetfmError
from jetfm.storage.files import replacing

PACKAGES = ("onnx", "onnxscript")  # what torch writes ONNX with
_EXAMPLE = (3, 7)  # jets and constituents: any but 0 and 1, which would be taken for constants


def write_onnx(
    network: nn.Module, path: str | Path, inputs: Sequence[str], output: str, notes: Mapping
) -> None:
    """Write a network of (jets, constituents) float32 arrays; both numbers may be any from 1 on.

    Parameters
    ----------
    network : takes one array an input, in evaluation mode on the CPU
    inputs, output : names in the file
    notes : name to text, kept in the file's metadata

    Raises
    ------
    JetfmError
        Packages that are not installed, layers that ONNX has not, no room or permission at `path`.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        expected = f"it installed: python -m pip install {' '.join(PACKAGES)}"
        raise JetfmError("--onnx", f"no package {' or '.join(missing)}", expected)
    sizes = {0: torch.export.Dim("jets"), 1: torch.export.Dim("constituents")}
    example = tuple(torch.rand(_EXAMPLE) for _ in inputs)
    with replacing(path) as aside:
        try:
            with _quiet(), torch.no_grad():
                program = torch.onnx.export(
                    network,
                    example,
                    dynamo=True,
                    input_names=list(inputs),
                    output_names=[output],
                    dynamic_shapes=((sizes,) * len(inputs),),
                    verbose=False,
                )
        except torch.onnx.OnnxExporterError as error:
            found = f"a network that torch {torch.__version__} cannot write"
            raise JetfmError("--onnx", found, "one of layers that ONNX has") from error
        program.model.metadata_props.update(notes)
        program.save(aside)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says of its own parts."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
