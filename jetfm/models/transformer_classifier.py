"""A transformer that classifies jets, with particle interactions where DeepSets has none.

Token-quality classifier of arXiv 2403.05618, appendix A 2: NormFormer blocks, two class-attention
blocks with a class token as query, and an MLP with two hidden layers of 128. A set function: no
positional encoding, so that the order of the constituents does not matter.

What the text leaves open is taken from the official code: the width (128), the number of heads (8),
a class token drawn from a standard normal, and dropout of 0.1 in the NormFormer blocks and after
both hidden layers. Two things follow the text and not the code: the second hidden layer (128, in
the code 100), and class attention "inspired by ParT", here ParT's full block with residuals and
MLP (`jetfm.models.heads.ClassAttentionBlock`), where the code's block returns the bare attention.

The start is ours: embedding weights of unit variance, and a gain of one in the norm before each
attention, which the code starts at zero. Where the fresh encoder is the identity on a faint
embedding, the class token sees little but an average that all classes share, and small trainings
spend hundreds of steps at chance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from jetfm.models.classifier import by_length, cross_entropy
from jetfm.models.heads import ClassAttentionBlock
from jetfm.models.normformer import NormFormer

CLASS_BLOCKS = 2  # appendix A 2
HIDDEN = 128  # of both hidden layers, appendix A 2
DROPOUT = 0.1  # official code


class TransformerClassifier(nn.Module):
    """Constituents in, logits of the classes out.

    Parameters
    ----------
    n_features : of a constituent in network space
    n_classes : outputs
    dim, n_blocks, n_heads : width, depth and heads of the NormFormer; appendix A 2 has 5 blocks,
        the official code a width of 128 and 8 heads

    Raises
    ------
    JetfmError
        When the heads do not divide the width.
    """

    def __init__(
        self,
        n_features: int = 3,
        n_classes: int = 10,
        dim: int = 128,
        n_blocks: int = 5,
        n_heads: int = 8,
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(n_features, dim)
        self.encoder = NormFormer(dim, n_blocks, n_heads, mlp_ratio=1, dropout=DROPOUT)
        self.token = nn.Parameter(torch.randn(1, 1, dim))
        self.class_blocks = nn.ModuleList(
            ClassAttentionBlock(dim, n_heads) for _ in range(CLASS_BLOCKS)
        )
        self.out = nn.Sequential(
            nn.Linear(dim, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Linear(HIDDEN, n_classes),
        )
        bound = 3**0.5  # a uniform distribution of unit variance
        nn.init.uniform_(self.embedding.weight, -bound, bound)
        for block in self.encoder.blocks:
            nn.init.ones_(block.attention_norm_in.weight)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Logits (B, n_classes) of constituents (B, T, F) where `mask` (B, T) is True.

        A jet without constituents is fine: the class token always has itself to look at.
        """
        x = self.encoder(self.embedding(x), mask)  # (B, T, F) -> (B, T, C)
        token = self.token.expand(len(x), -1, -1)  # (B, 1, C)
        for block in self.class_blocks:
            token = block(token, x, mask)
        return self.out(token.squeeze(1))

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean cross-entropy of 'label' (B,) given 'x' (B, T, F) and 'mask' (B, T)."""
        logits = by_length(lambda group: self(group["x"], group["mask"]), batch)
        return cross_entropy(logits, batch["label"])
