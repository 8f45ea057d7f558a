"""What the README says about real data, executed: on a small folder in JetClass's layout.

Here with the networks of `smoke`, and with the graph of stages in place of the notebooks, which
nbval runs; as the lines stand in `make soak`.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest

from jetfm import cli
from jetfm.download import archives
from jetfm.download.archives import Archive
from jetfm.ledger.verdicts import VERDICTS
from jetfm.pipeline import Pipeline
from jetfm.settings.profiles import dry_run, load_profile, with_folder
from jetfm.storage.paths import sample_folder
from tests.data.toplandscape_files import toplandscape_file
from tests.download.faulty_server import serving
from tests.loopback import talking

PROJECT = Path(__file__).parents[1]
SPLITS = {"train": "train0", "val": "val", "test": "test"}


def real_jetclass_commands() -> list[str]:
    """The lines of the README's section, without comments."""
    section = (PROJECT / "README.md").read_text(encoding="utf-8").partition("## Real JetClass")[2]
    block = re.search(r"```shell\n(.*?)```", section, re.DOTALL)[1]
    return [line.partition("  #")[0].strip() for line in block.splitlines()]


def archive(split: str) -> bytes:
    """A tar like Zenodo's, with the sample's files."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path in sorted((sample_folder() / split).glob("*.root")):
            tar.add(path, f"JetClass_Pythia/{path.name}")
    return content.getvalue()


PAPER = pytest.param("paper", marks=[pytest.mark.soak, pytest.mark.timeout(1500)])  # 300 s else


@pytest.fixture(scope="module", params=["smoke", PAPER])
def profile_name(request):
    """Of the profile that the commands run; the README says paper."""
    return request.param


@pytest.fixture(scope="module")
def environment(profile_name, tmp_path_factory):
    """A server with both data sets, small, under their names; folders for work and figures."""
    folder = tmp_path_factory.mktemp("readme")
    files, known, landscape = {}, {}, {}
    for seed, (split, part) in enumerate(SPLITS.items()):
        entry = archives.JETCLASS[part]
        files[entry.name] = archive(split)
        known[part] = Archive(entry.name, md5(files[entry.name]), entry.folder)
        counts = np.random.default_rng(seed).integers(3, 60, 120)
        path = toplandscape_file(folder / f"{split}.h5", counts, seed)
        files[path.name] = path.read_bytes()
        landscape[split] = Archive(path.name, md5(files[path.name]))
    with serving(files) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives, "JETCLASS", known)
        patch.setattr(archives, "TOPLANDSCAPE", landscape)
        patch.setenv(archives.URL_VARIABLE, server.url)
        patch.setenv("JETFM_WORK", str(folder / "work"))
        patch.setenv("JETFM_FIGURES", str(folder / "figures"))
        patch.setenv("DRY_RUN", "1")
        yield folder


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def execute(command: str, folder: Path, patch: pytest.MonkeyPatch, notebooks: bool) -> str:
    """Run a line of the README; in this process, which knows the small archives, but notebooks."""
    command = command.replace("/path/to", str(folder))
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # DRY_RUN=1, set for all of them here
        words = words[1:]
    if words[0] == "make":  # what make would do with the environment as it is
        words[1:1] = ["--dry-run", "--assume-old=.venv/.complete"]
        fresh = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
        told = subprocess.run(
            words, cwd=PROJECT, env=fresh, capture_output=True, text=True, check=True
        )
        words = shlex.split(told.stdout)
    assert words[:3] == [".venv/bin/python", "-m", "jetfm"]
    if words[3] == "figures" and not notebooks:
        words[3] = "stages"
    if words[3] == "figures":
        done = subprocess.run(
            [sys.executable, *words[1:]], cwd=PROJECT, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout
    patch.setattr(sys, "argv", ["jetfm", *words[3:]])
    with redirect_stdout(io.StringIO()) as said, pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code, f"{command}: {said.getvalue()[-2000:]}"
    return said.getvalue()


@pytest.fixture(scope="module")
def executed(profile_name, environment) -> tuple[Path, list[str]]:
    """The folder after all five commands, and what each said."""
    commands, said = real_jetclass_commands(), []
    assert len(commands) == 5
    with pytest.MonkeyPatch.context() as patch:
        for command in commands:
            command = command.replace("paper ", f"{profile_name} ")
            said.append(execute(command, environment, patch, notebooks=profile_name == "paper"))
    return environment, said


def test_the_commands_find_the_files_and_what_they_made(profile_name, executed):
    folder, said = executed
    settings = with_folder(load_profile(profile_name), folder / "JetClass")
    assert settings.landscape.source == "folder"
    pipeline = Pipeline(dry_run(settings), progress=False)
    assert pipeline.jets.files("train") and "TopLandscape" in str(settings.landscape.path)
    if profile_name == "smoke":
        before, after = (re.search(r"\d+ of \d+ stages", said[i])[0] for i in (2, 4))
        assert before.startswith("0 of") and not after.startswith("0 of")
    trained = pipeline.pretraining.pretrained().find()
    assert trained is not None and str(trained.folder) in said[3]
    assert pipeline.tokenizers.load().n_codes == {"smoke": 256, "paper": 8192}[profile_name]
    n_jets = pipeline.profile.data.jets_per_class.train
    assert len(pipeline.jets.store("train")) == 10 * n_jets


@pytest.mark.parametrize("profile_name", [PAPER], indirect=True)
def test_the_five_commands_make_every_figure_from_the_files(profile_name, executed):
    profile = dry_run(with_folder(load_profile(profile_name), executed[0] / "JetClass"))
    pipeline = Pipeline(profile, progress=False)
    study = pipeline.generation.study()
    assert set(study.names) >= {"main", "joint", "continuous", "omnijet-combined", "epic-fm"}
    for name in study.names:
        assert study.metrics(name)["n_jets"]["sample"] == profile.generation.n_jets
    assert {row["verdict"] for row in pipeline.ledger()} <= set(VERDICTS)
    assert (pipeline.figures / "ledger.json").exists()
    assert len(list(pipeline.figures.glob("fig0*.png"))) > 30


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "script", ["pretrain_slurm.sh", pytest.param("pretrain_torchrun.sh", marks=talking)]
)
def test_the_examples_train_on_a_folder_of_files(profile_name, executed, tmp_path, script):
    """Another strategy, in two processes under torchrun; ``srun`` is a stand-in for SLURM's."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nexec "$@"\n')
    srun.chmod(0o755)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    strategy = {"pretrain_slurm.sh": "mpm", "pretrain_torchrun.sh": "joint"}[script]
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "PYTHONPATH": str(PROJECT),
        "DATA": str(executed[0] / "JetClass"),
        "GPUS": "2",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", PROJECT / "examples" / script, profile_name, strategy],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    trained = Path(done.stdout.splitlines()[-1])
    assert trained.parent == executed[0] / "work"
    assert (trained / "artifact.json").exists()
