"""Batches made ahead, beside the step that computes with the one before.

A GPU is done with a step sooner than Python is with the next batch; a second thread makes batches
while the first one waits for kernels. On a CPU there is nothing to gain: batches are a small part
of a step, and the cores are busy with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import count, takewhile
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_map_only

AHEAD = 4  # our choice: batches that wait ready, enough to even out long and short jets


def prefetched(make: Callable[[int], Any], steps: Iterable[int], ahead: int = AHEAD) -> Iterator:
    """``make(step)`` for each step, in order, made in one other thread.

    An exception in `make` is raised where its batch would have come. The thread ends with the
    iterator: exhausted, closed, or collected; at most the batch it is making is waited for.

    Parameters
    ----------
    make : called in order, and never by two threads at once
    ahead : batches that are made before they are asked for
    """
    waiting = deque()
    with ThreadPoolExecutor(1, "prefetch") as thread:
        try:
            for step in steps:
                waiting.append(thread.submit(make, step))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for batch in waiting:
                batch.cancel()


def all_prefetched(batches: Iterable, prepare: Callable[[Any], Any]) -> Iterator:
    """``prepare(batch)`` for each of `batches`, iterated and prepared in another thread."""
    source, end = iter(batches), object()

    def make(_):
        batch = next(source, end)
        return batch if batch is end else prepare(batch)

    with closing(prefetched(make, count())) as made:
        yield from takewhile(lambda batch: batch is not end, made)


def pinned(batch: Any) -> Any:
    """The same with its tensors in page-locked memory, from where a GPU fetches them by itself."""
    return tree_map_only(Tensor, Tensor.pin_memory, batch)
