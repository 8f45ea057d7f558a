"""A jets store in parts becomes a token store in parts: same jets, part by part, each once."""

from __future__ import annotations

import numpy as np
import pytest

from jetfm.data.conversion import convert
from jetfm.data.ragged import PARTS
from jetfm.data.store import JetStore, build_store
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.settings import TokenizerSettings
from jetfm.storage.paths import sample_folder
from jetfm.tokenizers import encoding, make_tokenizer
from jetfm.tokenizers.encoding import tokenize
from jetfm.tokenizers.own_jets import tokenize_files


@pytest.fixture(scope="module")
def sources():
    return sorted((sample_folder() / "val").glob("*.root"))[:4]


@pytest.fixture(scope="module")
def jets(sources, tmp_path_factory):
    return convert(sources, tmp_path_factory.mktemp("jets"), 1, progress=False)


@pytest.fixture(scope="module")
def tokenizer(jets):
    settings = TokenizerSettings.model_validate({"preset": "binned", "bins": [6, 6, 6]})
    tokenizer = make_tokenizer(settings)
    tokenizer.fit(jets)
    return tokenizer


def in_order(tokens):
    """Ids by place in the jets store, whatever order the tokens came in."""
    counts = np.asarray(tokens.n_constituents)
    jet_of = np.repeat(np.arange(len(tokens)), counts)
    return np.asarray(tokens.ids)[np.lexsort((np.asarray(tokens.positions), jet_of))]


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_tokens_are_those_of_a_store_in_one_folder(sources, jets, tokenizer, tmp_path):
    tokens = tokenize(tokenizer, jets, tmp_path / "parts", (1,), progress=False)
    whole_jets = build_store(sources, tmp_path / "jets", progress=False)
    whole = tokenize(tokenizer, whole_jets, tmp_path / "whole", (1,), progress=False)
    assert [path.name for path in tokens.parts] == [path.name for path in jets.parts]
    np.testing.assert_array_equal(in_order(tokens), in_order(whole))
    for name in ("labels", "multiplicity", "offsets"):
        np.testing.assert_array_equal(getattr(tokens, name), getattr(whole, name))
    for key in ("n_codes", "tokenizer", "seed", "n_truncated", "out_of_range"):
        assert tokens.info[key] == whole.info[key]
    tokens.verify()


def test_an_interrupted_call_continues_to_the_same_bytes(jets, tokenizer, tmp_path, monkeypatch):
    tokenize(tokenizer, jets, tmp_path / "a", (1,), progress=False)
    one, made = encoding._tokenize, []

    def interrupted(*arguments):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(arguments[2].name)
        return one(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_tokenize", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tokenize(tokenizer, jets, tmp_path / "b", (1,), progress=False)
        with pytest.raises(JetfmError, match=r"no store\.json"):
            TokenStore(tmp_path / "b")
        made.append("no more than two")
        del made[0]  # one more part is made, then two
        with pytest.raises(KeyboardInterrupt):
            tokenize(tokenizer, jets, tmp_path / "b", (1,), progress=False)
    tokenize(tokenizer, jets, tmp_path / "b", (1,), progress=False)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_another_seed_or_another_part_is_done_again(sources, tokenizer, tmp_path, monkeypatch):
    jets = convert(sources[:2], tmp_path / "jets", 1, progress=False)
    tokenize(tokenizer, jets, tmp_path / "out", (1,), progress=False)
    one, made = encoding._tokenize, []

    def spied(*arguments):
        made.append(arguments[2].name.split(".")[1])  # .NAME.*.part
        return one(*arguments)

    monkeypatch.setattr(encoding, "_tokenize", spied)
    longer = convert(sources[2:], tmp_path / "jets", 1, append=True, progress=False)
    tokens = tokenize(tokenizer, longer, tmp_path / "out", (1,), progress=False)
    assert made == [path.stem for path in sources[2:]] and len(tokens) == len(longer)
    made.clear()
    tokenize(tokenizer, longer, tmp_path / "out", (2,), progress=False)
    assert len(made) == 4


def test_two_processes_write_the_same_bytes(jets, tokenizer, tmp_path):
    tokenize(tokenizer, jets, tmp_path / "a", (1,), progress=False)
    tokenize(tokenizer, jets, tmp_path / "b", (1,), progress=False, workers=2)
    assert contents(tmp_path / "b") == contents(tmp_path / "a")


def test_two_workers_with_one_part_end_with_the_same_bytes(jets, tokenizer, tmp_path, monkeypatch):
    """As when a cluster takes a slow worker for dead, or the command was given twice."""
    tokenize(tokenizer, jets, tmp_path / "a", (1,), progress=False)
    one, second = encoding._tokenize, []

    def raced(tokenizer, store, folder, *arguments):
        if not second:
            second.append(folder)
            tokenize(tokenizer, jets, tmp_path / "b", (1,), progress=False)  # from start to end
        return one(tokenizer, store, folder, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(encoding, "_tokenize", raced)
        tokenize(tokenizer, jets, tmp_path / "b", (1,), progress=False)
    assert second and contents(tmp_path / "b") == contents(tmp_path / "a")


@pytest.mark.parametrize("broken", ["ids.npy", "store.json"])
def test_damaged_tokens_are_found_and_made_anew(jets, tokenizer, tmp_path, broken):
    tokenizer.save(tmp_path / "tokenizer")

    def again(**options):
        return tokenize_files(tmp_path / "tokenizer", jets.folder, tmp_path / "out",
                              progress=False, **options)  # fmt: skip

    tokens = again()
    whole = contents(tmp_path / "out")
    path = tokens.parts[1] / broken
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(JetfmError, match=broken):
        TokenStore(tmp_path / "out").verify()
    again(verify=True)
    assert contents(tmp_path / "out") == whole
    TokenStore(tmp_path / "out").verify()


def test_a_users_store_in_parts(jets, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    for _ in range(2):
        tokens = tokenize_files(
            tmp_path / "tokenizer", jets.folder, tmp_path / "out", progress=False
        )
        assert len(tokens) == len(jets) and len(tokens.parts) == len(jets.parts)
    assert (
        len(JetStore(jets.folder / PARTS / jets.parts[0].name)) == tokens.info["parts"][0]["n_jets"]
    )
