"""The classifier test tells different samples apart, and equal ones not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jetfm.errors import JetfmError
from jetfm.judging.classifier_test import classifier_test
from jetfm.models.deepsets import DeepSets


def sample(seed: int, width: float, n_jets: int = 600):
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 20, n_jets)
    flat = rng.normal(0, width, (counts.sum(), 3))
    return flat, np.concatenate([[0], np.cumsum(counts)])


@pytest.mark.parametrize(("width", "low", "high"), [(1.0, 0.38, 0.62), (2.0, 0.9, 1.0)])
def test_auc(tmp_path, width, low, high):
    # 240 test jets: one standard deviation of the AUC of equal samples is 0.037.
    result = classifier_test(
        sample(1, 1.0), sample(2, width), tmp_path, 1, epochs=20, batch_size=360, progress=False
    )
    assert low < result["auc"] < high
    assert (result["n_train"], result["n_test"]) == (720, 240)


def test_a_reference_sorted_by_class_is_sampled_fairly(tmp_path):
    # Half of the reference's jets are wide and come last, as in a store; so is half of the sample.
    rng = np.random.default_rng(5)
    narrow, wide = sample(6, 1.0, 1200), sample(7, 2.0, 1200)
    reference = (
        np.concatenate([narrow[0], wide[0]]),
        np.concatenate([narrow[1], narrow[1][-1] + wide[1][1:]]),
    )
    parts = [sample(8, 1.0, 300), sample(9, 2.0, 300)]
    jets = [flat[a:b] for flat, off in parts for a, b in zip(off[:-1], off[1:], strict=True)]
    jets = [jets[i] for i in rng.permutation(len(jets))]
    mixed = np.concatenate(jets), np.concatenate([[0], np.cumsum([len(jet) for jet in jets])])
    result = classifier_test(mixed, reference, tmp_path, 1, epochs=20, progress=False)
    assert 0.38 < result["auc"] < 0.62


def test_deepsets_ignores_order_and_padding():
    torch.manual_seed(0)
    network = DeepSets(3, 2)
    x = torch.randn(4, 9, 3)
    mask = torch.arange(9) < torch.tensor([9, 5, 1, 0])[:, None]
    logits = network(x, mask)
    noise = torch.where(mask.unsqueeze(-1), x, torch.randn_like(x) * 100)
    torch.testing.assert_close(network(noise, mask), logits)
    torch.testing.assert_close(network(x.flip(1), mask.flip(1)), logits, rtol=1e-4, atol=1e-6)
    padded = torch.cat([x, torch.full((4, 30, 3), 7.0)], 1)
    longer = torch.cat([mask, torch.zeros(4, 30, dtype=torch.bool)], 1)
    torch.testing.assert_close(network(padded, longer), logits, rtol=1e-4, atol=1e-6)


def test_deepsets_sizes_are_the_papers():
    def n_parameters(**options):
        return sum(p.numel() for p in DeepSets(3, **options).parameters())

    f = 100 * 100 + 100 + 100 * 100 + 100
    test = (3 * 10 + 10) + 2 * (10 * 10 + 10) + (10 * 100 + 100) + f + (100 * 2 + 2)
    assert n_parameters(n_classes=2) == test
    quality = (3 * 100 + 100) + (100 * 100 + 100) + (100 * 256 + 256) + (256 * 100 + 100) + f
    assert n_parameters(n_classes=10, phi=(100, 100, 256)) == quality + (100 * 10 + 10)


@pytest.mark.parametrize(("width", "low", "high"), [(1.0, 0.38, 0.62), (1.6, 0.75, 1.0)])
def test_transformer(width, low, high):
    result = classifier_test(
        sample(1, 1.0), sample(2, width), None, 1, 8, 360, progress=False, network="transformer"
    )
    assert low < result["auc"] < high
    assert abs(result["auc"] - 0.5) < 4 * result["auc_error"] or width > 1
    assert 0 < result["auc_error"] < 0.06 and result["n_test"] == 240


def test_bad_input():
    flat, offsets = sample(1, 1.0, 20)
    good, broken = (flat, offsets), (np.where(flat > 2, np.nan, flat), offsets)
    for arguments, message in (
        ((good, good, None, 1), "network: found 'mlp'; expected one of deepsets, transformer"),
        ((good, (flat, offsets[:6]), None, 1), "reference: found 5 jets; expected at least 10"),
        ((good, (flat[:, :2], offsets), None, 1), "reference: found constituents of shape"),
        ((broken, good, None, 1), "sample: found constituents that are not finite"),
    ):
        network = "mlp" if "mlp" in message else "deepsets"
        with pytest.raises(JetfmError, match=message):
            classifier_test(*arguments, progress=False, network=network)
