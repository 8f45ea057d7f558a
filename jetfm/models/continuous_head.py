r"""A head that gives the next constituent a probability density instead of a token.

Given what came before (through the backbone's hidden state h) the jet stops with probability
p_s(h), a Bernoulli. Otherwise the next constituent x, F features in network space, follows a
mixture of K Gaussians with full covariance:

.. math:: p(x | h) = \sum_k w_k \prod_i \mathcal{N}(x_i; \mu_{ki} + \sum_{j<i} c_{kij}
          (x_j - \mu_{kj}), \sigma_{ki})

Each component is written as a chain of linear regressions, the modified Cholesky factorisation of
its covariance (Pourahmadi, Biometrika 86 (1999) 677): every covariance has exactly one such form,
c is free and only the sigmas must be positive, and neither density nor sampling solves a system.

Why this family (our choice; the papers have none). Prongs make the angles of the next constituent
multimodal *together*, which one component per prong describes and a factorised density per feature
does not. Full covariances are closed under rotations of the (eta, phi) plane and do not ask which
angle comes first, which a mixture per feature, one after the other, would. Gaussians because the
network sees ln pt: with the power-law tails of a Student-t there, the mean pt would be infinite,
and a jet's pt and mass would be those of its worst constituent. Hard edges, such as detector
thresholds, are smeared by a width; the sampler counts what falls outside.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.errors import JetfmError
from jetfm.models.heads import head_blocks
from jetfm.models.transformer import KVCache
from jetfm.settings import TokenHeadSettings

_RARE_STOP = -4.0  # a jet of some 50 constituents stops once: where the logit starts
_TINY = 2.0**-54  # the normal distribution has no quantile at 0


class NextConstituent(NamedTuple):
    """Distribution of the next constituent, one for each element of the batch shape (...)."""

    stop_logit: Tensor  # (...,) ln p_s / (1 - p_s)
    log_weights: Tensor  # (..., K) ln w_k
    means: Tensor  # (..., K, F)
    scales: Tensor  # (..., K, F) conditional widths sigma_ki
    couplings: Tensor  # (..., K, F (F-1) / 2) c_kij, rows i of the lower triangle in turn

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density (...,) of constituents x (..., F), given that there is one [nats]."""
        away = x.unsqueeze(-2) - self.means  # (..., K, F)
        pulls = (away - self._regressed(away)) / self.scales
        n_features = x.shape[-1]
        log_component = -0.5 * pulls.square().sum(-1) - self.scales.log().sum(-1)
        log_component = log_component - 0.5 * n_features * math.log(2 * math.pi)
        return torch.logsumexp(self.log_weights + log_component, -1)

    @property
    def log_stop(self) -> Tensor:
        """ln p_s, (...,)."""
        return F.logsigmoid(self.stop_logit)

    @property
    def log_go_on(self) -> Tensor:
        """ln (1 - p_s), (...,)."""
        return F.logsigmoid(-self.stop_logit)

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Sample by inverting cumulative distributions, in float64.

        Parameters
        ----------
        u : (..., 2 + F) float64 in [0, 1): for the stop, the component, the features

        Returns
        -------
        stop : (...,) bool
        x : (..., F) float64, the next constituent where the jet goes on
        """
        stop = u[..., 0] < torch.sigmoid(self.stop_logit.double())
        cdf = self.log_weights.double().exp().cumsum(-1)
        threshold = u[..., 1:2] * cdf[..., -1:]
        component = torch.searchsorted(cdf, threshold, right=True)  # (..., 1)
        component = component.clamp_(max=cdf.shape[-1] - 1).unsqueeze(-1)
        means, scales, couplings = (
            t.double().take_along_dim(component, -2).squeeze(-2)
            for t in (self.means, self.scales, self.couplings)
        )
        normal = torch.special.ndtri(u[..., 2:].clamp(min=_TINY))
        away = torch.zeros_like(means)
        for i, row in enumerate(_rows(couplings, means.shape[-1])):
            away[..., i] = (row * away[..., :i]).sum(-1) + scales[..., i] * normal[..., i]
        return stop, means + away

    def _regressed(self, away: Tensor) -> Tensor:
        """sum_{j<i} c_kij (x_j - mu_kj) for every i: (..., K, F)."""
        rows = _rows(self.couplings, away.shape[-1])
        return torch.stack([(row * away[..., :i]).sum(-1) for i, row in enumerate(rows)], -1)


def _rows(couplings: Tensor, n_features: int) -> tuple[Tensor, ...]:
    """Rows of the strictly lower triangle: (..., 0), (..., 1), ... (..., F-1)."""
    return couplings.split(list(range(n_features)), -1)


class DensityHead(nn.Module):
    """The blocks of a token head, then one Linear to stop, weights, means, widths, couplings.

    Parameters
    ----------
    dim, n_heads : of the backbone
    n_features : F
    n_components : K
    min_scale : smallest width of a Gaussian, network space
    settings, attention_dropout, layer_scale, residual_dropout : as in
        `jetfm.models.heads.TokenHead`

    Notes
    -----
    The density is always computed in float32 (or float64): bfloat16 would round means and
    widths to half a per cent.
    """

    def __init__(
        self,
        dim: int,
        n_heads: int,
        n_features: int = 3,
        n_components: int = 16,
        min_scale: float = 0.01,
        settings: TokenHeadSettings | None = None,
        attention_dropout: float = 0.1,
        layer_scale: float = 1.0,
        residual_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("n_features", n_features), ("n_components", n_components)):
            if value < 1:
                raise JetfmError(name, str(value), "at least 1")
        if not min_scale > 0:
            raise JetfmError("min_scale", str(min_scale), "a positive number")
        self.n_features, self.n_components, self.min_scale = n_features, n_components, min_scale
        settings = settings or TokenHeadSettings()
        self.transformer = head_blocks(
            dim, n_heads, settings, attention_dropout, layer_scale, residual_dropout
        )
        n_couplings = n_features * (n_features - 1) // 2
        self._sizes = [1] + [n_components * n for n in (1, n_features, n_features, n_couplings)]
        self.out = nn.Linear(dim, sum(self._sizes))
        with torch.no_grad():  # components start apart, or they would learn the same
            stop, _, means, _, _ = self.out.bias.split(self._sizes)
            stop.fill_(_RARE_STOP)
            means.normal_()

    def forward(self, hidden: Tensor, caches: list[KVCache] | None = None) -> NextConstituent:
        """Distributions (B, T) of the causal backbone's output (B, T, C)."""
        return self.density(self.transformer(hidden, None, True, caches))

    def density(self, features: Tensor) -> NextConstituent:
        """Distributions (...,) of the blocks' output (..., C)."""
        with torch.autocast(features.device.type, enabled=False):
            raw = self.out(features.to(self.out.weight.dtype)).split(self._sizes, -1)
        stop, weights, means, scales, couplings = (
            raw[0],
            *(t.unflatten(-1, (self.n_components, -1)) for t in raw[1:4]),
            raw[4].unflatten(-1, (self.n_components, self._sizes[4] // self.n_components)),
        )
        return NextConstituent(
            stop.squeeze(-1),
            torch.log_softmax(weights.squeeze(-1), -1),
            means,
            self.min_scale + F.softplus(scales),
            couplings,
        )
