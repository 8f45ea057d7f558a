"""Folders are where they were asked for: homes, empty variables, relative names."""

from __future__ import annotations

import os

import pytest

from jetfm.pipeline import Pipeline
from jetfm.settings.profiles import load_profile
from jetfm.storage.paths import expanded, figures_folder, project_folder, work_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def test_a_tilde_is_the_home(home, monkeypatch):
    monkeypatch.setenv("JETFM_WORK", "~/work")
    monkeypatch.setenv("JETFM_FIGURES", "~")
    assert work_folder() == home / "work"
    assert figures_folder("smoke") == home / "smoke"
    assert expanded("a~/~b") == expanded("a~") / "~b", "in the middle it is a letter"


def test_to_look_at_the_work_takes_no_permission_to_write(tmp_path, monkeypatch):
    """A clone, or a group's work, on a disk that is read-only."""
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "absent"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root is never refused
    stages = Pipeline(load_profile("smoke"), progress=False, say=lambda text: None).stages()
    assert (
        stages.as_text().startswith("stage") and " 0 of " in f" {stages.as_text().splitlines()[-1]}"
    )
    assert not (tmp_path / "absent").exists()


@pytest.mark.parametrize("empty", ["", " "])
def test_empty_variables_do_nothing(home, monkeypatch, empty):
    for name, found in (
        ("JETFM_WORK", work_folder),
        ("JETFM_FIGURES", lambda: figures_folder("x")),
    ):
        monkeypatch.delenv(name, raising=False)
        usual = found()
        monkeypatch.setenv(name, empty)
        assert found() == usual != project_folder()
    figures_folder("x").rmdir()
