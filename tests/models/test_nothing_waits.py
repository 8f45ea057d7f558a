"""No step of any training asks the device for a number, or brings it one, once its batch is there.

Torch's device without data stands for a GPU: it cannot say what a tensor holds, so whatever a host
would have to wait for is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.launches import without_autocast
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import HeadOnly, JetClassifier, SetClassifier
from jetfm.models.continuous_model import ContinuousModel
from jetfm.models.deepsets import DeepSets
from jetfm.models.flow_matching import FlowModel
from jetfm.models.heads import ClassHead
from jetfm.models.jet_model import JetModel
from jetfm.models.lorentz_transformer import LorentzTransformer
from jetfm.models.particle_transformer import ParticleTransformer
from jetfm.models.transformer_classifier import TransformerClassifier
from jetfm.physics.features import Preprocessing
from jetfm.settings import (
    BackboneSettings,
    ContinuousSettings,
    FlowSettings,
    OptimizerSettings,
    TokenizerSettings,
)
from jetfm.tokenizers.quantizer import rows_of
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.lightning_task import _Means, _on
from jetfm.training.optimizer import Average, make_optimizer
from tests.models.test_jet_model import STRATEGIES, K, model_of, settings_of
from tests.toys import small_tokenizer_settings, token_batch_of, toy_jets

COUNTS = [6, 1, 0, 9, 2, 14]
SMALL = BackboneSettings(dim=32, n_blocks=2, n_heads=4, n_registers=3, dropout=0.1)


class OneDevice(TorchDispatchMode):
    """Fails where an operation mixes the host's tensors and the device's."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        leaves = tree_leaves((args, kwargs, result))
        devices = {x.device.type for x in leaves if isinstance(x, torch.Tensor)}
        if len(devices) > 1:
            raise AssertionError(f"{function} copies between {devices}")
        return result


@pytest.fixture(autouse=True)
def no_autocast():
    with without_autocast():
        yield


def to_device(batch: dict) -> dict:
    return {name: tensor.to("meta") for name, tensor in batch.items()}


def take_steps(module: nn.Module, batches: list[dict], optimizer: str = "adamw") -> None:
    """Loss, gradients, clipping, optimiser, averages and logs."""
    module.train()
    stepper = make_optimizer(module, OptimizerSettings(name=optimizer))
    means, average = _Means(), Average(module, 0.99)
    with OneDevice(), mock.patch.object(torch, "tensor", _of_the_host):
        for batch in batches:
            loss, metrics = module.loss(batch)
            means.add(loss.detach(), metrics)
            (loss * _on(loss.device, metrics["weight"])).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            stepper.step()
            stepper.zero_grad()
            if hasattr(module, "after_step"):
                module.after_step(stepper)
            average.update()


def _of_the_host(*args, device=None, make=torch.tensor, **options) -> torch.Tensor:
    """`torch.tensor`, whose copies to a device no mode sees."""
    if device is not None and torch.device(device).type != "cpu":
        raise AssertionError(f"a number copied to {device}")
    return make(*args, **options)


def token_batch() -> dict:
    torch.manual_seed(0)
    batch = token_batch_of(VQVAE(small_tokenizer_settings()), COUNTS, extra_padding=2)
    batch["n_constituents"][3] = 30  # truncated: no stop
    return batch


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "adamw") for name in STRATEGIES), ("joint", "ranger"), ("joint", "muon")],
)
def test_pretraining(name, optimizer):
    backbone = STRATEGIES[name]["backbone"]
    if name != "omnijet":  # its network has none
        backbone = backbone | {"dropout": 0.1}
    settings = settings_of(name, backbone=backbone)
    model = JetModel(settings, K, preprocessing=Preprocessing()).to("meta")
    batch = token_batch()
    take_steps(model, [to_device(model.plan(batch)) for _ in range(2)], optimizer)


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "pairs"])
def test_pretraining_of_packed_jets(name):
    model = JetModel(settings_of(name, layout="packed"), K).to("meta")
    take_steps(model, [to_device(model.plan(token_batch()))])


def test_pretraining_without_a_leak():
    """The visible tokens alone are decoded, at every step."""
    model = JetModel(settings_of("joint", leak_free=True), K).to("meta")
    tokenizer = VQVAE(small_tokenizer_settings()).to("meta").eval()
    model.visible_decoder = tokenizer.decode_known
    take_steps(model, [to_device(model.plan(token_batch()))])


TOKENIZERS = {
    "causal": {},
    "omnijet": {"preset": "omnijet"},
    "unconditional": {"preset": "omnijet-unconditional"},
    "fsq": {"quantizer": "fsq", "n_codes": 64, "latent_dim": 3, "levels": (4, 4, 4)},
    "random order": {"order": "random"},
}


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [*((name, "adamw") for name in TOKENIZERS), ("causal", "ranger"), ("causal", "muon")],
)
def test_tokenizers(name, optimizer):
    """Codes are replaced after a single step without use."""
    small = {"n_codes": 64, "latent_dim": 4, "dim": 32, "n_blocks": 2, "n_heads": 4}
    settings = TokenizerSettings.model_validate(small | {"replace_after": 1} | TOKENIZERS[name])
    x, mask = toy_jets(COUNTS, extra_padding=2)
    batch = to_device({"x": x, "mask": mask, "rows": rows_of(mask)})
    take_steps(VQVAE(settings).to("meta"), [batch, batch], optimizer)


def labelled(x: torch.Tensor, mask: torch.Tensor) -> dict:
    n = torch.tensor(COUNTS)
    return to_device({"x": x, "mask": mask, "n_constituents": n, "label": n % 2})


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {
    "backbone": lambda: JetClassifier(Backbone(SMALL)),
    "head on encoded jets": lambda: HeadOnly(ClassHead(3, 1, 2)),
    "DeepSets": DeepSets,
    "DeepSets, fine-tuning": lambda: SetClassifier(DeepSets()),
    "transformer": lambda: TransformerClassifier(3, 2, dim=32, n_blocks=2, n_heads=4),
    "ParT": lambda: ParticleTransformer(dim=32, n_blocks=2, n_heads=4),
    "L-GATr-slim": lambda: LorentzTransformer(n_vectors=8, n_scalars=8, n_blocks=2),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers(name):
    batch = labelled(*toy_jets(COUNTS))
    take_steps(CLASSIFIERS[name]().to("meta"), [batch, batch])


def test_classifier_of_token_ids():
    model = model_of("omnijet")
    batch = token_batch()
    batch = labelled(batch["ids"], batch["mask"])
    take_steps(JetClassifier(model.backbone).to("meta"), [batch, batch])


def test_flow_matching():
    x, mask = toy_jets(COUNTS)
    flow = FlowModel(FlowSettings(n_layers=2, dim=16, global_dim=8)).to("meta")
    take_steps(flow, [to_device({"x": x, "mask": mask})] * 2)


def test_continuous_constituents():
    x, mask = toy_jets(COUNTS)
    model = ContinuousModel(ContinuousSettings(backbone=SMALL, n_components=3)).to("meta")
    batch = to_device({"x": x, "mask": mask, "n_constituents": torch.tensor(COUNTS)})
    take_steps(model, [batch, batch])


def test_the_guard_notices_questions_to_the_device():
    model = model_of("joint").to("meta")
    with pytest.raises((RuntimeError, NotImplementedError)):
        model.loss(to_device(token_batch()))  # without its plan
    with OneDevice(), pytest.raises(AssertionError, match="copies"):
        torch.ones(3).to("meta")
