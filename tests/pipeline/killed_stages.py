"""All stages of a profile, made by processes of their own, some of which end by kill -9.

As a script: ``killed_stages.py profile whole cut moment...`` makes them in the folder `whole`, then
in `cut`, killed at each of the moments in turn and continued at the end. The processes are forked
from this one, since starting them anew costs a core ten seconds each.

As ``sitecustomize.py`` it is run at the start of every worker that such a process starts, too.
"""

from __future__ import annotations

import fnmatch
import os
import signal
import sys
import time
from pathlib import Path

IN_WORKERS = "/runs/"  # of a moment that workers see


def arm() -> None:
    """Kill the process ``MAIN`` when ``KILL_AT`` comes.

    That is a number n and a pattern: this process is about to open, or put in place, the n-th file
    of this name, and so in the middle of a stage's work.
    """
    number, _, pattern = os.environ.get("KILL_AT", "").partition(" ")
    seen = []

    def hook(event, arguments):
        if event not in ("open", "os.rename"):
            return
        path = arguments[event == "os.rename"]
        if isinstance(path, str | os.PathLike) and fnmatch.fnmatch(os.fspath(path), pattern):
            seen.append(path)
            if len(seen) == int(number):
                os.kill(int(os.environ["MAIN"]), signal.SIGKILL)
                time.sleep(600)

    if pattern:
        sys.addaudithook(hook)


def make(profile: str, folder: str, moment: str) -> None:
    """Make the stages, or be killed."""
    import jetfm.runtime.workers
    from jetfm.pipeline import Pipeline

    sys.path.insert(0, str(Path(folder).parent / "site"))  # workers get it
    os.environ |= {"MAIN": str(os.getpid()), "KILL_AT": moment}
    os.environ |= {"JETFM_WORK": f"{folder}/work", "JETFM_FIGURES": f"{folder}/figures"}
    jetfm.runtime.workers.n_cores = lambda: 2 if IN_WORKERS in moment else 1
    arm()
    Pipeline(profile).ledger()


def main(profile: str, whole: str, cut: str, *moments: str) -> None:
    import jetfm.pipeline
    import jetfm.training.lightning_task  # noqa: F401
    from tests.forked import forked, wait  # not for the workers, who run this file too

    def made(folder: str, moment: str = "") -> int:
        return wait(forked(make, profile, folder, moment))

    assert made(whole) == 0
    for moment in moments:
        assert made(cut, moment) == -signal.SIGKILL, moment
    assert made(cut) == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
elif __name__ == "sitecustomize":
    arm()
