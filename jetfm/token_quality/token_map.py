"""Where tokens lie in physical space: each one decoded many times, beside random others.

After figure 3 of arXiv 2403.05618 (II.B, III.A): a conditional token is reconstructed 500 times,
each time in a jet with 50 random tokens of the codebook; an unconditional token or a cell of a
grid has one place only. Such jets are no real jets; how far a token moves shows how much the
decoder makes of its neighbours.

Axes: K codes, R reconstructions of each, F features in network space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from jetfm.physics.features import Preprocessing
from jetfm.schema import KINEMATICS
from jetfm.tokenizers.interface import Tokenizer

_SLOTS = 2**14  # tokens of whole jets decoded at once
_JETS = 100  # jets whose keys and values are kept at once
CELL = 0.1  # network space; our choice: a tenth of what a feature varies by
_LAST = 256  # tokens tried at once as the last one of a jet; more fall out of the CPU's cache


@torch.no_grad()
def token_map(
    tokenizer: Tokenizer, n_reconstructions: int = 500, n_conditioning: int = 50, seed: int = 0
) -> np.ndarray:
    """Every token in physical space, `n_reconstructions` times.

    Parameters
    ----------
    tokenizer : in evaluation mode
    n_conditioning : other tokens in the jet, drawn without replacement from the whole codebook (as
        long as it is large enough). They are all different from the token itself where the decoder
        sees the whole jet; in front of a causal decoder's token they may contain it.

    Returns
    -------
    (K, R, 3) float32: pt [GeV], eta_rel, phi_rel [rad]. R is 1 where every token is decoded by
    itself.

    Notes
    -----
    A decoder that sees the whole jet gets random permutations of the codebook, cut into jets of
    ``n_conditioning + 1`` tokens, of which all are read: tokens of one jet share their neighbours,
    but the reconstructions of one token are independent. A causal decoder reads the other tokens
    first, once for all codes, and then each code as the last one.
    """
    rng = np.random.default_rng(seed)
    if tokenizer.settings.network in ("mlp", "binned"):
        ids = torch.arange(tokenizer.n_codes, device=tokenizer.device)
        return _physical(tokenizer, tokenizer.decode(ids[:, None]))
    decode = _as_last if tokenizer.sequential else _in_whole_jets
    return decode(tokenizer, n_reconstructions, n_conditioning, rng)


def _in_whole_jets(
    tokenizer: Tokenizer, n_reconstructions: int, n_conditioning: int, rng: np.random.Generator
) -> np.ndarray:
    n_codes, length = tokenizer.n_codes, n_conditioning + 1
    n_jets = -(-n_codes // length)  # of one permutation; its first tokens fill up the last jet
    result = np.empty((n_codes, n_reconstructions, 3), np.float32)
    at_once = max(1, _SLOTS // (n_jets * length))
    for start in range(0, n_reconstructions, at_once):
        repetitions = range(start, min(start + at_once, n_reconstructions))
        orders = np.stack([rng.permutation(n_codes) for _ in repetitions])
        jets = np.stack([np.resize(order, (n_jets, length)) for order in orders])
        decoded = _decoded(tokenizer, jets.reshape(-1, length))
        places = decoded.reshape(len(orders), -1, 3)[:, :n_codes]  # as in `orders`
        for order, place, repetition in zip(orders, places, repetitions, strict=True):
            result[order, repetition] = place
    return result


def _decoded(tokenizer: Tokenizer, jets: np.ndarray) -> np.ndarray:
    """Ids (n, T) to physical (n, T, 3), a bounded number of jets at once."""
    parts = torch.as_tensor(jets).split(max(1, _SLOTS // jets.shape[1]))
    return np.concatenate(
        [_physical(tokenizer, tokenizer.decode(part.to(tokenizer.device))) for part in parts]
    )


def _as_last(
    tokenizer: Tokenizer, n_reconstructions: int, n_conditioning: int, rng: np.random.Generator
) -> np.ndarray:
    n_codes, device = tokenizer.n_codes, tokenizer.device
    replace = n_codes < n_conditioning
    others = torch.as_tensor(
        np.stack([rng.choice(n_codes, n_conditioning, replace) for _ in range(n_reconstructions)])
    ).to(device)
    tokens = torch.arange(n_codes, device=device)
    n_last = min(_LAST, n_codes)
    result = np.empty((n_codes, n_reconstructions, 3), np.float32)
    for first in range(0, n_reconstructions, _JETS):
        jets = others[first : first + _JETS]
        caches = tokenizer.new_caches()
        for ids in jets.T:  # the jets side by side, token by token
            tokenizer.decode_next(ids, caches)
        for jet in range(len(jets)):
            rows = torch.full((n_last,), jet, device=device)
            mine = [copy(cache) for cache in caches]
            for cache in mine:
                cache.keep(rows)  # n_last copies of this jet
            for start in range(0, n_codes, n_last):
                start = min(start, n_codes - n_last)  # the last chunk repeats some
                for cache in mine:
                    cache.length = n_conditioning  # forget the previous chunk
                ids = tokens[start : start + n_last]
                decoded = tokenizer.decode_next(ids, mine)
                result[start : start + n_last, first + jet] = _physical(tokenizer, decoded)
    return result


def _physical(tokenizer: Tokenizer, decoded: Tensor) -> np.ndarray:
    """(..., F) in network space to (..., 3): pt [GeV], eta_rel, phi_rel."""
    return tokenizer.preprocessing.inverse(decoded)[..., :3].cpu().numpy()


def map_data(
    points: np.ndarray,
    descriptor: Mapping,
    n_conditioning: int,
    max_points: int = 20_000,
    seed: int = 0,
) -> dict:
    """A panel of the token-map figure: `points` thinned out, as JSON values.

    Parameters
    ----------
    points : (K, R, 3), as `token_map` returns them
    descriptor : of the tokenizer: 'name', 'label', 'family', 'n_codes'
    n_conditioning : as `token_map` was given it
    max_points : of the panel. A larger codebook loses a random choice of its tokens; what remains
        keeps as many reconstructions per token as there is room for.

    Returns
    -------
    'tokenizer'; by point 'token', 'pt' [GeV], 'eta_rel' and 'phi_rel' [rad], to four digits;
    'n_tokens' shown, 'n_reconstructions' made of each and 'n_drawn' of them shown,
    'n_conditioning', and 'spread', the numbers of `token_spread` for all points
    """
    n_codes, n_reconstructions, _ = points.shape
    tokens = np.arange(n_codes)
    if n_codes > max_points:
        tokens = np.sort(np.random.default_rng(seed).choice(n_codes, max_points, replace=False))
    n_drawn = min(n_reconstructions, max_points // len(tokens))
    drawn = points[tokens, :n_drawn].reshape(-1, 3)  # independent draws: the first will do
    columns = dict(zip(KINEMATICS, drawn.T.tolist(), strict=True))
    return {
        "tokenizer": dict(descriptor),
        "token": np.repeat(tokens, n_drawn).tolist(),
        **{name: [_rounded(value) for value in values] for name, values in columns.items()},
        "n_tokens": len(tokens),
        "n_reconstructions": n_reconstructions,
        "n_conditioning": n_conditioning,
        "n_drawn": n_drawn,
        "spread": token_spread(points),
    }


def token_spread(points: np.ndarray) -> dict[str, float | None]:
    """How far the reconstructions of one token lie apart, and how much all of them cover.

    Parameters
    ----------
    points : (K, R, 3), as `token_map` returns them

    Returns
    -------
    'pt' (over the token's mean pt), 'eta_rel', 'phi_rel' [rad] : standard deviation over the
        reconstructions of a token, mean over tokens
    'over_distance' : median over tokens of the root mean square distance of a token's
        reconstructions from their centre, over the distance to the nearest other centre; above
        one half, tokens overlap. In the network space of arXiv 2512.04149, whatever the
        tokenizer's own, so that tokenizers compare. None if all centres are the same.
    'volume' : there, of all cubes with edges of `CELL` that hold a reconstruction; 'volume_error',
        that of other draws, after Efron and Stein from the cubes that one alone has reached
    """
    deviations, centres = points.std(axis=1, dtype=np.float64), points.mean(axis=1)
    deviations[:, 0] /= np.maximum(centres[:, 0], np.finfo(np.float32).tiny)
    spread = dict(zip(KINEMATICS, map(_rounded, deviations.mean(axis=0)), strict=True))
    network = Preprocessing().forward(points)
    centres = network.mean(axis=1, dtype=np.float64)
    radii = np.sqrt(network.var(axis=1, dtype=np.float64).sum(axis=-1))
    distances = cKDTree(centres).query(centres, k=[2])[0][:, 0]  # infinite for a single token
    apart = distances > 0  # two unused codes may be the same
    ratio = np.median((radii / np.where(apart, distances, 1))[apart]) if apart.any() else None
    cells = np.floor(network.reshape(-1, 3) / CELL)
    hits = np.unique(cells, axis=0, return_counts=True)[1]
    drawn = points.shape[1] > 1  # else each token has one place, whatever is drawn
    error = math.sqrt((hits == 1).sum()) if drawn else 0.0
    return spread | {
        "over_distance": None if ratio is None else _rounded(ratio),
        "volume": _rounded(len(hits) * CELL**3),
        "volume_error": _rounded(error * CELL**3),
    }


def _rounded(value: float) -> float:
    """Four significant digits: enough for a plot, and short in JSON."""
    return float(f"{value:.4g}")
