"""Settings for all tests, the notebooks' included: a work folder of their own, no open ports.

`make test` shares the tests out over the cores, one file at a time: tests of a file may share
expensive fixtures, and the notebooks share the stages that they find done.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time

import hypothesis
import nbval.kernel
import pytest

# How long a test takes is the machine's affair: on a busy one a deadline fails tests that hold.
hypothesis.settings.register_profile("jetfm", deadline=None)
hypothesis.settings.load_profile("jetfm")

_STARTED = time.monotonic()
_SLOW = 8  # minutes

# Before any kernel starts: notebooks run under nbval must neither find old work nor leave any.
_SCRATCH = tempfile.TemporaryDirectory(prefix="jetfm-tests-")
os.environ["JETFM_WORK"] = f"{_SCRATCH.name}/work"
os.environ["JETFM_FIGURES"] = f"{_SCRATCH.name}/figures"
os.environ.setdefault("MPLBACKEND", "agg")

# Tests hold on any machine: what they compare with runs on the CPU, and small fits are faster
# there. The checks of a GPU are for those who have one, and say so in this variable.
if "JETFM_GPU_CHECK" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

# A core of its own for each process that tests: what a test starts there need not share one.
if "PYTEST_XDIST_WORKER" in os.environ and hasattr(os, "sched_setaffinity"):
    number = int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw"))
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(
        0, cores[number % len(cores) :: int(os.environ["PYTEST_XDIST_WORKER_COUNT"])]
    )

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# nbval's kernels too are of this interpreter, and need no network.
from jetfm.runtime.kernels import OwnKernelManager  # noqa: E402, after the cores are shared out

nbval.kernel.KernelManager = OwnKernelManager


# The longest first, so that no core waits for another at the end.
_LONG = (
    "notebooks",
    "tests/pipeline/test_pipeline.py",
    "tests/training/test_distributed.py",
    "tests/simulation/test_simulate.py",
    "tests/data/test_conversion.py",
    "tests/finetuning/test_study.py",
    "tests/simulation/test_shipped.py",
)


def _group(nodeid: str) -> str:
    file = nodeid.partition("::")[0]
    return "notebooks" if file.startswith("notebooks/") else file


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the groups."""

    def place(item: pytest.Item) -> int:
        group = _group(item.nodeid)
        return _LONG.index(group) if group in _LONG else len(_LONG)

    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Tests of one group to one process, in their order."""
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return ByGroup(config, log)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Warn after the summary if the tests took long."""
    result = yield
    minutes = (time.monotonic() - _STARTED) / 60
    if minutes > _SLOW:
        terminalreporter.write_line(
            f"The tests took {minutes:.1f} minutes; at most 6 are expected on two idle cores"
            " (--durations=30 lists the slowest)",
            yellow=True,
        )
    return result


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove what the tests made."""
    _SCRATCH.cleanup()
