"""The simulated sample that ships with jetfm, in ``data/sample``.

``python -m jetfm.simulation.sample FOLDER`` makes it again; the settings below are all that decides
it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.simulation.simulate import simulate
from jetfm.storage.files import sha256

SEED = 2024
JETS_PER_CLASS = {"train": 165, "val": 40, "test": 75}  # fits into 5 MB
CHECKSUMS = "SHA256SUMS"


def make_sample(out: str | Path, workers: int = 0, progress: bool = True) -> list[Path]:
    """Simulate the sample into ``out/{train,val,test}`` and write its checksums.

    Bytes of the files hold a random identifier of ROOT's, so that a new sample equals the shipped
    one in its jets, not in its checksums.
    """
    out = Path(out)
    files = []
    for split, n_jets in JETS_PER_CLASS.items():
        files += simulate(
            out / split,
            jets_per_class=n_jets,
            split=split,
            seed=SEED,
            workers=workers,
            progress=progress,
            compression="lzma",  # small files; the default is JetClass's LZ4
        )
    lines = [f"{sha256(f)}  {f.relative_to(out).as_posix()}\n" for f in sorted(files)]
    (out / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    return files


def check_sample(folder: str | Path) -> None:
    """Compare the files of a sample with its list of checksums.

    Raises
    ------
    JetfmError
        The list or a file is missing, or a file differs.
    """
    folder = Path(folder)
    if not (folder / CHECKSUMS).exists():
        raise JetfmError(folder / CHECKSUMS, "no such file", "the list of checksums of the sample")
    for line in (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines():
        checksum, name = line.split(maxsplit=1)
        path = folder / name
        if not path.exists() or sha256(path) != checksum:
            found = "another checksum" if path.exists() else "no such file"
            raise JetfmError(path, found, f"SHA-256 {checksum}")


if __name__ == "__main__":
    make_sample(sys.argv[1])
