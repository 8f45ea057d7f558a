"""Where a stage keeps its work: found and skipped when done, resumed when interrupted.

A stage is a function that fills a folder. Its *request* (stage name, version, settings, seed and
the digests of its inputs) is hashed, and the hash is part of the folder's name. A changed setting
therefore means another folder: that stage and what depends on it run again, nothing else does, and
nothing already computed is lost. ``artifact.json``, written last, marks a folder as complete and
records the request, the hash of every file, the package versions, the time taken and the metrics.

The code itself is not part of the request, only jetfm's version and the stage's: whoever changes
what a stage computes raises one of them, or starts from ``make clean``.

One process at a time works on a folder; a second one waits and says so. The lock is the operating
system's, so it is gone when its holder is, however that ended.
"""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from jetfm.runtime.distributed import rank
from jetfm.storage.files import make_folder, read_json, sha256, write_json
from jetfm.storage.locks import exclusive
from jetfm.version import __version__

RECORD = "artifact.json"
RECORDED_PACKAGES = (
    "awkward", "fastjet", "lightning", "numpy", "pythia8mc", "scikit-learn", "torch", "uproot",
)  # fmt: skip
# Files here help to resume or to look on; they are not part of what the stage delivers.
SCRATCH = "training"


@dataclass(frozen=True)
class Artifact:
    """A finished stage: its folder and the record that was written last."""

    folder: Path
    record: dict

    @property
    def digest(self) -> str:
        """Hash of the delivered files: what later stages depend on."""
        return self.record["digest"]

    @property
    def metrics(self) -> dict:
        """What the stage function returned."""
        return self.record["metrics"]

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


def produce(
    stage: str,
    make: Callable[[Path], dict | None] | None,
    *,
    work: Path,
    settings: Any = None,
    inputs: Mapping[str, str] | None = None,
    seed: int = 0,
    version: int = 1,
    together: bool = False,
    say: Callable[[str], None] = print,
) -> Artifact | None:
    """Return the stage's artifact, running ``make(folder)`` only if it is not there yet.

    Parameters
    ----------
    stage : name, the first part of the folder's name
    make : fills the folder and returns metrics (JSON values) or None. It may find what an
        interrupted call left behind, and should continue from it. If it is None itself, the call
        only looks.
    settings : pydantic model or JSON values that decide the result
    inputs : digest of each input, by name
    version : raise it when a change of the code changes the stage's result
    together : of several processes (`jetfm.runtime.distributed`) all call `make`; otherwise the
        first does, and the others wait for its result

    Returns
    -------
    the artifact; None when it is not there and `make` is None
    """
    request = request_of(stage, settings, inputs, seed, version)
    folder = Path(work) / f"{stage}-{fingerprint(request)}"
    done = _read_record(folder)  # before the lock: a finished folder may well be read-only
    if done is not None:
        say(f"{stage}: done before, {folder.name}")
        return Artifact(folder, done)
    if make is None:
        return None
    if rank() > 0:
        return _beside_the_first(folder, make if together else None)
    make_folder(folder)
    with exclusive(folder, say):
        done = _read_record(folder)
        if done is not None:
            say(f"{stage}: done before, {folder.name}")
            return Artifact(folder, done)
        resuming = (folder / "request.json").exists()
        say(f"{stage}: {'continuing' if resuming else 'starting'}, {folder.name}")
        write_json(folder / "request.json", request)
        start = time.monotonic()
        metrics = make(folder) or {}
        files = {
            str(path.relative_to(folder)): sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and _delivered(path.relative_to(folder))
        }
        record = {
            **request,
            "digest": fingerprint(files, length=64),
            "files": files,
            "metrics": metrics,
            "seconds": round(time.monotonic() - start, 1),
            "resumed": resuming,
            "commit": _commit(),
            "python": platform.python_version(),
            "packages": {name: _installed(name) for name in RECORDED_PACKAGES},
        }
        write_json(folder / RECORD, record)
        say(f"{stage}: finished in {record['seconds']:.0f} s")
        return Artifact(folder, record)


def request_of(
    stage: str, settings: Any, inputs: Mapping[str, str] | None, seed: int, version: int
) -> dict:
    """All that decides what a stage delivers, as JSON values; parameters as of `produce`."""
    return {
        "stage": stage,
        "version": version,
        "jetfm": __version__,
        "seed": seed,
        "settings": as_json(settings),
        "inputs": dict(sorted((inputs or {}).items())),
    }


def _beside_the_first(folder: Path, make: Callable[[Path], dict | None] | None) -> Artifact:
    """What processes other than the first do: take part if asked to, then wait for the record."""
    if make is not None:
        make(folder)
    while (done := _read_record(folder)) is None:
        time.sleep(0.5)  # torchrun ends this process if the first one fails
    return Artifact(folder, done)


def as_json(settings: Any) -> Any:
    """Plain JSON values of a pydantic model, or of a container that holds some."""
    if isinstance(settings, BaseModel):
        return settings.model_dump(mode="json")
    if isinstance(settings, Mapping):
        return {str(key): as_json(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [as_json(value) for value in settings]
    return settings


def fingerprint(values: Any, length: int = 10) -> str:
    """First characters of the SHA-256 of the canonical JSON text."""
    text = json.dumps(as_json(values), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _read_record(folder: Path) -> dict | None:
    """The record of a finished stage; None where it, or a file that it names, is not there."""
    path = folder / RECORD
    if not path.exists():
        return None
    record = read_json(path)
    missing = [name for name in record["files"] if not (folder / name).exists()]
    if missing:  # somebody tidied up: make it again rather than fail later
        path.unlink()
        return None
    return record


def _delivered(relative: Path) -> bool:
    hidden = relative.name.startswith(".") or relative.name in (RECORD, "request.json")
    return not hidden and SCRATCH not in relative.parts


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str | None:
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
