"""Which files of jets paths stand for: one way of looking for every command.

A folder stands for all ROOT, parquet and h5 files inside, at any depth. Links are followed, each
folder and file is taken once. What a folder holds beside is left out, and what looks like jets
among it is said: files hidden by a dot, as file systems and archives of other systems leave them
beside the real ones, links to nothing, second ways to the same file, endings in capitals.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from jetfm.errors import JetfmError

SUFFIXES = (".root", ".parquet", ".h5")
_LITTER = ("__MACOSX", "lost+found", "@eaDir")  # folders of archives and of file systems

Paths = str | Path | Iterable[str | Path]


def jet_files(
    paths: Paths,
    suffixes: Sequence[str] = SUFFIXES,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Files of jets among files and folders: as given, within a folder by name.

    Parameters
    ----------
    suffixes : of the files looked for
    say : told how many there are in folders, and what was left out

    Raises
    ------
    JetfmError
        There are none, a path does not exist, a file is of another kind, or a folder cannot be
        read.
    """
    names = [suffix[1:].replace("root", "ROOT") for suffix in suffixes]
    kinds = " or ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    expected = f"a {kinds} file, or a folder of them"
    found: list[Path] = []
    left_out: dict[str, list[Path]] = {}
    folders, seen = [], set()
    for path in several(paths):
        if not path.exists():
            what = "a link to nothing" if path.is_symlink() else "no such file"
            raise JetfmError(path, what, expected)
        if path.is_dir():
            inside = sorted(_inside(path, suffixes, left_out))
            folders.append(path)
        elif path.suffix in suffixes:
            inside = [path]
        else:
            raise JetfmError(path, f"a file *{path.suffix}", expected)
        for file in inside:
            real = file.resolve()
            if real in seen:
                left_out.setdefault("there already", []).append(file)
            else:
                found.append(file)
            seen.add(real)
    rest = _as_text(left_out)
    if not found:
        where = named(paths) if folders else "jets"
        what = f"no {kinds} files" + (f", only {rest}" if rest else "")
        raise JetfmError(where, what, expected)
    if say is not None and (rest or folders):
        say(f"{named(paths)}: {len(found)} files of jets" + (f"; left out: {rest}" if rest else ""))
    return found


def several(paths: Paths) -> list[Path]:
    """One path or several, as a list."""
    return [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]


def named(paths: Paths) -> str:
    """What to call them in a line."""
    every = several(paths)
    if not every:
        return "jets"
    return f"{every[0]}" + (f" and {len(every) - 1} more" if len(every) > 1 else "")


def _inside(
    folder: Path, suffixes: Sequence[str], left_out: dict[str, list[Path]]
) -> Iterable[Path]:
    """Files of a folder at any depth; notes what is left out."""

    def unreadable(error: OSError) -> None:
        raise JetfmError(error.filename, f"a folder that cannot be read ({error.strerror})",
                         "permission to read it") from error  # fmt: skip

    entered = {folder.resolve()}
    for here, names, files in os.walk(folder, onerror=unreadable, followlinks=True):
        kept = []
        for name in sorted(names):
            real = (Path(here) / name).resolve()
            if name.startswith(".") or name in _LITTER:
                left_out.setdefault("hidden folders", []).append(Path(here) / name)
            elif real not in entered:  # a link may lead to where we are, or were
                entered.add(real)
                kept.append(name)
        names[:] = kept
        for name in sorted(files):
            path = Path(here) / name
            if path.suffix not in suffixes:
                if path.suffix.lower() in suffixes:
                    left_out.setdefault("in capitals", []).append(path)
            elif name.startswith("."):
                left_out.setdefault("hidden", []).append(path)
            elif not path.exists():
                left_out.setdefault("links to nothing", []).append(path)
            else:
                yield path


def _as_text(left_out: dict[str, list[Path]]) -> str:
    parts = []
    for reason, paths in left_out.items():
        more = ", ..." if len(paths) > 1 else ""
        parts.append(f"{len(paths)} {reason} ({paths[0].name}{more})")
    return ", ".join(parts)
