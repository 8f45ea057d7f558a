"""Whether a network is being written down for another runtime (`jetfm.models.onnx_file`)."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """True while torch writes a network down: then no step may ask for a number of the batch, nor
    suit itself to this machine's cache."""
    return torch.compiler.is_exporting()
