"""Checkpoints that survive a kill at any moment and notice their own damage.

A checkpoint file is 32 bytes of SHA-256 followed by ``torch.save``'s archive of plain values and
tensors (read back with ``weights_only``). Saving renames the last file to the previous one before
the new one takes its place; whatever the moment of a kill, one whole file remains.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from jetfm.errors import JetfmError
from jetfm.storage.files import naming, replacing

LAST, PREVIOUS = "last.ckpt", "previous.ckpt"


def write_checkpoint(path: Path, content: Any) -> None:
    """Write `content` (dicts, lists, numbers, strings, tensors) with its checksum."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getbuffer()
    with replacing(path) as aside, aside.open("wb") as file:
        file.write(hashlib.sha256(data).digest())
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(path: Path) -> Any | None:
    """Content of a checkpoint on the CPU; None if the file is missing or damaged.

    Raises
    ------
    JetfmError
        An undamaged file with anything in it that `write_checkpoint` does not write, such as a
        call of a function. Nothing of it is executed.
    """
    if not path.exists():
        return None
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    try:
        return torch.load(io.BytesIO(data[32:]), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        found = "something other than tensors, numbers and strings"
        raise JetfmError(path, found, "a checkpoint that jetfm wrote; delete it") from error


def save_newest(folder: Path, content: Any) -> None:
    """Make `content` the last checkpoint; the former last becomes the previous."""
    waiting = folder / "next.ckpt"
    write_checkpoint(waiting, content)
    with naming(folder):
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)
        os.replace(waiting, folder / LAST)


def load_newest(folder: Path, say: Callable[[str], None] = print) -> Any | None:
    """The newest undamaged checkpoint, or None; damage is reported."""
    for name in (LAST, PREVIOUS):
        content = read_checkpoint(folder / name)
        if content is not None:
            return content
        if (folder / name).exists():
            say(f"{folder / name}: damaged checkpoint, falling back to an earlier one")
    return None
