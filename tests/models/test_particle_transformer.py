"""The supervised baselines: symmetry, padding and company, small jets, sizes, what pairs add."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import JetClassifier, SetClassifier, by_length
from jetfm.models.deepsets import DeepSets
from jetfm.models.lorentz_transformer import LorentzTransformer
from jetfm.models.particle_transformer import ParticleTransformer
from jetfm.models.transformer import n_parameters
from jetfm.models.transformer_classifier import TransformerClassifier
from jetfm.physics.features import Preprocessing
from jetfm.schema import CONSTITUENT_FEATURES
from jetfm.settings import BackboneSettings
from tests.toys import randomise, toy_jets

SIZES = dict(n_classes=3, dim=16, n_blocks=2, n_heads=4)
NETWORKS = {
    "pairs": lambda: ParticleTransformer(**SIZES),
    "plain": lambda: ParticleTransformer(**SIZES, pair_bias=False),
    "deepsets": lambda: SetClassifier(DeepSets(3, 3)),
    "lorentz": lambda: LorentzTransformer(None, 3, n_vectors=8, n_scalars=8, n_blocks=2),
    "jet transformer": lambda: SetClassifier(TransformerClassifier(3, 3, 16, 2, 4)),
}


SMALL_BACKBONE = BackboneSettings(dim=16, n_blocks=2, n_heads=4, n_registers=2, dropout=0.0)


def network_of(name: str):
    torch.manual_seed(0)
    return randomise(NETWORKS[name]()).eval()


def batch_of(counts, **options) -> dict:
    x, mask = toy_jets(counts, **options)
    label = torch.arange(len(counts)) % 3
    return {"x": x, "mask": mask, "n_constituents": torch.as_tensor(counts), "label": label}


@pytest.mark.parametrize("name", NETWORKS)
def test_order_does_not_matter(name):
    network, batch = network_of(name), batch_of([30, 30])
    shuffled = batch | {"x": batch["x"][:, torch.randperm(30)]}
    with torch.no_grad():
        logits = network(batch)
        torch.testing.assert_close(network(shuffled), logits, rtol=1e-4, atol=1e-5)
    assert logits.shape == (2, 3) and (logits[0] - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("extra", [0, 1, 30])
@pytest.mark.parametrize("training", [False, True])
def test_padding_and_company_change_nothing(name, extra, training):
    """In training either (without dropout): nothing is averaged over a batch."""
    network, counts = network_of(name).train(training), [0, 1, 2, 17, 100]
    for module in network.modules():
        if hasattr(module, "p"):
            module.p = 0.0
    batch = batch_of(counts, extra_padding=extra)
    batch["x"] = torch.where(batch["mask"][..., None], batch["x"], 50.0)
    with torch.no_grad():
        together = network(batch)
        for i, n in enumerate(counts):
            alone = {"x": batch["x"][i : i + 1, :n], "mask": batch["mask"][i : i + 1, :n]}
            torch.testing.assert_close(network(alone)[0], together[i], rtol=1e-4, atol=1e-5)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([0, 1, 2, 131]), min_size=1, max_size=4),
    st.sampled_from(["pairs", "plain", "lorentz"]),
    st.booleans(),
)
def test_jets_of_any_length_have_finite_loss_and_gradients(counts, name, training):
    network = network_of(name).train(training)
    loss, metrics = network.loss(batch_of(counts))
    loss.backward()
    assert torch.isfinite(loss) and metrics["weight"] == len(counts)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradient_reaches_every_parameter(name):
    network = network_of(name).train()
    network.loss(batch_of([5, 9, 30, 1]))[0].backward()
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_is_cross_entropy_and_accuracy_counts(name):
    network, batch = network_of(name), batch_of([4, 8, 12, 16])
    with torch.no_grad():
        logits = network(batch)
        label = logits.argmax(1)
        label[0] = (label[0] + 1) % 3
        loss, metrics = network.loss(batch | {"label": label})
    torch.testing.assert_close(loss, F.cross_entropy(logits, label))
    assert metrics["accuracy"] == 0.75 and metrics["weight"] == 4


def test_without_pairs_it_is_the_transformer_of_the_same_size():
    """The MLP on pairs is all that is added, and an MLP that says zero adds nothing."""
    pairs, plain = network_of("pairs"), network_of("plain")
    assert n_parameters(pairs) - n_parameters(plain) == n_parameters(pairs.pair_bias)
    state = {k: v for k, v in pairs.state_dict().items() if not k.startswith("pair_bias")}
    plain.load_state_dict(state)
    batch = batch_of([5, 9, 30, 1, 0])
    with torch.no_grad():
        expected = plain(batch)
        assert (pairs(batch) - expected).abs().max() > 1e-4
        for parameter in pairs.pair_bias.mlp[-1].parameters():
            parameter.zero_()
        torch.testing.assert_close(pairs(batch), expected)


def test_paper_size_by_hand():
    """Eight blocks of 12 C^2 + 15 C, the embedding, the MLP on pairs."""
    model, c = ParticleTransformer(), 128
    assert n_parameters(model.transformer) == 8 * (12 * c * c + 15 * c) + 2 * c
    norms = 2 * c + 2 * 4 * c
    assert n_parameters(model.embedding) == 4 * c + (4 * c * c + 4 * c) + (4 * c * c + c) + norms
    assert n_parameters(model.pair_bias) == 5 * 64 + 2 * 65 * 64 + 65 * 8


def test_more_features_than_the_kinematics():
    full = Preprocessing(features=CONSTITUENT_FEATURES)
    network, batch = ParticleTransformer(full, **SIZES), batch_of([6, 4])
    batch["x"] = torch.cat([batch["x"], torch.randn(2, 6, 11)], -1)
    assert torch.isfinite(network.loss(batch)[0])


def test_heads_must_divide_the_width():
    with pytest.raises(JetfmError, match="n_heads"):
        ParticleTransformer(**SIZES | {"dim": 10})


@pytest.mark.parametrize("name", ["pairs", "plain"])
def test_told_no_angles_it_knows_distances_from_pairs_alone(name):
    """Blind to where constituents are, logits follow distances, and no turn or shift of all."""
    network, batch = network_of(name).double(), batch_of([12, 5, 2])
    with torch.no_grad():
        network.embedding[0].weight[:, 1:] = 0
    batch["x"], change = batch["x"].double(), torch.zeros(3, 12, 3, dtype=torch.float64)
    change[..., 1:] = 3 * torch.tensor([0.4, -2.0])  # eta, phi
    before, moved = network(batch), network(batch | {"x": batch["x"] + change})
    torch.testing.assert_close(moved, before, rtol=0, atol=1e-9)
    change[:, 1:] = 0  # the first constituent alone moves
    difference = (network(batch | {"x": batch["x"] + change}) - before).abs().amax(1)
    assert (difference > 1e-6).all() if name == "pairs" else (difference < 1e-9).all()


@pytest.mark.parametrize("name", [*NETWORKS, "backbone"])
@pytest.mark.parametrize("n_jets", [1, 19, 20, 47])
def test_groups_of_similar_length_give_the_same_loss_and_gradients(name, n_jets):
    torch.manual_seed(0)
    makers = NETWORKS | {"backbone": lambda: JetClassifier(Backbone(SMALL_BACKBONE), 3)}
    network = randomise(makers[name]()).double().eval()
    counts = torch.randint(0, 30, (n_jets,)).tolist()
    counts[:4] = [50, 0, 1, 2][:n_jets]
    batch = batch_of(counts, extra_padding=3)
    batch["x"] = batch["x"].double()
    lengths = []

    def noted(group):
        lengths.append(group["mask"].shape[1])
        assert group["x"].shape[:2] == group["mask"].shape
        return network(group)

    results = []
    for logits in (network(batch), by_length(noted, batch)):
        network.zero_grad()
        F.cross_entropy(logits, batch["label"]).backward()
        results.append([logits, *(p.grad for p in network.parameters() if p.grad is not None)])
    torch.testing.assert_close(*results)
    n_groups = min(n_jets // 10, 4) if n_jets >= 20 else 1
    assert len(lengths) == n_groups
    if n_groups > 1:
        assert lengths == sorted(lengths) and lengths[-1] == 50 and lengths[0] < 25
