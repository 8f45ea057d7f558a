"""Physical space to network space and back, exactly.

Network space is what every network sees. The kinematics become (f(pt), s * eta_rel, s * phi_rel)
with s = 3 and

- ``log1p``: f(pt) = ln(1 + pt + 1e-5) - 1.8, pt in GeV (arXiv 2512.04149, official code's feature
  set ``kin_massless_without_cuts``); its inverse is clamped at pt = 0;
- ``log``: f(pt) = ln pt - 1.8 (arXiv 2403.05618, Sec. II.A). That paper says the angles are
  scaled "down by a factor of 3"; its code multiplies by 3, and so do we;
- ``linear``: f(pt) = pt / 10 GeV, clamped like ``log1p``. The first paper has tried tokens without
  the logarithm (A.1) and does not say on which scale; this one is ours.

The full set of 14 (official code of 2512.04149, ``all_without_cuts``) adds the mass (clipped at
zero), the charge and five particle flags as they are, impact parameters as
sign(d) * ln(1 + |d| + 1e-5), d in mm, and their errors as they are.

Everything accepts numpy arrays and torch tensors and returns the same kind, dtype and device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jetfm.errors import JetfmError
from jetfm.schema import CONSTITUENT_FEATURES, KINEMATICS

#: Features by the name that tokenizer settings give them.
FEATURE_SETS = {"kinematics": KINEMATICS, "full": CONSTITUENT_FEATURES}

PT_UNIT = 10.0  # GeV, of 'linear': the mean of a constituent's pt, roughly
_SIGNED_LOG = ("d0val", "dzval")


class Preprocessing(BaseModel):
    """The map between the two spaces; immutable, stored beside every tokenizer and model.

    Attributes
    ----------
    features : names of the columns, in order; the kinematics come first
    pt_map : 'log1p' (paper 2), 'log' (paper 1) or 'linear'
    angle_scale : factor on eta_rel and phi_rel
    pt_shift : subtracted from the logarithm
    epsilon : added to pt [GeV] inside log1p, and to impact parameters [mm] (official code of
        paper 2)

    Notes
    -----
    ``inverse(forward(x))`` differs from x by rounding only: at most 1e-6 (1 + pt) GeV in pt and
    one unit in the last place in the angles in float32; 1e-14 (1 + pt) in float64. A negative mass
    comes back as zero.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    features: tuple[str, ...] = KINEMATICS
    pt_map: Literal["log1p", "log", "linear"] = "log1p"
    angle_scale: float = Field(3.0, gt=0)
    pt_shift: float = 1.8
    epsilon: float = Field(1e-5, ge=0)

    @field_validator("features")
    @classmethod
    def _known_features(cls, names):
        good = names[:3] == KINEMATICS and len(set(names)) == len(names)
        if not good or not set(names) <= set(CONSTITUENT_FEATURES):
            raise ValueError(f"features should be {', '.join(KINEMATICS)} and then others, once "
                             f"each, of {', '.join(CONSTITUENT_FEATURES[3:])}")  # fmt: skip
        return names

    @property
    def n_features(self) -> int:
        return len(self.features)

    def check(self, features: Sequence[str], where: object = "features") -> None:
        """Refuse columns that are not these features in this order; names the first that differs.

        Raises
        ------
        JetfmError
            Other columns.
        """
        for column in range(max(len(features), len(self.features))):
            found, expected = (
                names[column] if column < len(names) else "nothing"
                for names in (tuple(features), self.features)
            )
            if found != expected:
                raise JetfmError(where, f"{found} in column {column}", expected)

    def forward(self, physical, mask=None):
        """Physical to network space.

        Parameters
        ----------
        physical : (..., F) with the columns `features`; pt [GeV], eta_rel, phi_rel first
        mask : (...,) bool, optional; slots where it is false become 0

        Raises
        ------
        JetfmError
            A real constituent with pt < 0, or with pt = 0 under 'log'.
        """
        lib = self._library(physical, "physical")
        pt = physical[..., 0]
        if mask is not None:
            pt = lib.where(mask, pt, lib.ones_like(pt))
        low = pt <= 0 if self.pt_map == "log" else pt < 0
        if bool(low.any()):
            expected = "pt > 0; pass a mask for padding" if self.pt_map == "log" else "pt >= 0"
            raise JetfmError("pt", f"{float(pt.min()):g} GeV", expected)
        return self.forward_known(physical, mask)

    def forward_known(self, physical, mask=None):
        """`forward` of constituents that are known to have pt, which leaves no question open to
        a network that is written down for another runtime."""
        lib = self._library(physical, "physical")
        pt = physical[..., 0]
        if mask is not None:
            pt = lib.where(mask, pt, lib.ones_like(pt))
        angles = physical[..., 1:3] * self.angle_scale
        others = [
            self._forward_other(lib, name, physical[..., column]) for column, name in self._others
        ]
        return _joined(lib, self._forward_pt(lib, pt), angles, others, mask)

    def inverse(self, network, mask=None):
        """Network to physical space; shapes and mask as in `forward`."""
        lib = self._library(network, "network")
        pt = self._inverse_pt(lib, network[..., 0])
        angles = network[..., 1:3] / self.angle_scale
        others = [
            self._inverse_other(lib, name, network[..., column]) for column, name in self._others
        ]
        return _joined(lib, pt, angles, others, mask)

    @property
    def _others(self) -> list[tuple[int, str]]:
        return list(enumerate(self.features))[3:]

    def _forward_pt(self, lib, pt):
        if self.pt_map == "linear":
            return pt / PT_UNIT
        log_pt = lib.log1p(pt + self.epsilon) if self.pt_map == "log1p" else lib.log(pt)
        return log_pt - self.pt_shift

    def _inverse_pt(self, lib, values):
        if self.pt_map == "linear":
            return lib.clip(values * PT_UNIT, 0, None)
        log_pt = values + self.pt_shift
        if self.pt_map == "log1p":
            return lib.clip(lib.expm1(log_pt) - self.epsilon, 0, None)
        return lib.exp(log_pt)

    def _forward_other(self, lib, name: str, values):
        if name == "mass":
            return lib.clip(values, 0, None)
        if name in _SIGNED_LOG:
            return lib.sign(values) * lib.log1p(abs(values) + self.epsilon)
        return values

    def _inverse_other(self, lib, name: str, values):
        if name == "mass":
            return lib.clip(values, 0, None)
        if name in _SIGNED_LOG:
            return lib.sign(values) * lib.clip(lib.expm1(abs(values)) - self.epsilon, 0, None)
        return values

    def _library(self, values, where: str):
        if isinstance(values, torch.Tensor):
            lib = torch
        else:
            lib = np
            if not isinstance(values, np.ndarray):
                raise JetfmError(where, type(values).__name__, "a numpy array or a torch tensor")
        if values.ndim == 0 or values.shape[-1] != self.n_features:
            expected = f"(..., {self.n_features}): {', '.join(self.features)}"
            raise JetfmError(where, f"shape {tuple(values.shape)}", expected)
        return lib

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return self.model_dump(mode="json")

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
    physical : (..., F) pt [GeV], eta_rel, phi_rel, ...; array or tensor

    Returns
    -------
    (...,) bool
    """
    return (abs(physical[..., 1:3]) < half_width).all(-1)


def _joined(lib, first, angles, others, mask):
    """(...,), (..., 2) and (...,) each -> (..., F), zero where masked out."""
    others = [column[..., None] for column in others]
    joined = lib.concatenate([first[..., None], angles, *others], -1)
    if mask is None:
        return joined
    return lib.where(mask[..., None], joined, lib.zeros_like(joined))
