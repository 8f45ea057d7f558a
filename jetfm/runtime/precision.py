"""Which precision products of matrices have here: bfloat16 where the device has it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch

from jetfm.runtime.distributed import rank

_said: list[bool] = []  # whether this process has explained itself


@cache
def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16: AVX512-BF16, AMX-BF16 or ARM's BF16.

    Elsewhere it is emulated, ten to a hundred times slower than float32, on plain AVX-512 too,
    where torch's own ``_is_mkldnn_bf16_supported`` says yes. Unknown processors count as without.
    """
    has = torch.cpu.get_capabilities()
    return any(has.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def precision_on(device: str, asked: str, say: Callable[[str], None] = print) -> str:
    """The precision that a device gets, 'fp32' or 'bf16'; the other one than asked for is said.

    Parameters
    ----------
    device : 'cpu' or 'cuda'
    asked : 'fp32' or 'bf16' (`jetfm.settings.TrainingSettings.precision`)
    say : called at most once a process, and by the first of several processes alone
    """
    if asked != "bf16" or device != "cpu" or cpu_has_bfloat16():
        return asked
    if rank() == 0 and not _said:
        _said.append(True)
        say("precision: bf16 is float32 here, since this processor could only emulate bfloat16")
    return "fp32"
