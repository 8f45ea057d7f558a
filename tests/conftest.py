"""One thread for torch: the tests' models are small, and many threads wait on a busy machine."""

from __future__ import annotations

import torch

from tests.browser import browser  # noqa: F401, the fixture

torch.set_num_threads(1)
