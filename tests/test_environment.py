"""pyproject.toml, requirements.lock and environment.yml describe one environment."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace

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


# A Python that notes its arguments, and the names in a requirements file, and fails as BROKEN says.
PYTHON = r"""#!/bin/bash
file=$([[ "$*" == *" -r "* ]] && sed -n 's/==.*//p' "${@: -1}" | tr '\n' ' ')
echo "$*: $file" >> calls
case "$*: $file" in
  $BROKEN) echo "ERROR: refused" >&2; exit 1;;
  "-m venv .venv: ") mkdir -p .venv/bin && cp "$0" .venv/bin/python;;
  "-m uv cache dir: ") echo "$CACHE";;
esac
"""


def make_env(folder: Path, *arguments: str, broken: str = "", cache: str = "cache"):
    """`make env` by the Python above: exit code, output, (tool, options, names) of each install."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder)
    (folder / "python").write_text(PYTHON)
    (folder / "python").chmod(0o755)
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "INSTALLER")  # `make test` may run this
    outside = {name: value for name, value in os.environ.items() if name not in of_make}
    result = subprocess.run(
        ["make", "env", "PYTHON=./python", *arguments],
        cwd=folder,
        env=outside | {"BROKEN": broken, "CACHE": cache},
        capture_output=True,
        text=True,
    )
    assert (folder / ".venv/.complete").exists() == (result.returncode == 0)
    calls = re.findall(r"-m (pip|uv pip) install (.*): (.*)", (folder / "calls").read_text())
    return (
        result.returncode,
        result.stdout,
        [
            (tool, options, {canonicalize_name(n) for n in names.split()})
            for tool, options, names in calls
        ],
    )


def test_make_env_takes_uv_from_the_lock_and_the_rest_by_uv(tmp_path):
    code, output, calls = make_env(tmp_path)
    assert code == 0 and "Without uv" not in output
    assert [tool for tool, _, _ in calls] == ["pip", "uv pip", "pip", "pip", "pip"]
    assert calls[0][2] == {"uv"} and calls[1][2] >= set(locked()) - {"pythia8mc"}
    assert all("--no-deps --require-hashes" in calls[i][1] for i in (0, 1, 3))
    assert "--no-cache" not in calls[1][1]
    assert "torch==" in calls[2][1] and calls[4][1].endswith("-e .")
    assert calls[3][2] == {"pythia8mc"} and "--only-binary :all:" in calls[3][1]


@pytest.mark.parametrize("installer", ["uv", "pip"])
def test_make_env_goes_on_where_pythia_has_no_wheel(tmp_path, installer):
    code, output, calls = make_env(tmp_path, f"INSTALLER={installer}", broken="*: pythia8mc ")
    assert code == 0 and calls[-1][1].endswith("-e .")
    assert all("pythia8mc" not in names for _, _, names in calls[:-2])
    (line,) = (line for line in output.splitlines() if "Pythia" in line)
    assert "ERROR: refused" in line and "simulate" in line


@pytest.mark.parametrize(
    ("arguments", "broken", "attempts"),
    [
        ([], "*: uv ", ["pip"]),
        ([], "-m uv pip *", ["pip", "uv pip"]),
        (["INSTALLER=pip"], "*uv*", []),
    ],
    ids=["uv not found", "uv fails", "pip chosen"],
)
def test_make_env_without_uv_says_so_and_goes_on(arguments, broken, attempts, tmp_path):
    code, output, calls = make_env(tmp_path, *arguments, broken=broken)
    assert code == 0 and output.count("Without uv") == 1
    assert [tool for tool, _, _ in calls] == [*attempts, *4 * ["pip"]]
    _, options, names = calls[len(attempts)]
    assert "--no-deps --require-hashes" in options
    assert names >= set(locked()) - {"uv", "pythia8mc"} and "uv" not in names


def test_make_env_fails_where_the_lock_is_refused(tmp_path):
    code, _, calls = make_env(tmp_path, broken="*--require-hashes*")
    assert code != 0
    assert len(calls) == 2


def test_uv_needs_no_cache(tmp_path):
    (tmp_path / "file").touch()
    code, _, calls = make_env(tmp_path, cache="file/in/a/file")
    assert code == 0 and "--no-cache" in calls[1][1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("DATA=/my jets/JetClass", "PROFILE=gpu"),
            ["--profile", "gpu", "--data", "/my jets/JetClass"],
        ),
        (("DRY_RUN=1",), ["--profile", "laptop", "--dry-run"]),
        (("DRY_RUN=0",), ["--profile", "laptop"]),
        (("DRY_RUN=no", "DATA="), ["--profile", "laptop"]),
    ],
)
def test_what_is_typed_after_make_is_what_jetfm_hears(tmp_path, arguments, expected):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nshift 3\nfor a in "$@"; do echo "$a"; done\n')
    python.chmod(0o755)
    (tmp_path / ".venv" / ".complete").touch()
    of_make = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "DRY_RUN", "DATA", "PROFILE")
    outside = {name: value for name, value in os.environ.items() if name not in of_make}
    command = ["make", "paper-figures", *arguments]
    heard = subprocess.check_output(command, cwd=tmp_path, env=outside, text=True)
    assert heard.splitlines() == expected


@pytest.mark.parametrize(("minutes", "warnings"), [(7.9, 0), (8.5, 1)])
def test_slow_tests_end_with_one_warning(minutes, warnings, monkeypatch, pytestconfig):
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    lines = []
    reporter = SimpleNamespace(write_line=lambda line, **markup: lines.append((line, markup)))
    monkeypatch.setattr(conftest.time, "monotonic", lambda: conftest._STARTED + 60 * minutes)
    summary = conftest.pytest_terminal_summary(reporter)
    next(summary)
    assert lines == []  # the others' summary comes first
    with pytest.raises(StopIteration):
        next(summary)
    assert [markup for _, markup in lines] == [{"yellow": True}] * warnings
    assert all("took 8.5 minutes; at most 6" in line for line, _ in lines)


def test_no_registry_address_is_written_down():
    for name in ("pyproject.toml", "requirements.lock", "Makefile", ".ci/run", "environment.yml"):
        text = (ROOT / name).read_text()
        assert "--index-url" not in text and "--find-links" not in text, name
