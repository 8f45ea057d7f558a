"""No setting is accepted and then ignored."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

import jetfm
from jetfm.settings import BackboneSettings, Settings
from jetfm.settings.profiles import Profile

ROOT = Path(jetfm.__file__).parent


@cache
def names_in_use() -> set[str]:
    """Attributes that are read, and strings, anywhere but where settings are declared.

    Properties and methods of settings count with what they read, since they are called themselves.
    """
    found = set()
    for path in ROOT.rglob("*.py"):
        declares = path.parent.name == "settings"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                if not declares or (isinstance(node.value, ast.Name) and node.value.id == "self"):
                    found.add(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not declares:
                found.add(node.value)
    return found


def classes_of(kind: type[Settings], seen: dict) -> dict:
    """All classes of settings in a profile, by name."""
    if kind.__name__ in seen:
        return seen
    seen[kind.__name__] = kind
    for field in kind.model_fields.values():
        for inner in inside(field.annotation):
            classes_of(inner, seen)
    return seen


def inside(annotation):
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for one in get_args(annotation):
        yield from inside(one)


KINDS = classes_of(Profile, {})


def test_the_walk_finds_settings_at_any_depth():
    assert {"OptimizerSettings", "TaskSettings", "BaselineSettings", "DataSettings"} <= set(KINDS)
    assert len(KINDS) > 15


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_every_setting_is_read_somewhere(kind):
    ignored = set(kind.model_fields) - names_in_use()
    assert not ignored


def test_a_setting_that_nothing_reads_would_be_found():
    class Fresh(Settings):
        batch_size: int = 1
        nobody_reads_this: int = 1

    assert set(Fresh.model_fields) - names_in_use() == {"nobody_reads_this"}


@pytest.mark.parametrize("setting", [{"dropout": 0.1}, {"layer_scale": 0.5}])
def test_what_the_gpt_network_does_not_have_is_refused(setting):
    plain = {"network": "gpt", "dropout": 0.0}
    BackboneSettings(**plain)
    with pytest.raises(ValidationError, match=f"'gpt' has no {next(iter(setting))}"):
        BackboneSettings(**plain | setting)
