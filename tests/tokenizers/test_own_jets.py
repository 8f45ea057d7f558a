"""Tokenising one's own jets: the same tokens as by hand, repeated calls, mixed-up folders."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jetfm.cli import app
from jetfm.data.store import build_store
from jetfm.errors import JetfmError
from jetfm.settings import TokenizerSettings
from jetfm.storage.paths import sample_folder
from jetfm.tokenizers import load_tokenizer, make_tokenizer
from jetfm.tokenizers.own_jets import tokenize_files
from tests.data.jetclass_files import random_jets, write


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two ROOT files of the sample in a folder."""
    folder = tmp_path_factory.mktemp("jets")
    for path in sorted((sample_folder() / "val").glob("*.root"))[:2]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture(scope="module")
def trained(files, tmp_path_factory):
    """A fitted grid, saved."""
    folder = tmp_path_factory.mktemp("tokenizer")
    store = build_store(sorted(files.glob("*.root")), folder / "store", progress=False)
    settings = TokenizerSettings.model_validate({"preset": "binned", "bins": [6, 6, 6]})
    tokenizer = make_tokenizer(settings)
    tokenizer.fit(store)
    tokenizer.save(folder)
    return folder


def test_root_files_become_the_tokens_of_their_jets(files, trained, tmp_path):
    tokens = tokenize_files(trained, files, tmp_path / "out", progress=False)
    tokenizer = load_tokenizer(trained)
    store = build_store(sorted(files.glob("*.root")), tmp_path / "store", progress=False)
    assert len(tokens) == len(store) > 0
    jets = np.array([0, 7, len(store) - 1])
    physical, mask = store.dense(jets, 128)
    x = torch.as_tensor(tokenizer.preprocessing.forward(physical, mask)).float()
    expected = tokenizer.encode(x, torch.as_tensor(mask))
    ids, _, found_mask = tokens.dense(jets)
    assert np.array_equal(found_mask, mask)
    assert np.array_equal(ids[mask], expected.numpy()[mask])
    assert tokens.info["tokenizer"] == tokenizer.hash


def test_a_second_call_leaves_everything_as_it_is(files, trained, tmp_path):
    first = tokenize_files(trained, files, tmp_path, progress=False)
    written = (tmp_path / "store.json").stat().st_mtime_ns
    second = tokenize_files(trained, files, tmp_path, progress=False)
    assert (tmp_path / "store.json").stat().st_mtime_ns == written
    assert np.array_equal(first.ids, second.ids)


def test_a_jets_store_will_do(files, trained, tmp_path):
    tokens = tokenize_files(trained, trained / "store", tmp_path / "a", progress=False)
    from_files = tokenize_files(trained, files, tmp_path / "b", progress=False)
    assert np.array_equal(tokens.ids, from_files.ids)
    assert not (tmp_path / "a" / "jets").exists()


def test_mixed_up_folders_are_refused(files, trained, tmp_path):
    tokenize_files(trained, files, tmp_path / "out", progress=False)
    other = next(path for path in sorted((sample_folder() / "val").glob("*.root"))[2:])
    with pytest.raises(JetfmError, match="the store of other files"):
        tokenize_files(trained, other, tmp_path / "out", progress=False)
    store = build_store([other], tmp_path / "others", progress=False)
    with pytest.raises(JetfmError, match="other jets"):
        tokenize_files(trained, store.folder, tmp_path / "out", progress=False)
    with pytest.raises(JetfmError, match="no such file"):
        tokenize_files(trained, tmp_path / "nothing", tmp_path / "new", progress=False)


def test_the_command_says_what_is_missing(trained):
    result = CliRunner().invoke(app, ["tokenize", "--tokenizer", str(trained)])
    assert isinstance(result.exception, JetfmError) and "--jets" in str(result.exception)


def test_the_command_tokenises(files, trained, tmp_path):
    arguments = ["tokenize", "--tokenizer", trained, "--jets", files, "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0 and "tokens in" in result.output


def test_a_kinematic_tokenizer_asks_files_for_momenta_alone(trained, tmp_path):
    """No kinds of particles and no impact parameters, as in many a private file."""
    columns = random_jets([3, 40, 1, 2, 17])
    kinds = ("part_is", "part_d0", "part_dz", "part_charge")
    fewer = {name: values for name, values in columns.items() if not name.startswith(kinds)}
    whole = write(tmp_path / "whole.root", columns)
    lean = write(tmp_path / "lean.root", fewer)
    tokens = [
        tokenize_files(trained, path, tmp_path / path.stem, progress=False)
        for path in (whole, lean)
    ]
    assert np.array_equal(*(store.ids for store in tokens))


def test_a_tokenizer_of_more_features_names_the_branch_that_it_lacks(tmp_path):
    settings = TokenizerSettings(features="full", dim=16, n_blocks=1, n_heads=2, n_codes=16)
    make_tokenizer(settings, seed=1).save(tmp_path / "tokenizer")
    columns = random_jets([3, 40, 17])
    del columns["part_d0val"]
    lean = write(tmp_path / "lean.root", columns)
    with pytest.raises(JetfmError, match="lean.root.*part_d0val"):
        tokenize_files(tmp_path / "tokenizer", lean, tmp_path / "out", progress=False)
