"""What jets and their constituents lose between encoding and decoding, measured.

Jet level: observables before and after (arXiv 2403.05618, III A and appendix B), and fits of their
difference. Constituent level, which the paper does not show: errors by pt, use of the codes, and
how many constituents a tokenizer cannot represent at all. `jetfm.token_quality.study` reads the
results back.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.physics.features import Preprocessing, within_cuts
from jetfm.physics.observables import jet_observables, wrap
from jetfm.physics.statistics import fit_resolution
from jetfm.schema import KINEMATICS, class_by_name
from jetfm.storage.files import write_json, write_npy
from jetfm.tokenizers.encoding import outside_cuts
from jetfm.tokenizers.quantizer import perplexity

#: Observables of the comparison, with their units.
QUANTITIES = {"jet_mass": "GeV", "jet_pt": "GeV", "tau21": "", "tau32": ""}
PT_EDGES = np.geomspace(0.5, 500, 13)  # GeV, of the original constituents
MIN_CONSTITUENTS = 10  # a pt bin with fewer has no error to quote
RESULT = "quality.json"

_CHUNK = 20_000  # jets in memory at once
_ROUNDING = 1e-5  # relative; float32 and the logarithm of pt stay well below


def observables(physical: np.ndarray, offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Jet mass, pt, tau21, tau32 with the papers' definitions; NaN below three constituents.

    Parameters
    ----------
    physical : (n_total, 3) pt [GeV], eta_rel, phi_rel
    offsets : (n_jets + 1,)
    """
    found = jet_observables(physical, offsets, axes="kt")
    return {
        "jet_mass": found["mass"],
        "jet_pt": found["pt"],
        "tau21": found["tau21"],
        "tau32": found["tau32"],
    }


def chunks(tokens: TokenStore) -> Iterator[tuple[slice, slice]]:
    """Jets, some at a time, and their rows in the flat arrays."""
    for start in range(0, len(tokens), _CHUNK):
        stop = min(start + _CHUNK, len(tokens))
        yield slice(start, stop), slice(int(tokens.offsets[start]), int(tokens.offsets[stop]))


def decoded_jets(
    tokens: TokenStore, preprocessing: Preprocessing, rows: slice = slice(None)
) -> np.ndarray:
    """Constituents (n, 3) that the tokens, or some `rows` of them, stand for.

    Physical space: pt [GeV], eta_rel, phi_rel, in float64; further features are left out.
    """
    return preprocessing.inverse(np.asarray(tokens.decoded[rows], dtype=np.float64))[:, :3]


def original_jets(store: JetStore, tokens: TokenStore, jets: slice) -> np.ndarray:
    """Constituents (n, 3) of some jets that their tokens were made from, in the tokens' order.

    Raises
    ------
    JetfmError
        Tokens of other jets.
    """
    counts = tokens.n_constituents[jets]
    rows = slice(tokens.offsets[jets.start], tokens.offsets[jets.stop])
    positions = tokens.positions[rows]
    if (positions >= np.repeat(store.n_constituents[jets], counts)).any():
        found = "positions of constituents that their jets do not have"
        raise JetfmError(tokens.folder, found, f"tokens of the jets in {store.folder}")
    places = np.repeat(store.offsets[jets], counts) + positions
    return np.asarray(store.constituents[places][:, store.columns(KINEMATICS)], np.float64)


def original_observables(
    store: JetStore,
    folder: str | Path,
    max_constituents: int = 128,
    half_width: float | None = None,
) -> dict[str, int]:
    """Write the observables of all jets before tokenisation, and their labels.

    Files: ``jet_mass.npy``, ``jet_pt.npy`` [GeV], ``tau21.npy``, ``tau32.npy`` and
    ``labels.npy``, (n_jets,) each.

    Parameters
    ----------
    max_constituents : longer jets keep their leading ones in pt, as their tokens do: a cut is not
        a fault of the tokenizer
    half_width : of `jetfm.physics.features.within_cuts`, for jets as a tokenizer with such cuts is
        given them (2403.05618, II.A cuts before it tokenises); None is no cut

    Returns
    -------
    number of jets, and of those without each observable
    """
    columns, parts = store.columns(KINEMATICS), []
    for start in range(0, len(store), _CHUNK):
        jets = np.arange(start, min(start + _CHUNK, len(store)))
        rows, mask = store.rows_of(jets, max_constituents)
        constituents = np.asarray(store.constituents[rows][:, columns])
        if half_width is not None:
            mask[mask] = kept = within_cuts(constituents, half_width)
            constituents = constituents[kept]
        parts.append(observables(constituents, np.concatenate([[0], np.cumsum(mask.sum(1))])))
    values = _joined(parts)
    _write(values, store.labels, folder)
    undefined = {f"n_undefined_{name}": int(np.isnan(v).sum()) for name, v in values.items()}
    return {"n_jets": len(store)} | undefined


def compare(
    store: JetStore,
    tokens: TokenStore,
    preprocessing: Preprocessing,
    original: str | Path,
    folder: str | Path,
    signal: str = "Tbqq",
    max_constituents: int = 128,
) -> dict:
    """Measure one tokenizer; all arguments can be sent to a worker process.

    Written are the observables after decoding and the labels, as `original_observables` writes
    them, ``usage.npy`` (how often each code occurs, (K,)) and ``quality.json`` (the result).

    Parameters
    ----------
    store : jets before tokenisation
    tokens : the same jets in the same order, tokenised
    preprocessing : the tokenizer's
    original : folder that `original_observables` has filled, with the tokenizer's cuts: what they
        leave out is counted, and no residual
    signal : class whose residuals are fitted; 2403.05618 quotes its numbers for t->bqq'
    max_constituents : that the tokens were made with

    Returns
    -------
    n_jets, n_signal_jets, n_constituents, n_codes, n_used : counts; codes used are those that
        occur in these jets
    perplexity : exp(entropy) of the codes' shares, the size of an evenly used codebook
    fits : by observable, `fit_residuals` of reconstructed minus original of `signal` jets
    constituents : 'edges' of pt bins [GeV], constituents 'n' in them, and the root mean square of
        'pt' (reconstructed over original, minus one), 'eta_rel' and 'phi_rel' (differences; rad);
        None in bins with fewer than ten
    out_of_range : shares of 'constituents' and of 'jets' with at least one. 'clipped' by the
        tokenizer to the edge of its range, as counted while encoding (None where not counted).
        'removed' by its cuts, which leave them without a token (None where not counted).
        'beyond_decoded', for tokenizers whose range is not a given: original constituents outside
        the box that all decoded constituents of these jets span in pt, eta_rel and phi_rel.

    Raises
    ------
    JetfmError
        Tokens of other jets, or decoded values that are not finite. A fit without a peak is no
        error, its values are None.
    """
    expected = np.minimum(store.n_constituents, max_constituents)
    expected -= outside_cuts(store, tokens.info.get("half_width"), max_constituents)
    same = np.array_equal(tokens.n_constituents, expected)
    if not (same and np.array_equal(tokens.labels, store.labels)):
        found = "jets of other lengths or labels"
        limit = f"those of {store.folder} with at most {max_constituents} constituents"
        raise JetfmError(tokens.folder, found, limit)
    chosen = store.labels == class_by_name(signal).index
    usage, parts = np.zeros(tokens.n_codes, np.int64), []
    n, squares = np.zeros(len(PT_EDGES) - 1), np.zeros((3, len(PT_EDGES) - 1))
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for jets, rows in chunks(tokens):
        before = original_jets(store, tokens, jets)
        after = decoded_jets(tokens, preprocessing, rows)
        parts.append(observables(after, tokens.offsets[jets.start : jets.stop + 1] - rows.start))
        usage += np.bincount(tokens.ids[rows], minlength=tokens.n_codes)
        n_here, squares_here = _squared_errors(before, after)
        n, squares = n + n_here, squares + squares_here
        low, high = np.minimum(low, after.min(0)), np.maximum(high, after.max(0))
    values = _joined(parts)
    _write(values, store.labels, folder)
    write_npy(Path(folder) / "usage.npy", usage)
    residuals = {
        name: (array - np.load(Path(original) / f"{name}.npy"))[chosen]
        for name, array in values.items()
    }
    n_before = np.minimum(store.n_constituents, max_constituents).sum()
    totals = {"constituents": max(int(n_before), 1), "jets": len(tokens)}
    counts = {
        "clipped": tokens.info.get("out_of_range"),
        "removed": tokens.info.get("removed"),
        "beyond_decoded": _count_outside(store, tokens, low, high),
    }
    result = {
        "n_jets": len(tokens),
        "n_signal_jets": int(chosen.sum()),
        "n_constituents": len(tokens.ids),
        "n_codes": tokens.n_codes,
        "n_used": int((usage > 0).sum()),
        "perplexity": float(perplexity(torch.as_tensor(usage))),
        "fits": {name: fit_residuals(array) for name, array in residuals.items()},
        "constituents": {
            "edges": PT_EDGES.tolist(),
            "n": n.astype(int).tolist(),
            **dict(zip(KINEMATICS, (_rms(n, row) for row in squares), strict=True)),
        },
        "out_of_range": {
            kind: found and {name: found[name] / total for name, total in totals.items()}
            for kind, found in counts.items()
        },
    }
    write_json(Path(folder) / RESULT, result)
    return result


def fit_residuals(residuals: np.ndarray) -> dict[str, float | int | None]:
    """Normal distribution fitted to the peak of residuals, and their plain mean.

    Returns
    -------
    'sigma', 'mean' of the fit (`jetfm.physics.statistics.fit_resolution`), None where it finds no
    peak; 'bias', the mean of all residuals; each with its ``_error``; 'n_undefined', NaN left out
    """
    defined = residuals[~np.isnan(residuals)]
    result = dict.fromkeys(("sigma", "sigma_error", "mean", "mean_error", "bias", "bias_error"))
    result["n_undefined"] = len(residuals) - len(defined)
    if not len(defined):
        return result
    result["bias"] = float(defined.mean())
    result["bias_error"] = float(defined.std() / np.sqrt(len(defined)))
    try:
        fit = fit_resolution(defined)
    except JetfmError:  # too few, or all the same
        return result
    found = (fit.sigma, fit.sigma_uncertainty, fit.mean, fit.mean_uncertainty)
    if np.isfinite(found).all():
        names = ("sigma", "sigma_error", "mean", "mean_error")
        result |= zip(names, map(float, found), strict=True)
    return result


def _squared_errors(before: np.ndarray, after: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constituents (bins,) by original pt, and sums of squared errors (3, bins)."""
    bins = np.digitize(before[:, 0], PT_EDGES) - 1
    inside = (bins >= 0) & (bins < len(PT_EDGES) - 1)
    before, after, bins = before[inside], after[inside], bins[inside]
    eta, phi = (after - before)[:, 1:].T
    errors = (after[:, 0] / before[:, 0] - 1, eta, wrap(phi))
    n_bins = len(PT_EDGES) - 1
    sums = [np.bincount(bins, error**2, minlength=n_bins) for error in errors]
    return np.bincount(bins, minlength=n_bins), np.stack(sums)


def _rms(n: np.ndarray, squares: np.ndarray) -> list[float | None]:
    means = np.sqrt(squares / np.maximum(n, 1))
    return [float(m) if k >= MIN_CONSTITUENTS else None for m, k in zip(means, n, strict=True)]


def _count_outside(store, tokens, low: np.ndarray, high: np.ndarray) -> dict[str, int]:
    """Original constituents outside a box, and jets with at least one."""
    counts = {"constituents": 0, "jets": 0}
    low, high = low - _ROUNDING * np.abs(low), high + _ROUNDING * np.abs(high)
    for jets, _ in chunks(tokens):
        before = original_jets(store, tokens, jets)
        outside = ((before < low) | (before > high)).any(1)
        of_jet = np.repeat(np.arange(jets.stop - jets.start), tokens.n_constituents[jets])
        counts["constituents"] += int(outside.sum())
        counts["jets"] += len(np.unique(of_jet[outside]))
    return counts


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in QUANTITIES}


def _write(values: dict[str, np.ndarray], labels: np.ndarray, folder: str | Path) -> None:
    for name, array in values.items():
        write_npy(Path(folder) / f"{name}.npy", array)
    write_npy(Path(folder) / "labels.npy", labels)
