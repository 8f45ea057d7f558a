"""L-GATr-slim, a Lorentz-equivariant transformer, as a supervised baseline of fine-tuning.

After arXiv 2512.17011, a slim form of L-GATr (arXiv 2405.14806, 2411.00446); its layers are the
authors' package `lgatr`. A token has channels of four-vectors and of scalars. Vectors are only ever
added, multiplied by scalars and contracted with the metric, so that the scalars change under no
Lorentz transformation of all vectors together, and the vectors transform with them.

Tokens are the constituents, three reference vectors and a class token, whose scalars at the end are
the logits. Without reference vectors the network could not tell a jet from the same jet boosted and
turned. As in the paper's taggers (official configuration) these are the two directions of the beam,
(1, 0, 0, +-1), and that of time, (1, 0, 0, 0), which leave rotations about the beam.

Four-momenta are (E, px, py, pz) in units of 20 GeV (official code). They come from pt and from
angles about the jet's axis, massless like all kinematics here. Taking eta and phi from it *is* a
boost along the beam, by the axis's pseudorapidity, and a rotation about it: to a frame where the
jet flies transverse to the beam, but for its mass. Every product of two momenta stays, and so do
the directions of the beam, up to a factor. What is lost is how fast that frame moves. In it, the
reference of time measures energies and those of the beam the angle to it: no more of the jet than
the other networks see.

Ours, and not the paper's:

- not all sixteen components of a multivector, as in L-GATr: it takes ten times as long on a CPU;
- of the full set of 14 features the last eleven are scalars, in network space, the mass too;
- one scalar names the class token, one the beams and one time; since the beams share theirs, the
  mirror image of a jet in eta, as in phi, has the same logits;
- momenta and references are seen by an observer who follows the jet at a rapidity of ln 8. Where
  all momenta are large and nearly parallel, their products keep few digits of a float32; nothing
  else changes, by the symmetry. (The official code for top jets goes to each jet's rest frame,
  which a single massless constituent has not.)
- no constituent gets a small mass for numerics: the package's norms have a floor of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from lgatr import LGATrSlim
from torch import Tensor

from jetfm.errors import JetfmError
from jetfm.models.classifier import BatchClassifier
from jetfm.physics.features import Preprocessing
from jetfm.schema import KINEMATICS

UNIT = 20.0  # GeV; official code
BOOST = 8.0  # e^rapidity: where a jet of 640 GeV and mass 160 GeV is about at rest; exact in binary
REFERENCES = (  # (t, x, y, z); official configuration
    (1.0, 0.0, 0.0, 1.0),
    (1.0, 0.0, 0.0, -1.0),
    (1.0, 0.0, 0.0, 0.0),
)
_NAMES = (1, 1, 2)  # of the references; 0 is the class token
_N_NAMES = 3


def four_momenta(
    x: Tensor, mask: Tensor, preprocessing: Preprocessing, boost: float = 1.0
) -> Tensor:
    """Massless four-momenta of constituents, in the frame where the jet's axis is eta = phi = 0.

    Parameters
    ----------
    x : (B, T, F) network space, the kinematics first; more columns are not looked at
    mask : (B, T) True at real constituents
    preprocessing : the map that `x` came through
    boost : e^rapidity of an observer who moves along with the jet, in the direction of its axis, x

    Returns
    -------
    (B, T, 4) E, px, py, pz [GeV] in float32, in float64 for such `x`; zero where padded
    """
    kinematics = preprocessing.model_copy(update={"features": KINEMATICS})
    with torch.autocast(x.device.type, enabled=False):
        x = x[..., :3].to(torch.promote_types(x.dtype, torch.float32))
        # padding may hold anything, and 0 * inf is no gradient
        pt, eta, phi = kinematics.inverse(torch.where(mask.unsqueeze(-1), x, 0)).unbind(-1)
        # (E + px) / pt and (E - px) / pt; as a difference the second would keep few digits
        along = (torch.cosh(eta) + torch.cos(phi)) / boost
        against = torch.sinh(eta / 2).square() + torch.sin(phi / 2).square()
        against = 2 * boost * against
        parts = ((along + against) / 2, (along - against) / 2, torch.sin(phi), torch.sinh(eta))
        momenta = pt.unsqueeze(-1) * torch.stack(parts, -1)
    return torch.where(mask.unsqueeze(-1), momenta, 0)


class LorentzTransformer(BatchClassifier):
    """Constituents in, logits of the classes out.

    Parameters
    ----------
    preprocessing : the map to network space that jets come through; default the kinematics
    n_classes : outputs
    n_vectors, n_scalars : channels of a token
    n_blocks, n_heads : depth and heads
    mlp_ratio : hidden channels of the MLPs, over the others

    Attributes
    ----------
    references : (R, 4) the vectors that break the symmetry; with none of them it is whole

    Raises
    ------
    JetfmError
        When the heads do not divide the channels.
    """

    references: Tensor
    boost: Tensor
    names: Tensor

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        n_classes: int = 2,
        n_vectors: int = 16,
        n_scalars: int = 32,
        n_blocks: int = 4,
        n_heads: int = 4,
        mlp_ratio: int = 2,
    ) -> None:
        super().__init__()
        self.preprocessing = preprocessing = preprocessing or Preprocessing()
        for name, channels in (("n_vectors", n_vectors), ("n_scalars", n_scalars)):
            if channels % n_heads:
                raise JetfmError(name, channels, f"a multiple of n_heads = {n_heads}")
        n_others = preprocessing.n_features - len(KINEMATICS)
        self.register_buffer("references", torch.tensor(REFERENCES), persistent=False)
        boost = torch.eye(4)
        boost[0, 0] = boost[1, 1] = (BOOST + 1 / BOOST) / 2
        boost[0, 1] = boost[1, 0] = (1 / BOOST - BOOST) / 2
        self.register_buffer("boost", boost, persistent=False)
        names = F.one_hot(torch.tensor((0, *_NAMES)), _N_NAMES).float()
        self.register_buffer("names", names, persistent=False)
        self.network = LGATrSlim(
            num_blocks=n_blocks,
            in_v_channels=1,
            out_v_channels=0,
            hidden_v_channels=n_vectors,
            in_s_channels=_N_NAMES + n_others,
            out_s_channels=n_classes,
            hidden_s_channels=n_scalars,
            num_heads=n_heads,
            mlp_ratio=mlp_ratio,
        )

    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        """Logits (B, n_classes) of 'x' (B, T, F) and 'mask' (B, T).

        A jet without constituents is fine: the class token still has the references to look at.
        """
        x, mask = batch["x"], batch["mask"]
        momenta = four_momenta(x, mask, self.preprocessing, BOOST) / UNIT
        n_jets, n_added = x.shape[0], 1 + len(self.references)
        references = self.references @ self.boost
        added = F.pad(references, (0, 0, 1, 0))  # the class token has no direction
        vectors = torch.cat([added.to(momenta.dtype).expand(n_jets, -1, -1), momenta], 1)
        others = torch.where(mask.unsqueeze(-1), x[..., len(KINEMATICS) :], 0)
        names = F.pad(self.names[:n_added], (0, others.shape[-1])).to(momenta.dtype)
        others = F.pad(others, (_N_NAMES, 0)).to(momenta.dtype)
        scalars = torch.cat([names.expand(n_jets, -1, -1), others], 1)
        seen = F.pad(mask, (n_added, 0), value=True)[:, None, None]  # (B, 1, 1, S): of every query
        _, logits = self.network(vectors.unsqueeze(2), scalars, attn_mask=seen)
        return logits[:, 0]
