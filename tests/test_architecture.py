"""The plan of the house: layers as the contract says, and a page that names what there is."""

from __future__ import annotations

import re
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from importlinter import configuration
from importlinter.application import use_cases

PROJECT = Path(__file__).parents[1]
CONFIG = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["importlinter"]
LAYERS = CONFIG["contracts"][0]["layers"]
PAGE = (PROJECT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_imports_run_downwards_without_circles(capsys, monkeypatch):
    monkeypatch.chdir(PROJECT)
    configuration.configure()
    kept = use_cases.lint_imports(config_filename="pyproject.toml", cache_dir=None)
    assert kept, capsys.readouterr().out


def test_every_package_has_a_layer_and_says_what_it_is_for():
    packages = [path.parent for path in (PROJECT / "jetfm").glob("*/__init__.py")]
    assert {package.name for package in packages} <= set(LAYERS)
    for package in packages:
        text = import_module(f"jetfm.{package.name}").__doc__
        assert text and len(text.splitlines()) >= 2, package


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(jetfm\.[\w.]+)`", PAGE))))
def test_what_the_page_names_is_there(name):
    parts = name.split(".")
    for n_module in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:n_module]))
            break
        except ModuleNotFoundError:
            continue
    for attribute in parts[n_module:]:
        found = getattr(found, attribute)


def test_the_page_draws_every_layer():
    drawn = PAGE.partition("```mermaid")[2].partition("```")[0]
    assert all(re.search(rf"\b{layer}\b", drawn) for layer in LAYERS if layer != "version")
