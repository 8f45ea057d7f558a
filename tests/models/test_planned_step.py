"""A planned step asks the device for nothing, and computes what plain masks and loops compute."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jetfm.models.jet_model import JetModel
from jetfm.models.masking import draw_masked, pt_ranks
from jetfm.models.objectives import next_token_targets
from jetfm.physics.features import Preprocessing
from jetfm.settings import OptimizerSettings
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.lightning_task import _Means, _on
from jetfm.training.optimizer import Average, make_optimizer
from tests.models.test_jet_model import STRATEGIES, K, model_of, settings_of
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


class OneDevice(TorchDispatchMode):
    """Fails where an operation mixes the host's tensors and the device's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        devices = {x.device.type for x in leaves if isinstance(x, torch.Tensor)}
        if len(devices) > 1:
            raise AssertionError(f"{function} copies between {devices}")
        return result


@pytest.fixture
def on_meta(monkeypatch):
    """Torch's device without data, which cannot say what a tensor holds: it stands for a GPU.

    Everything but the CPU's own paths runs on it; it knows no autocast.
    """
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())

    def to_device(x):
        return {key: value.to("meta") for key, value in x.items()}

    return to_device


@pytest.mark.parametrize(
    ("name", "optimizer"), [*((name, "adamw") for name in STRATEGIES), ("joint", "ranger")]
)
def test_nothing_waits_for_the_device(name, optimizer, batch, on_meta):
    """Loss, gradients, clipping, optimiser, averages and logs of two steps."""
    backbone = STRATEGIES[name]["backbone"]
    if name != "omnijet":  # its network has none
        backbone = backbone | {"dropout": 0.1}
    settings = settings_of(name, backbone=backbone)
    model = JetModel(settings, K, preprocessing=Preprocessing()).to("meta").train()
    stepper = make_optimizer(model, OptimizerSettings(name=optimizer))
    means, average = _Means(), Average(model, 0.99)
    planned = [on_meta(model.plan(batch)) for _ in range(2)]
    with OneDevice():
        for step in planned:
            loss, metrics = model.loss(step)
            means.add(loss.detach(), metrics)
            (loss * _on(loss.device, metrics["weight"])).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            stepper.step()
            stepper.zero_grad()
            average.update()


def test_the_guard_notices_questions_to_the_device(batch, on_meta):
    model = model_of("joint").to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        model.loss(on_meta(batch))
    with OneDevice(), pytest.raises(AssertionError, match="copies"):
        torch.ones(3).to("meta")


def test_a_silent_batch_predicts_nothing(batch):
    model = model_of("joint")
    planned = model.plan(batch | {"silent": torch.ones(1, dtype=torch.bool)})
    loss, metrics = model.loss(planned)
    loss.backward()
    assert loss == 0 and metrics["weight"] == 0
    assert all(np.count_nonzero(p.grad) == 0 for p in model.parameters())
