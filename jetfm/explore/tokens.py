"""One jet through a tokenizer and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jetfm.data.store import JetStore
from jetfm.tokenizers import Tokenizer
from jetfm.tokenizers.encoding import jet_batch


@dataclass(frozen=True)
class TokenisedJet:
    """What a tokenizer makes of a jet.

    Parameters
    ----------
    ids : (n,) int64 tokens
    constituents : (n, 3) float64 that they decode to: pt [GeV], eta_rel, phi_rel
    positions : (n,) int64, rising: which constituent of the jet a token stands for. Those outside
        the tokenizer's cuts have none.
    """

    ids: np.ndarray
    constituents: np.ndarray
    positions: np.ndarray


def tokenised(
    tokenizer: Tokenizer, store: JetStore, index: int, max_constituents: int = 128, seed: int = 0
) -> TokenisedJet:
    """Encode and decode a jet of a store.

    Parameters
    ----------
    tokenizer : in evaluation mode
    max_constituents : a longer jet keeps its leading ones in pt
    seed : of the order in which a tokenizer of random order reads the constituents; what tokens
        decode to may depend on it
    """
    batch = jet_batch(store, tokenizer, np.array([index]), max_constituents, (seed, index))
    x, mask = (batch[name].to(tokenizer.device) for name in ("x", "mask"))
    ids = tokenizer.encode(x, mask)
    decoded = tokenizer.decode(ids, mask)[0].double().cpu().numpy()
    real, positions = batch["mask"][0].numpy(), batch["positions"][0].numpy()
    places = np.flatnonzero(real)
    places = places[np.argsort(positions[places])]
    physical = tokenizer.preprocessing.inverse(decoded[places])[:, :3]
    return TokenisedJet(ids[0].cpu().numpy()[places], physical, positions[places])
