"""Weights on disk: safetensors beside a JSON that says what they are, both checked on loading.

No pickle: a weights file can be opened from anyone without running their code. ``NAME.json`` is
written last and holds the SHA-256 of the weights, so a folder with a valid JSON is complete.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, ClassVar, Self

import safetensors.torch
import torch
from torch import Tensor, nn

from jetfm.errors import JetfmError
from jetfm.storage.files import read_json, replacing, write_json

WEIGHTS = "weights.safetensors"


def weights_bytes(state: dict[str, Tensor]) -> bytes:
    """The tensors as safetensors bytes: equal tensors give equal bytes."""
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    return safetensors.torch.save(tensors)


def identity(config: dict[str, Any], weights: bytes) -> str:
    """SHA-256 over configuration and weights: what makes two models the same model."""
    text = json.dumps(config, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode() + b"\0" + weights).hexdigest()


def save_weights(
    folder: str | Path,
    name: str,
    state: dict[str, Tensor],
    config: dict[str, Any],
    info: dict[str, Any] | None = None,
) -> str:
    """Write ``weights.safetensors`` and ``NAME.json`` into `folder`.

    Parameters
    ----------
    state : tensors by name
    config : JSON values needed to rebuild the module; part of the identity
    info : JSON values that only inform (metrics, provenance)

    Returns
    -------
    the identity, also stored as ``hash``
    """
    folder = Path(folder)
    data = weights_bytes(state)
    with replacing(folder / WEIGHTS) as aside:
        aside.write_bytes(data)
    own_hash = identity(config, data)
    record = {
        "kind": name,
        "config": config,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "hash": own_hash,
        **(info or {}),
    }
    write_json(folder / f"{name}.json", record)
    return own_hash


def load_weights(folder: str | Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_weights` wrote; return the JSON record and the tensors (on the CPU).

    Raises
    ------
    JetfmError
        A missing, damaged or foreign file, or weights that are not those the JSON describes.
    """
    folder = Path(folder)
    record = read_json(folder / f"{name}.json")
    wanted = ("config", "weights_sha256", "hash")
    missing = [key for key in wanted if not isinstance(record, dict) or key not in record]
    if missing:
        raise JetfmError(folder / f"{name}.json", f"no {missing[0]!r}", "a file written by jetfm")
    path = folder / WEIGHTS
    try:
        data = path.read_bytes()
    except OSError as error:
        raise JetfmError(path, f"an unreadable file ({error.strerror})", "the weights") from None
    if hashlib.sha256(data).hexdigest() != record["weights_sha256"]:
        raise JetfmError(path, "other bytes", f"the weights that {name}.json describes (SHA-256)")
    if identity(record["config"], data) != record["hash"]:
        raise JetfmError(folder / f"{name}.json", "a changed 'config'", "the one it was saved with")
    return record, safetensors.torch.load(data)


def fill(module: nn.Module, state: dict[str, Tensor], where: object) -> None:
    """Load `state` into `module`; every name and shape must agree, but for tensors without a
    number, which models of before had.

    Raises
    ------
    JetfmError
        Naming the first tensor that is missing, left over, or of another shape.
    """
    own = module.state_dict()
    empty = [name for name in state if name not in own and not state[name].numel()]
    state = {name: tensor for name, tensor in state.items() if name not in empty}
    for name in sorted(own.keys() | state.keys()):
        found = _shape(state.get(name))
        expected = _shape(own.get(name))
        if found != expected:
            raise JetfmError(where, f"{name} {found}", expected)
    with torch.no_grad():
        module.load_state_dict(state)


def _shape(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"of shape {tuple(tensor.shape)}"


class SavedModule(nn.Module):
    """A module that is saved with all that rebuilds it: ``weights.safetensors``, ``KIND.json``.

    A subclass names its `kind`, says its `config`, and rebuilds from one in `from_config`.
    """

    kind: ClassVar[str]

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the module, as JSON values."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """A fresh module; KeyError, TypeError or ValueError where `config` does not fit."""
        raise NotImplementedError

    @property
    def hash(self) -> str:
        """SHA-256 of configuration and weights."""
        return identity(self.config, weights_bytes(self.state_dict()))

    def save(self, folder: str | Path, half: bool = False, **info: Any) -> str:
        """Write the two files, `info` in the JSON; return the hash of what is written.

        Parameters
        ----------
        half : numbers in half precision, which `load` makes single ones of
        """
        state = self.state_dict()
        if half:
            state = {n: t.half() if t.is_floating_point() else t for n, t in state.items()}
        return save_weights(folder, self.kind, state, self.config, info)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a saved module, in evaluation mode on the CPU.

        Raises
        ------
        JetfmError
            Missing, damaged or mismatched files.
        """
        record, state = load_weights(folder, cls.kind)
        try:
            module = cls.from_config(record["config"])
        except (KeyError, TypeError, ValueError) as error:
            where = Path(folder) / f"{cls.kind}.json"
            raise JetfmError(where, f"{error}".splitlines()[0], "a model's settings") from None
        fill(module, state, Path(folder))
        return module.eval()
