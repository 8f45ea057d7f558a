"""docs/own_jets.md, executed: its five commands on jets of the sample, in a stranger's parquet.

The pre-trained model is a toy in place of the profile's, which would have to be made first, and
trainings take a few steps.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import awkward as ak
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml
from pyarrow import parquet

from jetfm import cli
from jetfm.data import jetclass
from jetfm.data.layout import KNOWN, read_layout
from jetfm.data.store import JetStore
from jetfm.finetuning.own_jets import METRICS, SCORES
from jetfm.judging import compare
from jetfm.judging.classifier_test import classifier_test
from jetfm.models.jet_model import JetModel
from jetfm.physics.statistics import roc_auc
from jetfm.settings import PretrainingSettings, TokenizerSettings
from jetfm.storage.paths import sample_folder
from jetfm.tokenizers import make_tokenizer
from tests.finetuning.test_study import SMALL

PROJECT = Path(__file__).parents[1]
PAGE = (PROJECT / "docs" / "own_jets.md").read_text(encoding="utf-8")
PREFIXES = ("ZJetsToNuNu", "TTBar")  # truth 0 and 1 of the page's map


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def commands() -> list[list[str]]:
    """Words of the page's first block, a line each, without the interpreter."""
    lines = blocks("shell")[0].replace("\\\n", " ").splitlines()
    words = [shlex.split(line) for line in lines]
    assert all(some[:3] == [".venv/bin/python", "-m", "jetfm"] for some in words)
    return [some[3:] for some in words]


def sample(split: str) -> ak.Array:
    """Jets of two classes, in turn, as the library reads their ROOT files."""
    files = [next((sample_folder() / split).glob(f"{prefix}_*.root")) for prefix in PREFIXES]
    jets = [jetclass.read(path) for path in files]
    n = min(map(len, jets))
    both = ak.concatenate([some[:n] for some in jets])
    return both[np.arange(2 * n).reshape(2, n).T.ravel()]


def write_strange(jets: ak.Array, path: Path) -> None:
    """As awkward writes records of one's own: other names, other variables, doubles."""
    momenta = jets.constituents
    own = {"pt": momenta.pt, "eta": momenta.eta, "phi": momenta.phi, "e": momenta.energy}
    jet = {name: getattr(jets.jet, name) for name in ("pt", "eta", "phi")}
    columns = {"constituents": ak.zip(own), "jet": ak.zip(jet)}
    columns["truth"] = ak.values_astype(jets.label == 8, np.int16)
    ak.to_parquet(ak.zip(columns, depth_limit=1), path, row_group_size=50)


def short(*jets, epochs: int, **options) -> dict:
    """The classifier test, whose six trainings take a quarter of a minute."""
    return classifier_test(*jets, epochs=1, **options)


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The folder after the five commands."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "my").mkdir()
    (folder / "data").symlink_to(PROJECT / "data")
    (folder / "my" / "jets.yaml").write_text(blocks("yaml")[0])
    for split in ("train", "test"):
        write_strange(sample(split), folder / "my" / f"{split}.parquet")
    tokenizer = make_tokenizer(TokenizerSettings(preset="binned", bins=(4, 4, 4)), seed=1)
    tokenizer.save(folder / "tokenizer")
    torch.manual_seed(5)
    model = JetModel(PretrainingSettings(backbone=SMALL), tokenizer.n_codes, 3, tokenizer.hash)
    model.save(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DRY_RUN", "1")  # few steps
        toys = (folder / "model", folder / "tokenizer", "toy")
        patch.setattr(cli.models, "pretrained", lambda *_: toys)
        patch.setattr(compare, "classifier_test", short)
        patch.setattr(compare, "generation", lambda *_: plt.subplots()[0])  # takes seconds
        assert len(commands()) == 5
        for words in commands():
            patch.setattr(sys, "argv", ["jetfm", *words])
            with pytest.raises(SystemExit) as ended:
                cli.main()
            assert not ended.value.code, words
    return folder / "my"


@pytest.mark.parametrize("split", ["train", "test"])
def test_stores_hold_the_jets_of_the_sample(executed, split):
    """To the rounding of pt, eta and phi, in the order of the file."""
    jets, store = sample(split), JetStore(executed / "store" / split)
    table, offsets = jetclass.features_of(jets, ("pt", "eta_rel", "phi_rel", "mass"))
    assert store.features[:4] == ("pt", "eta_rel", "phi_rel", "mass") and len(store.features) == 4
    np.testing.assert_array_equal(store.offsets[:], offsets)
    found = np.asarray(store.constituents[:])
    np.testing.assert_allclose(found[:, :3], table[:, :3], rtol=1e-5, atol=2e-6)
    np.testing.assert_array_equal(store.labels, jets.label)
    np.testing.assert_array_equal(store.jets["pt"], jets.jet.pt)


@pytest.mark.parametrize("name", ["deepsets", "joint"])
def test_a_roc_curve_and_scores_come_out(executed, name):
    for file in ("roc.pdf", "roc.png", "roc.json"):
        assert (executed / name / file).stat().st_size > 0
    scores = parquet.read_table(executed / name / SCORES).to_pydict()
    truth = parquet.read_table(executed / "test.parquet")["truth"].to_numpy()
    assert scores["label"] == truth.tolist() and scores["jet"] == list(range(len(truth)))
    metrics = json.loads((executed / name / METRICS).read_text())
    area = roc_auc(truth, np.array(scores["p_Tbqq"]), 0).value
    assert metrics["classes"] == ["QCD", "Tbqq"] and metrics["auc"] == pytest.approx(area, abs=1e-3)


def test_the_comparison_finds_the_same_jets(executed):
    """Those of one class in the files are among those of the sample."""
    numbers = json.loads((executed / "compare" / "numbers.json").read_text())
    assert numbers["n_jets"][0] >= 50
    assert all(one["p_value"] > 0.01 for one in numbers["quantities"].values())


def test_the_page_names_every_branch_that_a_map_can_name():
    assert [name for name in KNOWN if f"`{name}`" not in PAGE] == []


def test_the_page_and_the_example_for_jetclass_2_agree(tmp_path):
    words = shlex.split(blocks("shell")[1].replace("\\\n", " "))
    layout = read_layout(PROJECT / words[words.index("--branches") + 1])
    asked = words[words.index("--classes") + 1].split(",")
    assert set(asked) <= set(dict(layout.classes))
    text = (PROJECT / "examples" / "jetclass2.yaml").read_text()
    assert yaml.safe_load(text)["classes"]["QCD"] == "jet_label >= 161"
