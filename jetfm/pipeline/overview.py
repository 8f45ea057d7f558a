"""The stages of a profile as a text: which feeds which, what is there, what it took."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from jetfm.pipeline.stage import Stage
from jetfm.schema import SPLITS
from jetfm.storage.paths import work_folder


class StageGraph:
    """Every stage of a profile, by notebook.

    Printing it gives one screen: a line for the stages of a kind (all tokenizers, say), with how
    many of them are done. `as_text(every=True)` has a line for each.

    Parameters
    ----------
    parts : stages by title; what they need is added before them
    """

    def __init__(self, parts: Mapping[str, Sequence[Stage]]) -> None:
        self.parts: dict[str, list[Stage]] = {title: [] for title in parts}
        home: dict[str, str] = {}  # of a kind: where the first of its stages is
        seen: set[str] = set()
        for title, stages in parts.items():
            for stage in _with_needs(stages, seen):
                self.parts[home.setdefault(_kind(stage.name), title)].append(stage)

    @property
    def stages(self) -> list[Stage]:
        """All of them, in order."""
        return [stage for stages in self.parts.values() for stage in stages]

    def rows(self) -> list[dict]:
        """A dictionary a stage, for scripts.

        'part', 'stage', 'variant', 'needs' (keys of stages), 'done', and where it is done 'seconds'
        taken, 'bytes' on disk and 'folder', else None.
        """
        return [
            {
                "part": title,
                "stage": stage.name,
                "variant": stage.variant,
                "needs": [below.key for below in stage.needs],
                **_state(stage),
            }
            for title, stages in self.parts.items()
            for stage in stages
        ]

    def as_text(self, every: bool = False) -> str:
        """A table; with `every`, a line for each stage instead of one for those of a kind."""
        rows = self.rows()
        table = [("stage", "done", "time", "size", "folder", "reads")]
        for title in self.parts:
            of_part = [row for row in rows if row["part"] == title]
            kinds = {row["stage"]: _kind(row["stage"]) for row in of_part}
            groups = [[row] for row in of_part] if every else [
                [row for row in of_part if kinds[row["stage"]] == kind]
                for kind in dict.fromkeys(kinds.values())
            ]  # fmt: skip
            table += [(title, "", "", "", "", "")]
            table += [_line(group, every) for group in groups]
        widths = [max(len(line[column]) for line in table) for column in range(5)]
        text = [
            "  ".join(
                [*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[-1]]
            ).rstrip()
            for line in table
        ]
        done = sum(row["done"] for row in rows)
        kept = sum(stage.is_kept for stage in self.stages)
        elsewhere = f", {kept} of them kept elsewhere" if kept else ""
        text.append(f"{done} of {len(rows)} stages are done, in {work_folder()}{elsewhere}")
        return "\n".join(text)

    def __str__(self) -> str:
        return self.as_text()


def _with_needs(stages: Iterable[Stage], seen: set[str]) -> Iterator[Stage]:
    """Stages that were not seen before, each after what it needs."""
    for stage in stages:
        if stage.key not in seen:
            seen.add(stage.key)
            yield from _with_needs(stage.needs, seen)
            yield stage


def _state(stage: Stage) -> dict:
    artifact = stage.find()
    if artifact is None:
        return {"done": False, "seconds": None, "bytes": None, "folder": None}
    size = sum(path.stat().st_size for path in artifact.folder.rglob("*") if path.is_file())
    seconds = artifact.record["seconds"]
    return {"done": True, "seconds": seconds, "bytes": size, "folder": artifact.folder}


def _kind(name: str) -> str:
    """Name of a stage without the split that it is of."""
    base, _, split = name.rpartition("-")
    return base if split in SPLITS else name


def _line(rows: Sequence[dict], every: bool) -> tuple[str, ...]:
    """Cells of a line that stands for some stages of a kind."""
    done = [row for row in rows if row["done"]]
    first = rows[0]
    if every:
        name = f"{first['stage']} {first['variant']}".rstrip()
        reads = first["needs"]
        folder = done[0]["folder"].name if done else ""
    else:
        name = _kind(first["stage"])
        needed = (_kind(key.partition(" ")[0]) for row in rows for key in row["needs"])
        reads = [kind for kind in dict.fromkeys(needed) if kind != name]
        folder = f"{name}-*"
    state = "missing" if not done else "done" if len(done) == len(rows) else "in part"
    count = "" if every else f" {len(done)}/{len(rows)}"
    seconds = sum(row["seconds"] for row in done)
    size = sum(row["bytes"] for row in done) / 1e6
    measured = (f"{seconds:.0f} s", f"{size:.1f} MB") if done else ("", "")
    return (f"  {name}", state + count, *measured, folder, ", ".join(reads))
