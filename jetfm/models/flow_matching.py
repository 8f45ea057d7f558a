r"""Flow matching: a generator that turns noise into jets along straight lines, without tokens.

A velocity field v is trained such that dz/dt = v(z, t) carries normal noise z_0 at t = 0 to
standardised jets z_1 at t = 1. Conditional flow matching (Lipman et al., arXiv 2210.02747, eqs. 20
to 23) regresses it on the velocity of straight paths between pairs of noise and data,

    z_t = (1 - (1 - s) t) z_0 + t z_1,    u = z_1 - (1 - s) z_0,    L = E || v(z_t, t) - u ||^2,

s the small width sigma_min that remains around a jet. Here z is a set of constituents and v an
EPiC network (`jetfm.models.epic`): EPiC-FM (arXiv 2310.00049; on JetClass, 2312.00123), which
paper 1 compares with OmniJet-alpha in figure 18. The model learns the jets themselves, at full
resolution, so that its truth is the original jets and not what a tokenizer leaves of them.

The number of constituents is an input and stays what it is. The official model was also told the
jet's type, pt and eta; ours is told the multiplicity alone, as the models it stands beside are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parametrize

from jetfm.errors import JetfmError
from jetfm.models.epic import EPiCNetwork
from jetfm.physics.features import Preprocessing
from jetfm.settings import FlowSettings
from jetfm.storage.weights import SavedModule


def straight_path(
    noise: Tensor, data: Tensor, t: Tensor, sigma_min: float
) -> tuple[Tensor, Tensor]:
    """Where noise is at time t on its way to data, and its velocity (arXiv 2210.02747, eq. 22, 23).

    Parameters
    ----------
    noise, data : (B, T, F)
    t : (B,) from 0 to 1
    """
    t = t[:, None, None]
    return (1 - (1 - sigma_min) * t) * noise + t * data, data - (1 - sigma_min) * noise


def midpoint(field: Callable[[Tensor, float], Tensor], z: Tensor, n_steps: int) -> Tensor:
    """Solve dz/dt = field(z, t) from t = 0 to 1 by the explicit midpoint rule, of second order.

    torchdiffeq's 'midpoint' is the same but for rounding, and would be one more dependency.

    Parameters
    ----------
    n_steps : of equal length, two evaluations of the field each
    """
    step = 1 / n_steps
    for k in range(n_steps):
        t = k * step
        half = z + step / 2 * field(z, t)
        z = z + step * field(half, t + step / 2)
    return z


class FlowModel(SavedModule):
    """EPiC-FM with the standardisation of its features.

    Parameters
    ----------
    settings : sizes and method; its `training` part is not used here
    n_features : F, of a constituent in network space
    preprocessing : between network and physical space; kept with the model, not used by it

    Attributes
    ----------
    mean, std : (F,) of the training constituents in network space; z = data_std (x - mean) / std

    Raises
    ------
    JetfmError
        A preprocessing with another number of features.
    """

    kind = "flow"

    def __init__(
        self,
        settings: FlowSettings | None = None,
        n_features: int = 3,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        if preprocessing is not None and preprocessing.n_features != n_features:
            found = f"{preprocessing.n_features} features"
            raise JetfmError("preprocessing", found, f"the model's {n_features}")
        self.settings = settings = settings or FlowSettings()
        self.n_features, self.preprocessing = n_features, preprocessing
        self.network = EPiCNetwork(settings, n_features)
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("std", torch.ones(n_features))

    def set_standardisation(self, mean: np.ndarray, std: np.ndarray) -> None:
        """Take (F,) means and standard deviations; a feature without spread is a JetfmError."""
        mean, std = (torch.as_tensor(values, dtype=torch.float32) for values in (mean, std))
        if mean.shape != self.mean.shape or std.shape != self.std.shape:
            found = f"shapes {tuple(mean.shape)} and {tuple(std.shape)}"
            raise JetfmError("standardisation", found, f"({self.n_features},) twice")
        good = torch.isfinite(mean) & torch.isfinite(std) & (std > 0)
        if not good.all():
            column = int((~good).nonzero()[0])
            found = f"mean {mean[column]:g}, std {std[column]:g} in column {column}"
            raise JetfmError("standardisation", found, "finite values and a spread")
        self.mean.copy_(mean)
        self.std.copy_(std)

    def standardise(self, x: Tensor) -> Tensor:
        """Network space (..., F) to the space of the flow."""
        return (x - self.mean) * (self.settings.data_std / self.std)

    def restore(self, z: Tensor) -> Tensor:
        """Inverse of `standardise`."""
        return z * (self.std / self.settings.data_std) + self.mean

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Squared error of the velocity, mean over real constituents and features.

        Time is drawn once a jet. `batch` holds 'x' (B, T, F) in network space, 'mask' (B, T).
        """
        x, mask = batch["x"], batch["mask"]
        data = torch.where(mask.unsqueeze(-1), self.standardise(x), 0)
        t = torch.rand(len(x), device=x.device)
        z, target = straight_path(torch.randn_like(data), data, t, self.settings.sigma_min)
        errors = (self.network(z, mask, t) - target).square()
        n = mask.sum()
        total = torch.where(mask.unsqueeze(-1), errors, 0).sum()
        return total / (n.clamp(min=1) * self.n_features), {"weight": n}

    def transport(self, noise: Tensor, mask: Tensor, n_steps: int | None = None) -> Tensor:
        """Noise to constituents in network space, both (B, T, F), zero where padded.

        Parameters
        ----------
        n_steps : of the solver, default that of the settings
        """

        def field(z: Tensor, t: float) -> Tensor:
            return self.network(z, mask, z.new_full((len(z),), t))

        with parametrize.cached():  # weights are normalised once, not at each evaluation
            z = midpoint(field, noise, n_steps or self.settings.n_steps)
        return torch.where(mask.unsqueeze(-1), self.restore(z), 0)

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the model, as JSON values."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude={"training"}),
            "n_features": self.n_features,
            "preprocessing": self.preprocessing.to_dict() if self.preprocessing else None,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FlowModel:
        """A fresh model of this `config`."""
        stored = config["preprocessing"]
        preprocessing = None if stored is None else Preprocessing.from_dict(stored)
        settings = FlowSettings.model_validate(config["settings"])
        return cls(settings, config["n_features"], preprocessing)
