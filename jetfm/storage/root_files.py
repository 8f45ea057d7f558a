"""ROOT files of this machine."""

from __future__ import annotations

from pathlib import Path

import uproot


def open_root(path: str | Path) -> uproot.ReadOnlyDirectory:
    """Open a file whatever its name: in uproot's usual way ``::`` would mean a remote one.

    Plain reads are also faster than its usual way (file system spec), by a third for a file of
    1000 jets.
    """
    return uproot.open(Path(path), handler=uproot.MultithreadedFileSource, num_workers=1)
