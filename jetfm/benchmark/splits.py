"""The benchmark's jets as parquet files, for models that are not jetfm's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from jetfm.benchmark.format import BENCHMARK, Benchmark, validated
from jetfm.benchmark.jets import BenchmarkJets, digest_of
from jetfm.errors import JetfmError
from jetfm.storage.files import naming, read_json, replacing, write_json, write_text

LABELLED, README = "labelled.parquet", "README.md"

_README = Path(__file__).parent / "splits.md"


def write_splits(jets: BenchmarkJets, tasks: Sequence[str], folder: Path) -> Benchmark:
    """Write the jets of some tasks, and which of them are labelled.

    Returns
    -------
    what they are, also written as ``benchmark.json``
    """
    benchmark = jets.benchmark()
    benchmark = benchmark.model_copy(update={"tasks": {n: benchmark.tasks[n] for n in tasks}})
    for task in tasks:
        for split, table in jets.tables(task).items():
            _write(table, folder / task / f"{split}.parquet")
        _write(labelled_table(jets, task), folder / task / LABELLED)
    described = [
        f"- `{name}`: {', '.join(task.classes)}; {task.n_val:,} validation jets, {task.n_test:,} "
        f"test jets; labels and seeds {', '.join(f'{n:,} × {k}' for n, k in task.seeds.items())}"
        for name, task in benchmark.tasks.items()
    ]
    text = Template(_README.read_text(encoding="utf-8")).substitute(
        version=benchmark.version,
        profile=benchmark.profile,
        seed=benchmark.seed,
        here=folder.name,
        tasks="\n".join(described),
    )
    write_text(folder / README, text)
    write_json(folder / BENCHMARK, benchmark.model_dump(mode="json"))
    return benchmark


def labelled_table(jets: BenchmarkJets, task: str) -> pa.Table:
    """'size', 'seed' and 'jet' of every labelled jet, in the order of the fit."""
    points = [(size, i) for size, n_seeds in jets.seeds(task).items() for i in range(n_seeds)]
    sizes, seeds = np.repeat(points, [size for size, _ in points], axis=0).T
    some = np.concatenate([jets.labelled(task, *point) for point in points])
    return pa.table({"size": sizes, "seed": seeds, "jet": some})


def read_test(folder: Path, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Names and labels of a task's test jets, from a folder of splits.

    Raises
    ------
    JetfmError
        No such folder, or jets that are not those it says it has.
    """
    path = folder / task / "test.parquet"
    known = validated(Benchmark, read_json(folder / BENCHMARK), folder / BENCHMARK)
    with naming(path):
        try:
            table = parquet.read_table(path)
        except pa.ArrowException as error:
            raise JetfmError(path, f"unreadable bytes ({error!s:.80})", "parquet") from None
    if task not in known.tasks or digest_of(table) != known.tasks[task].digests.test:
        raise JetfmError(path, "other jets", f"those that {BENCHMARK} names")
    return table["jet"].to_numpy(), table["label"].to_numpy()


def _write(table: pa.Table, path: Path) -> None:
    with replacing(path) as aside:
        parquet.write_table(table, aside, compression="zstd")
