"""The command line: help that helps, and one line for bad input."""

from __future__ import annotations

import subprocess
import sys

import pytest


def jetfm(*arguments: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jetfm", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


OWN = ("--train", "t", "--test", "t", "--out", "x")
COMMANDS = (
    "simulate", "download", "convert", "tokenize", "pretrain", "generate", "finetune", "figures",
)  # fmt: skip


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
        (("download", "atlas", "--part", "val"), "jetclass or toplandscape"),
        (("download", "jetclass", "--part", "train10"), "train0"),
        (("download", "jetclass", "--part", "val", "--class", "Hqq"), "Hqql"),
        (("download", "jetclass", "--part", "val,test", "--class", "Hbb"), "one part"),
        (("download", "jetclass", "--part", "val", "--class", "Hbb", "--files", "0"), "--files"),
        (("download", "toplandscape", "--part", "train0"), "train, val, test"),
        (("download", "toplandscape", "--part", "val", "--class", "Tbqq"), "jetclass only"),
        (("download", "toplandscape", "--part", "val", "--dest", "/dev/null/a"), "/dev/null/a"),
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
        (("finetune", "--train", "t"), "--test"),
        (("finetune", "--baseline", "part"), "--train"),
        (("finetune", *OWN, "--weights", "frozen"), "scratch, fixed, finetuned"),
        (("finetune", *OWN, "--baseline", "gnn"), "deepsets, transformer, part"),
        (("finetune", *OWN, "--baseline", "deepsets"), "t: found neither a jets store"),
        (("finetune", *OWN, "--model", "m"), "both"),
        (("finetune", *OWN, "--strategy", "best"), "one of main"),
    ],
)
def test_bad_input_is_one_line_and_code_2(arguments, expected, tmp_path):
    done = jetfm(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("jetfm: ") and expected in lines[0]
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").glob("*.root"))
