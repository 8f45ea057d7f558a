"""A classifier whose backbone goes on learning to predict masked particles of the labelled jets.

Ours, no method of the papers. The cross-entropy of the classes is as in fine-tuning. To it a second
pass adds that of masked particles (`jetfm.models.masking`, `jetfm.models.objectives`), the mean per
masked particle, by a weight, with the mask head that pre-training left. Both passes read the
constituents c_i at full resolution, as the classifier does:

    L = L_class - w / |M| sum_{i in M} log p(t_i | {c_j, j visible}, rank_i, N),

where pre-training had decoded tokens d_j. Validation and test mask nothing and know no tokens: what
stops a fit, and what it is judged by, is the classification alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jetfm.data.batches import seed_of
from jetfm.errors import JetfmError
from jetfm.models.classifier import JetClassifier
from jetfm.models.jet_model import JetModel

_CLASSIFIED = ("x", "mask", "n_constituents", "label")


class MaskingBeside(JetClassifier):
    """Classifier, and the mask head and mask vectors of the pre-trained model.

    Parameters
    ----------
    model : pre-trained with masked particles; its backbone is the classifier's, and learns in place
    n_classes : outputs
    weight : w

    Raises
    ------
    JetfmError
        A model that has not learned masked particles.
    """

    def __init__(self, model: JetModel, n_classes: int, weight: float) -> None:
        super().__init__(model.backbone, n_classes)
        if not model.settings.masks:
            found = f"a model of objective '{model.settings.objective}'"
            raise JetfmError("masked particles beside", found, "'mpm', 'mpm-causal' or 'joint'")
        self.weight = weight
        self.mpm_head, self.mask_vectors = model.mpm_head, model.mask_vectors
        alone = "mpm" if model.settings.objective == "joint" else model.settings.objective
        # visible constituents are not decoded, so that there is no leak to close
        changes = {"objective": alone, "leak_free": False}
        model.settings = model.settings.model_copy(update=changes)
        self._model = (model,)  # out of torch's sight, which would find the backbone twice

    def planned(self, batch: dict[str, Tensor], *seed: int) -> dict[str, Tensor]:
        """A training batch of `loss`, with what is masked in it.

        Parameters
        ----------
        batch : of `jetfm.data.labelled.LabelledJets` with `targets`; constituents without a token
            stay visible
        seed : numbers that decide which constituents are masked
        """
        generator = torch.Generator().manual_seed(seed_of(*seed))
        inputs = batch | {"decoded": batch["x"], "maskable": batch["ids"] >= 0}
        planned = self._model[0].plan(inputs, generator)
        del planned["decoded"]
        return planned

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """The sum of both, of a `planned` batch; in evaluation that of classification alone."""
        loss, metrics = super().loss({name: batch[name] for name in _CLASSIFIED})
        if not self.training:
            return loss, metrics
        masked, found = self._model[0].loss(batch | {"decoded": batch["x"]})
        metrics |= {name: found[name] for name in ("mpm", "mpm_accuracy")}
        return loss + self.weight * masked, metrics
