"""The simulated jets that ship with jetfm.

``data/jets`` has those of the laptop profile, of both campaigns, so that its figures need neither
Pythia nor an hour; ``data/sample`` a few jets of JetClass's classes for tests. Made anew by
``python -m jetfm.simulation.shipped jets FOLDER``, or ``sample FOLDER``: what stands below is all
that decides them.
"""

from __future__ import annotations

import argparse
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.simulation.simulate import simulate
from jetfm.storage.files import read_json, sha256, write_json

CHECKSUMS, MANIFEST = "SHA256SUMS", "manifest.json"


@dataclass(frozen=True)
class Shipment:
    """A set of files that ships.

    Attributes
    ----------
    seed : of all of them
    jets_per_class : by campaign and split
    mantissa_bits : constituents are rounded to (`jetclass_file.rounded`); None for all there are
    """

    seed: int
    jets_per_class: dict[str, dict[str, int]]
    mantissa_bits: int | None = None

    def folder(self, out: Path, campaign: str, split: str) -> Path:
        """Folder of one split's files."""
        return out / campaign / split if len(self.jets_per_class) > 1 else out / split


SHIPMENTS = {
    "jets": Shipment(  # fit into 45 MB
        seed=1,
        jets_per_class={
            "jetclass": {"train": 3000, "val": 300, "test": 800},
            "toplandscape": {"train": 3000, "val": 300, "test": 1000},
            "toplandscape-described": {"test": 250},
        },
        mantissa_bits=12,
    ),
    "sample": Shipment(  # fits into 5 MB
        seed=2024, jets_per_class={"jetclass": {"train": 165, "val": 40, "test": 75}}
    ),
}


def make(name: str, out: str | Path, workers: int = 0, progress: bool = True) -> list[Path]:
    """Simulate what ships into ``out``, with its manifest and checksums.

    Finished files are kept, so that an interrupted call goes on. Bytes of the files hold a random
    identifier of ROOT's: new files equal the shipped ones in their jets, not in their checksums.

    Parameters
    ----------
    name : 'jets' or 'sample'
    out : folder; campaigns and splits are folders in it
    workers : local processes; 0 for one per core
    progress : show progress bars
    """
    out, shipment = Path(out), SHIPMENTS[name]
    files = [
        path
        for campaign, sizes in shipment.jets_per_class.items()
        for split, n_jets in sizes.items()
        for path in simulate(
            shipment.folder(out, campaign, split),
            campaign=campaign,
            jets_per_class=n_jets,
            split=split,
            seed=shipment.seed,
            workers=workers,
            progress=progress,
            compression="lzma",  # small files; the default is JetClass's LZ4
            mantissa_bits=shipment.mantissa_bits,
        )
    ]
    write_manifest(name, out, files)
    return files


def write_manifest(name: str, out: Path, files: list[Path]) -> None:
    """Write how the files were made, and their checksums as ``sha256sum -c`` reads them."""
    command = f"python -m jetfm.simulation.shipped {name} FOLDER"
    made = {"command": command, **asdict(SHIPMENTS[name]), "made_on": made_on()}
    write_json(out / MANIFEST, made)
    lines = [f"{sha256(f)}  {f.relative_to(out).as_posix()}\n" for f in sorted(files)]
    (out / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def made_on() -> dict[str, str]:
    """What the bits of simulated jets depend on beside the request.

    Another version of Pythia or fastjet makes other jets; of numpy, C's library or the processor
    the same but for the last bits, of which rounding leaves few to be seen.
    """
    return {
        "machine": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
        **{package: version(package) for package in ("pythia8mc", "fastjet", "numpy")},
    }


def check(folder: str | Path) -> None:
    """Compare the files of a folder with its list of checksums.

    Raises
    ------
    JetfmError
        The list or a file is missing, or a file differs.
    """
    folder = Path(folder)
    if not (folder / CHECKSUMS).exists():
        raise JetfmError(folder / CHECKSUMS, "no such file", "the list of checksums of the jets")
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        checksum, name = line.split(maxsplit=1)
        path = folder / name
        if not path.exists() or sha256(path) != checksum:
            found = "another checksum" if path.exists() else "no such file"
            raise JetfmError(path, found, f"SHA-256 {checksum}")


def shipped_files(folder: Path, campaign: str, split: str, jets_per_class: int) -> list[Path]:
    """Files of a split that shipped, in order.

    Parameters
    ----------
    folder : ``data/jets``
    campaign, split : which
    jets_per_class : how many will be wanted; 0 for all

    Raises
    ------
    JetfmError
        They are not there, or hold fewer jets a class.
    """
    where, hint = folder / campaign / split, "'source: simulate' makes any number"
    files = sorted(where.glob("*.root"))
    if not files or not (folder / MANIFEST).exists():
        raise JetfmError(where, "no shipped jets", f"a clone of jetfm with its data/jets; {hint}")
    shipped = read_json(folder / MANIFEST)["jets_per_class"][campaign][split]
    if jets_per_class > shipped:
        found = f"jets_per_class.{split} = {jets_per_class}"
        raise JetfmError(where, found, f"at most the {shipped} that ship; {hint}")
    return files


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(SHIPMENTS))
    parser.add_argument("folder", type=Path)
    given = parser.parse_args()
    make(given.name, given.folder)
