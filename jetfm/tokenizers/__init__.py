"""Notebook 01: from constituents to tokens and back; one interface, several kinds of tokenizer.

Binned, VQ-VAE (unconditional, conditional, causal), FSQ and residual; training, token files.
What tokens lose is measured in `jetfm.token_quality`.
"""

from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.kinds import load_tokenizer, make_tokenizer

__all__ = ["Tokenizer", "load_tokenizer", "make_tokenizer"]
