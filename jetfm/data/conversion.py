"""Many files of jets into one store: a part a file, side by side, each once.

One file, or a range of a long one, is one task for a local process or a worker of a Dask cluster,
and its result one part of the store (`jetfm.data.store`). A part appears when complete and
remembers its source by name, SHA-256 and time: the same command again does what is missing, after
a crash too, and makes anew the parts whose source changed. The store holds the jets in the order
of the files, whoever converted them: its bytes depend on the files and the request alone.

What is read of a jet, and that its constituents fall in pt (`jetfm.data.constituent_order`), is
the readers': `jetfm.data.jetclass`, `jetfm.data.jets_parquet` and `jetfm.data.toplandscape`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import awkward as ak
import numpy as np

from jetfm.data import jetclass, jets_parquet, toplandscape
from jetfm.data.jet_files import Paths, jet_files
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.ragged import MANIFEST, PARTS, join_parts, manifest
from jetfm.data.store import JetStore, JetStoreWriter, jet_rows
from jetfm.errors import JetfmError
from jetfm.runtime.workers import run_tasks
from jetfm.schema import CLASSES, CONSTITUENT_FEATURES
from jetfm.storage.files import (
    made_aside,
    make_folder,
    naming,
    read_json,
    remove_leftovers,
    sha256,
    write_json,
)
from jetfm.storage.locks import exclusive

PART_JETS = 100_000  # as in a file of JetClass; longer files become several parts
_LONG_FILE = 2**29  # bytes; ROOT files below are one part, and not opened to plan
_MUCH = 2**28  # bytes of sources; a minute or so of work on one core
_STEP = 20_000  # jets in a worker's memory
_STAMP = ".source.json"  # path, size and time of the source: beside a part's data, not among it

#: What reads a kind of file.
READERS = {".root": jetclass, ".parquet": jets_parquet, ".h5": toplandscape}


@dataclass(frozen=True)
class Part:
    """One part to make."""

    source: str
    folder: str  # of the store
    name: str
    features: tuple[str, ...]
    rows: tuple[int, int] | None = None  # of the source; None is all
    at_most: tuple[tuple[str, int], ...] = ()  # the first so many of a class; others all
    verify: bool = False
    any_pt: bool = False
    layout: Layout = JETCLASS

    @property
    def path(self) -> Path:
        return Path(self.folder) / PARTS / self.name


def convert(
    paths: Paths,
    folder: str | Path,
    workers: int = 0,
    dask_address: str | None = None,
    features: Sequence[str] | None = None,
    jets_per_class: int | None = None,
    append: bool = False,
    verify: bool = False,
    progress: bool = True,
    any_pt: bool = False,
    layout: Layout = JETCLASS,
) -> JetStore:
    """Convert JetClass ROOT, parquet and Top Landscape h5 files to a jets store in parts.

    Parameters
    ----------
    paths : files, or folders of them; jets keep the order given, within a folder that of the names
    folder : of the store; what an earlier call finished there is kept
    workers : local processes; 0 for one per core; 1 works in this process
    dask_address : scheduler of a running Dask cluster, used instead of local processes; its workers
        must share the file system
    features : constituent features; by default all that every file has
    jets_per_class : keep the first so many of each class, in the order of the files
    append : the store keeps the parts that it has; new ones follow
    verify : check the checksums of finished parts, and make damaged ones anew
    progress : show a progress bar, counted in parts
    any_pt : take jets of another selection than the data sets'; MeV for GeV is not noticed then
    layout : what ROOT and parquet files call their branches, and which jets make which class

    Raises
    ------
    JetfmError
        No files, a file that the reader refuses (finished parts stay), a store of other files
        without `append`, another conversion at work, no room or permission, a dead cluster.
    """
    files, folder = jet_files(paths, say=print if progress else None), make_folder(folder)
    if features is None:
        features = _features_in_all(files, layout)
    with exclusive(folder, None, "convert."):
        parts = plan(files, folder, tuple(features), jets_per_class, layout)
        parts = [_named_apart(replace(part, any_pt=any_pt), append) for part in parts]
        before = _listed(folder, append)
        made_before = set(before)
        others = [name for name in before if name not in {part.name for part in parts}]
        if others and not append:
            found = f"parts of other files, e.g. {others[0]}"
            raise JetfmError(folder, found, "an empty folder, or append (--append) to keep them")
        remove_leftovers(folder / PARTS)  # of killed workers
        pending = [part for part in parts if not is_made(part)]
        if any(part.name in made_before for part in pending):
            (folder / MANIFEST).unlink(missing_ok=True)  # from here on not the store it describes
        if verify:
            pending = [replace(part, verify=True) for part in parts]
        _run(pending, len(parts), workers, dask_address, progress)
        names = [part.name for part in parts]
        if append:
            names = before + [name for name in names if name not in made_before]
        return join_parts(folder, JetStore, names, **layout.recorded())


def in_parts(files: Sequence[Path]) -> bool:
    """Whether files are many or large enough that parallel work pays for starting processes."""
    return sum(path.stat().st_size for path in files) >= _MUCH


def plan(
    files: Sequence[Path],
    folder: Path,
    features: tuple[str, ...],
    jets_per_class: int | None,
    layout: Layout = JETCLASS,
) -> list[Part]:
    """The parts of a store, in order; see `convert` for the arguments."""
    stems = [path.stem for path in files]
    parts = []
    for path in files:
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}-{path.stem}"
        for rows in _ranges(path, layout):
            of_rows = name if rows is None else f"{name}-{rows[0]:08d}"
            parts.append(Part(str(path), str(folder), of_rows, features, rows, layout=layout))
    names = [part.name for part in parts]
    twice = next((part for part in parts if names.count(part.name) > 1), None)
    if twice is not None:
        raise JetfmError(twice.source, f"a second file for part {twice.name!r}", "another name")
    return parts if jets_per_class is None else _limited(parts, jets_per_class, layout)


def _ranges(path: Path, layout: Layout) -> list[tuple[int, int] | None]:
    if path.suffix == ".root" and path.stat().st_size < _LONG_FILE:
        return [None]
    n_jets = READERS[path.suffix].count_jets(path, layout)
    if n_jets <= PART_JETS:
        return [None]
    return [(a, min(a + PART_JETS, n_jets)) for a in range(0, n_jets, PART_JETS)]


def _limited(parts: list[Part], jets_per_class: int, layout: Layout) -> list[Part]:
    """Those parts, or what of them is needed, that fill every class in order."""
    names = _label_names(layout)
    left = np.full(len(names), jets_per_class)
    kept = []
    for part in parts:
        path = Path(part.source)
        label = next((c for c in CLASSES if c.prefix == path.stem.rsplit("_", 1)[0]), None)
        if label is not None and not left[label.index] and not layout.classes:
            continue  # named after a class that is complete
        found = READERS[path.suffix].count_classes(path, part.rows, layout)
        taken = np.minimum(found, left)
        left -= taken
        if taken.any():
            cut = np.flatnonzero(taken < found)
            at_most = tuple((names[i], int(taken[i])) for i in cut)
            kept.append(replace(part, at_most=at_most))
    return kept


def _label_names(layout: Layout) -> tuple[str, ...]:
    return (*layout.class_names, "unknown")  # the last: label -1


def _features_in_all(files: Sequence[Path], layout: Layout) -> tuple[str, ...]:
    found = [
        READERS[path.suffix].features_in(path, layout)
        for path in files
        if path.suffix != ".root" or not layout.is_jetclass
    ]  # JetClass's have all
    return tuple(name for name in CONSTITUENT_FEATURES if all(name in some for some in found))


def _named_apart(part: Part, append: bool) -> Part:
    """The part, under another name if its own belongs to another file, not to this one of old."""
    for name in (part.name, f"{Path(part.source).parent.name}-{part.name}"):
        part = replace(part, name=name)
        stamp = part.path / _STAMP
        if not stamp.exists() or is_made(part):
            return part
        if (owner := _owner(stamp)) in (None, str(Path(part.source).resolve())):
            return part  # the file changed
        if not append:
            break
    found = f"a part {part.name} of another file, {owner}"
    raise JetfmError(part.folder, found, f"one of {part.source}; choose another folder")


def _owner(stamp: Path) -> str | None:
    """Path of the file that a part is of; None where the stamp is damaged."""
    with suppress(JetfmError, KeyError, TypeError):
        return read_json(stamp)["path"]
    return None


def _listed(folder: Path, append: bool) -> list[str]:
    """Parts of the store that is there; of a damaged one only who appends has to know them."""
    if not (folder / MANIFEST).exists():
        return []
    try:
        info = manifest(folder)
    except JetfmError:
        if append:
            raise
        return []
    if "parts" not in info or info["kind"] != JetStore.kind:
        raise JetfmError(folder, f"a {info['kind']} of another form", "an empty folder")
    return [part["name"] for part in info["parts"]]


def is_made(part: Part) -> bool:
    """Whether a part is complete and of this source, as it is now, and this request.

    A source of the same size and time is taken to be the same; of the same name and size, its
    SHA-256 decides.
    """
    if not (part.path / MANIFEST).exists():
        return False
    try:
        info, source = manifest(part.path), Path(part.source)
        before = read_json(part.path / _STAMP) if (part.path / _STAMP).exists() else None
    except JetfmError:  # damaged: made anew
        return False
    wanted = {"features": list(part.features)} | _request(part)
    if {key: info.get(key) for key in wanted} != wanted:
        return False
    now = _stamp_of(source)
    if not isinstance(before, dict) or before.keys() != now.keys():
        before = now | {"mtime_ns": 0}
    if (before["size"], before["mtime_ns"]) == (now["size"], now["mtime_ns"]):
        return True
    known = next(iter(info.get("sources", [])), None)
    if not isinstance(known, dict) or before["size"] != now["size"]:
        return False
    if known.get("name") != source.name or known.get("sha256") != sha256(source):
        return False
    with suppress(JetfmError):  # a store that cannot be written is as good
        write_json(part.path / _STAMP, now)
    return True


def _request(part: Part) -> dict:
    """What the part's manifest says beside its features, as JSON has it."""
    rows = None if part.rows is None else list(part.rows)
    layout = part.layout.recorded().get("layout")
    return {"at_most": dict(part.at_most), "rows": rows, "layout": layout}


def _stamp_of(path: Path) -> dict:
    with naming(path):
        status = path.stat()
    where = str(path.resolve())
    return {"path": where, "size": status.st_size, "mtime_ns": status.st_mtime_ns}


def _run(pending, n_parts: int, workers: int, dask_address: str | None, progress: bool) -> None:
    parts, done = [(part,) for part in pending], n_parts - len(pending)
    run_tasks(
        make_part, parts, workers, "jets store", progress, "part",
        done=done, dask_address=dask_address,
    )  # fmt: skip


def make_part(part: Part) -> str:
    """Convert one part, unless it is there and sound; returns its name.

    Two workers may do the same part, when a cluster takes one for dead that is not: each writes a
    folder of its own, and the second to finish finds the same bytes in place.
    """
    if is_made(part) and (not part.verify or _is_sound(part)):
        return part.name
    with made_aside(part.path, lambda: is_made(part)) as aside:
        _write(part, aside)
    return part.name


def _is_sound(part: Part) -> bool:
    try:
        JetStore(part.path).verify()
    except JetfmError:
        return False
    return True


def _write(part: Part, folder: Path) -> None:
    source, reader = Path(part.source), READERS[Path(part.source).suffix]
    stamp, sources = _stamp_of(source), []
    names = _label_names(part.layout)
    left = {names.index(name): n for name, n in part.at_most}
    info = {"sources": sources, **_request(part)}
    if info["layout"] is None:  # as is a part's that says nothing of it
        del info["layout"]
    classes = part.layout.class_names
    with JetStoreWriter(folder, part.features, True, classes, **info) as writer:
        pt_range = None if part.any_pt else reader.JET_PT_RANGE
        options = {"rows": part.rows, "layout": part.layout}
        for jets in reader.iterate(source, _STEP, part.features, pt_range, **options):
            jets = jets[_first_of_each(ak.to_numpy(jets.label), left, len(names))]
            constituents, offsets = jetclass.features_of(jets, part.features)
            writer.append(constituents, np.diff(offsets), jet_rows(jets))
        entry = {"name": source.name, "n_jets": writer.n_jets, "sha256": sha256(source)}
        sources.append(entry if part.rows is None else entry | {"rows": list(part.rows)})
    if _stamp_of(source) != stamp:
        raise JetfmError(source, "a file that changed while it was read", "a finished file")
    write_json(folder / _STAMP, stamp)


def _first_of_each(labels: np.ndarray, left: dict[int, int], n_names: int) -> np.ndarray:
    """(B,) bool: jets within what is left of their class, which is counted down."""
    keep = np.ones(len(labels), bool)
    for index, n in left.items():
        of_class = labels % n_names == index
        keep[of_class] = np.arange(of_class.sum()) < n
        left[index] = max(n - int(of_class.sum()), 0)
    return keep
