"""Jet classifiers on the backbone: full-resolution constituents in, bidirectional attention.

After arXiv 2512.04149: the pre-training heads are replaced by a new class head, and the backbone
attends in both directions. Its trained start vector stays part of the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.models.backbone import Backbone
from jetfm.models.heads import ClassHead


class JetClassifier(nn.Module):
    """Bidirectional backbone and class head.

    Parameters
    ----------
    backbone : its start vector is part of the input
    n_classes : outputs
    """

    monitor = "loss"

    def __init__(self, backbone: Backbone, n_classes: int = 2) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = ClassHead(backbone.dim, backbone.settings.n_heads, n_classes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_classes) of 'x' (B, T, F), 'mask' (B, T), 'n_constituents' (B,)."""
        hidden, mask = self.backbone(
            batch["x"], batch["mask"], batch["n_constituents"], causal=False
        )
        return self.head(hidden, mask)

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of 'label' (B,)."""
        return cross_entropy(self(batch), batch["label"])


class HeadOnly(nn.Module):
    """The class head on jets that a fixed backbone has encoded before."""

    def __init__(self, head: ClassHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(batch["x"], batch["mask"])

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return cross_entropy(self(batch), batch["label"])


class SetClassifier(nn.Module):
    """A network of constituents and mask, such as `DeepSets`, that is called with batches.

    Parameters
    ----------
    network : maps (B, T, F) and (B, T) to logits (B, n_classes)
    """

    monitor = "loss"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_classes) of 'x' (B, T, F) and 'mask' (B, T)."""
        return self.network(batch["x"], batch["mask"])

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of 'label' (B,)."""
        return cross_entropy(self(batch), batch["label"])


def cross_entropy(logits: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over (B, n_classes) logits; 'accuracy', and 'weight', the number of jets."""
    correct = (logits.argmax(1) == label).float().mean()
    weight = torch.tensor(len(label), device=label.device)
    return F.cross_entropy(logits, label), {"accuracy": correct, "weight": weight}
