"""Files of jets in folders: none lost behind a link, none twice, no litter, and all of it said."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from jetfm import cli
from jetfm.data import own_jets
from jetfm.data.jet_files import jet_files
from jetfm.data.own_jets import store_of
from jetfm.errors import JetfmError
from tests.data import jetclass_files, toplandscape_files


def touch(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return paths


@pytest.fixture
def jets(tmp_path) -> Path:
    touch(tmp_path / "jets", "a.root", "b.h5", "deep/er/c.root")
    return tmp_path / "jets"


def names(paths) -> list[str]:
    return [path.name for path in paths]


def test_files_of_a_folder_at_any_depth_in_order(jets):
    assert jet_files(jets) == [jets / "a.root", jets / "b.h5", jets / "deep/er/c.root"]
    assert names(jet_files(jets, (".root",))) == ["a.root", "c.root"]
    assert jet_files([jets / "deep", jets / "b.h5"]) == [jets / "deep/er/c.root", jets / "b.h5"]


def test_linked_folders_are_entered_once(jets, tmp_path):
    """As on storage that is mounted elsewhere; a link may lead back to where one is."""
    touch(tmp_path / "storage", "d.root", "e.root")
    (jets / "linked").symlink_to(tmp_path / "storage")
    (jets / "linked-again").symlink_to(tmp_path / "storage")
    (jets / "deep" / "round").symlink_to(jets)
    (tmp_path / "storage" / "round").symlink_to(tmp_path / "storage")
    found = jet_files(jets)
    assert sorted(names(found)) == ["a.root", "b.h5", "c.root", "d.root", "e.root"]


def test_a_file_with_two_names_is_taken_once_and_that_is_said(jets):
    (jets / "z.root").symlink_to(jets / "a.root")
    said = []
    assert names(jet_files(jets, say=said.append)) == ["a.root", "b.h5", "c.root"]
    assert said == [f"{jets}: 3 files of jets; left out: 1 there already (z.root)"]
    assert names(jet_files([jets / "a.root", jets / "z.root", jets / "a.root"])) == ["a.root"]


def test_litter_of_other_systems_is_left_out_and_said(jets):
    touch(
        jets, "._a.root", ".nfs01.root", "__MACOSX/._b.h5", ".Trash-1000/files/old.root", "X.ROOT"
    )
    (jets / "gone.root").symlink_to(jets / "nowhere.root")
    said = []
    assert names(jet_files(jets, say=said.append)) == ["a.root", "b.h5", "c.root"]
    (line,) = said
    for part in ("2 hidden folders", "2 hidden (._a.root, ...)", "1 links to nothing (gone.root)",
                 "1 in capitals (X.ROOT)"):  # fmt: skip
        assert part in line, line


def test_nothing_to_say_of_single_files(jets):
    said = []
    jet_files([jets / "a.root", jets / "b.h5"], say=said.append)
    assert not said


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda jets: jets / "none.root", "none.root: found no such file"),
        (lambda jets: touch(jets, "notes.txt")[0], r"notes.txt: found a file \*.txt"),
        (
            lambda jets: touch(jets, "empty/readme")[0].parent,
            "empty: found no ROOT, parquet or h5 files; exp",
        ),
        (
            lambda jets: touch(jets, "mac/._a.root")[0].parent,
            r"no ROOT, parquet or h5 files, only 1 hidden",
        ),
        (lambda jets: [], "jets: found no ROOT, parquet or h5 files"),
    ],
)
def test_what_is_not_there_is_named(jets, make, message):
    with pytest.raises(JetfmError, match=message):
        jet_files(make(jets))


def test_a_link_to_nothing_is_named(jets):
    (jets / "gone.root").symlink_to(jets / "nowhere.root")
    with pytest.raises(JetfmError, match="gone.root: found a link to nothing"):
        jet_files(jets / "gone.root")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read_is_an_error(jets):
    (jets / "deep").chmod(0)
    try:
        with pytest.raises(JetfmError, match="deep: found a folder that cannot be read"):
            jet_files(jets)
    finally:
        (jets / "deep").chmod(0o700)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("--jets a.root b.root --out x", "--jets a.root --jets b.root --out x"),
        ("--jets=a.root b.root", "--jets=a.root --jets b.root"),
        ("--train a b --test c --out x", "--train a --train b --test c --out x"),
        ("--out x y", "--out x y"),  # which no command takes
        ("--jets a --verify b", "--jets a --verify b"),
    ],
)
def test_what_a_shell_makes_of_a_pattern_is_understood(typed, meant):
    assert cli._one_by_one(typed.split()) == meant.split()


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", ["root", "h5"])
def test_jets_of_another_selection_are_taken_when_asked_for(tmp_path, kind, many, monkeypatch):
    """At a fifth of the data sets' pT, in one store and in parts."""
    counts, path = [3, 5, 2, 4], tmp_path / f"soft.{kind}"
    if kind == "root":
        jets = jetclass_files.random_jets(counts, 0)
        scaled = ("part_px", "part_py", "part_pz", "part_energy", "jet_pt", "jet_energy")
        jetclass_files.write(path, jets | {name: jets[name] * np.float32(0.2) for name in scaled})
    else:
        momenta = 0.2 * toplandscape_files.random_momenta(counts, 1)
        toplandscape_files.write(path, toplandscape_files.frame(momenta, np.arange(4) % 2))
    monkeypatch.setattr(own_jets, "in_parts", lambda files: many)
    with pytest.raises(JetfmError, match="median .*pt of .*--any-pt takes any other"):
        store_of(path, tmp_path / "refused", progress=False)
    store = store_of(path, tmp_path / "taken", progress=False, any_pt=True)
    assert len(store) == len(counts)
    assert store.n_constituents.tolist() == counts
