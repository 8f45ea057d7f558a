"""Rows from scores: what anybody's code says of the test jets, judged as our own fits are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import yaml
from pyarrow import parquet

from jetfm.benchmark.format import JUDGED, About, Benchmark, Point, Row, Text, validated
from jetfm.errors import JetfmError
from jetfm.finetuning.scores import judged
from jetfm.settings.base import Positive
from jetfm.storage.files import naming

ABOUT = "about.yaml"


class Told(About):
    """What comes with scores: what their row is to say, and what they do not show."""

    n_pretrainings: Positive = 1  # seed i starts from number i modulo this
    cut: tuple[Text, ...] = ()  # fits that a limit of steps ended, as TASK_SIZE_SEED


Kind = TypeVar("Kind", bound=About)

_SUM = 1e-3  # by which probabilities of a jet may miss one: rounding of half precision
_LEAST = np.finfo(np.float64).tiny  # a probability below it says no more


def row_of_scores(
    folder: Path,
    name: str,
    tests: Mapping[str, tuple[np.ndarray, np.ndarray]],
    sizes: Mapping[str, Sequence[int]],
    benchmark: Benchmark,
    n_bootstrap: int,
) -> Row:
    """A row from ``TASK_SIZE_SEED.npy`` or ``.parquet`` files.

    Parameters
    ----------
    tests : names and labels (n,) of the test jets, by task
    sizes : numbers of labelled jets, by task: the scores of all their seeds have to be there

    Raises
    ------
    JetfmError
        A missing or unreadable file, or scores that are no probabilities of these jets.
    """
    told, points = read_about(folder / ABOUT, Told), []
    names = [
        f"{task}_{size}_{seed}"
        for task, some in sizes.items()
        for size in some
        for seed in range(benchmark.tasks[task].seeds[size])
    ]
    for name_of_fit in told.cut:
        if name_of_fit not in names:
            found, expected = f"cut: {name_of_fit!r}", "TASK_SIZE_SEED of scores that are here"
            raise JetfmError(folder / ABOUT, found, expected)
    for task, some in sizes.items():
        classes, (jets, labels) = benchmark.tasks[task].classes, tests[task]
        for size in some:
            seeds = range(benchmark.tasks[task].seeds[size])
            stems = [f"{task}_{size}_{seed}" for seed in seeds]
            paths = [_path(folder, stem) for stem in stems]
            found = [
                judged(labels, log_probabilities(path, jets, classes), n_bootstrap)
                for path in paths
            ]
            columns = {key: [one[key] for one in found] for key in JUDGED if key in found[0]}
            columns["cut"] = [stem in told.cut for stem in stems]
            columns["pretraining"] = [seed % told.n_pretrainings for seed in seeds]
            points.append(Point(task=task, size=size, **columns))
    about = About(**told.model_dump(include=set(About.model_fields)))
    return Row(text=name, about=about, points=points)


def log_probabilities(path: Path, jets: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """(n, K) float64 logarithms of the probabilities in a file.

    Parameters
    ----------
    jets : names of the test jets, in the order in which scores are wanted

    Raises
    ------
    JetfmError
        Another shape, other jets, or numbers that are no probabilities.
    """
    shape = (len(jets), len(classes))
    p = _from_npy(path) if path.suffix == ".npy" else _from_parquet(path, jets, classes)
    if p.shape != shape or p.dtype.kind != "f":
        expected = f"floats of shape {shape}: test jets, and {', '.join(classes)}"
        raise JetfmError(path, f"{p.dtype} of shape {p.shape}", expected)
    p = p.astype(np.float64)
    bad = ~np.isfinite(p).all(1)
    if bad.any():
        raise JetfmError(path, f"a score that is not finite, row {np.argmax(bad)}", "finite ones")
    bad = ((p < 0) | (p > 1)).any(1) | (np.abs(p.sum(1) - 1) > _SUM)
    if bad.any():
        row = int(np.argmax(bad))
        found = f"{np.array2string(p[row], precision=4, threshold=6)} in row {row}"
        raise JetfmError(path, found, "probabilities of all classes, which sum to one")
    return np.log(np.maximum(p, _LEAST))


def read_about(path: Path, kind: type[Kind] = About) -> Kind:
    """What is told of a classifier, as YAML.

    Raises
    ------
    JetfmError
        No such file, or an unknown entry.
    """
    with naming(path):
        text = path.read_text(encoding="utf-8")
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise JetfmError(path, f"unreadable YAML ({error!s:.80})", "entries of a row") from None
    return validated(kind, values, path)


def _path(folder: Path, stem: str) -> Path:
    for suffix in (".npy", ".parquet"):
        if (folder / f"{stem}{suffix}").exists():
            return folder / f"{stem}{suffix}"
    expected = "the scores of every seed of these tasks and sizes (--tasks, --sizes: of some)"
    raise JetfmError(folder, f"no {stem}.npy or .parquet", expected)


def _from_npy(path: Path) -> np.ndarray:
    with naming(path):
        try:
            return np.asarray(np.load(path, allow_pickle=False))
        except (ValueError, EOFError) as error:
            raise JetfmError(path, f"damaged ({error!s:.80})", "a .npy file of numbers") from None


def _from_parquet(path: Path, jets: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    with naming(path):
        try:
            table = parquet.read_table(path)
        except pa.ArrowException as error:
            raise JetfmError(path, f"damaged ({error!s:.80})", "a parquet file") from None
    names = ["jet", *(f"p_{name}" for name in classes)]
    for name in names:
        if table.column_names.count(name) != 1:
            raise JetfmError(path, f"columns {', '.join(table.column_names)}", ", ".join(names))
    own = table["jet"].to_numpy()
    order = np.argsort(own, kind="stable")
    if len(own) != len(jets) or not np.array_equal(own[order], np.sort(jets)):
        raise JetfmError(path, f"{len(own)} jets", f"the {len(jets)} test jets, each once")
    p = np.stack([table[name].to_numpy() for name in names[1:]], axis=1)
    return p[order][np.argsort(np.argsort(jets, kind="stable"), kind="stable")]
