"""The data path of pre-training alone: shuffled, bucketed batches from a token store on the disk.

Two stores, of 10 000 and a million jets with 50 constituents on average, each in a fresh process
with one thread: jets a second, time to the first batch, and memory. The reference takes jet by jet
from the same arrays and pads the list. Memory is what the process has to itself: not the files'
pages, which the system maps and drops as it likes, nor what it had before it opened the store.
Files were just written, so they are read from memory; where they are not, the disk decides.

``with plan``: as in training, with the masks and indices of a joint step (`JetModel.plan`).
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from jetfm.data.batches import LengthBucketedBatches
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.models.jet_model import JetModel
from jetfm.pretraining.train import TokenBatches
from jetfm.settings import PretrainingSettings

N_CODES, SECONDS, AT_ONCE = 8192, 3.0, 20_000
STORES = (10_000, 1_000_000)
BATCHES = (100, 1000)


def run() -> Iterator[dict]:
    """Rows of the benchmark."""
    memory_of_small = {}
    for n_jets in STORES:
        with tempfile.TemporaryDirectory() as folder:
            _build(Path(folder), n_jets)
            for batch_size in BATCHES:
                found = _in_fresh_process(_measure, folder, batch_size)
                what = f"{n_jets} jets, batch {batch_size}"
                for key in ("loader", "loader with plan"):
                    yield _row(f"{key}: {what}", found[key], "jets/s", found["plain"])
                yield _row(f"loader, first batch: {what}", found["first"], "s")
                if "memory" in found:
                    small = memory_of_small.setdefault(batch_size, found["memory"])
                    yield _row(f"loader, memory: {what}", found["memory"], "MB", small)


def _row(name: str, value: float, unit: str, reference: float | None = None) -> dict:
    rounded = [None if x is None else float(f"{x:.3g}") for x in (value, reference)]
    row = {"name": name, "value": rounded[0], "unit": unit, "reference": rounded[1]}
    return row | {"ratio": None if reference is None else round(value / reference, 2)}


def _build(folder: Path, n_jets: int) -> None:
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder, N_CODES) as writer:
        for start in range(0, n_jets, AT_ONCE):
            counts = np.clip(rng.gamma(8, 50 / 8, min(AT_ONCE, n_jets - start)), 1, 128).astype(int)
            mask = np.arange(counts.max()) < counts[:, None]
            ids = rng.integers(0, N_CODES, mask.shape, np.int32)
            writer.append(ids, rng.standard_normal((*mask.shape, 3), np.float32), mask)


def _in_fresh_process(call: Callable, *arguments):
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def _measure(folder: str, batch_size: int) -> dict[str, float]:
    torch.set_num_threads(1)
    model = JetModel(PretrainingSettings(objective="joint"), N_CODES)
    before = _own_memory()
    start = time.perf_counter()
    store = TokenStore(folder)
    schedule = LengthBucketedBatches(store.n_constituents, batch_size, seed=0)
    TokenBatches(store, schedule)(0)
    found = {"first": time.perf_counter() - start}
    found["loader with plan"] = _rate(TokenBatches(store, schedule, plan=model.plan), batch_size)
    if before is not None:
        found["memory"] = _own_memory() - before
    found["loader"] = _rate(TokenBatches(store, schedule), batch_size)
    found["plain"] = _rate(lambda step: _plain_batch(store, schedule.indices(step)), batch_size)
    return found


def _rate(batches: Callable[[int], object], batch_size: int) -> float:
    """Jets a second, over some seconds of successive batches."""
    start, step = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < SECONDS:
        batches(step)
        step += 1
    return step * batch_size / seconds


def _plain_batch(store: TokenStore, indices: np.ndarray) -> dict[str, torch.Tensor]:
    rows = [slice(store.offsets[jet], store.offsets[jet + 1]) for jet in indices]
    ids, decoded = (
        pad_sequence([torch.from_numpy(array[jet].copy()) for jet in rows], batch_first=True)
        for array in (store.ids, store.decoded)
    )
    n = torch.as_tensor([store.multiplicity[jet] for jet in indices])
    mask = torch.arange(ids.shape[1]) < n[:, None]
    return {"ids": ids.long(), "decoded": decoded, "mask": mask, "n_constituents": n}


def _own_memory() -> float | None:
    """MB that are no file's, None where the system does not say."""
    rollup = Path("/proc/self/smaps_rollup")
    if not rollup.exists():
        return None
    return int(re.search(r"Anonymous: +(\d+) kB", rollup.read_text())[1]) / 1024
