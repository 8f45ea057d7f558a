"""The benchmark's jets: those of a profile's classification tasks, as tables, and their digests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from jetfm.benchmark.format import Benchmark, Digests, Task, check_task
from jetfm.data.labelled import LabelledJets
from jetfm.errors import JetfmError
from jetfm.finetuning.study import Jets, labelled_jets, possible_sizes
from jetfm.pipeline import Pipeline
from jetfm.schema import JET_COLUMNS, SPLITS
from jetfm.simulation.shipped import made_on

#: Any contender that reads constituents and needs no pre-training: the jets of all are the same.
_ANY = ("deepsets", "scratch")


@dataclass(frozen=True)
class BenchmarkJets:
    """The jets of a profile's tasks; simulated, or read, if they are not there yet."""

    pipeline: Pipeline

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks; those that are trained on a range of jets alone ask another question,
        and are none."""
        tasks = self.pipeline.profile.finetuning.tasks
        return tuple(name for name, task in tasks.items() if not task.ranges)

    def of(self, task: str) -> Jets:
        """The three splits of a task."""
        check_task(task, self.tasks)
        return self.pipeline.finetuning.runner(task, *_ANY).jets

    def seeds(self, task: str) -> dict[int, int]:
        """How many repetitions, by number of labelled jets."""
        settings = self.pipeline.profile.finetuning
        sizes = possible_sizes(task, self.of(task), settings)
        return {size: len(settings.seeds(task, size)) for size in sizes}

    def overlap(self, task: str) -> dict[int, float]:
        """Share of labelled jets that two repetitions have in common, by their number: the mean
        over pairs, where it is above zero."""
        found = {}
        for size, n in self.seeds(task).items():
            some = [self.labelled(task, size, i) for i in range(n)]
            shared = [np.isin(a, b).mean() for a, b in combinations(some, 2)]
            if any(shared):
                found[size] = round(float(np.mean(shared)), 4)
        return found

    def labelled(self, task: str, size: int, repetition: int) -> np.ndarray:
        """(size,) training jets that a repetition has the labels of, in their order."""
        return labelled_jets(self.of(task).train, size, repetition, self.pipeline.profile.seed)

    def tables(self, task: str) -> dict[str, pa.Table]:
        """By split, every jet of the task that a fit trains on, is stopped by, or is tested on."""
        jets, seeds = self.of(task), self.seeds(task)
        some = [self.labelled(task, size, i) for size, n in seeds.items() for i in range(n)]
        chosen = {"train": np.unique(np.concatenate(some)), "val": jets.val.indices}
        chosen["test"] = jets.test.indices
        return {split: table_of(getattr(jets, split), chosen[split]) for split in SPLITS}

    def benchmark(self) -> Benchmark:
        """What the benchmark is made of."""
        profile = self.pipeline.profile
        found = {}
        for name in self.tasks:
            jets, tables = self.of(name), self.tables(name)
            found[name] = Task(
                jets=profile.finetuning.tasks[name].jets,
                classes=jets.test.class_names,
                seeds=self.seeds(name),
                overlap=self.overlap(name),
                n_val=len(jets.val.indices),
                n_test=len(jets.test.indices),
                n_background=int((jets.test.labels[jets.test.indices] == 0).sum()),
                digests=Digests(**{split: digest_of(table) for split, table in tables.items()}),
            )
        return Benchmark(
            profile=profile.name, seed=profile.seed, made_with=self._made_with(), tasks=found
        )

    def _made_with(self) -> dict[str, str]:
        """Versions that the simulated jets were made with, as their stages recorded them."""
        jets = self.pipeline.jets
        if self.pipeline.profile.data.source != "simulate":
            return {}
        packages = jets.simulated("test").artifact.record["packages"]
        known = {key: packages.get(key) for key in ("pythia8mc", "fastjet", "numpy")}
        known = {key: value for key, value in known.items() if value}
        return {"machine": made_on()["machine"], **known}


def table_of(jets: LabelledJets, indices: np.ndarray) -> pa.Table:
    """Jets as anybody reads them.

    Returns
    -------
    'jet', its place in the split's store; 'label', the place of its class in the task; 'class';
    'jet_pt', 'jet_eta', ... as in the files, GeV; 'part_pt', ..., lists with an entry a
    constituent, falling in pt: GeV, mm, and angles about the jet's axis ('jet_axis_eta', ...)
    """
    store = jets.store
    counts = np.asarray(store.n_constituents[indices], np.int64)
    pieces = [store.constituents[store.offsets[i] : store.offsets[i + 1]] for i in indices]
    constituents = np.concatenate(pieces)
    offsets = pa.array(np.append(0, np.cumsum(counts)).astype(np.int32))
    labels = jets.labels[indices].astype(np.int64)
    columns = {"jet": pa.array(np.asarray(indices, np.int64)), "label": pa.array(labels)}
    columns["class"] = pa.array(np.array(jets.class_names, object)[labels], pa.string())
    rows = store.jets[indices]
    for name in JET_COLUMNS:
        if name != "label":
            columns[f"jet_{name}"] = pa.array(np.ascontiguousarray(rows[name]))
    for column, name in enumerate(store.features):
        values = pa.array(np.ascontiguousarray(constituents[:, column]))
        columns[f"part_{name}"] = pa.ListArray.from_arrays(offsets, values)
    return pa.table(columns)


def digest_of(table: pa.Table) -> str:
    """SHA-256 over the jets of a table: their places, classes and constituents, bit by bit.

    Columns of the jet are left out: they follow from the constituents, or are no classifier's.
    """
    found = hashlib.sha256()
    for name in table.column_names:
        if name.startswith("jet_"):
            continue
        column = table[name].combine_chunks()
        found.update(name.encode() + b"\0")
        if pa.types.is_list(column.type):
            found.update(np.diff(column.offsets.to_numpy()).astype("<i8").tobytes())
            column = column.flatten()
        if pa.types.is_string(column.type):
            found.update("\0".join(column.to_pylist()).encode())
        else:
            values = column.to_numpy(zero_copy_only=False)
            found.update(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return found.hexdigest()


def chosen(
    tasks: Sequence[str], sizes: Sequence[int], benchmark: Benchmark
) -> dict[str, tuple[int, ...]]:
    """Numbers of labelled jets by task, of those asked for; all where none is named.

    Raises
    ------
    JetfmError
        An unknown task, or a number of labelled jets that none of the tasks has.
    """
    for name in tasks:
        check_task(name, tuple(benchmark.tasks))
    known = {name: tuple(benchmark.tasks[name].seeds) for name in tasks or benchmark.tasks}
    every = sorted({size for some in known.values() for size in some})
    for size in sizes:
        if size not in every:
            found = f"{size} labelled jets, of {', '.join(known)}"
            raise JetfmError("--sizes", found, f"some of {', '.join(map(str, every))}")
    found = {
        name: tuple(n for n in some if not sizes or n in sizes) for name, some in known.items()
    }
    return {name: some for name, some in found.items() if some}
