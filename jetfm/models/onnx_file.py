"""Networks as ONNX files, for runtimes without Python."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
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
        Packages that are not installed, or no room or permission at `path`.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        expected = "them installed: python -m pip install 'jetfm[onnx]'"
        raise JetfmError("--onnx", f"no package {' or '.join(missing)}", expected)
    sizes = {0: torch.export.Dim("jets"), 1: torch.export.Dim("constituents")}
    example = tuple(torch.rand(_EXAMPLE) for _ in inputs)
    with replacing(path) as aside:
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
        program.model.metadata_props.update(notes)
        program.save(aside)


class _quiet(warnings.catch_warnings):
    """Without what the exporter says of its own parts."""

    def __enter__(self):
        super().__enter__()
        warnings.simplefilter("ignore")
        self._level = logging.root.manager.disable
        logging.disable(logging.WARNING)

    def __exit__(self, *error) -> None:
        logging.disable(self._level)
        super().__exit__(*error)
