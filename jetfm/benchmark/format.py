"""Files of the benchmark: which jets it is made of, and the rows that somebody adds.

``benchmark.json`` says which jets count, one ``NAME.json`` beside it holds the rows of a
submission, so that no two submissions touch the same file. All numbers are by seed; means, spreads
and ranks follow from them (`jetfm.benchmark.statistics`) and are written nowhere.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from jetfm.errors import JetfmError
from jetfm.physics.statistics import share_of
from jetfm.settings.base import Positive, Settings, Share
from jetfm.storage.files import read_json, write_json

#: Of the rules: raised when other jets, labels or metrics make rows incomparable.
VERSION = 1
BENCHMARK = "benchmark.json"

#: Metrics that tables show; the rejections belong to tasks of two classes.
METRICS = {
    "accuracy": "accuracy",
    "auc": "AUC",
    "rejection30": "1/ε_B at ε_S = 30 %",
    "rejection50": "1/ε_B at ε_S = 50 %",
}
REJECTIONS = tuple(name for name in METRICS if name.startswith("rejection"))

#: Of a pre-training that had labels of a task's classes: no result from few labels.
THESE = "these classes"

#: Of a submission, and so of its file.
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}"

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Text = Annotated[str, Field(pattern=r"^[^\r\n]*$", max_length=500)]
Count = Annotated[int, Field(ge=0)]
Error = Annotated[float, Field(ge=0)]
Rejected = Annotated[float, Field(ge=1)]


class Digests(Settings):
    """Of a task's jets: the labelled ones of all seeds, and those of validation and test."""

    train: Digest
    val: Digest
    test: Digest


class Task(Settings):
    """A question of the benchmark; of two classes the last is the signal."""

    jets: str
    classes: tuple[str, ...] = Field(min_length=2)
    seeds: dict[Positive, Positive]  # how many, by number of labelled jets
    # Share of labelled jets that two seeds have in common, by their number; absent: none.
    overlap: dict[Positive, Share] = {}
    n_val: Positive
    n_test: Positive
    n_background: Positive  # of the test jets, those of the first class
    digests: Digests

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of the task."""
        binary = len(self.classes) == 2
        return tuple(name for name in METRICS if binary or name not in REJECTIONS)


class Benchmark(Settings):
    """The jets that every row is about."""

    version: Literal[1] = VERSION
    profile: str
    seed: int
    made_with: dict[str, str]  # what the bits of simulated jets depend on
    tasks: dict[str, Task] = Field(min_length=1)

    @property
    def digests(self) -> dict[str, Digests]:
        """Of every task's jets."""
        return {name: task.digests for name, task in self.tasks.items()}


class Point(Settings):
    """A model at a task, from one number of labelled jets; every entry is by seed.

    Errors are from the test jets alone, rejections have an interval instead (68.3 %), None where
    it is unbounded or no background jet passed (`jetfm.finetuning.scores.judged`).
    """

    task: str
    size: Positive
    accuracy: tuple[Share, ...] = Field(min_length=1)
    accuracy_error: tuple[Error, ...]
    auc: tuple[Share, ...]
    auc_error: tuple[Error | None, ...]
    rejection30: tuple[Rejected | None, ...] | None = None
    rejection30_low: tuple[Rejected | None, ...] | None = None
    rejection30_high: tuple[Rejected | None, ...] | None = None
    rejection30_passed: tuple[Count, ...] | None = None
    rejection50: tuple[Rejected | None, ...] | None = None
    rejection50_low: tuple[Rejected | None, ...] | None = None
    rejection50_high: tuple[Rejected | None, ...] | None = None
    rejection50_passed: tuple[Count, ...] | None = None
    cut: tuple[bool, ...]  # a limit of steps ended the fit: what it reached is a lower limit
    pretraining: tuple[Count, ...]  # which of several pre-trainings a seed starts from

    @model_validator(mode="after")
    def _by_seed(self):
        columns = self.model_dump(exclude={"task", "size"})
        given = {name: len(values) for name, values in columns.items() if values is not None}
        wrong = [name for name, n in given.items() if n != self.n_seeds]
        if wrong:
            raise ValueError(f"{wrong[0]} should have {self.n_seeds} seeds, as accuracy has")
        of_rejections = [name for name in columns if name.startswith(REJECTIONS)]
        missing = [name for name in of_rejections if name not in given]
        if missing and len(missing) < len(of_rejections):
            raise ValueError(f"{missing[0]} should be there, as other rejections are")
        for name in () if missing else REJECTIONS:
            for low, value in zip(columns[f"{name}_low"], columns[name], strict=True):
                if low is None or (value is not None and value < low * (1 - 1e-9)):
                    raise ValueError(f"{name} should lie above {name}_low")
        return self

    @property
    def n_seeds(self) -> int:
        """Repetitions, each with labelled jets of its own."""
        return len(self.accuracy)

    @property
    def key(self) -> tuple[str, int]:
        """Where it stands."""
        return self.task, self.size


#: Columns of a point that are metrics, as `judged` names them.
JUDGED = tuple(name for name in Point.model_fields if name not in ("task", "size", "pretraining"))


class About(Settings):
    """What is told of a classifier beside its numbers; None and empty are 'not told'."""

    who: Text = ""
    n_parameters: Count | None = None  # of all that scores a jet
    n_pretraining_jets: Count | None = None  # zero: none
    pretraining: Text = ""  # on which jets, for which task
    # Which labels it had, in whatever form: "these classes" are some of a task's.
    pretraining_labels: Literal["", "none", "other classes", "these classes"] = ""
    tuned: Text = ""  # what was chosen, and on which jets
    n_configurations: Positive | None = None  # how many were tried for it
    # Of the code, with its address where it is not jetfm's; YAML takes digits alone for a number.
    commit: Annotated[Text, BeforeValidator(lambda x: str(x) if type(x) is int else x)] = ""
    note: Text = ""


#: What the rules ask for.
ASKED = tuple(name for name in About.model_fields if name != "note")


class Row(Settings):
    """A classifier at some tasks and numbers of labelled jets."""

    text: Text = Field(min_length=1)  # what tables call it
    start: Text = ""  # with which weights it starts, of jetfm's own
    model: Text = ""  # hash of the pre-trained model, of one that jetfm has fitted
    about: About = About()
    points: tuple[Point, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _once(self):
        keys = [point.key for point in self.points]
        for task, size in keys:
            if keys.count((task, size)) > 1:
                raise ValueError(f"points should be different ones: {task}, {size} is there twice")
        return self

    def at(self, task: str, size: int) -> Point | None:
        """Its point there, None where it has none."""
        return next((point for point in self.points if point.key == (task, size)), None)


class Submission(Settings):
    """The rows of one file, and the digests of the jets that they are about."""

    version: Literal[1] = VERSION
    profile: str
    name: Name
    jets: dict[str, Digests] = Field(min_length=1)
    rows: tuple[Row, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _different(self):
        texts = [row.text for row in self.rows]
        for text in texts:
            if texts.count(text) > 1:
                raise ValueError(f"rows should be different ones: {text!r} is there twice")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those that some row has."""
        return tuple(dict.fromkeys(point.task for row in self.rows for point in row.points))


Model = TypeVar("Model", bound=Settings)


def validated(kind: type[Model], values: object, where: object) -> Model:
    """Values of a file as what they should be.

    Raises
    ------
    JetfmError
        Naming the first entry that is not as it should be.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        entry = ".".join(str(part) for part in first["loc"])
        found = "nothing" if first["type"] == "missing" else f"{first['input']!r:.80}"
        expected = first["msg"]
        if first["type"] == "extra_forbidden":
            expected = "a known entry"
            if len(first["loc"]) == 1:
                expected = f"one of {', '.join(kind.model_fields)}"
        if not entry and first["type"] == "value_error":
            found = "entries that disagree"
        raise JetfmError(f"{where}: {entry}" if entry else where, found, expected) from None


def read_benchmark(folder: Path) -> Benchmark:
    """Which jets the rows of a folder are about; JetfmError where it does not say so."""
    return validated(Benchmark, read_json(folder / BENCHMARK), folder / BENCHMARK)


def read_submissions(folder: Path) -> list[Submission]:
    """All rows of a folder, by file, checked against its benchmark.

    Raises
    ------
    JetfmError
        A damaged file, one under another name than its own, or rows about other jets.
    """
    benchmark, found = read_benchmark(folder), []
    for path in sorted(folder.glob("*.json")):
        if path.name != BENCHMARK:
            one = validated(Submission, read_json(path), path)
            if one.name != path.stem:
                raise JetfmError(path, f"the rows of {one.name!r}", f"those of {path.stem!r}")
            check(one, benchmark, path)
            found.append(one)
    return found


def write_submission(submission: Submission, folder: Path) -> Path:
    """Write ``NAME.json``, checked against the benchmark of the folder; see `check`."""
    path = folder / f"{submission.name}.json"
    check(submission, read_benchmark(folder), path)
    if path.name == BENCHMARK:
        raise JetfmError("--name", repr(submission.name), f"another one: {BENCHMARK} is taken")
    return write_json(path, submission.model_dump(mode="json", exclude_none=True))


def check(submission: Submission, benchmark: Benchmark, where: object) -> None:
    """Whether rows are about the benchmark's jets, tasks and seeds, and their numbers can be.

    Raises
    ------
    JetfmError
        Naming the first task, size or number of seeds that is not the benchmark's, or numbers
        that no classifier has on its test jets.
    """
    if submission.profile != benchmark.profile:
        found = f"jets of profile {submission.profile!r}"
        raise JetfmError(where, found, f"those of {benchmark.profile!r}")
    same_jets(submission.jets, benchmark, where)
    for row in submission.rows:
        for point in row.points:
            of_row = f"{where}: {row.text}, {point.task}"
            if point.task not in submission.jets:
                expected = f"one of {', '.join(submission.jets)}, whose jets it names"
                raise JetfmError(of_row, f"task {point.task!r}", expected)
            task = benchmark.tasks[point.task]
            if point.size not in task.seeds:
                sizes = ", ".join(map(str, task.seeds))
                raise JetfmError(of_row, f"{point.size} labelled jets", f"one of {sizes}")
            if point.n_seeds != task.seeds[point.size]:
                found = f"{point.n_seeds} seeds with {point.size} labelled jets"
                raise JetfmError(of_row, found, f"{task.seeds[point.size]}")
            if (point.rejection30 is None) == (REJECTIONS[0] in task.metrics):
                rejections = "rejections" if point.rejection30 else "no rejections"
                found = f"{rejections} of {len(task.classes)} classes"
                raise JetfmError(of_row, found, f"{', '.join(task.metrics)}")
            _check_numbers(point, task, f"{of_row}, {point.size} labels")


def _check_numbers(point: Point, task: Task, where: str) -> None:
    """JetfmError where numbers cannot be those of the task's test jets, or disagree."""
    n, turns = task.n_test, max(point.pretraining) + 1
    if list(point.pretraining) != [seed % turns for seed in range(point.n_seeds)]:
        expected = f"{turns} that take turns: seed i starts from number i modulo {turns}"
        raise JetfmError(where, f"pre-trainings {point.pretraining}", expected)
    for share, error in zip(point.accuracy, point.accuracy_error, strict=True):
        likely = share_of(round(share * n), n)
        if not (_agree(share, likely.value) and _agree(error, likely.uncertainty)):
            expected = f"a share of {n} test jets, and its binomial uncertainty"
            raise JetfmError(where, f"accuracy {share} with error {error}", expected)
    for name in REJECTIONS if point.rejection30 is not None else ():
        columns = (getattr(point, f"{name}{end}") for end in ("", "_low", "_high", "_passed"))
        for value, low, high, passed in zip(*columns, strict=True):
            inside = value is None or low <= value <= (math.inf if high is None else high)
            known = None if not passed else task.n_background / passed
            same = value is None if known is None else value is not None and _agree(value, known)
            if not (inside and same):
                found = f"{name} {value} in {low} to {high}, of {passed} jets that passed"
                expected = f"the inverse share of {task.n_background} background jets"
                raise JetfmError(where, found, expected)


def _agree(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def check_task(name: str, known: tuple[str, ...], where: object = "--tasks") -> None:
    """JetfmError where there is no task of this name."""
    if name not in known:
        raise JetfmError(where, f"task {name!r}", f"one of {', '.join(known)}")


def same_jets(jets: dict[str, Digests], benchmark: Benchmark, where: object) -> None:
    """JetfmError where a task is not the benchmark's, or has other jets."""
    for name, digests in jets.items():
        check_task(name, tuple(benchmark.tasks), where)
        for split, wanted in benchmark.tasks[name].digests.model_dump().items():
            found = getattr(digests, split)
            if found != wanted:
                text = f"other {split} jets of {name} (digest {found[:12]})"
                made = ", ".join(f"{key} {value}" for key, value in benchmark.made_with.items())
                raise JetfmError(where, text, f"the benchmark's, {wanted[:12]}, made with {made}")
