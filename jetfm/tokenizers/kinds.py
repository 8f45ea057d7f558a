"""The kinds of tokenizers: made from settings, or read from a folder. A new kind is added here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing
from jetfm.settings import TokenizerSettings
from jetfm.storage.files import sha256
from jetfm.storage.weights import fill, load_weights
from jetfm.tokenizers.binned import BinnedTokenizer
from jetfm.tokenizers.interface import NAME, USAGE, Tokenizer
from jetfm.tokenizers.vqvae import VQVAE


def make_tokenizer(
    settings: TokenizerSettings, preprocessing: Preprocessing | None = None, seed: int = 0
) -> Tokenizer:
    """The tokenizer that the settings describe, untrained, its weights drawn with `seed`."""
    kind = BinnedTokenizer if settings.network == "binned" else VQVAE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(settings, preprocessing)


def tokenizer_of(config: dict[str, Any]) -> Tokenizer:
    """An untrained tokenizer of this `Tokenizer.config`; KeyError, TypeError or ValidationError
    where it does not fit."""
    settings = TokenizerSettings.model_validate(config["settings"])
    return make_tokenizer(settings, Preprocessing.from_dict(config["preprocessing"]))


def load_tokenizer(folder: str | Path) -> Tokenizer:
    """Read a trained tokenizer of any kind, in evaluation mode on the CPU.

    Raises
    ------
    JetfmError
        Missing, damaged, altered or mismatched files.
    """
    folder = Path(folder)
    record, state = load_weights(folder, NAME)
    expected = record.get("usage_sha256")
    if expected is not None:
        path = folder / USAGE
        if not path.exists():
            raise JetfmError(path, "no such file", f"the usage that {NAME}.json describes")
        if sha256(path) != expected:
            raise JetfmError(path, "other bytes", f"the usage that {NAME}.json describes")
    try:
        tokenizer = tokenizer_of(record["config"])
    except (KeyError, TypeError, ValidationError) as error:
        where = folder / f"{NAME}.json"
        raise JetfmError(where, f"{error}".splitlines()[0], "a tokenizer's settings") from None
    fill(tokenizer, state, folder)
    return tokenizer.eval()
