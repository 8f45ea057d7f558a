"""A tokenizer's encoder for an analysis: pt, eta and phi of constituents in, ids out."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor, nn

from jetfm.models.onnx_file import write_onnx
from jetfm.models.physical_input import PhysicalInput
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.kinds import load_tokenizer
from jetfm.version import __version__


class PhysicalEncoder(nn.Module):
    """What ``jetfm tokenize`` does to a jet, in one piece.

    Parameters
    ----------
    tokenizer : trained
    max_constituents : longer jets have ids for their leading constituents in pt alone
    """

    def __init__(self, tokenizer: Tokenizer, max_constituents: int = 128) -> None:
        super().__init__()
        half_width = tokenizer.settings.half_width
        self.input = PhysicalInput(tokenizer.preprocessing, max_constituents, half_width)
        self.tokenizer = tokenizer

    def forward(self, *arrays: Tensor) -> Tensor:
        """Ids (B, T) int64 of the arrays of `PhysicalInput`, in their places; -1 for what has none:
        padding, constituents beyond `max_constituents` or outside the tokenizer's cuts."""
        x, mask, _ = self.input(*arrays)
        return self.tokenizer.encode_known(x, mask)


def n_encoder_parameters(tokenizer: Tokenizer) -> int:
    """Numbers that a tokenizer has learned and needs to encode: all but its decoder's."""
    decoding = ("decoder", "latent_out", "features_out")
    return sum(
        values.numel()
        for name, values in tokenizer.named_parameters()
        if name.split(".")[0] not in decoding
    )


def export_tokenizer(folder: str | Path, out: str | Path) -> PhysicalEncoder:
    """Write the encoder of a trained tokenizer as an ONNX file; see docs/onnx.md.

    Raises
    ------
    JetfmError
        No such tokenizer, or packages that are not installed.
    """
    encoder = PhysicalEncoder(load_tokenizer(folder)).eval()
    tokenizer = encoder.tokenizer
    notes = {
        "jetfm": __version__,
        "hash": tokenizer.hash,
        "n_codes": str(tokenizer.n_codes),
        "max_constituents": str(encoder.input.max_constituents),
        "settings": json.dumps(tokenizer.config["settings"]),
    }
    write_onnx(encoder, out, encoder.input.names, "ids", notes)
    return encoder
