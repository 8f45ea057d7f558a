"""A training that is stopped in the middle and continued, beside one that is not."""

from collections.abc import Callable
from pathlib import Path

import pytest


def whole_and_resumed(trained: Callable, batches: Callable, folder: Path, at: int) -> tuple:
    """What ``trained(folder, batches)`` returns in one go, and after a stop at a step."""

    def cut(step):
        if step == at:
            raise KeyError("stop")
        return batches(step)

    expected = trained(folder / "whole", batches)
    with pytest.raises(KeyError):
        trained(folder / "cut", cut)
    return expected, trained(folder / "cut", batches)
