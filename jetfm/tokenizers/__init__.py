"""From constituents to tokens and back: one interface, several kinds of tokenizer."""

from __future__ import annotations

import torch

from jetfm.physics.features import Preprocessing
from jetfm.settings import TokenizerSettings
from jetfm.tokenizers.binned import BinnedTokenizer
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.vqvae import VQVAE


def make_tokenizer(
    settings: TokenizerSettings, preprocessing: Preprocessing | None = None, seed: int = 0
) -> Tokenizer:
    """The tokenizer that the settings describe, untrained, its weights drawn with `seed`."""
    kind = BinnedTokenizer if settings.network == "binned" else VQVAE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kind(settings, preprocessing)


def load_tokenizer(folder) -> Tokenizer:
    """Read a trained tokenizer from its folder; see `Tokenizer.load` for the errors."""
    return Tokenizer.load(folder)
