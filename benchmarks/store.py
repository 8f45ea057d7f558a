"""From ROOT files to a jets store, and a token store of any size: rates, memory, first batch.

Conversion: one core, a file of 20 000 jets, those of ``data/sample`` repeated, in JetClass's tree
and compression, with baskets of 1000 jets; all 14 features. The reference is uproot alone, reading
the same branches of the same file: what any converter must spend.

Loading: token stores of 100 000, 5 million and 100 million jets of 50 constituents on average, in
parts of 100 000 jets, each in a fresh process with one thread. The 50 parts of the second are
copies of the first's one, 0.1 GB each; the 1000 parts of the third are links to it, one file on the
disk, so that what they show is the cost of many parts, not of a disk. Files just written are in the
system's memory; for the rows ``cold`` it is told to forget them, which leaves the disk's own memory
alone. Memory is that of the process less what it had before it opened the store,
after 250 000 jets: ``own`` without the files' pages, ``resident`` with them, and ``whole process``
with the libraries. ``one of 64`` takes its 64th of every batch: jets/s of all 64 that it could keep
up with. The reference is the smallest store.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import awkward as ak
import numpy as np
import torch
import uproot

from benchmarks.loader import N_CODES, _in_fresh_process, _row
from jetfm.data import jetclass
from jetfm.data.batches import BlockShuffledBatches
from jetfm.data.conversion import convert
from jetfm.data.layout import FEATURE_BRANCHES, LABELS
from jetfm.data.ragged import PARTS, join_parts
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.pretraining.train import TokenBatches
from jetfm.schema import BRANCHES, CONSTITUENT_FEATURES, TREE_NAME, is_jagged
from jetfm.storage.paths import sample_folder

N_JETS, BASKET, REPEATS = 20_000, 1000, 3
PART_JETS = 100_000
STORES = {1: os.link, 50: shutil.copy, 1000: os.link}  # parts, and how the others are made
BATCH, N_READ = 1000, 250_000


def run() -> Iterator[dict]:
    """Rows of the benchmark."""
    with tempfile.TemporaryDirectory() as folder:
        yield from _conversion(Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        yield from _loading(Path(folder))


def _conversion(folder: Path) -> Iterator[dict]:
    path = folder / "mixed.root"
    _write_jets(path)
    found = _in_fresh_process(_convert, path, folder / "store")
    per_jet = {key: f"conversion, {key}: {N_JETS} jets" for key in ("source", "store")}
    yield _row(per_jet["source"], path.stat().st_size / N_JETS, "bytes/jet")
    yield _row(per_jet["store"], _size(folder / "store") / N_JETS, "bytes/jet")
    yield _row(
        "conversion, one core", N_JETS / found["convert"], "jets/s", N_JETS / found["uproot"]
    )
    yield _row("conversion, checksum of the source", found["sha256"], "s", found["convert"])


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.npy"))


def _write_jets(path: Path) -> None:
    """The sample's training jets, class after class, repeated up to `N_JETS`."""
    columns = {name: [] for name in BRANCHES}
    for source in sorted((sample_folder() / "train").glob("*.root")):
        with uproot.open(source) as file:
            arrays = file[TREE_NAME].arrays(list(BRANCHES), how=dict)
        for name, array in arrays.items():
            columns[name].append(array)
    columns = {name: ak.concatenate(arrays) for name, arrays in columns.items()}
    rows = np.arange(N_JETS) % len(columns["jet_pt"])
    particles = {n.removeprefix("part_"): a for n, a in columns.items() if is_jagged(n)}
    tree = {"part": ak.zip(particles)} | {n: a for n, a in columns.items() if not is_jagged(n)}
    with uproot.recreate(path, compression=uproot.LZ4(4)) as file:
        types = {name: array.type.content for name, array in tree.items()}
        file.mktree(
            TREE_NAME,
            types,
            counter_name=lambda counted: f"n{counted}",
            field_name=lambda outer, inner: f"{outer}_{inner}",
        )
        for start in range(0, N_JETS, BASKET):
            some = rows[start : start + BASKET]
            file[TREE_NAME].extend({name: array[some] for name, array in tree.items()})


def _convert(path: Path, folder: Path) -> dict[str, float]:
    """Seconds, the best of a few: imports and warm-up are not the converter's."""
    torch.set_num_threads(1)
    extra = [FEATURE_BRANCHES.get(name) for name in CONSTITUENT_FEATURES]
    wanted = [*jetclass._MOMENTA, *filter(None, extra), *LABELS]
    wanted += [f"jet_{name}" for name in jetclass._JET_BRANCHES]
    from jetfm.storage.files import sha256

    def read() -> None:
        with uproot.open(path) as file:
            file[TREE_NAME].arrays(wanted, library="ak", how=dict)

    def make() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        convert(path, folder, workers=1, progress=False)

    calls = {"uproot": read, "convert": make, "sha256": lambda: sha256(path)}
    return {name: min(_seconds(call) for _ in range(REPEATS)) for name, call in calls.items()}


def _seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _loading(folder: Path) -> Iterator[dict]:
    model = folder / "model"
    _write_tokens(model)
    smallest = None
    for n_parts, place in STORES.items():
        store = folder / str(n_parts)
        _multiply(model, store, n_parts, place)
        found = _in_fresh_process(_load, store)
        _forget(store)
        cold = _in_fresh_process(_load, store)
        smallest = smallest or found
        what = f"{n_parts * PART_JETS} jets, {n_parts} parts"
        yield _row(f"loader: {what}", found["rate"], "jets/s", smallest["rate"])
        yield _row(f"loader, one of 64: {what}", found["shared"], "jets/s", smallest["shared"])
        yield _row(f"loader, first batch: {what}", found["first"], "s", smallest["first"])
        yield _row(f"loader, first batch, cold: {what}", cold["first"], "s")
        yield _row(f"loader, cold: {what}", cold["rate"], "jets/s", found["rate"])
        for kind in ("own", "resident"):
            yield _row(f"loader, {kind} memory: {what}", found[kind], "MB", smallest[kind])
        yield _row(f"loader, whole process: {what}", found["whole"], "MB", smallest["whole"])
        shutil.rmtree(store)


def _write_tokens(folder: Path) -> None:
    rng = np.random.default_rng(0)
    with TokenStoreWriter(folder, N_CODES, tokenizer="none") as writer:
        for _ in range(0, PART_JETS, 20_000):
            counts = np.clip(rng.gamma(8, 50 / 8, 20_000), 1, 128).astype(int)
            mask = np.arange(counts.max()) < counts[:, None]
            ids = rng.integers(0, N_CODES, mask.shape, np.int32)
            writer.append(ids, rng.standard_normal((*mask.shape, 3), np.float32), mask)


def _multiply(model: Path, folder: Path, n_parts: int, place) -> None:
    names = [f"{i:04d}" for i in range(n_parts)]
    for name in names:
        part = folder / PARTS / name
        part.mkdir(parents=True)
        for path in model.iterdir():
            place(path, part / path.name)
    join_parts(folder, TokenStore, names)


def _forget(folder: Path) -> None:
    """Ask the system to keep none of the files in its memory."""
    os.sync()
    for path in folder.rglob("*.*"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _open(folder: Path) -> TokenBatches:
    store = TokenStore(folder)
    return TokenBatches(store, BlockShuffledBatches(store.n_constituents, BATCH, seed=0))


def _load(folder: Path) -> dict[str, float]:
    torch.set_num_threads(1)
    before = _memory()
    start = time.perf_counter()
    batches = _open(folder)
    batches(0)
    first = time.perf_counter() - start
    start = time.perf_counter()
    for step in range(1, N_READ // BATCH):
        batches(step)
    rate = (N_READ - BATCH) / (time.perf_counter() - start)
    after = _memory()
    share = batches.shard(5, 64)
    shared = N_READ / _seconds(lambda: [share(step) for step in range(N_READ // BATCH)])
    return {
        "rate": rate,
        "shared": shared,
        "first": first,
        "own": after["RssAnon"] - before["RssAnon"],
        "resident": after["VmRSS"] - before["VmRSS"],
        "whole": after["VmRSS"],
    }


def _memory() -> dict[str, float]:
    """MB, as Linux counts them."""
    status = Path("/proc/self/status").read_text()
    found = re.findall(r"(RssAnon|VmRSS):\s+(\d+) kB", status)
    return {name: int(kilobytes) / 1024 for name, kilobytes in found}
