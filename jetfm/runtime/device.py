"""Where networks compute: on the GPU, or on the cores, many fits side by side.

A GPU is fast where a step has much to multiply. A step of a small network is thousands of launches
that wait for one core, and small fits one after another take longer on the card than beside each
other on the cores: 'smoke' took longer on an H200 with 16 cores than on two cores alone. So a run
decides once, by its networks' size (`device_for`), and what it makes asks `current_device`, here
and in worker processes, which share its environment. Large fits share the card (`n_at_once`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from jetfm.errors import JetfmError
from jetfm.runtime.cores import n_cores

DEVICE = "JETFM_DEVICE"
# A core trains a network of this many parameters in about the time in which a GPU's launches are
# made, 20 ms a step: so many cores train so many times as large ones. Our choice, from the rates of
# one card; beyond this number of cores memory is what a step waits for.
_SMALL, _CORES = 50_000, 32
_AT_ONCE = 4
_ROOM = 10 * 2**30  # bytes: a joint step of 1000 jets at the paper's size holds 7.4 GiB


def current_device() -> str:
    """'cuda' or 'cpu': ``JETFM_DEVICE``, else the GPU where torch can use one.

    Raises
    ------
    JetfmError
        Another value, or 'cuda' without a GPU.
    """
    asked = _asked()
    if asked not in ("auto", "cpu", "cuda"):
        raise JetfmError(DEVICE, repr(asked), "auto, cpu or cuda")
    if asked == "cpu":
        return asked
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise JetfmError(DEVICE, "'cuda', and no GPU that torch can use", "cpu, or auto")
    return "cuda" if available else "cpu"


def device_for(n_parameters: int) -> str:
    """`current_device` for networks up to this size: a GPU only for those large enough for it.

    What ``JETFM_DEVICE`` says holds for all sizes.
    """
    chosen = current_device()
    small = n_parameters <= _SMALL * min(n_cores(), _CORES)
    return "cpu" if small and _asked() == "auto" else chosen


def n_at_once() -> int:
    """Trainings side by side: one a core; on a GPU as many as it has room for, up to four.

    Beside each other they fill what the launches of one leave idle. Three at a time were tried on a
    card, more were not: four is our choice.
    """
    if current_device() == "cpu":
        return n_cores()
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(_AT_ONCE, n_cores() // 2, free // _ROOM))


def evaluation_batch() -> int:
    """Jets that a network sees at once where nothing depends on it but the time.

    On a CPU few, whose activations stay in its cache: with 500 a jet took 2.4 times as long at
    profile overnight's size, 1.4 times at the paper's. On a GPU many: launches cost the same.
    """
    return 64 if current_device() == "cpu" else 500


def _asked() -> str:
    return os.environ.get(DEVICE) or "auto"


@contextmanager
def computing_on(chosen: str) -> Iterator[None]:
    """`current_device` is this one inside the block, also in processes that start there."""
    before = os.environ.get(DEVICE)
    os.environ[DEVICE] = chosen
    try:
        yield
    finally:
        if before is None:
            del os.environ[DEVICE]
        else:
            os.environ[DEVICE] = before
