"""Jet classifiers on the backbone.

After arXiv 2512.04149: full-resolution constituents in, the pre-training heads replaced by a new
head with class attention, and a backbone that attends in both directions. Its trained start vector
stays part of the input.

After arXiv 2403.05618 (II.C), for its backbone: tokens in, a causal backbone, and a head that is
Linear, ReLU, sum over the jet, Linear. The start token is part of the sum (official code; there
the stop token, too, which our backbone never reads).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jetfm.models.backbone import Backbone
from jetfm.models.heads import ClassHead

GROUPS, GROUP_JETS = 4, 10  # measured: a group has its cost, too
PER_CONSTITUENT = ("x", "mask")  # what of a batch has an axis of constituents


class SumHead(nn.Module):
    """Linear, ReLU, sum over the jet, Linear (arXiv 2403.05618, II.C; width as the backbone's).

    Parameters
    ----------
    dim : of the backbone
    n_classes : outputs
    """

    def __init__(self, dim: int, n_classes: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, n_classes)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, n_classes) of the backbone's output (B, T, C) and its mask (B, T)."""
        features = F.relu(self.project(hidden))
        return self.out(torch.where(mask.unsqueeze(-1), features, 0).sum(1))


class BatchClassifier(nn.Module):
    """Base of classifiers that map a batch to logits (B, n_classes)."""

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of 'label' (B,)."""
        return cross_entropy(by_length(self, batch), batch["label"])


class JetClassifier(BatchClassifier):
    """Backbone and class head.

    Parameters
    ----------
    backbone : its start vector is part of the input; OmniJet-alpha's stays causal and gets
        `SumHead`, any other attends in both directions and gets `ClassHead`
    n_classes : outputs
    """

    def __init__(self, backbone: Backbone, n_classes: int = 2) -> None:
        super().__init__()
        self.backbone = backbone
        self.causal = backbone.settings.network == "gpt"
        self.head: nn.Module
        if self.causal:
            self.head = SumHead(backbone.dim, n_classes)
        else:
            self.head = ClassHead(backbone.dim, backbone.settings.n_heads, n_classes)

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_classes) of 'x', features (B, T, F) or ids (B, T) as the backbone reads,
        'mask' (B, T) and 'n_constituents' (B,)."""
        hidden, mask = self.backbone(
            batch["x"], batch["mask"], batch["n_constituents"], causal=self.causal
        )
        return self.head(hidden, mask)


class HeadOnly(BatchClassifier):
    """The class head on jets that a fixed backbone has encoded before."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(batch["x"], batch["mask"])


class SetClassifier(BatchClassifier):
    """A network of constituents and mask, such as `DeepSets`, that is called with batches.

    Parameters
    ----------
    network : maps (B, T, F) and (B, T) to logits (B, n_classes)
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_classes) of 'x' (B, T, F) and 'mask' (B, T)."""
        return self.network(batch["x"], batch["mask"])


def by_length(network: Callable[[dict[str, Tensor]], Tensor], batch: dict[str, Tensor]) -> Tensor:
    """The same as ``network(batch)``, up to rounding, with less padding.

    A classifier's batches have jets of any length (`jetfm.data.batches`), and are as long as the
    longest of them. On a CPU a few groups of similar length, each as long as *its* longest jet,
    take two thirds of the time, with pair features half; on a GPU several small ones would take
    longer.

    Parameters
    ----------
    network : maps a batch to one row a jet, (B, ...); each depends on its jet alone
    batch : right-padded; every tensor (B, ...), those of `PER_CONSTITUENT` (B, T, ...)
    """
    mask = batch["mask"]
    groups = min(GROUPS, len(mask) // GROUP_JETS)
    if groups < 2 or mask.device.type != "cpu":
        return network(batch)
    lengths = mask.sum(1)
    order = lengths.argsort(stable=True)
    rows = []
    for jets in order.tensor_split(groups):
        longest = max(int(lengths[jets[-1]]), 1)
        group = {
            name: tensor[jets, :longest] if name in PER_CONSTITUENT else tensor[jets]
            for name, tensor in batch.items()
        }
        rows.append(network(group))
    return torch.cat(rows)[order.argsort()]


def cross_entropy(logits: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean over (B, n_classes) logits; 'accuracy', and 'weight', the number of jets."""
    correct = (logits.argmax(1) == label).float().mean()
    weight = label.new_full((), len(label))  # filled in by the device, which waits for nothing
    return F.cross_entropy(logits, label), {"accuracy": correct, "weight": weight}
