"""One thread for torch: the tests' models are small, and many threads wait on a busy machine."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
