"""Particle Transformer (arXiv 2202.03772), the supervised baseline of fine-tuning.

Constituents are embedded one by one, see each other in blocks whose attention knows of pairs
(`jetfm.models.interactions`), and a class token reads them in two class-attention blocks. A set
function, without registers, start vector or multiplicity. Without the pair bias it is a plain
transformer of the same size.

Its sizes are the official code's: width 128, embedding 128 - 512 - 128, eight blocks, eight heads,
MLP x4, dropout 0.1 in the blocks and none for the class token. Where its parts are those of this
package it is built from them, so that a comparison with a pre-trained backbone compares training
and not details. The choices that follow from that are ours:

- inputs are this package's network space, not the paper's seven kinematic features, and meet
  neither its batch norm nor a LayerNorm, which of three features would leave little; the
  embedding's other two layers have theirs;
- the blocks are pre-norm with LayerScale, without its NormFormer extras: norms after the attention
  and inside the MLP, scales of heads and residuals;
- the pair bias has no batch norms;
- the class head first has a linear layer, and no LayerNorm after the token's last block
  (`jetfm.models.heads.ClassHead`).
"""

from __future__ import annotations

from torch import Tensor, nn

from jetfm.models.classifier import BatchClassifier
from jetfm.models.heads import ClassHead
from jetfm.models.interactions import PairBias
from jetfm.models.transformer import Transformer
from jetfm.physics.features import Preprocessing


class ParticleTransformer(BatchClassifier):
    """Constituents in, logits of the classes out.

    Parameters
    ----------
    preprocessing : the map to network space that jets come through; default the kinematics
    n_classes : outputs
    dim, n_blocks, n_heads : width, depth and heads
    dropout : in the blocks, on attention weights and in the MLP
    pair_bias : tell the attention of pairs of constituents

    Raises
    ------
    JetfmError
        When the heads do not divide the width.
    """

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        n_classes: int = 2,
        dim: int = 128,
        n_blocks: int = 8,
        n_heads: int = 8,
        dropout: float = 0.1,
        pair_bias: bool = True,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing = preprocessing or Preprocessing()
        self.embedding = embedding(preprocessing.n_features, (dim, 4 * dim, dim))
        self.transformer = Transformer(
            dim, n_blocks, n_heads, dropout=dropout, attention_dropout=dropout, final_norm=True
        )
        self.head = ClassHead(dim, n_heads, n_classes)
        self.pair_bias = PairBias(n_heads, preprocessing) if pair_bias else None

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_classes) of 'x' (B, T, F) and 'mask' (B, T).

        A jet without constituents is fine: the class token always has itself to look at.
        """
        x, mask = batch["x"], batch["mask"]
        bias = None if self.pair_bias is None else self.pair_bias(x, mask)
        return self.head(self.transformer(self.embedding(x), mask, bias=bias), mask)


def embedding(n_features: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Linear and GELU for each width, a LayerNorm between two layers."""
    layers: list[nn.Module] = []
    for n_in, n_out in zip((n_features, *widths), widths, strict=False):
        layers += [nn.LayerNorm(n_in), nn.Linear(n_in, n_out), nn.GELU()]
    return nn.Sequential(*layers[1:])
