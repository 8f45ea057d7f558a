"""The command line: help that helps, and one line for bad input."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from jetfm import cli
from jetfm.storage.paths import sample_folder

Answer = tuple[int, str, str]  # exit code, standard output and error


@pytest.fixture
def jetfm(monkeypatch, capsys, tmp_path) -> Callable[..., Answer]:
    """The command line within this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> Answer:
        monkeypatch.setattr(sys, "argv", ["jetfm", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return ended.value.code or 0, said.out, said.err

    return call


SHIPPED = "one of joint, joint-2, main, main-2, mpm, mpm-2, omnijet"
OWN = ("--train", "t", "--test", "t", "--out", "x")
COMMANDS = (
    "simulate", "download", "convert", "tokenize", "pretrain", "generate", "finetune", "figures",
    "stages", "budget", "compare", "results", "redraw", "keep", "paper-map", "ship", "score",
    "export", "benchmark",
)  # fmt: skip


def test_help_names_every_command(jetfm):
    code, out, _ = jetfm("--help")
    assert code == 0
    assert [name for name in COMMANDS if name not in out] == []


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "jetfm", "figures", "--profile", "desktop"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("figures", "--profile", "desktop"), "laptop"),
        (("pretrain", "--profile", "absent.yaml"), "absent.yaml"),
        (("figures", "--data", "/nowhere"), "/nowhere"),
        (("figures", "--only", "fig01", "fig99"), "--only: found 'fig99'"),
        (("results", "--profile", "gpu", "--out", "x"), "make paper-figures PROFILE=gpu"),
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
        (("convert", "--jets", "a", "--out", "x", "--branches", "no.yaml"), "no.yaml"),
        (("finetune", *OWN, "--classes", "QCD: jet_label >"), "class QCD: found 'jet_label >'"),
        (("compare", "--jets", "a", "--with", "b", "--classes", "a: exit()"), "'exit()'"),
        (("benchmark", "--model", "a", "--scores", "b"), "--model, --scores: found several"),
        (("benchmark", "--starts", "fixed"), "--starts"),
        (("benchmark", "--scores", "a", "--about", "b"), "expected --model"),
        (("benchmark", "--name", "mine"), "no row to add"),
        (("benchmark", "--profile", "smoke", "--model", "a", "--sizes", "1e2"), "'1e2'"),
        (("benchmark", "--profile", "smoke", "--model", "no/such"), "no/such/model.json"),
        (("benchmark", "--profile", "smoke", "--scores", "a", "--splits", "b"), "benchmark.json"),
        (("generate", "--n-jets", "5"), "--out"),
        (("generate", "--out", "x.root", "--n-jets", "0"), "n_jets: found 0"),
        (("generate", "--out", "x.root", "--n-jets", "-1"), "n_jets: found -1"),
        (("generate", "--out", "x.txt"), ".parquet"),
        (("generate", "--out", "x.root", "--n-constituents", "129"), "1 to 128"),
        (("generate", "--out", "x.root", "--top-p", "1.5"), "top_p"),
        (("generate", "--out", "x.root", "--strategy", "best"), SHIPPED),
        (("generate", "-p", "smoke", "--out", "x.root", "--strategy", "best"), "one of main"),
        (("generate", "--out", "x.root", "--strategy", "mpm"), "MPM, without a next-token head"),
        (("generate", "--out", "x.root", "--strategy", "mpm"), "next-token head"),
        (("generate", "--out", "x.root", "--model", "m"), "both"),
        (("generate", "--out", "x.root", "--model", "m", "--tokenizer", "t"), "multiplicities"),
        (("finetune", "--train", "t"), "--test"),
        (("finetune", "--baseline", "part"), "--train"),
        (("finetune", "--classes", "QCD,Tbqq"), "--train"),
        (("finetune", "--strategy", "mpm"), "--train"),
        (("finetune", *OWN, "--baseline", "part", "--strategy", "mpm"), "(--strategy); expected"),
        (("finetune", *OWN, "--baseline", "part", "--model", "m"), "(--model); expected none"),
        (("finetune", *OWN, "--baseline", "part", "--weights", "fixed"), "a pre-trained model"),
        (("finetune", *OWN, "--weights", "frozen"), "scratch, fixed, finetuned"),
        (("finetune", *OWN, "--baseline", "gnn"), "deepsets, transformer, part, lgatr"),
        (
            ("finetune", *OWN, "--baseline", "deepsets"),
            "t: found no such file; expected a ROOT, parquet or h5 file",
        ),
        (("finetune", *OWN, "--model", "m"), "both"),
        (("finetune", *OWN, "--strategy", "best"), SHIPPED),
        (("finetune", *OWN, "-p", "smoke", "--strategy", "best"), "one of main"),
        (("score", "--classifier", "c", "--jets", "j"), "--out: found nothing"),
        (("score", "--classifier", "c", "--jets", "j", "--out", "x.parquet"), "classifier.json"),
        (("score", "--jets", "j", "--out", "x.csv"), "x.csv: found a file with the suffix '.csv'"),
        (("export", "--classifier", "c"), "--onnx: found nothing"),
        (("export", "--onnx", "x"), "found neither; expected one of them"),
        (("export", "--onnx", "x", "--classifier", "c"), "classifier.json"),
        (("export", "--onnx", "x", "--tokenizer", "t"), "tokenizer.json"),
        (("export", "--onnx", "x", "--tokenizer", "t", "--classifier", "c"), "found both"),
    ],
)
def test_bad_input_is_one_line_and_code_2(jetfm, arguments, expected, tmp_path):
    code, _, errors = jetfm(*arguments)
    assert code == 2
    lines = errors.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("jetfm: ") and expected in lines[0]
    assert not (tmp_path / "x").exists() or not list((tmp_path / "x").glob("*.root"))


def test_ctrl_c_says_how_to_go_on(jetfm, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("jetfm.cli.figures.profile_of", interrupted)
    code, _, errors = jetfm("figures", "--profile", "smoke")
    assert code == 130
    assert "the same command continues" in errors


@pytest.mark.parametrize("arguments", [("--out=~/x=1",), ("--out", "~/x=1")])
def test_a_tilde_after_an_equals_sign_is_the_home(jetfm, monkeypatch, tmp_path, arguments):
    """Shells expand the second alone, and only where it is not quoted."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    sample = sample_folder() / "val" / "TTBar_000.root"
    code, out, err = jetfm("convert", "--jets", str(sample), *arguments)
    assert code == 0 and (tmp_path / "home" / "x=1" / "store.json").exists(), (out, err)
    assert not (tmp_path / "~").exists()
