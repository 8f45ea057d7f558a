"""A planned step computes what plain masks and loops compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jetfm.models.jet_model import JetModel
from jetfm.models.masking import draw_masked, pt_ranks
from jetfm.models.objectives import next_token_targets
from jetfm.tokenizers.vqvae import VQVAE
from tests.models.test_jet_model import STRATEGIES, K, model_of
from tests.toys import randomise, small_tokenizer_settings, token_batch_of

COUNTS = [6, 1, 0, 9, 2, 14]


@pytest.fixture(scope="module")
def tokenizer() -> VQVAE:
    torch.manual_seed(0)
    return randomise(VQVAE(small_tokenizer_settings())).eval()


@pytest.fixture
def batch(tokenizer) -> dict:
    found = token_batch_of(tokenizer, COUNTS, extra_padding=2)
    found["n_constituents"][3] = 30  # truncated: no stop
    return found


def plain_loss(model: JetModel, batch: dict) -> torch.Tensor:
    """Jet by jet, all logits, boolean masks; random numbers from the global generator."""
    ids, mask, n = batch["ids"], batch["mask"], batch["n_constituents"]
    means, numbers = {}, {}
    if model.settings.predicts_next:
        x = ids if model.backbone.reads_ids else batch["decoded"]
        logits, targets = model(x, mask, n), next_token_targets(ids, mask, n, K)
        means["ntp"] = F.cross_entropy(logits[targets >= 0], targets[targets >= 0])
        numbers["ntp"] = (targets >= 0).sum()
    if model.settings.masks:
        masked = draw_masked(mask, model.settings.mask_fraction)
        ranks = pt_ranks(batch["decoded"][..., 0], masked)
        losses = []
        for jet in range(len(mask)):
            seen, lost = (mask & ~masked)[jet], masked[jet]
            if not lost.any():
                continue
            x, some = batch["decoded"][jet][seen][None], torch.ones(1, int(seen.sum())).bool()
            causal = model.settings.objective == "mpm-causal"
            states, _ = model.backbone(x, some, n[jet : jet + 1], causal)
            whole = states.new_zeros(1, 1 + int(mask[jet].sum()), states.shape[-1])
            places = torch.cat([torch.zeros(1).long(), seen.nonzero()[:, 0] + 1])
            whole[:, places] = states
            vectors = model.mask_vectors[ranks[jet][lost].clamp(max=len(model.mask_vectors) - 1)]
            whole[:, lost.nonzero()[:, 0] + 1] = vectors
            logits = model.mpm_head(whole, None, False)[0, 1:]
            real = lost[mask[jet]]
            losses.append(F.cross_entropy(logits[real], ids[jet][lost] + 1, reduction="none"))
        means["mpm"], numbers["mpm"] = torch.cat(losses).mean(), masked.sum()
    if len(means) == 1:
        return next(iter(means.values()))
    return means["ntp"] + means["mpm"] * numbers["mpm"] / numbers["ntp"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_planned_step_equals_the_plain_one(name, batch):
    """Loss and every gradient, with the same random masks."""
    gradients = []
    for planned in (True, False):
        model = model_of(name, **({"n_mask_vectors": 3} if "omnijet" not in name else {}))
        if planned:
            loss, _ = model.loss(model.plan(batch, torch.Generator().manual_seed(5)))
        else:
            torch.manual_seed(5)
            loss = plain_loss(model, batch)
        loss.backward()
        gradients.append([loss, *(p.grad for p in model.parameters() if p.numel())])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_batch_without_a_plan_makes_its_own(name, batch):
    model = model_of(name)
    planned, _ = model.loss(model.plan(batch, torch.Generator().manual_seed(5)))
    torch.manual_seed(5)
    assert torch.equal(model.loss(batch)[0], planned)


def test_a_silent_batch_predicts_nothing(batch):
    model = model_of("joint")
    planned = model.plan(batch | {"silent": torch.ones(1, dtype=torch.bool)})
    loss, metrics = model.loss(planned)
    loss.backward()
    assert loss == 0 and metrics["weight"] == 0
    assert all(np.count_nonzero(p.grad) == 0 for p in model.parameters())
