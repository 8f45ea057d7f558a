r"""An autoregressive generator of jets without tokens: backbone and mixture density, one loss.

It reads d_s, x_1..x_N, the constituents at full resolution in network space, and predicts x_1..x_N
and the stop. The loss is the exact negative log-likelihood [nats] of the jets divided by the number
of predictions, N + 1 for a whole jet:

.. math:: -\ln p(x_1 .. x_N, stop | N) = -\sum_{k=0}^{N-1} [\ln(1 - p_s(h_k)) + \ln p(x_{k+1}|h_k)]
          - \ln p_s(h_N)

As for tokens, a jet cut at the cap keeps its uncapped count as condition and gets no stop target.

What it is the density of: constituents *in the order given*, in network space. Write q for the
density that the model gives to a sequence. That of the unordered set is the sum of q over its N!
orders, so that

- in falling pt, -ln q(sequence) bounds that of the set from above (and equals it as far as no
  probability leaks to wrong orders);
- in random order, by Jensen's inequality, so does the mean of -ln q(sequence) - ln N! (and equals
  it when the model gives all orders the same density).

ln N!, about N ln N - N, must therefore be subtracted before losses of the two orders compare. A
cross-entropy of tokens is the integral of a density over a code's cell, and compares with neither.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.models.continuous_head import DensityHead, NextConstituent
from jetfm.physics.features import Preprocessing
from jetfm.schema import KINEMATICS
from jetfm.settings import ContinuousSettings
from jetfm.storage.weights import SavedModule


class LogProbabilities(NamedTuple):
    """Log-probabilities of a batch [nats], zero where nothing is predicted."""

    constituents: Tensor  # (B, T+1) ln p(x_{k+1} | h_k), given that there is one
    stops: Tensor  # (B, T+1) ln of the probability to go on, or to stop
    predicted: Tensor  # (B, T+1) bool, True where there is a constituent or a stop to predict


class ContinuousModel(SavedModule):
    """Backbone and density head.

    Parameters
    ----------
    settings : sizes; its `training` part is not used here
    preprocessing : of the jets it learns, and will generate; kinematics only, because flags and
        charges have no density

    Raises
    ------
    JetfmError
        Features beyond the kinematics.
    """

    kind = "continuous"

    def __init__(
        self,
        settings: ContinuousSettings | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings = settings or ContinuousSettings()
        self.preprocessing = preprocessing = preprocessing or Preprocessing()
        if preprocessing.features != KINEMATICS:
            found = f"features {', '.join(preprocessing.features)}"
            raise JetfmError("continuous model", found, f"{', '.join(KINEMATICS)} alone")
        self.n_features = preprocessing.n_features
        self.backbone = Backbone(settings.backbone, self.n_features, preprocessing=preprocessing)
        self.head = DensityHead(
            settings.backbone.dim,
            settings.backbone.n_heads,
            self.n_features,
            settings.n_components,
            settings.min_scale,
            settings.head,
            layer_scale=settings.backbone.layer_scale,
            **settings.backbone.attention_dropouts,
        )

    # Training ------------------------------------------------------------------------------------

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """Mean negative log-likelihood of a prediction, see the module.

        Parameters
        ----------
        batch : 'x' (B, T, F), 'mask' (B, T), 'n_constituents' (B,) the uncapped count

        Returns
        -------
        the loss [nats]; its parts as (sum, number) pairs, 'density' per constituent and 'stop' per
        prediction; 'weight', the number of predictions
        """
        found = self.log_probabilities(batch)
        if "silent" in batch:  # a process that has no jet left still takes part in the step
            found = LogProbabilities(*(0 * t for t in found))
        n = found.predicted.sum()
        density, stop = -found.constituents.sum(), -found.stops.sum()
        n_constituents = batch["mask"].sum() * (n > 0)
        metrics = {
            "density": (density.detach(), n_constituents),
            "stop": (stop.detach(), n),
            "weight": n,
        }
        return (density + stop) / n.clamp(min=1), metrics

    def log_probabilities(self, batch: dict[str, Tensor]) -> LogProbabilities:
        """Log-probability of every constituent and every decision to go on or stop.

        Their sum over a jet is its exact log-likelihood in the order given.
        """
        x, mask, n_constituents = batch["x"], batch["mask"], batch["n_constituents"]
        hidden, visible = self.backbone(x, mask, n_constituents, causal=True)
        goes_on = F.pad(mask, (0, 1))  # (B, T+1): position k is followed by constituent k+1
        predicted = goes_on | stop_positions(mask, n_constituents)
        following = self.head.density(self.head.transformer(hidden, visible, True))
        # at every position, wanted there or not: to pick out those that are makes a GPU wait
        coming = F.pad(torch.where(mask.unsqueeze(-1), x, 0), (0, 0, 0, 1))
        constituents = torch.where(goes_on, following.log_prob(coming), 0)
        stops = torch.where(
            predicted, torch.where(goes_on, following.log_go_on, following.log_stop), 0
        )
        return LogProbabilities(constituents, stops, predicted)

    # Generation: one position a time -------------------------------------------------------------

    def forward(self, x: Tensor, mask: Tensor, n_constituents: Tensor) -> NextConstituent:
        """Distribution (B, T+1) of what follows d_s, x_1, ..., x_T."""
        hidden, _ = self.backbone(x, mask, n_constituents, causal=True)
        return self.head(hidden)

    def new_caches(self) -> tuple[list, list]:
        """Empty caches of backbone and head."""
        return self.backbone.new_caches(), self.head.transformer.new_caches()

    def next_constituent(
        self,
        newest: Tensor | None,
        n_constituents: Tensor,
        caches: tuple[list, list],
    ) -> NextConstituent:
        """Distribution (B,) of the next constituent; `newest` (B, F), None at the start."""
        if newest is None:
            hidden = self.backbone.begin(n_constituents, caches[0])
        else:
            hidden = self.backbone.proceed(newest, n_constituents, caches[0])
        return NextConstituent(*(t.squeeze(1) for t in self.head(hidden, caches[1])))

    # Files ---------------------------------------------------------------------------------------

    @property
    def config(self) -> dict[str, Any]:
        """Everything needed to rebuild the model, as JSON values."""
        return {
            "settings": self.settings.model_dump(mode="json", exclude={"training"}),
            "preprocessing": self.preprocessing.to_dict(),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> ContinuousModel:
        """A fresh model of this `config`."""
        settings = ContinuousSettings.model_validate(config["settings"])
        return cls(settings, Preprocessing.from_dict(config["preprocessing"]))


def stop_positions(mask: Tensor, n_constituents: Tensor) -> Tensor:
    """(B, T+1) bool: where a whole jet stops; nowhere for one that was cut.

    Parameters
    ----------
    mask : (B, T) bool, True at constituents
    n_constituents : (B,) uncapped count; larger than ``mask.sum(1)`` for a truncated jet
    """
    length = mask.sum(1, keepdim=True)
    position = torch.arange(mask.shape[1] + 1, device=mask.device)
    return (position == length) & (n_constituents[:, None] <= length)
