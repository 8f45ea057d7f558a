"""Autoregressive generation of jets with key-value caches (2512.04149; 2403.05618, Sec. II.C).

Starting from d_s and a requested multiplicity N, the model gives the distribution of the next
token; one is drawn (start id excluded), decoded by the tokenizer's causal decoder to the next
constituent, and fed back, until the stop token. Models that read token ids are fed the id, and
their jets decoded at the end. Backbone, head and decoder each keep the keys and values of what
they have seen, so that a step costs one position, and finished jets leave the batch.

N is a *condition*: the drawn jet may end earlier or later. Jets that ask for about as many
constituents go together, so that they end together.

One seed gives the same jets whatever the batch size and the number of cores: randomness belongs to
a jet (`jetfm.generation.sampling`), a CPU's cores work on a batch each, and batches are filled up
to multiples of 32 jets, with which matrix products and vectorised loops treat every row alike, to
the bit. Where a library does not, float32 rounding is left: about one draw in a million lies close
enough to the boundary between two tokens to notice.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jetfm.errors import JetfmError
from jetfm.generation.on_device import OnDevice
from jetfm.generation.sampling import ROWS, Choice, draw, uniforms
from jetfm.models.jet_model import JetModel
from jetfm.runtime.parallel import one_thread
from jetfm.runtime.progress import Progress
from jetfm.tokenizers.interface import Tokenizer


@dataclass(frozen=True)
class GeneratedJets:
    """Generated jets, jagged: jet j owns the flat rows ``offsets[j]:offsets[j+1]``."""

    ids: np.ndarray  # (n_total,) int32, tokenizer ids 0..K-1
    decoded: np.ndarray  # (n_total, F) float32, network space
    offsets: np.ndarray  # (n_jets + 1,) int64
    requested: np.ndarray  # (n_jets,) int64, multiplicity asked for
    finished: np.ndarray  # (n_jets,) bool, False where `max_constituents` came before the stop

    @property
    def n_constituents(self) -> np.ndarray:
        """(n_jets,) int64 generated multiplicity."""
        return np.diff(self.offsets)


def generate(
    model: JetModel,
    tokenizer: Tokenizer,
    n_constituents: np.ndarray,
    *,
    seed: int,
    batch_size: int = 512,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    max_constituents: int = 128,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> GeneratedJets:
    """Generate one jet per requested multiplicity.

    Parameters
    ----------
    model, tokenizer : the tokenizer must be the one whose tokens the model was trained on
    n_constituents : (n_jets,) int, requested multiplicities, e.g. of `draw_multiplicities`
    seed : non-negative; one seed, the same jets, whatever the batch size
    batch_size : jets at once, on each core of a CPU
    temperature, top_k, top_p : as for `jetfm.generation.sampling.draw`; the papers sample plainly
    max_constituents : a jet that has not stopped by then is cut and marked unfinished
    device : where to run; default where the model is

    Raises
    ------
    JetfmError
        No jets, a multiplicity below 1 or above `max_constituents`, a model without a next-token
        head, a tokenizer that is not the model's or has no causal decoder.
    """
    requested = np.asarray(n_constituents)
    choice = Choice(temperature, top_k, top_p)
    _check_pair(model, tokenizer)
    check_request(requested, seed, max_constituents, batch_size=batch_size)
    home, tokenizer_home = next(model.parameters()).device, tokenizer.device
    device = torch.device(device) if device is not None else home
    modes = model.training, tokenizer.training
    model.to(device).eval(), tokenizer.to(device).eval()
    bar = Progress("generation", len(requested), unit="jet", show=progress)

    on_device = OnDevice(model, tokenizer, choice, max_constituents)
    stays = _stays_on(device, model)

    def run(jets: np.ndarray):
        numbers = torch.from_numpy(uniforms(seed, jets, max_constituents + 1))
        if stays:
            asked = torch.as_tensor(requested[jets]).to(device)
            found = on_device.run(asked, numbers.to(device), lambda n: bar.update(n, n))
            ids, decoded, finished = (tensor.cpu().numpy() for tensor in found)
            mask = ids >= 0
            return ids[mask].astype(np.int32), decoded[mask], mask.sum(1), finished
        batch = _Batch(model, tokenizer, requested[jets], device)
        return batch.run(numbers, choice, max_constituents, bar)

    n_workers = torch.get_num_threads() if device.type == "cpu" else 1
    batches = _batches(requested, batch_size, n_workers)
    try:
        parts = _in_threads(run, batches, n_workers)
    finally:
        bar.close()
        model.to(home).train(modes[0]), tokenizer.to(tokenizer_home).train(modes[1])
    return _joined(parts, np.concatenate(batches), requested.astype(np.int64))


def _stays_on(device: torch.device, model: JetModel) -> bool:
    """Whether jets are made by `OnDevice`; a pair bias needs caches that grow."""
    return device.type == "cuda" and not model.settings.backbone.pair_bias


def _batches(requested: np.ndarray, batch_size: int, n_workers: int) -> list[np.ndarray]:
    """Indices of the jets of each batch: similar multiplicities together, the longest first.

    No larger than needed to occupy every worker.
    """
    share = -(-len(requested) // (n_workers * ROWS)) * ROWS
    size = min(batch_size, share)
    order = np.argsort(-requested, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def _in_threads(run, batches: list[np.ndarray], n_workers: int) -> list:
    """Results of all batches, in order; each on one thread, which beats several on one batch."""
    if n_workers == 1:
        return [run(jets) for jets in batches]
    with one_thread():
        pool = ThreadPoolExecutor(n_workers, "generation", torch.set_num_threads, (1,))
        try:
            return list(pool.map(run, batches))
        finally:
            pool.shutdown(cancel_futures=True)


def _joined(parts: list, order: np.ndarray, requested: np.ndarray) -> GeneratedJets:
    """The batches' jets in the order of the request; `order` says which jet came when."""
    ids, decoded, counts, finished = (np.concatenate(p) for p in zip(*parts, strict=True))
    begin = np.cumsum(counts) - counts
    place = np.argsort(order)  # of each jet among those that came
    counts, finished = counts[place], finished[place]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    rows = np.repeat(begin[place] - offsets[:-1], counts) + np.arange(offsets[-1])
    return GeneratedJets(ids[rows], decoded[rows], offsets, requested, finished)


class _Batch:
    """One batch of jets on their way; rows of the caches are the jets in `active`.

    Rows beyond the last jet, and those of finished jets that wait to leave, are not `alive`.
    """

    def __init__(self, model, tokenizer, requested, device) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, device
        self.n_jets = len(requested)
        rows = torch.arange(-(-self.n_jets // ROWS) * ROWS)
        self.alive = rows < self.n_jets
        self.active = rows.clamp(max=self.n_jets - 1)
        self.condition = torch.as_tensor(requested)[self.active].to(device)
        self.reads_ids = model.backbone.reads_ids
        self.caches = model.new_caches()
        self.decoder_caches = tokenizer.new_caches()

    @torch.inference_mode()
    def run(self, numbers: Tensor, choice: Choice, max_constituents: int, bar: Progress):
        """Generate all jets; return flat ids, flat decoded, counts, finished."""
        stop = self.model.n_codes + 1
        ids = np.full((self.n_jets, max_constituents), -1, np.int32)
        decoded = np.zeros((self.n_jets, max_constituents, self.model.n_features), np.float32)
        finished = np.zeros(self.n_jets, bool)
        memory = torch.empty(len(self.active), stop + 1, device=self.device)
        newest = None
        for position in range(max_constituents + 1):
            out = memory[: len(self.active)]
            logits = self.model.next_logits(newest, self.condition, self.caches, out)
            token = draw(logits, numbers[self.active, position].to(self.device), choice)
            ended = (token == stop).cpu() & self.alive
            finished[self.active[ended].numpy()] = True
            self.alive &= ~ended
            n_ended = int(ended.sum())
            bar.update(n_ended, n_ended)
            if position == max_constituents or not self.alive.any():
                break
            token = self._leave(token)
            # rows without a jet may hold a stop; any code will do for them
            code = (token - 1).clamp(max=self.model.n_codes - 1)
            jets = self.active[self.alive].numpy()
            ids[jets, position] = code.cpu()[self.alive].numpy()
            if self.reads_ids:  # decoded at the end, all at once
                newest = code
                continue
            newest = self.tokenizer.decode_next(code, self.decoder_caches)
            decoded[jets, position] = newest.cpu()[self.alive].numpy()
        n_cut = int(self.alive.sum())
        bar.update(n_cut, n_cut)
        mask = ids >= 0
        if self.reads_ids:
            length = int(mask.sum(1).max(initial=0))
            some = torch.as_tensor(ids[:, :length], device=self.device).long()
            decoded[:, :length] = self.tokenizer.decode(some).cpu().numpy()
        return ids[mask], decoded[mask], mask.sum(1), finished

    def _leave(self, token: Tensor) -> Tensor:
        """Drop rows without a jet, as many multiples of `ROWS` as there are."""
        n_rows = -(-int(self.alive.sum()) // ROWS) * ROWS
        if n_rows == len(self.alive):
            return token
        rows = torch.argsort(~self.alive, stable=True)[:n_rows]  # those alive first
        self.active, self.alive = self.active[rows], self.alive[rows]
        rows = rows.to(self.device)
        for cache in (*self.caches[0], *self.caches[1], *self.decoder_caches):
            cache.keep(rows)
        self.condition = self.condition[rows]
        return token[rows]


def _check_pair(model, tokenizer) -> None:
    if not isinstance(model, JetModel) or not model.settings.predicts_next:
        found = getattr(getattr(model, "settings", None), "label", type(model).__name__)
        raise JetfmError("model", f"{found} without a next-token head", "a JetModel with one")
    if not (tokenizer.sequential or model.backbone.reads_ids):
        raise JetfmError("tokenizer", "a decoder that sees the future", "a causal decoder")
    if model.n_codes != tokenizer.n_codes:
        found = f"{tokenizer.n_codes} codes"
        raise JetfmError("tokenizer", found, f"the model's {model.n_codes}")
    if model.tokenizer_hash and model.tokenizer_hash != tokenizer.hash:
        found = f"hash {tokenizer.hash[:12]}"
        raise JetfmError("tokenizer", found, f"{model.tokenizer_hash[:12]}, the model's own")


def check_request(
    requested: np.ndarray, seed: int, max_constituents: int, **positive: float
) -> None:
    """Refuse multiplicities, a seed or other numbers that no jets can be generated with.

    Raises
    ------
    JetfmError
        No jets, a multiplicity below 1 or above `max_constituents`, a negative seed, or one of
        `positive` that is not.
    """
    if requested.ndim != 1 or len(requested) == 0:
        raise JetfmError("n_constituents", f"shape {requested.shape}", "at least one jet")
    if not np.issubdtype(requested.dtype, np.integer):
        raise JetfmError("n_constituents", f"{requested.dtype}", "integers")
    if requested.min() < 1 or requested.max() > max_constituents:
        found = f"multiplicities from {requested.min()} to {requested.max()}"
        raise JetfmError("n_constituents", found, f"1 to {max_constituents} (max_constituents)")
    for name, value in positive.items():
        if not value > 0:
            raise JetfmError(name, str(value), "a positive number")
    if seed < 0:
        raise JetfmError("seed", str(seed), "zero or more")
