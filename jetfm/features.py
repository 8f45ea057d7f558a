"""Physical space to network space and back, exactly.

Network space is what every network sees: (f(pt), s * eta_rel, s * phi_rel) with s = 3 and

- ``log1p``: f(pt) = ln(1 + pt + 1e-5) - 1.8, pt in GeV (arXiv 2512.04149, official code's feature
  set ``kin_massless_without_cuts``); its inverse is clamped at pt = 0;
- ``log``: f(pt) = ln pt - 1.8 (arXiv 2403.05618, Sec. II.A). That paper says the angles are
  scaled "down by a factor of 3"; its code multiplies by 3, and so do we.

Both accept numpy arrays and torch tensors and return the same kind, dtype and device.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jetfm.errors import JetfmError


class Preprocessing(BaseModel):
    """The map between the two spaces; immutable, stored beside every tokenizer and model.

    Attributes
    ----------
    pt_map : 'log1p' (paper 2) or 'log' (paper 1)
    angle_scale : factor on eta_rel and phi_rel
    pt_shift : subtracted from the logarithm
    epsilon : GeV, added to pt inside log1p (official code of paper 2)

    Notes
    -----
    ``inverse(forward(x))`` differs from x by rounding only: at most 1e-6 (1 + pt) GeV in pt and
    one unit in the last place in the angles in float32; 1e-14 (1 + pt) in float64.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    pt_map: Literal["log1p", "log"] = "log1p"
    angle_scale: float = Field(3.0, gt=0)
    pt_shift: float = 1.8
    epsilon: float = Field(1e-5, ge=0)

    def forward(self, physical, mask=None):
        """Physical to network space.

        Parameters
        ----------
        physical : (..., 3) pt [GeV], eta_rel, phi_rel
        mask : (...,) bool, optional; slots where it is false become 0

        Raises
        ------
        JetfmError
            A real constituent with pt < 0, or with pt = 0 under 'log'.
        """
        lib = _library(physical, "physical")
        pt = physical[..., 0]
        if mask is not None:
            pt = lib.where(mask, pt, lib.ones_like(pt))
        low = pt < 0 if self.pt_map == "log1p" else pt <= 0
        if bool(low.any()):
            expected = "pt >= 0" if self.pt_map == "log1p" else "pt > 0; pass a mask for padding"
            raise JetfmError("pt", f"{float(pt.min()):g} GeV", expected)
        log_pt = lib.log1p(pt + self.epsilon) if self.pt_map == "log1p" else lib.log(pt)
        angles = physical[..., 1:] * self.angle_scale
        return _joined(lib, log_pt - self.pt_shift, angles, mask)

    def inverse(self, network, mask=None):
        """Network to physical space; shapes and mask as in `forward`."""
        lib = _library(network, "network")
        log_pt = network[..., 0] + self.pt_shift
        if self.pt_map == "log1p":
            pt = lib.clip(lib.expm1(log_pt) - self.epsilon, 0, None)
        else:
            pt = lib.exp(log_pt)
        return _joined(lib, pt, network[..., 1:] / self.angle_scale, mask)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.model_dump()

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Preprocessing:
        """Inverse of `to_dict`; an unknown or wrong entry is a JetfmError that names it."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(["preprocessing", *map(str, first["loc"])])
            raise JetfmError(where, f"{first['input']!r:.80}", first["msg"]) from None


def within_cuts(physical, half_width: float = 0.8):
    """Which constituents paper 1 keeps: |eta_rel| and |phi_rel| below 0.8 (2403.05618, II.A).

    Parameters
    ----------
    physical : (..., 3) pt [GeV], eta_rel, phi_rel; array or tensor

    Returns
    -------
    (...,) bool
    """
    return (abs(physical[..., 1:]) < half_width).all(-1)


def _library(values, where: str):
    if isinstance(values, torch.Tensor):
        lib = torch
    else:
        lib = np
        if not isinstance(values, np.ndarray):
            raise JetfmError(where, type(values).__name__, "a numpy array or a torch tensor")
    if values.ndim == 0 or values.shape[-1] != 3:
        raise JetfmError(where, f"shape {tuple(values.shape)}", "(..., 3): pt, eta_rel, phi_rel")
    return lib


def _joined(lib, first, angles, mask):
    """(...,) and (..., 2) -> (..., 3), zero where masked out."""
    joined = lib.concatenate([first[..., None], angles], -1)
    if mask is None:
        return joined
    return lib.where(mask[..., None], joined, lib.zeros_like(joined))
