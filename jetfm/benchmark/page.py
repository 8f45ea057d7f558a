"""``benchmark.md``: the rules, and a table for every task and metric, from the files of rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from jetfm.benchmark.format import (
    METRICS,
    REJECTIONS,
    THESE,
    Benchmark,
    Row,
    Submission,
    Task,
    read_benchmark,
    read_submissions,
)
from jetfm.benchmark.published import Published, published
from jetfm.benchmark.statistics import Summary, best, ranks, summary
from jetfm.storage.files import write_text

PAGE = "benchmark.md"
TEMPLATE = Path(__file__).parent / "rules.md"

_RANK_OF_NONE = 10**9
_CAMPAIGNS = {"jetclass": "JetClass", "toplandscape": "the Top Landscape, for transfer"}


@dataclass(frozen=True)
class Entry:
    """A row, the file that it is from, and what tables call it."""

    row: Row
    file: str
    text: str


@dataclass(frozen=True)
class Table:
    """A task and metric: rows in order of their rank at the fewest labels, then at more.

    Attributes
    ----------
    cells : what is known, by row and number of labelled jets
    ranks, best : by row and number of labelled jets, as `jetfm.benchmark.statistics` says
    """

    entries: list[Entry]
    sizes: list[int]
    cells: list[list[Summary | None]]
    ranks: list[list[int | None]]
    best: list[list[bool]]


def entries_of(submissions: Sequence[Submission]) -> list[Entry]:
    """The rows of all files; those of one text in several files are told apart by the file."""
    texts = [row.text for one in submissions for row in one.rows]

    def called(row: Row, file: str) -> str:
        return row.text if texts.count(row.text) == 1 else f"{row.text} ({file})"

    return [Entry(row, one.name, called(row, one.name)) for one in submissions for row in one.rows]


def table(entries: Sequence[Entry], benchmark: Benchmark, task: str, metric: str) -> Table:
    """All rows that have the task."""
    sizes = sorted(benchmark.tasks[task].seeds)
    mine = [one for one in entries if any(one.row.at(task, size) for size in sizes)]
    cells = [[_cell(one.row, benchmark, task, size, metric) for size in sizes] for one in mine]
    columns = [[row[i] for row in cells] for i in range(len(sizes))]
    placed = _transposed([ranks(column) for column in columns], len(mine))
    bold = _transposed([best(column) for column in columns], len(mine))
    order = sorted(range(len(mine)), key=lambda i: (
        [_RANK_OF_NONE if rank is None else rank for rank in placed[i]],
        mine[i].text,
    ))  # fmt: skip
    return Table(
        [mine[i] for i in order],
        sizes,
        [cells[i] for i in order],
        [placed[i] for i in order],
        [bold[i] for i in order],
    )


def write_page(out: Path) -> Path:
    """Write the page of the rows in ``out/benchmark/``; the same rows give the same bytes.

    Raises
    ------
    JetfmError
        No benchmark there, or a file of rows that does not belong to it.
    """
    folder = out / "benchmark"
    return write_text(out / PAGE, page_as_text(read_benchmark(folder), read_submissions(folder)))


def page_as_text(benchmark: Benchmark, submissions: Sequence[Submission]) -> str:
    """The page as Markdown."""
    entries = entries_of(submissions)
    lines = []
    for name, task in benchmark.tasks.items():
        lines += [f"### {name}", "", _question(name, benchmark), ""]
        for metric in task.metrics:
            lines += [f"#### {name}: {METRICS[metric]}", ""]
            lines += _shown(table(entries, benchmark, name, metric), name, metric)
            lines += [""]
        lines += [f"#### {name}: where the uncertainty of the accuracy comes from", ""]
        lines += _uncertainties(table(entries, benchmark, name, "accuracy"))
        lines += [""]
    made = ", ".join(f"{key} {value}" for key, value in benchmark.made_with.items())
    digests = [_row(["task", "labelled jets", "validation", "test"]), _row(["---"] * 4)]
    for name, task in benchmark.tasks.items():
        some = task.digests
        digests.append(_row([name, *(f"`{x[:16]}`" for x in (some.train, some.val, some.test))]))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        version=benchmark.version,
        profile=benchmark.profile,
        seed=benchmark.seed,
        made_with=made or "what `data/` says: these jets come with the repository",
        digests="\n".join(digests),
        seeds="\n".join(_seeds(benchmark)),
        tables="\n".join(lines).rstrip(),
        who="\n".join(_who(entries)),
    )


def beside_the_best(
    rows: Sequence[Row], entries: Sequence[Entry], benchmark: Benchmark, name: str
) -> str:
    """What the rows of file `name` reach, beside the best of all others, as a text."""
    lines = []
    others = [one for one in entries if one.file != name]
    for task, about in benchmark.tasks.items():
        for metric in about.metrics:
            every = table(others, benchmark, task, metric)
            for column, size in enumerate(every.sizes):
                first = [
                    (one.text, cells[column])
                    for one, cells, places in zip(
                        every.entries, every.cells, every.ranks, strict=True
                    )
                    if places[column] == 1
                ]
                beside = f"best {_plain(first[0][1], metric)}, {first[0][0]}" if first else ""
                for row in rows:
                    cell = _cell(row, benchmark, task, size, metric)
                    if cell is not None:
                        where = f"{task}, {size:,} labels, {METRICS[metric]}"
                        lines.append(f"{row.text}: {where}: {_plain(cell, metric)}; {beside}")
    return "\n".join(line.removesuffix("; ") for line in lines)


def _cell(row: Row, benchmark: Benchmark, task: str, size: int, metric: str) -> Summary | None:
    point, overlap = row.at(task, size), benchmark.tasks[task].overlap.get(size, 0.0)
    supervised = row.about.pretraining_labels == THESE
    return None if point is None else summary(point, metric, overlap, supervised)


def _transposed(columns: list[list], n_rows: int) -> list[list]:
    return [[column[i] for column in columns] for i in range(n_rows)]


def _question(name: str, benchmark: Benchmark) -> str:
    task = benchmark.tasks[name]
    which = ", ".join(f"`{one}`" for one in task.classes)
    text = f"{which}, of jets like those of {_CAMPAIGNS.get(task.jets, task.jets)}"
    if len(task.classes) == 2:
        text += "; the signal is the last"
    jets = f"{task.n_val:,} validation jets, {task.n_test:,} test jets"
    return f"{text}. There are {jets}. Guessing gives an accuracy of {1 / len(task.classes):.3g}."


def _shown(found: Table, task: str, metric: str) -> list[str]:
    references = [one for one in published(task) if metric in one.values]
    head = ["", *(f"{size:,} labels" for size in found.sizes)]
    head += ["all labels of the source"] if references else []
    lines = [_row(head), _row(["---"] * len(head))]
    for entry, cells, places, bold in zip(
        found.entries, found.cells, found.ranks, found.best, strict=True
    ):
        shown = [_marked(*one, metric) for one in zip(cells, places, bold, strict=True)]
        lines.append(_row([entry.text, *shown, *([""] if references else [])]))
    lines += [_row(_reference(one, found.sizes, metric)) for one in references]
    if not found.entries:
        lines += ["", "No rows yet."]
    sources = dict.fromkeys(one.source for one in references)
    if sources:
        lines += ["", f"*In italics, not ranked: {'; '.join(sources)}.*"]
    return lines


def _reference(one: Published, sizes: Sequence[int], metric: str) -> list[str]:
    few = one.few if metric == "accuracy" else {}
    cells = [f"*{few[size]:.3f}*" if size in few else "" for size in sizes]
    value, error = one.values[metric]
    text = f"{value:,.0f}" if metric in REJECTIONS else f"{value:.4f}".removesuffix("0")
    text += "" if error is None else f" ± {error:,.0f}"
    return [f"*{one.text}*", *cells, f"*{text} ({one.jets})*"]


def _marked(cell: Summary | None, rank: int | None, bold: bool, metric: str) -> str:
    """A cell: its place in brackets, bold where it is among the best, or why it has no place."""
    if cell is None:
        return ""
    text = _plain(cell, metric)
    if bold:
        text = f"**{text}**"
    return text if rank is None else f"{text} ({rank})"


def _plain(cell: Summary, metric: str) -> str:
    digits = 1 if metric in REJECTIONS else 4
    text = f"{cell.value:.{digits}f}"
    if cell.unbounded:
        text = f"> {text}"
    elif metric in REJECTIONS:  # as far up as down in the share that passes
        high = "∞" if math.isinf(cell.high) else f"{cell.high:.{digits}f}"
        text += f", {cell.low:.{digits}f} to {high}"
    else:
        text += f" ± {cell.error:.{digits}f}"
    marks = {"cut": cell.cut, "few": cell.limited, "labels": cell.supervised}
    return " ".join([text, *(mark for mark, holds in marks.items() if holds)])


def _uncertainties(found: Table) -> list[str]:
    """Of the accuracy: between seeds, between pre-trainings, from the test jets."""
    if not found.entries:
        return ["No rows yet."]
    head = ["", *(f"{size:,} labels" for size in found.sizes)]
    lines = [_row(head), _row(["---"] * len(head))]
    for entry, cells in zip(found.entries, found.cells, strict=True):
        shown = []
        for cell in cells:
            shown.append("" if cell is None else _parts(cell))
        lines.append(_row([entry.text, *shown]))
    return lines


def _parts(cell: Summary) -> str:
    """Between seeds / between pre-trainings / from the test jets; with one seed a pre-training
    nobody can tell the first two apart."""
    if cell.seeds is None and cell.pretrainings is not None:
        return f"{cell.pretrainings:.4f} together / {_or_dash(cell.jets)}"
    return " / ".join(map(_or_dash, (cell.seeds, cell.pretrainings, cell.jets)))


def _or_dash(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _seeds(benchmark: Benchmark) -> list[str]:
    sizes = sorted({size for task in benchmark.tasks.values() for size in task.seeds})
    lines = [_row(["task", *(f"{size:,} labels" for size in sizes)])]
    lines.append(_row(["---"] * (1 + len(sizes))))
    for name, task in benchmark.tasks.items():
        lines.append(_row([name, *(_of_size(task, size) for size in sizes)]))
    return lines


def _of_size(task: Task, size: int) -> str:
    shared = f", {task.overlap[size]:.0%} of labelled jets shared" if size in task.overlap else ""
    return f"{task.seeds[size]}{shared}" if size in task.seeds else ""


def _who(entries: Sequence[Entry]) -> list[str]:
    if not entries:
        return ["No rows yet."]
    head = ["row", "parameters", "jets of pre-training", "on", "its labels", "tuned"]
    head += ["configurations", "who", "code", "note", "file"]
    lines = [_row(head), _row(["---"] * len(head))]
    for entry in sorted(entries, key=lambda one: (one.file, one.text)):
        about = entry.row.about
        numbers = (about.n_parameters, about.n_pretraining_jets, about.n_configurations)
        parameters, jets, tried = ("?" if n is None else f"{n:,}" for n in numbers)
        told = (about.pretraining, about.pretraining_labels, about.tuned)
        cells = [entry.text, parameters, jets, *told, tried]
        file = f"[{entry.file}](benchmark/{entry.file}.json)"
        lines.append(_row([*cells, about.who, about.commit, about.note, file]))
    return lines


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
