"""DeepSets (arXiv 1703.06114): a jet is the sum of what its constituents say.

Phi acts on each constituent, the outputs are summed, F acts on the sum: invariant under
permutations by construction, and blind to correlations that a sum cannot carry. Layer sizes are
those of arXiv 2403.05618, appendices A 2 (token quality) and A 5 (classifier test).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from jetfm.models.classifier import cross_entropy

TOKEN_QUALITY = (100, 100, 256)  # hidden layers of Phi, appendix A 2
CLASSIFIER_TEST = (10, 10, 10)  # appendix A 5


def mlp(sizes: Sequence[int], last_activation: bool) -> nn.Sequential:
    """Linear layers of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*(layers if last_activation else layers[:-1]))


class DeepSets(nn.Module):
    """DeepSets classifier.

    Parameters
    ----------
    n_features : of a constituent in network space
    n_classes : outputs
    phi : hidden layers of the network on constituents; its output is the last of them
    f : hidden layers of the network on the sum (appendix A 2: three of 100)
    """

    def __init__(
        self,
        n_features: int = 3,
        n_classes: int = 2,
        phi: Sequence[int] = CLASSIFIER_TEST,
        f: Sequence[int] = (100, 100, 100),
    ) -> None:
        super().__init__()
        self.phi = mlp((n_features, *phi), last_activation=True)
        self.f = mlp((phi[-1], *f, n_classes), last_activation=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, n_classes) of constituents (B, T, F); padded slots add nothing."""
        return self.f(torch.where(mask.unsqueeze(-1), self.phi(x), 0).sum(1))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of 'label' (B,) given 'x' (B, T, F) and 'mask' (B, T)."""
        return cross_entropy(self(batch["x"], batch["mask"]), batch["label"])
