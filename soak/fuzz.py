"""Readers against damaged and malicious files: no crash, no hang, bounded memory.

Every input is a small good file with random damage. A reader may read it (damage can be harmless,
or make another valid file) or refuse it with a JetfmError; anything else is a failure: another
exception, a dead process, more than `SECONDS`, more than `MEMORY`. Inputs are numbered; number k of
a reader depends on k and the seed alone, so a failure can be looked at: ``fuzz.damaged(kind, k)``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from jetfm.errors import JetfmError
from jetfm.runtime.cores import n_cores

SEED = 20
INPUTS = {
    "root": 3000, "parquet": 3000, "h5": 3000, "yaml": 3000, "map": 1500, "jets store": 1500,
    "token store": 1500,
}  # fmt: skip
BATCH = 50  # inputs of one process, so that a dead one costs little
SECONDS, MEMORY = 30, 2 * 2**30  # of one input; bytes above what the process starts with


@dataclass(frozen=True)
class Failure:
    """An input that a reader could not take: its number, what happened, and where."""

    kind: str
    number: int
    what: str
    detail: str = ""


def run() -> bool:
    """All readers; True if none failed."""
    good = True
    with tempfile.TemporaryDirectory() as name:
        for kind, n_inputs in INPUTS.items():
            counts, failures, seconds = fuzz(kind, n_inputs, Path(name))
            line = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
            print(f"fuzz, {kind}: {n_inputs} inputs in {seconds:.0f} s: {line}", flush=True)
            for failure in failures[:20]:
                print(f"  input {failure.number}: {failure.what}\n{failure.detail}", flush=True)
            good &= not failures
    return good


def fuzz(kind: str, n_inputs: int, folder: Path) -> tuple[Counter, list[Failure], float]:
    """Outcomes of `n_inputs` damaged files of one kind, and the failures among them."""
    start = time.monotonic()
    original = _ORIGINALS[kind](folder / kind)
    counts: Counter = Counter()
    failures: list[Failure] = []
    batches = [range(i, min(i + BATCH, n_inputs)) for i in range(0, n_inputs, BATCH)]
    context = multiprocessing.get_context("fork")  # fast; no thread is running here
    with tqdm(total=n_inputs, desc=f"fuzz {kind}", unit="input") as bar:
        waiting, running = list(batches), {}
        while waiting or running:
            while waiting and len(running) < n_cores():
                numbers = waiting.pop(0)
                side = folder / f"work-{numbers.start}"
                side.mkdir()
                process = context.Process(target=_work, args=(kind, original, numbers, side))
                process.start()
                running[process] = (numbers, side)
            for process in [p for p in running if not p.is_alive()]:
                numbers, side = running.pop(process)
                rest = _collect(kind, process, numbers, side, counts, failures)
                if len(rest):
                    waiting.append(rest)
                bar.update(len(numbers) - len(rest))
                shutil.rmtree(side)
            time.sleep(0.01)
    return counts, failures, time.monotonic() - start


def _collect(kind, process, numbers, side, counts, failures) -> range:
    """Count what a process did; what it left undone."""
    lines = (side / "outcomes").read_text().splitlines() if (side / "outcomes").exists() else []
    for number, line in zip(numbers, lines, strict=False):
        what, _, detail = line.partition("\t")
        counts[what] += 1
        if what not in ("read", "refused"):
            failures.append(Failure(kind, number, what, detail.replace("\\n", "\n")))
    done = len(lines)
    if done < len(numbers):  # the process died over the next one
        code = process.exitcode
        hung = code == -signal.SIGALRM
        what = f"hung for {SECONDS} s" if hung else f"the process died with code {code}"
        counts[what] += 1
        failures.append(Failure(kind, numbers[done], what))
        done += 1
    return numbers[done:]


def _work(kind: str, original: Path, numbers: range, side: Path) -> None:
    """Read some damaged files; a line of the outcome of each."""
    warnings.simplefilter("ignore")
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1), os.dup2(devnull, 2)  # libraries complain about damaged files at length
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    with (side / "outcomes").open("w") as outcomes:
        for number in numbers:
            path = damaged(kind, number, original, side)
            signal.alarm(SECONDS)  # its default action ends the process
            try:
                _READERS[kind](path)
                outcome = "read"
            except JetfmError as error:
                outcome = "out of memory" if _was_memory(error) else "refused"
            except MemoryError:
                outcome = "out of memory"
            except Exception as error:
                detail = traceback.format_exc(limit=-4).replace("\n", "\\n")
                outcome = f"{type(error).__name__}\t{detail}"
            signal.alarm(0)
            outcomes.write(outcome + "\n")
            outcomes.flush()


def _was_memory(error: BaseException | None) -> bool:
    """Whether a refusal came only from the limit that is set here."""
    seen = set()  # chains may end in a circle
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


# Damage ------------------------------------------------------------------------------------------


def damaged(kind: str, number: int, original: Path, side: Path) -> Path:
    """Input `number` of a reader: a damaged copy of `original` in `side`."""
    rng = np.random.default_rng([SEED, number])
    path = side / f"input{original.suffix}"
    if original.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(original, path)
        files = sorted(p for p in path.rglob("*") if p.is_file())
        victim = files[rng.integers(len(files))]
    else:
        victim = path
        shutil.copyfile(original, path)
    data = bytearray(victim.read_bytes())
    damages = _TEXT_DAMAGES if original.suffix == ".yaml" else _DAMAGES
    if victim.suffix == ".json" and rng.random() < 0.5:
        victim.write_text(json.dumps(_changed_entry(json.loads(data), rng)))
        return path
    for _ in range(rng.integers(1, 4)):
        data = damages[rng.integers(len(damages))](data, rng)
    victim.write_bytes(data)
    return path


def _flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    for at in rng.integers(0, max(len(data), 1), rng.integers(1, 20)):
        data[at : at + 1] = bytes([rng.integers(256)])
    return data


def _cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    return data[: rng.integers(0, len(data) + 1)]


def _number(data: bytearray, rng: np.random.Generator) -> bytearray:
    """A length, an offset or a type of an extreme value."""
    value = (0, 1, -1, 2**31 - 1, 2**62, -(2**31), 10**9)[rng.integers(7)]
    width, order = (2, 4, 8)[rng.integers(3)], ("big", "little")[rng.integers(2)]
    at = int(rng.integers(0, max(len(data), 1)))
    raw = (value % 2 ** (8 * width)).to_bytes(width, order)
    data[at : at + width] = raw
    return data


def _zero(data: bytearray, rng: np.random.Generator) -> bytearray:
    at, n = int(rng.integers(0, max(len(data), 1))), int(rng.integers(1, 200))
    data[at : at + n] = bytes(len(data[at : at + n]))
    return data


def _repeat(data: bytearray, rng: np.random.Generator) -> bytearray:
    at, n = int(rng.integers(0, max(len(data), 1))), int(rng.integers(1, 500))
    return data[: at + n] + data[at:]


def _drop(data: bytearray, rng: np.random.Generator) -> bytearray:
    at, n = int(rng.integers(0, max(len(data), 1))), int(rng.integers(1, 500))
    return data[:at] + data[at + n :]


def _swap_digits(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Text: another number, sign or punctuation where one stands."""
    places = [i for i, byte in enumerate(data) if chr(byte) in "0123456789.-:[]{},'\""]
    if places:
        data[places[rng.integers(len(places))]] = rng.choice(list(b"0123456789.-:[]{},'\"&*!e\t"))
    return data


def _changed_entry(value: object, rng: np.random.Generator) -> object:
    """JSON, valid still: an entry left out or of another kind, at any depth."""
    if not isinstance(value, (dict, list)) or not value or rng.random() < 0.2:
        return (None, True, -1, 1.5, 10**30, "x", [], {}, [None], {"x": 1})[rng.integers(10)]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = keys[rng.integers(len(keys))]
    if rng.random() < 0.3:
        del value[key]
    else:
        value[key] = _changed_entry(value[key], rng)
    return value


_DAMAGES: tuple[Callable[[bytearray, np.random.Generator], bytearray], ...] = (
    _flip, _cut, _number, _number, _zero, _repeat, _drop, _swap_digits,
)  # fmt: skip
_TEXT_DAMAGES = (_swap_digits, _swap_digits, _swap_digits, _swap_digits, _drop, _flip)


# Files and readers -------------------------------------------------------------------------------


def _root_file(path: Path) -> Path:
    """A JetClass file of 20 jets, uncompressed, so that damage reaches the numbers."""
    import uproot

    from jetfm.schema import BRANCHES, TREE_NAME
    from jetfm.storage.paths import sample_folder

    source = sorted(sample_folder().glob("val/TTBar_*.root"))[0]
    with uproot.open(source) as file:
        columns = {name: file[TREE_NAME][name].array(entry_stop=20) for name in BRANCHES}
    path = path.with_suffix(".root")
    with uproot.recreate(path, compression=None) as file:
        file.mktree(TREE_NAME, {name: value.type.content for name, value in columns.items()})
        file[TREE_NAME].extend(columns)
    return path


def _h5_file(path: Path) -> Path:
    from tests.data.toplandscape_files import toplandscape_file

    return toplandscape_file(path.with_suffix(".h5"), [0, 1, 2, 30, 50, 200, 40, 12])


def _parquet_file(path: Path) -> Path:
    """80 jets in two row groups, uncompressed: more numbers than footer."""
    from tests.data.parquet_files import parquet_file

    counts = np.tile([3, 40, 1, 2, 131, 17, 25, 60, 9, 33], 8)
    options = {"row_group_size": 40, "compression": "NONE"}
    return parquet_file(path.with_suffix(".parquet"), counts, options=options)


def _yaml_file(path: Path) -> Path:
    from jetfm.settings.profiles import PROFILES_DIR

    return Path(shutil.copyfile(PROFILES_DIR / "laptop.yaml", path.with_suffix(".yaml")))


def _map_file(path: Path) -> Path:
    from jetfm.storage.paths import project_folder

    example = project_folder() / "examples" / "jetclass2.yaml"
    return Path(shutil.copyfile(example, path.with_suffix(".map.yaml")))


def _jets_store(path: Path) -> Path:
    from jetfm.data.store import build_store

    path = path.with_name("jets-store")
    build_store([_root_file(path.with_name("source"))], path, progress=False)
    return path


def _token_store(path: Path) -> Path:
    from jetfm.data.token_store import TokenStoreWriter

    rng = np.random.default_rng(0)
    path = path.with_name("token-store")
    with TokenStoreWriter(path, 64) as writer:
        mask = np.arange(30) < rng.integers(0, 31, 20)[:, None]
        ids = rng.integers(0, 64, mask.shape)
        writer.append(ids, rng.standard_normal((*mask.shape, 3), np.float32), mask)
    return path


def _read_root(path: Path) -> None:
    from jetfm.data import jetclass

    for _ in jetclass.iterate(path, 7):
        pass


def _read_h5(path: Path) -> None:
    from jetfm.data import toplandscape

    for _ in toplandscape.iterate(path, 3):
        pass


def _read_parquet(path: Path) -> None:
    from jetfm.data import jets_parquet

    for _ in jets_parquet.iterate(path, 4):
        pass


def _read_yaml(path: Path) -> None:
    from jetfm.settings.profiles import load_profile

    load_profile(path)


def _read_map(path: Path) -> None:
    from jetfm.data.layout import read_layout

    read_layout(path)


def _read_store(kind: Any) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        from jetfm.data.store import JetStore
        from jetfm.data.token_store import TokenStore

        store = {"jets": JetStore, "tokens": TokenStore}[kind](path)
        store.dense(slice(None))  # before the checksums tell: nobody verifies at every start
        store.verify()

    return read


_ORIGINALS: dict[str, Callable[[Path], Path]] = {
    "root": _root_file,
    "parquet": _parquet_file,
    "h5": _h5_file,
    "yaml": _yaml_file,
    "map": _map_file,
    "jets store": _jets_store,
    "token store": _token_store,
}
_READERS: dict[str, Callable[[Path], None]] = {
    "root": _read_root,
    "parquet": _read_parquet,
    "h5": _read_h5,
    "yaml": _read_yaml,
    "map": _read_map,
    "jets store": _read_store("jets"),
    "token store": _read_store("tokens"),
}
