"""What ``jetfm benchmark`` does: add rows, write jets for others, write the page anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetfm.benchmark.collected import submission_of
from jetfm.benchmark.format import (
    ASKED,
    BENCHMARK,
    NAME,
    About,
    Benchmark,
    Row,
    Submission,
    read_benchmark,
    read_submissions,
    same_jets,
    validated,
    write_submission,
)
from jetfm.benchmark.jets import BenchmarkJets, chosen
from jetfm.benchmark.own_model import OF_A_MODEL, USUAL, OwnModel, tokenizer_of
from jetfm.benchmark.page import beside_the_best, entries_of, write_page
from jetfm.benchmark.splits import read_test, write_splits
from jetfm.benchmark.submitted import read_about, row_of_scores
from jetfm.errors import JetfmError
from jetfm.pipeline import Pipeline
from jetfm.settings.profiles import Profile
from jetfm.storage.files import read_json, write_json


@dataclass(frozen=True)
class Wanted:
    """Which row is to be added.

    Parameters
    ----------
    tasks, sizes : some of the benchmark's; empty means all
    name : of the row and its file; None takes that of the folder it comes from
    """

    tasks: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    name: str | None = None


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained model.

    Parameters
    ----------
    model, tokenizer : folders; the tokenizer is searched for where it is None
    starts : some of `OF_A_MODEL`; empty means `USUAL`
    about : YAML file of `jetfm.benchmark.format.About`, or None
    """

    model: Path
    tokenizer: Path | None = None
    starts: tuple[str, ...] = ()
    about: Path | None = None


def collect(pipeline: Pipeline, out: Path) -> str:
    """Write the rows of the profile's own study, where it is finished, and the page.

    Parameters
    ----------
    out : folder of ``benchmark.md``, and of the rows in ``benchmark/``

    Raises
    ------
    JetfmError
        No study, and no rows either; or a study of other jets than the benchmark's.
    """
    folder, profile = out / "benchmark", pipeline.profile.name
    if pipeline.finetuning.finetuned().find() is None:
        if not (folder / BENCHMARK).exists():
            expected = f"a finished `jetfm finetune --profile {profile}`"
            raise JetfmError(folder, f"no rows, and no fits of profile {profile}", expected)
        said = f"the fine-tuning of profile {profile} is not finished: no rows of its own"
    else:
        rows = submission_of(pipeline, _benchmark(pipeline, folder))
        said = f"{len(rows.rows)} rows in {write_submission(rows, folder)}"
    return f"{said}\n{write_page(out)}"


def add_model(pipeline: Pipeline, own: Pretrained, wanted: Wanted, out: Path) -> str:
    """Fit a pre-trained model on the benchmark's jets, and add its rows; interrupted, continue.

    Raises
    ------
    JetfmError
        No such model, or without its tokenizer; unknown tasks, sizes or starts; other jets.
    """
    name = _name(wanted, own.model, pipeline.profile.name)
    for start in own.starts:
        if start not in OF_A_MODEL:
            raise JetfmError("--starts", repr(start), f"some of {', '.join(OF_A_MODEL)}")
    about = About() if own.about is None else read_about(own.about)
    tokenizer = own.tokenizer or tokenizer_of(own.model)
    benchmark = _benchmark(pipeline, out / "benchmark")
    sizes = chosen(wanted.tasks, wanted.sizes, benchmark)
    fits = OwnModel(pipeline, own.model, tokenizer, own.starts or USUAL, sizes)
    return _added(fits.rows(name, about), name, benchmark, out)


def add_scores(
    profile: Profile, scores: Path, wanted: Wanted, out: Path, splits: Path | None = None
) -> str:
    """Judge somebody's class probabilities of the test jets, and add them as a row.

    Parameters
    ----------
    splits : what `jetfm.benchmark.splits.write_splits` wrote; None takes the jets of the profile,
        which are simulated if they are not there

    Raises
    ------
    JetfmError
        Missing or damaged scores, scores of other jets, or no probabilities.
    """
    name, folder = _name(wanted, scores, profile.name), out / "benchmark"
    if splits is None:
        pipeline = Pipeline(profile)
        jets, benchmark = BenchmarkJets(pipeline), _benchmark(pipeline, folder)
    else:
        given = validated(Benchmark, read_json(splits / BENCHMARK), splits / BENCHMARK)
        if not (folder / BENCHMARK).exists():  # files may be of some tasks alone
            raise JetfmError(folder, f"no {BENCHMARK}", "the benchmark's folder, docs/benchmark")
        benchmark = _agreed(given, folder)
    sizes = chosen(wanted.tasks, wanted.sizes, benchmark)

    def test(task: str) -> tuple[np.ndarray, np.ndarray]:
        if splits is not None:
            return read_test(splits, task)
        side = jets.of(task).test
        return side.indices, side.labels[side.indices].astype(np.int64)

    tests = {task: test(task) for task in sizes}
    n_bootstrap = profile.finetuning.n_bootstrap
    row = row_of_scores(scores, name, tests, sizes, benchmark, n_bootstrap)
    return _added([row], name, benchmark, out)


def write_jets(pipeline: Pipeline, folder: Path, wanted: Wanted, out: Path) -> str:
    """Write the jets of the benchmark, or of some of its tasks, as parquet."""
    benchmark = _benchmark(pipeline, out / "benchmark")
    tasks = tuple(chosen(wanted.tasks, (), benchmark))
    written = write_splits(BenchmarkJets(pipeline), tasks, folder)
    n_jets = sum(task.n_test for task in written.tasks.values())
    return f"{', '.join(tasks)}: {n_jets:,} test jets and what to fit on, in {folder}"


def _name(wanted: Wanted, folder: Path, profile: str) -> str:
    name = folder.resolve().name if wanted.name is None else wanted.name
    if name in (profile, Path(BENCHMARK).stem):
        raise JetfmError("--name", repr(name), "another one: this is the benchmark's own")
    if not re.fullmatch(NAME, name):
        raise JetfmError("--name", repr(name), "letters, digits, '_', '-' and '.'")
    return name


def _benchmark(pipeline: Pipeline, folder: Path) -> Benchmark:
    """The benchmark of a folder, which has to be of the pipeline's jets; begun where there is
    none."""
    return _agreed(BenchmarkJets(pipeline).benchmark(), folder)


def _agreed(found: Benchmark, folder: Path) -> Benchmark:
    if not (folder / BENCHMARK).exists():
        write_json(folder / BENCHMARK, found.model_dump(mode="json"))
        return found
    known = read_benchmark(folder)
    if known.profile != found.profile:
        expected = f"{known.profile!r}, as in {folder / BENCHMARK}"
        raise JetfmError("--profile", repr(found.profile), expected)
    same_jets(found.digests, known, f"jets of profile {found.profile}")
    return known


def _added(new: Sequence[Row], name: str, benchmark: Benchmark, out: Path) -> str:
    path = out / "benchmark" / f"{name}.json"
    rows = _merged(new, path) if path.exists() else new
    digests = {
        task: benchmark.tasks[task].digests
        for task in dict.fromkeys(point.task for row in rows for point in row.points)
    }
    values = {"profile": benchmark.profile, "name": name, "jets": digests, "rows": rows}
    write_submission(validated(Submission, values, f"row {name}"), out / "benchmark")
    entries = entries_of(read_submissions(out / "benchmark"))
    said = [beside_the_best(new, entries, benchmark, name), f"{len(rows)} rows in {path}"]
    asked = [key for key in ASKED if any(getattr(row.about, key) in (None, "") for row in rows)]
    if asked:
        said.append(f"the rules ask for more, in an about.yaml: {', '.join(asked)}")
    return "\n".join([*said, str(write_page(out))])


def _merged(new: Sequence[Row], path: Path) -> list[Row]:
    """New rows, with the points that a file has of them at other tasks and numbers of labels, and
    its other rows.

    Raises
    ------
    JetfmError
        The file is another model's or author's.
    """
    known = validated(Submission, read_json(path), path)
    owners = {(row.model, row.about.who) for row in (*known.rows, *new)}
    if len(owners) > 1:
        mine, theirs = (_owner(rows[0]) for rows in (new, known.rows))
        raise JetfmError(path, f"rows of {theirs}", f"none of others than {mine}: another --name")
    rows = {row.text: row for row in known.rows}
    for row in new:
        keys = {point.key for point in row.points}
        others = rows[row.text].points if row.text in rows else ()
        points = (*row.points, *(point for point in others if point.key not in keys))
        rows[row.text] = row.model_copy(update={"points": points})
    return list(rows.values())


def _owner(row: Row) -> str:
    model = f"model {row.model[:12]}" if row.model else "scores"
    return f"{model} by {row.about.who or 'somebody who gave no name'}"
