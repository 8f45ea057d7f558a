"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DIRECT = [
    Requirement(text)
    for text in PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
]


def locked(python: str = "3.11") -> dict[str, Version]:
    """Versions that the lock gives to Linux with this Python."""
    found = {}
    environment = {
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "os_name": "posix",
    }
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        if match := re.match(r"([\w.\-\[\]]+==[^\s;]+(?: ; [^\\]+)?) \\$", line):
            requirement = Requirement(match[1])
            if requirement.marker is None or requirement.marker.evaluate(environment):
                version = next(iter(requirement.specifier)).version
                found[canonicalize_name(requirement.name)] = Version(version)
    return found


def conda_pip() -> list[str]:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    return next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))


@pytest.mark.parametrize("requirement", DIRECT, ids=lambda r: r.name)
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_lock_satisfies_every_direct_requirement(requirement, python):
    if requirement.name == "torch":
        pytest.skip("torch is pinned in pyproject.toml: its build depends on the machine")
    version = locked(python)[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_torch_is_pinned_exactly_and_absent_from_the_lock():
    torch = next(r for r in DIRECT if r.name == "torch")
    assert [s.operator for s in torch.specifier] == ["=="]
    assert "torch" not in locked()


def test_every_locked_file_has_a_hash():
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text().strip())
    assert len(entries) > 100
    assert [e for e in entries if "--hash=sha256:" not in e] == []


def test_compromised_lightning_is_excluded_under_both_names():
    for name in ("lightning", "pytorch-lightning"):
        requirement = next(r for r in DIRECT if r.name == name)
        assert not requirement.specifier.contains("2.6.2")
        assert not requirement.specifier.contains("2.6.3")
        assert requirement.specifier.contains("2.6.6")


def test_environment_yml_has_the_locked_versions_and_nothing_else():
    lines = [line for line in conda_pip() if line != "-e ."]
    named = {Requirement(line).name: Requirement(line) for line in lines}
    vqtorch = named.pop("vqtorch")
    assert re.search(r"vqtorch@[0-9a-f]{40}$", vqtorch.url)
    torch = next(r for r in DIRECT if r.name == "torch")
    expected = {r.name: f"=={locked()[canonicalize_name(r.name)]}" for r in DIRECT if r != torch}
    expected["torch"] = str(torch.specifier)
    assert {name: str(r.specifier) for name, r in named.items()} == expected


def test_no_registry_address_is_written_down():
    for name in ("pyproject.toml", "requirements.lock", "Makefile", ".ci/run", "environment.yml"):
        text = (ROOT / name).read_text()
        assert "--index-url" not in text and "--find-links" not in text, name
