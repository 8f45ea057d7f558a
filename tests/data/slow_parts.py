"""Work of a cluster that takes long enough to be interrupted; workers of it import this alone."""

from __future__ import annotations

import os
import time
from pathlib import Path

from jetfm.data import conversion


def slow_part(part):
    """Half a second before each part, so that there is a middle to be killed in.

    Whoever is to be killed waits for it with the second part that it is given.
    """
    folder, mine = Path(part.folder), f"-{os.getpid()}"
    to_be_killed = (folder / f".victim{mine}").exists()
    if to_be_killed and list(folder.glob(f".begun-*{mine}")):
        (folder / f".begun-{part.name}{mine}").touch()
        time.sleep(600)
    (folder / f".begun-{part.name}{mine}").touch()
    time.sleep(0.5)
    return conversion.make_part(part)
