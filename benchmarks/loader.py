"""What feeds pre-training: jets a second from a token store on disk, and the memory it takes.

Batches of 100 as training takes them: shuffled, bucketed by length, padded, as tensors. Stores of
10 thousand and of a million jets (50 constituents on average, random tokens); each is read in a
process of its own. Memory is what that process holds for itself after 300 batches, above what it
held before it opened the store; pages of the store that the system keeps in its cache belong to
the files. The plain path takes the jets of a batch one by one.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import torch

from jetfm.data.batches import LengthBucketedBatches
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.pretraining import TokenBatches

SIZES, BATCH, N_BATCHES, N_CODES = (10_000, 1_000_000), 100, 300, 8192


def run() -> Iterator[dict]:
    """Rows of the benchmark."""
    for n_jets in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            _write(Path(folder), n_jets)
            command = [sys.executable, "-m", "benchmarks.loader", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        name = f"loader, {n_jets} jets"
        yield {
            "name": name,
            "value": round(found["rate"]),
            "unit": "jets/s",
            "reference": round(found["plain"]),
            "ratio": round(found["rate"] / found["plain"], 1),
        }
        for what, unit in (("first batch", "s"), ("memory", "MB")):
            row = {"name": f"{name}: {what}", "value": round(found[what], 2), "unit": unit}
            yield row | {"reference": None, "ratio": None}


def _write(folder: Path, n_jets: int) -> None:
    """A store of random tokens, written in pieces."""
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder, N_CODES, tokenizer="none") as writer:
        for start in range(0, n_jets, 10_000):
            n = np.clip(rng.gamma(8, 50 / 8, min(10_000, n_jets - start)), 3, 100).astype(int)
            mask = np.arange(n.max()) < n[:, None]
            ids = rng.integers(0, N_CODES, mask.shape, dtype=np.int32)
            writer.append(ids, rng.random((*mask.shape, 3), np.float32), mask)


def _measure(folder: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    before = _own_memory()
    start = time.perf_counter()
    store = TokenStore(folder)
    batches = TokenBatches(store, LengthBucketedBatches(store.n_constituents, BATCH, seed=0))
    batches(0)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for step in range(1, N_BATCHES + 1):
        batches(step)
    rate = N_BATCHES * BATCH / (time.perf_counter() - start)
    memory = (_own_memory() - before) / 2**20
    n_plain = 20
    start = time.perf_counter()
    for step in range(N_BATCHES + 1, N_BATCHES + 1 + n_plain):
        _plain(store, batches.schedule.indices(step))
    plain = n_plain * BATCH / (time.perf_counter() - start)
    return {"rate": rate, "plain": plain, "first batch": first, "memory": memory}


def _own_memory() -> int:
    """Bytes that are this process's alone and not a file's."""
    memory = psutil.Process().memory_info()
    return memory.rss - memory.shared


def _plain(store: TokenStore, indices: np.ndarray) -> list[torch.Tensor]:
    """A batch, jet after jet."""
    longest = int(store.n_constituents[indices].max())
    ids = torch.zeros(len(indices), longest, dtype=torch.int64)
    decoded = torch.zeros(len(indices), longest, store.decoded.shape[1])
    mask = torch.zeros(len(indices), longest, dtype=torch.bool)
    for row, jet in enumerate(indices):
        rows = slice(int(store.offsets[jet]), int(store.offsets[jet + 1]))
        n = rows.stop - rows.start
        ids[row, :n] = torch.as_tensor(store.ids[rows].astype(np.int64))
        decoded[row, :n] = torch.as_tensor(np.array(store.decoded[rows]))
        mask[row, :n] = True
    return [ids, decoded, mask]


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
