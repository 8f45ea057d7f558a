"""A transformer block of the laptop's size on one core, forward and backward, and Muon's matrices.

Blocks: as `jetfm.models.transformer.Block` chooses, against the way it does not take: a cacheful of
jets at a time with dropout, in torch's own operations without. Muon: `orthogonal` against the same
rounds on the whole matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch

from benchmarks._rows import row
from jetfm.models.transformer import Block
from jetfm.training import muon

N_JETS, N_CONSTITUENTS, DIM, N_HEADS = 32, 48, 64, 4
SHAPES = ((192, 64), (64, 64), (256, 64), (64, 256))  # a block's, of which there are four


def run() -> Iterator[dict]:
    """Rows of the benchmark: milliseconds; ratios are times of the other way over ours."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(N_JETS, N_CONSTITUENTS, DIM)
        for p in (0.0, 0.1):
            block = Block(DIM, N_HEADS, dropout=p, attention_dropout=p)
            for causal in (True, False):
                ours = _block_time(block, x, causal)
                with patch.object(Block, "_pieces_pay", lambda self, bias, p=p: p == 0):
                    other = _block_time(block, x, causal)
                kind = "causal" if causal else "both directions"
                yield row(
                    f"block: {kind}, dropout {p}, one core", ours, "ms", other, less_is_better=True
                )
        matrices = [torch.randn(4, *shape) for shape in SHAPES]
        ours = _fastest(lambda: [muon.orthogonal(m) for m in matrices])
        with patch.object(muon, "_rounds_on_the_square", muon._rounds):
            other = _fastest(lambda: [muon.orthogonal(m) for m in matrices])
        yield row("muon: matrices of four blocks, one core", ours, "ms", other, less_is_better=True)
    finally:
        torch.set_num_threads(n_threads)


def _block_time(block: Block, x: torch.Tensor, causal: bool) -> float:
    def step() -> None:
        block(x.clone().requires_grad_(), causal=causal).sum().backward()

    return _fastest(step)


def _fastest(work: Callable[[], object], n: int = 30) -> float:
    times = []
    for _ in range(n):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)
