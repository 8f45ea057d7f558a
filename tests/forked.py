"""Processes forked from one that has loaded what they need: to start one anew takes ten seconds."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def forked(function: Callable[..., None], *arguments) -> int:
    """Number of a process that calls it, and ends with 1, saying why, if it raises."""
    child = os.fork()
    if child:
        return child
    try:
        function(*arguments)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def wait(child: int) -> int:
    """Its exit code; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
