"""Simulated jets in files of JetClass's form, in parallel and restartable.

One file is one task with its own seed, which depends on nothing but the request, so that the same
request gives the same jets for any number of workers and in any order. A file appears only when
complete; a later run keeps the finished ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import awkward as ak
import numpy as np
import uproot

from jetfm.errors import JetfmError
from jetfm.runtime.workers import run_tasks
from jetfm.schema import BRANCHES, SPLITS, class_by_name
from jetfm.simulation.clustering import cluster, match
from jetfm.simulation.detector import detect
from jetfm.simulation.detector_card import DetectorCard, load_card
from jetfm.simulation.jetclass_file import (
    branches,
    read_settings,
    rounded,
    write_jetclass_file,
)
from jetfm.simulation.processes import CAMPAIGNS, Campaign, Process, campaign_by_name
from jetfm.simulation.pythia import Generator
from jetfm.storage.files import make_folder, remove_leftovers
from jetfm.storage.locks import exclusive
from jetfm.version import __version__

MAX_FILES = 1_000_000  # per class and split: keeps seeds apart
COMPRESSIONS = {"lz4": uproot.LZ4(4), "lzma": uproot.LZMA(9)}  # JetClass's; a quarter smaller
PYTHIA_SEEDS = 900_000_000  # Pythia takes 1 to this

_FIRST_BATCH, _LARGEST_BATCH = 50, 250  # events
_NOT_JETS = ("path", "detector", "compression")  # fields of a task that leave the jets as they are
_UNLUCKY_EVENTS = 20_000  # without a jet: something is wrong


@dataclass(frozen=True)
class Task:
    """One file to make."""

    path: str
    campaign: str
    class_name: str
    split: str
    seed: int
    index: int
    n_jets: int
    detector: str
    compression: str = "lz4"
    mantissa_bits: int | None = None

    def settings(self) -> dict:
        """What decides the jets, and the versions that made them; stored in the file."""
        values = {k: v for k, v in asdict(self).items() if k not in _NOT_JETS}
        values["detector"] = load_card(self.detector).name
        if self.mantissa_bits is None:
            del values["mantissa_bits"]
        return values | recipe(self.campaign, self.class_name, self.detector)


def recipe(campaign: str, class_name: str, detector: str) -> dict[str, str]:
    """What decides the jets beside the request: process, selection, the card, versions."""
    chosen = CAMPAIGNS[campaign]
    physics = (chosen.settings, chosen.processes[class_name], chosen.pt_range)
    card = load_card(detector).model_dump()
    text = repr((physics, chosen.eta_max, chosen.max_constituents, card))
    return {
        "recipe": hashlib.sha256(text.encode()).hexdigest()[:16],
        "jetfm": __version__,
        "pythia8mc": _version_of_pythia(),
        "fastjet": version("fastjet"),
    }


def _version_of_pythia() -> str:
    """A graph of stages can be shown without Pythia; simulating then says what is missing."""
    try:
        return version("pythia8mc")
    except PackageNotFoundError:
        return "not installed"


def task_seeds(
    seed: int, campaign: str, class_name: str, split: str, index: int
) -> tuple[int, np.random.Generator]:
    """Pythia's seed and the detector's random numbers for one file.

    Files of one ``seed`` never share a Pythia seed: campaign, class, split and file number are
    packed into one integer, counted from an offset that hashes ``seed``. A campaign or class that
    is added at the end leaves the seeds of the others as they are.
    """
    samples = [(c, name) for c, chosen in CAMPAIGNS.items() for name in chosen.processes]
    packed = samples.index((campaign, class_name)) * len(SPLITS) + SPLITS.index(split)
    packed *= MAX_FILES
    offset = int.from_bytes(hashlib.sha256(f"jetfm {seed}".encode()).digest()[:8], "big")
    pythia_seed = 1 + (offset + packed + index) % PYTHIA_SEEDS
    return pythia_seed, np.random.default_rng([seed, packed + index])


def generate_jets(
    campaign: str,
    class_name: str,
    n_jets: int,
    card: DetectorCard,
    pythia_seed: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray | ak.Array]:
    """Simulate jets of one class until there are enough.

    Parameters
    ----------
    campaign, class_name : what to generate
    n_jets : how many
    card : the detector
    pythia_seed : seed of the event generator
    rng : random numbers of the detector

    Returns
    -------
    dict
        The 41 branches, ``n_jets`` long, with the jets in the order of generation; those of several
        sources in random order.

    Raises
    ------
    JetfmError
        Pythia fails, or no event in a great many yields a jet.
    """
    process = campaign_by_name(campaign).processes[class_name]
    sources = process.sources or ((1.0, process),)
    counts = rng.multinomial(n_jets, [share for share, _ in sources])
    parts = [
        _jets_of(campaign, class_name, one, int(n), card, _seed_of_source(pythia_seed, number), rng)
        for number, ((_, one), n) in enumerate(zip(sources, counts, strict=True))
        if n
    ]
    order = rng.permutation(n_jets) if process.sources else slice(None)
    return {name: _joined(name, [part[name] for part in parts])[order] for name in BRANCHES}


def _seed_of_source(pythia_seed: int, number: int) -> int:
    """Pythia's seed for a file's jets of one source, of at most three; no other file has it."""
    return 1 + (pythia_seed - 1 + number * (PYTHIA_SEEDS // 3)) % PYTHIA_SEEDS


def _joined(name: str, parts: list):
    return (ak if name.startswith("part_") else np).concatenate(parts)


def _jets_of(
    campaign: str,
    class_name: str,
    process: Process,
    n_jets: int,
    card: DetectorCard,
    pythia_seed: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray | ak.Array]:
    """Jets of one process."""
    chosen = campaign_by_name(campaign)
    generator = Generator(campaign, class_name, pythia_seed, process)
    parts, n_events, n_found = [], 0, 0
    while n_found < n_jets:
        batch = int(np.clip(2 * n_jets, 10, _FIRST_BATCH))
        if n_found:
            wanted = 1.05 * (n_jets - n_found) * n_events / n_found
            batch = int(np.clip(np.ceil(wanted), 10, _LARGEST_BATCH))
        elif n_events > _UNLUCKY_EVENTS:
            raise JetfmError(generator.name, f"no jet in {n_events} events", "one in a few events")
        n_events += batch
        jets = _jets_of_batch(generator, batch, chosen, class_name, card, rng)
        if jets is not None:
            parts.append(jets)
            n_found += len(jets["jet_pt"])
    return {name: _joined(name, [p[name] for p in parts])[:n_jets] for name in BRANCHES}


def _jets_of_batch(
    generator: Generator,
    n_events: int,
    campaign: Campaign,
    class_name: str,
    card: DetectorCard,
    rng: np.random.Generator,
) -> dict | None:
    """Branches of the selected jets of one batch of events; None if there are none."""
    n_events, particles, truth = generator.batch(n_events)
    candidates = detect(particles, card, rng)
    jets = cluster(candidates, n_events, campaign.pt_range[0])
    inside = (jets.pt > campaign.pt_range[0]) & (jets.pt < campaign.pt_range[1])
    jets = jets.select(inside & (np.abs(jets.eta) <= campaign.eta_max))
    kept, slot = match(jets, truth, is_qcd=class_name == "QCD")
    if not kept.any():
        return None
    return branches(
        jets.select(kept),
        candidates,
        truth,
        slot[kept],
        class_by_name(class_name),
        campaign.max_constituents,
    )


def make_file(task: Task) -> str:
    """Simulate the jets of one task and write its file; returns the file's name."""
    pythia_seed, rng = task_seeds(task.seed, task.campaign, task.class_name, task.split, task.index)
    columns = generate_jets(
        task.campaign, task.class_name, task.n_jets, load_card(task.detector), pythia_seed, rng
    )
    if task.mantissa_bits is not None:
        columns = rounded(columns, task.mantissa_bits)
    compression = COMPRESSIONS[task.compression]
    write_jetclass_file(task.path, columns, task.settings(), compression)
    return task.path


def simulate(
    out: str | Path,
    campaign: str = "jetclass",
    classes: Sequence[str] | None = None,
    jets_per_class: int = 1000,
    split: str = "train",
    seed: int = 1,
    workers: int = 0,
    jets_per_file: int = 1000,
    detector: str | None = None,
    dask_address: str | None = None,
    progress: bool = True,
    compression: str = "lz4",
    mantissa_bits: int | None = None,
) -> list[Path]:
    """Simulate jets into files ``OUT/PREFIX_NNN.root``, with JetClass's prefixes.

    Another process that simulates into `out` is waited for.

    Parameters
    ----------
    out : folder for the files of this split; made if missing
    campaign : 'jetclass' or 'toplandscape'
    classes : class names; None for all of the campaign
    jets_per_class : number of jets of each class
    split : 'train', 'val' or 'test'; only decides the seeds
    seed : one for all
    workers : local processes; 0 for one per core; 1 works in this process
    jets_per_file : the last file of a class holds the rest
    detector : name of a card, or a card's YAML file; None for the campaign's own ('cms',
        'atlas-2015')
    dask_address : scheduler of a running dask cluster, used instead of local processes; its workers
        must share the file system
    progress : show a progress bar, counted in jets
    compression : 'lz4' as JetClass, or 'lzma' for smaller files
    mantissa_bits : of the constituents, for smaller files still (`jetclass_file.rounded`); None for
        all that there are

    Returns
    -------
    list of Path
        All files of the request, those that were there already included.

    Raises
    ------
    JetfmError
        Bad request, unwritable folder, a finished file made with other settings, or a failure in a
        worker.
    """
    tasks = plan(out, campaign, classes, jets_per_class, split, seed, jets_per_file, detector)
    if compression not in COMPRESSIONS:
        raise JetfmError("compression", repr(compression), f"one of {', '.join(COMPRESSIONS)}")
    if mantissa_bits is not None and not 1 <= mantissa_bits <= 23:
        raise JetfmError("mantissa_bits", str(mantissa_bits), "1 to 23, float32's")
    written = {"compression": compression, "mantissa_bits": mantissa_bits}
    tasks = [replace(task, **written) for task in tasks]
    if not all(map(_is_finished, tasks)):
        with exclusive(make_folder(out), print, "simulate."):
            _make(tasks, out, f"simulate {split}", workers, dask_address, progress)
    return [Path(task.path) for task in tasks]


def _make(
    tasks: list[Task],
    out: str | Path,
    name: str,
    workers: int,
    dask_address: str | None,
    progress: bool,
) -> None:
    pending = [task for task in tasks if not _is_finished(task)]
    remove_leftovers(out)
    run_tasks(
        make_file,
        [(task,) for task in pending],
        workers,
        name,
        progress,
        "jet",
        done=sum(task.n_jets for task in tasks) - sum(task.n_jets for task in pending),
        size=lambda task: task.n_jets,
        dask_address=dask_address,
    )


def plan(
    out: str | Path,
    campaign: str,
    classes: Sequence[str] | None,
    jets_per_class: int,
    split: str,
    seed: int,
    jets_per_file: int,
    detector: str | None,
) -> list[Task]:
    """The files that a request consists of; see ``simulate`` for the arguments and errors."""
    known = campaign_by_name(campaign).processes
    names = [class_by_name(c).name for c in classes] if classes else list(known)
    for name in names:
        if name not in known:
            raise JetfmError("class", repr(name), f"one of {', '.join(known)} in {campaign!r}")
    if split not in SPLITS:
        raise JetfmError("split", repr(split), f"one of {', '.join(SPLITS)}")
    for label, value in (("jets_per_class", jets_per_class), ("jets_per_file", jets_per_file)):
        if int(value) != value or value < 1:
            raise JetfmError(label, str(value), "a positive whole number")
    if int(seed) != seed or seed < 0:
        raise JetfmError("seed", str(seed), "a whole number, not negative")
    detector = str(detector or campaign_by_name(campaign).detector)
    load_card(detector)
    n_files = -(-jets_per_class // jets_per_file)
    if n_files > MAX_FILES:
        raise JetfmError("jets_per_file", str(jets_per_file), f"at most {MAX_FILES} files a class")
    return [
        Task(
            path=str(Path(out) / f"{class_by_name(name).prefix}_{index:03d}.root"),
            campaign=campaign,
            class_name=name,
            split=split,
            seed=int(seed),
            index=index,
            n_jets=min(jets_per_file, jets_per_class - index * jets_per_file),
            detector=detector,
        )
        for index in range(n_files)
        for name in dict.fromkeys(names)
    ]


def _is_finished(task: Task) -> bool:
    """Whether the file is there; a JetfmError if it was made with other settings."""
    if not Path(task.path).exists():
        return False
    found, expected = read_settings(task.path), task.settings()
    for name, value in expected.items():
        if found.get(name) != value:
            raise JetfmError(
                task.path,
                f"a file with {name} = {json.dumps(found.get(name))}",
                f"{json.dumps(value)}; choose another folder or delete the file",
            )
    return True
