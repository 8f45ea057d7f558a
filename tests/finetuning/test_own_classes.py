"""Parquet files of a stranger through every command that takes jets: classes of one's own."""

from __future__ import annotations

import json

import awkward as ak
import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from jetfm import cli
from jetfm.data.layout import read_layout
from jetfm.data.own_jets import store_of
from jetfm.data.token_store import TokenStore
from jetfm.finetuning import own_jets
from jetfm.finetuning.own_jets import METRICS, SCORES
from jetfm.judging import compare
from jetfm.settings import TokenizerSettings
from jetfm.storage.paths import sample_folder
from jetfm.tokenizers import make_tokenizer
from tests.data.parquet_files import write

MAP = "part_pt: p.pt\npart_eta: p.eta\npart_phi: p.phi\n"
CLASSES = "narrow: kind == 10, dark: (kind > 20) & (kind < 30)"


def strange_jets(path, n_jets: int, seed: int):
    """Jets of kind 10, narrow, of kinds 21 to 29, wide, and of kind 30, to be ignored."""
    rng = np.random.default_rng(seed)
    kind = np.resize([10, 21, 30, 10, 29], n_jets)
    counts = rng.integers(5, 30, n_jets)
    width = np.where(kind == 10, 0.02, 0.3).repeat(counts)
    pt = rng.exponential(1, counts.sum()) + 0.02
    pt *= (620 / np.bincount(np.arange(n_jets).repeat(counts), pt))[
        np.arange(n_jets).repeat(counts)
    ]
    momenta = {"pt": pt, "eta": rng.normal(0, width), "phi": rng.normal(0, width)}
    records = ak.unflatten(ak.zip(momenta), counts)
    columns = {"p": ak.to_arrow(records, extensionarray=False), "kind": kind.astype(np.uint8)}
    return write(path, columns, row_group_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("strange")
    (folder / "map.yaml").write_text(MAP)
    for seed, (split, n) in enumerate({"train": 300, "test": 130}.items()):
        (folder / split).mkdir()
        for part in range(2):
            strange_jets(folder / split / f"{part}.parquet", n // 2, 10 * seed + part)
    return folder


def run(*words) -> str:
    done = CliRunner().invoke(cli.app, [*map(str, words)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_a_classifier_of_ones_own_classes(folder, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(own_jets.style, "save", lambda figure, data, *_: drawn.update(data))
    profile = tmp_path / "short.yaml"
    profile.write_text(
        "extends: smoke\nfinetuning: {max_steps: 30, validate_every: 10, n_bootstrap: 10,"
        " optimizer: {lr: 1.0e-2}}\n"
    )
    run("finetune", "--profile", profile, "--train", folder / "train", "--test", folder / "test",
        "--branches", folder / "map.yaml", "--classes", CLASSES, "--baseline", "deepsets",
        "--out", tmp_path / "out")  # fmt: skip
    scores = parquet.read_table(tmp_path / "out" / SCORES).to_pydict()
    kind = np.concatenate([parquet.read_table(folder / "test" / f"{i}.parquet")["kind"].to_numpy()
                           for i in range(2)])  # fmt: skip
    assert scores["jet"] == np.flatnonzero(kind < 30).tolist()
    assert scores["class"] == ["narrow" if one == 10 else "dark" for one in kind[kind < 30]]
    metrics = json.loads((tmp_path / "out" / METRICS).read_text())
    assert metrics["classes"] == ["narrow", "dark"] and metrics["auc"] > 0.9
    assert {"p_narrow", "p_dark"} <= set(scores)
    assert [curve["class"] for curve in drawn["curves"]] == ["dark"]


def test_own_files_beside_those_of_jetclass(folder, tmp_path, monkeypatch):
    """One command, two layouts: the map is for the files that have its columns."""
    monkeypatch.setattr(compare, "generation", lambda *_: None)
    monkeypatch.setattr(compare.style, "save", lambda *_: None)
    (tmp_path / "map.yaml").write_text(MAP + "classes: {QCD: kind == 10}")
    said = run("compare", "--jets", folder / "train", "--with", sample_folder() / "test",
               "--branches", tmp_path / "map.yaml", "--classes", "QCD", "--tests", "0",
               "--out", tmp_path / "out")  # fmt: skip
    assert "120 jets against 75" in said


def test_tokens_of_own_files(folder, tmp_path):
    tokenizer = make_tokenizer(TokenizerSettings(preset="binned", bins=(4, 4, 4)), seed=1)
    layout = read_layout(folder / "map.yaml")
    tokenizer.fit(store_of(folder / "train", tmp_path / "store", False, layout=layout))
    tokenizer.save(tmp_path / "tokenizer")
    run("tokenize", "--tokenizer", tmp_path / "tokenizer", "--jets", folder / "test",
        "--branches", folder / "map.yaml", "--out", tmp_path / "tokens")  # fmt: skip
    tokens = TokenStore(tmp_path / "tokens")
    table = parquet.read_table(folder / "test" / "0.parquet")
    narrow = table["kind"].to_numpy() == 10  # of which the cuts on angles take nothing
    counts = np.array([len(jet) for jet in table["p"].to_pylist()])
    assert len(tokens) == 130
    np.testing.assert_array_equal(tokens.n_constituents[: len(table)][narrow], counts[narrow])
    assert (np.asarray(tokens.labels) == -1).all()


def test_a_classifier_scores_own_files_by_their_own_names(folder, tmp_path, monkeypatch):
    """With and without labels: the same probabilities."""
    monkeypatch.setattr(own_jets.style, "save", lambda *_: None)
    profile = tmp_path / "short.yaml"
    profile.write_text(
        "extends: smoke\nfinetuning: {max_steps: 2, validate_every: 1, n_bootstrap: 2}\n"
    )
    (tmp_path / "map.yaml").write_text(MAP + "classes: {narrow: kind == 10, dark: kind == 21}\n")
    run("finetune", "--profile", profile, "--train", folder / "train", "--test", folder / "test",
        "--branches", tmp_path / "map.yaml", "--baseline", "deepsets",
        "--out", tmp_path / "out")  # fmt: skip
    tables = {}
    for name, where in (("named", tmp_path / "map.yaml"), ("unnamed", folder / "map.yaml")):
        said = run("score", "--classifier", tmp_path / "out", "--jets", folder / "test",
                   "--branches", where, "--out", tmp_path / f"{name}.parquet")  # fmt: skip
        assert ("accuracy" in said) == (name == "named")
        tables[name] = parquet.read_table(tmp_path / f"{name}.parquet").to_pydict()
    assert tables["named"]["p_dark"] == tables["unnamed"]["p_dark"]
    assert set(tables["named"]["class"]) == {"narrow", "dark", None}
    assert set(tables["unnamed"]["class"]) == {None} == set(tables["unnamed"]["label"])
    of_fit = parquet.read_table(tmp_path / "out" / SCORES).to_pydict()
    scored = np.array(tables["named"]["p_dark"])[of_fit["jet"]]
    np.testing.assert_allclose(scored, of_fit["p_dark"], rtol=1e-5)
    assert [one for one in tables["named"]["class"] if one] == of_fit["class"]
