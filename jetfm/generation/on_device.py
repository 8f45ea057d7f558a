"""Generation of a batch of jets on a GPU, which tells the host nothing until it has to.

The loop of `jetfm.generation.autoregressive` asks after every token which jets are done. A GPU
waits for the question longer than it computes. Here all that a jet becomes stays on the device:
tokens, decoded constituents, who is still under way. Caches have room for the longest jet from the
start, so that a step is the same work every time; on CUDA it is recorded once for each number of
rows and each `WINDOW` of positions, and replayed. Every `LOOK` steps one number is asked for, that
of the jets under way; when half of the rows are done, the others move to a batch of half the size.
The jets are copied to the host once, at the end.

The jets are those of the other way up to float32 rounding: they draw with the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from jetfm.generation.sampling import ROWS, Choice, draw_unchecked, require_numbers
from jetfm.models.cache import FixedCache, KVCache
from jetfm.models.jet_model import JetModel
from jetfm.tokenizers.interface import Tokenizer

LOOK, WINDOW = 8, 32  # steps between two questions; positions that caches grow by
_EAGER = 2  # steps before one is recorded: libraries set themselves up in the first


@dataclass
class _State:
    """What a batch of B rows is at, on the device; n is the largest number of constituents.

    Attributes
    ----------
    jets : (B,) whose row it is, among the batch's
    condition : (B,) multiplicities asked for
    numbers : (B, n + 1) random numbers
    ids, decoded : (B, n + 1), (B, n + 1, F) so far; -1 and 0 where there is nothing
    alive, finished : (B,) under way; ended by a stop
    newest : (B,) or (B, F), what the model reads next
    step : (1,) constituents before `newest`
    good : () whether all logits were numbers
    """

    jets: Tensor
    condition: Tensor
    numbers: Tensor
    ids: Tensor
    decoded: Tensor
    alive: Tensor
    finished: Tensor
    newest: Tensor
    step: Tensor
    good: Tensor

    def take(self, other: _State, rows: Tensor | slice) -> None:
        """Become some rows of another state, in the same memory."""
        for field in fields(self):
            mine, its = getattr(self, field.name), getattr(other, field.name)
            mine.copy_(its if field.name in ("step", "good") else its[rows])

    def rows(self, rows: Tensor | slice) -> _State:
        """Some rows, in new memory."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        whole = {name: values.pop(name).clone() for name in ("step", "good")}
        return _State(**whole, **{name: value[rows].clone() for name, value in values.items()})


class _Rows:
    """Rows that step together in memory that stays where it is, as a recorded step needs it."""

    def __init__(self, makers: _Makers, state: _State, caches: list[list[FixedCache]]) -> None:
        self.makers, self.state = makers, state
        self.caches = caches  # of backbone, head and decoder
        self.logits = state.condition.new_empty(
            len(state.jets), makers.model.n_codes + 2, dtype=torch.float32
        )
        self.recorded: dict[tuple[int, ...], Callable[[], None]] = {}

    def take(self, state: _State, caches: list[list[FixedCache]], rows: Tensor | slice) -> None:
        self.state.take(state, rows)
        for mine, its in zip(self.caches, caches, strict=True):
            for cache, other in zip(mine, its, strict=True):
                cache.take(other, rows)

    def steps(self, first: int, n: int) -> None:
        """Take `n` steps, of which the first is number `first`."""
        windows = []
        for family in self.caches:
            for cache in family:
                needed = cache.offset + first + n
                cache.window = min(-(-needed // WINDOW) * WINDOW, cache.n_positions)
                windows.append(cache.window)
        step = self.recorded.get(tuple(windows))
        if step is None and self.state.jets.is_cuda:
            eager = min(_EAGER, n)
            self._take(self.step, eager)
            step = self.recorded[tuple(windows)] = _recorded(self.step)
            n -= eager
        self._take(step or self.step, n)

    @staticmethod
    def _take(step: Callable[[], None], n: int) -> None:
        for _ in range(n):
            step()

    def step(self) -> None:
        """One more token for every row; asks for nothing."""
        state, makers = self.state, self.makers
        logits = makers.model.next_logits(
            state.newest, state.condition, (self.caches[0], self.caches[1]), self.logits
        )
        place = state.step + 1
        u = state.numbers.index_select(1, place).squeeze(1)
        newest = makers.advance(state, logits, u, place, self.caches[2])
        state.newest.copy_(newest)
        state.step.add_(1)


@dataclass(frozen=True)
class _Makers:
    """Model, tokenizer and how they draw."""

    model: JetModel
    tokenizer: Tokenizer
    choice: Choice

    def advance(self, state: _State, logits, u, place, decoder_caches) -> Tensor:
        """Draw from logits, note it at the place (1,), and return what the model reads next."""
        token, good = draw_unchecked(logits, u, self.choice)
        state.good.logical_and_(good)
        ended = (token == self.model.n_codes + 1) & state.alive
        state.finished.logical_or_(ended)
        state.alive.logical_and_(~ended)
        # rows without a jet may hold a stop; any code will do for them
        code = (token - 1).clamp(0, self.model.n_codes - 1)
        state.ids.index_copy_(1, place, torch.where(state.alive, code, -1).unsqueeze(1))
        if self.model.backbone.reads_ids:  # decoded at the end, all at once
            return code
        decoded = self.tokenizer.decode_next_known(code, decoder_caches)
        noted = torch.where(state.alive.unsqueeze(1), decoded, 0)
        state.decoded.index_copy_(1, place, noted.unsqueeze(1))
        return decoded


class OnDevice:
    """Generates batch after batch; what was recorded for a number of rows serves them all.

    Parameters
    ----------
    model, tokenizer : on the device
    choice : how a token is drawn
    max_constituents : n
    """

    def __init__(
        self, model: JetModel, tokenizer: Tokenizer, choice: Choice, max_constituents: int
    ) -> None:
        self.makers, self.n = _Makers(model, tokenizer, choice), max_constituents
        self._rows: dict[int, _Rows] = {}

    @torch.inference_mode()
    def run(
        self, requested: Tensor, numbers: Tensor, said: Callable[[int], None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Generate a batch.

        Parameters
        ----------
        requested : (B,) multiplicities
        numbers : (B, n + 1) float64 in [0, 1)
        said : told how many jets are newly done

        Returns
        -------
        ids (B, n) with -1 where there is no constituent, decoded (B, n, F), finished (B,), all on
        the device

        Raises
        ------
        JetfmError
            Logits that are not numbers.
        """
        state, caches = self._begin(requested, numbers)
        found = state.rows(slice(0, len(requested)))  # in the order of the jets, filled at the end
        rows = self._on(len(state.jets), state, caches, slice(None))
        under_way, first = len(requested), 0
        while first < self.n:
            n = min(LOOK, self.n - first)
            rows.steps(first, n)
            first += n
            alive = int(rows.state.alive.sum())
            said(under_way - alive)
            under_way = alive
            if not alive:
                break
            size = _filled(alive)
            if 2 * size <= len(rows.state.jets):
                chosen = torch.argsort(~rows.state.alive, stable=True)[:size]
                _keep(found, rows.state)
                rows = self._on(size, rows.state, rows.caches, chosen)
        said(under_way)
        _keep(found, rows.state)
        require_numbers(found.good)
        ids, decoded = found.ids[:, : self.n], found.decoded[:, : self.n]
        if self.makers.model.backbone.reads_ids:
            decoded = self.makers.tokenizer.decode_known(ids)
        return ids, decoded, found.finished

    def _begin(self, requested: Tensor, numbers: Tensor) -> tuple[_State, list[list[FixedCache]]]:
        """The first token of every jet, and caches with room for all that may come."""
        makers, device, n_jets = self.makers, requested.device, len(requested)
        jets = torch.arange(_filled(n_jets), device=device)
        alive = jets < n_jets
        jets = jets.clamp(max=n_jets - 1)
        shape, n_features = (len(jets), self.n + 1), makers.model.n_features
        state = _State(
            jets=jets,
            condition=requested[jets],
            numbers=numbers[jets],
            ids=torch.full(shape, -1, device=device),
            decoded=torch.zeros(*shape, n_features, device=device),
            alive=alive,
            finished=torch.zeros_like(alive),
            newest=jets,
            step=jets.new_zeros(1),
            good=torch.ones((), dtype=torch.bool, device=device),
        )
        caches, decoder_caches = makers.model.new_caches(), makers.tokenizer.new_caches()
        logits = makers.model.next_logits(None, state.condition, caches)
        state.newest = makers.advance(
            state, logits, state.numbers[:, 0], state.step.clone(), decoder_caches
        )
        used = [] if makers.model.backbone.reads_ids else decoder_caches
        families: list[list[KVCache]] = [*caches, used]
        return state, [
            [FixedCache(cache, cache.length + self.n, state.step) for cache in family]
            for family in families
        ]

    def _on(self, size: int, state: _State, caches, rows: Tensor | slice) -> _Rows:
        """Go on with some rows of a state in the memory kept for so many."""
        if size not in self._rows:
            some = state.rows(rows)
            kept = [[cache.rows(rows, some.step) for cache in family] for family in caches]
            self._rows[size] = _Rows(self.makers, some, kept)
        else:
            self._rows[size].take(state, caches, rows)
        return self._rows[size]


def _filled(n: int) -> int:
    """`ROWS`, doubled until they hold `n` jets: few sizes to record."""
    size = ROWS
    while size < n:
        size *= 2
    return size


def _keep(found: _State, state: _State) -> None:
    """Note what has become of the jets in the rows of `state`; of two rows of a jet the first."""
    n_jets, rows = len(found.jets), torch.arange(len(state.jets), device=state.jets.device)
    first = rows.new_full((n_jets,), len(rows)).scatter_reduce(0, state.jets, rows, "amin")
    there = first < len(rows)
    first = first.clamp(max=len(rows) - 1)
    for name in ("ids", "decoded", "finished"):
        mine, its = getattr(found, name), getattr(state, name)[first]
        mine.copy_(torch.where(there.view(-1, *[1] * (mine.ndim - 1)), its, mine))
    found.good.logical_and_(state.good)


def _recorded(step: Callable[[], None]) -> Callable[[], None]:
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
