"""The command line: help that helps, and one line for bad input."""

from __future__ import annotations

import subprocess
import sys

import pytest


def jetfm(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jetfm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


COMMANDS = ("simulate", "convert", "tokenize", "pretrain", "generate", "finetune", "figures")


def test_help_names_every_command():
    done = jetfm("--help")
    assert done.returncode == 0
    assert [name for name in COMMANDS if name not in done.stdout] == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("figures", "--profile", "desktop"), "laptop"),
        (("pretrain", "--profile", "absent.yaml"), "absent.yaml"),
        (("figures", "--data", "/nowhere"), "/nowhere"),
        (("simulate", "--out", "x", "--classes", "QCD,Zqqq"), "Zqqq"),
        (("simulate", "--out", "x", "--jets-per-class", "0"), "0"),
        (("simulate", "--out", "x", "--campaign", "lhcb"), "lhcb"),
        (("simulate", "--out", "/dev/null/jets"), "/dev/null/jets"),
        (("simulate", "--out", "x", "--detector", "alice"), "alice"),
        (("convert", "--jets", "absent", "--out", "x"), "absent"),
        (("generate", "--n-jets", "5"), "--out"),
        (("generate", "--out", "x.root", "--n-jets", "0"), "n_jets: found 0"),
        (("generate", "--out", "x.root", "--n-jets", "-1"), "n_jets: found -1"),
        (("generate", "--out", "x.txt"), ".parquet"),
        (("generate", "--out", "x.root", "--n-constituents", "129"), "1 to 128"),
        (("generate", "--out", "x.root", "--top-p", "1.5"), "top_p"),
        (("generate", "--out", "x.root", "--strategy", "best"), "one of main"),
        (("generate", "--out", "x.root", "--strategy", "mpm"), "next-token head"),
        (("generate", "--out", "x.root", "--model", "m"), "both"),
        (("generate", "--out", "x.root", "--model", "m", "--tokenizer", "t"), "multiplicities"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, expected, tmp_path):
    done = jetfm(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("jetfm: ") and expected in lines[0]
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").glob("*.root"))
