"""Weights that ship: complete, checked, small, with the losses that their cards state."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import jetfm
from jetfm.errors import JetfmError
from jetfm.models.jet_model import JetModel
from jetfm.pretraining import shipped
from jetfm.pretraining.comparison import losses
from jetfm.pretraining.shipped import shipped_classifier, shipped_model, shipped_models
from jetfm.results import shipping
from jetfm.storage.files import read_json
from jetfm.storage.paths import sample_folder, weights_folder
from jetfm.tokenizers.own_jets import tokenize_files
from tests.models.test_jet_model import model_of

NAMES = sorted(shipped_models())
MOST = 60 * 2**20  # bytes of all


def test_the_files_are_those_of_the_checksums_and_few():
    folder = weights_folder()
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    listed = {name: digest for digest, name in (line.split("  ") for line in lines)}
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert listed.keys() == files.keys() - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, name
    assert sum(path.stat().st_size for path in files.values()) < MOST
    assert {"joint", "main", "mpm", "omnijet"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_gives_the_losses_of_its_card(name, tmp_path):
    """On the sample that ships; half precision has changed them by less than a thousandth."""
    found = jetfm.load_pretrained(name)
    tokens = tokenize_files(found.tokenizer, sample_folder() / "val", tmp_path, progress=False)
    record = read_json(shipped_model(name).model / "model.json")
    measured = losses(found.model, found.tokenizer, tokens, seed=1)
    assert measured.keys() == record["losses"].keys() == set(found.model.objectives)
    card = (shipped_model(name).model / "README.md").read_text()
    for objective, one in measured.items():
        assert one["loss"] == pytest.approx(record["losses"][objective], abs=2e-4)
        whole = record["losses_in_single_precision"][objective]
        assert one["loss"] == pytest.approx(whole, abs=1e-3)
        assert f"{record['losses'][objective]:.4f}" in card


@pytest.mark.parametrize(("limit", "said"), [(0, "2 to 3"), (2, "2")])
def test_a_card_says_how_many_jets(limit, said):
    """Of a profile that takes all that there are, too."""
    data = SimpleNamespace(jets_per_class=SimpleNamespace(train=limit), source="sample")
    store = SimpleNamespace(labels=np.array([0, 1, 1, 0, 0]))
    pipeline = SimpleNamespace(
        profile=SimpleNamespace(data=data, name="smoke"),
        jets=SimpleNamespace(store=lambda split: store),
    )
    record = {"seed": 1, "jetfm": "0", "commit": None, "packages": {"torch": "2"}}
    lines = shipping._origin(pipeline, record)
    assert f"| jets | {said} simulated training jets a class, `source: sample` |" in lines


def test_tokenizers_of_an_earlier_shipping_do_not_stay(tmp_path):
    for name in ("main", "conditional-8192", "conditional-512"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights.safetensors").touch()
    shipping._keep_only(tmp_path, {"main", "conditional-8192"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["conditional-8192", "main"]


def test_models_of_another_profile_are_not_replaced(tmp_path):
    model = tmp_path / "models" / "main" / "model.json"
    model.parent.mkdir(parents=True)
    model.write_text('{"profile": "overnight"}')
    laptop = SimpleNamespace(profile=SimpleNamespace(name="laptop"))
    with pytest.raises(JetfmError, match="main: found a model of profile 'overnight'.*'laptop'"):
        shipping.ship(laptop, tmp_path)
    assert model.exists()


def test_half_precision_is_read_as_single(tmp_path):
    model = model_of("ntp")
    model.save(tmp_path, half=True)
    again = JetModel.load(tmp_path)
    for (name, weight), (_, whole) in zip(
        again.state_dict().items(), model.state_dict().items(), strict=True
    ):
        assert weight.dtype == whole.dtype == torch.float32
        assert torch.equal(weight, whole.half().float()), name
    assert again.hash != model.hash


def test_multiplicities_are_those_of_held_out_jets():
    for one in shipped_models().values():
        n = one.multiplicities
        assert len(n) >= 1000 and np.array_equal(n, np.sort(n)) and 20 < n.mean() < 80


def test_the_classifier_scores_jets():
    classifier = jetfm.load_classifier(shipped_classifier())
    pt = np.array([[300.0, 200.0, 100.0]])
    found = classifier.probabilities(pt, 0.1 * pt / 300, 0.05 * pt / 300)
    assert found.shape == (1, 10) and found.sum() == pytest.approx(1)


def test_what_is_not_there_is_said(monkeypatch, tmp_path):
    with pytest.raises(JetfmError, match="no model 'nobody'.*one of .*joint"):
        jetfm.load_pretrained("nobody")
    monkeypatch.setattr(shipped, "weights_folder", lambda: tmp_path)
    with pytest.raises(JetfmError, match="a clone of the repository"):
        jetfm.load_pretrained()
    assert shipped_classifier() is None
