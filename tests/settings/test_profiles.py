"""Profiles: validated, composable, and clear about what is wrong."""

from __future__ import annotations

import pytest

from jetfm.errors import JetfmError
from jetfm.settings.profiles import (
    Profile,
    available_profiles,
    dry_run,
    load_profile,
    save_profile,
    with_folder,
)
from jetfm.storage.paths import project_folder


@pytest.fixture
def write(tmp_path):
    def make(text, name="mine.yaml"):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return make


@pytest.mark.parametrize("name", available_profiles())
def test_shipped_profiles_are_valid(name):
    profile = load_profile(name)
    assert profile.name == name
    assert Profile.model_validate(profile.model_dump(mode="json")) == profile


def test_paper_profile_keeps_the_papers_values():
    profile = load_profile("paper")
    assert profile.tokenizer.n_codes == 8192
    assert (profile.tokenizer.alpha, profile.tokenizer.beta, profile.tokenizer.nu) == (10, 0.9, 1)
    assert (profile.pretraining.backbone.n_blocks, profile.pretraining.backbone.dim) == (8, 128)
    assert profile.pretraining.training.optimizer.lr == 1e-3
    assert profile.finetuning.sizes[-1] == 2_000_000 and profile.finetuning.n_seeds == 5


def test_scientific_notation_without_a_dot_is_a_number(write):
    # YAML 1.1 reads 1e-3 as text; a user means a number.
    path = write("extends: smoke\npretraining:\n  training:\n    optimizer: {lr: 1e-3}\n")
    assert load_profile(path).pretraining.training.optimizer.lr == 1e-3


def test_extends_changes_only_what_it_names(write):
    base, mine = load_profile("smoke"), load_profile(write("extends: smoke\nseed: 7\n"))
    assert mine.seed == 7 and mine.name == "mine"
    assert mine.tokenizer == base.tokenizer and mine.data == base.data


@pytest.mark.parametrize(
    ("text", "setting", "found"),
    [
        ("extends: smoke\nseed: lots\n", "seed", "'lots'"),
        ("extends: smoke\nseed: -1\n", "seed", "-1"),
        (f"extends: smoke\nseed: {2**64}\n", "seed", "18446744073709551616"),
        (
            "extends: smoke\ndata: {classes: [Tbqq, QCD, TTBar]}\n",
            "data.classes",
            "Tbqq is there twice",
        ),
        ("extends: smoke\ndata: {classes: [QCD, Tbq]}\n", "data.classes", "Tbq"),
        (
            "extends: smoke\nfinetuning: {tasks: {tops: {classes: [QCD, top]}}}\n",
            "finetuning.tasks.tops.classes",
            "top",
        ),
        (
            "extends: smoke\nfinetuning: {tasks: {tops: {contenders: {part: [fixed]}}}}\n",
            "finetuning.tasks.tops.contenders",
            "part is a baseline",
        ),
        ("extends: smoke\npretraining: {tokenizer: mine}\n", "profile", "'mine'"),
        (
            "extends: smoke\nfinetuning: {tasks: {landscape: {contenders: {jiont: [fixed]}}}}\n",
            "profile",
            "'jiont'",
        ),
        ("extends: smoke\ntokenizer: {n_codes: 1.5}\n", "tokenizer.n_codes", "1.5"),
        ("extends: smoke\ntokenizer: {n_kodes: 8}\n", "tokenizer.n_kodes", "8"),
        ("extends: smoke\ntokenizer: {beta: .nan}\n", "tokenizer.beta", "nan"),
        ("extends: smoke\ndata: {jets_per_class: {train: -1}}\n", "train", "-1"),
        ("seed: 1\n", "data", "nothing"),
        ("extends: nowhere\n", "profile", "'nowhere'"),
        ("extends: other.yaml\n", "other.yaml", "no such file"),
        ("{", "mine.yaml", "unreadable YAML"),
        ("- 1\n", "mine.yaml", "list"),
        ("extends: smoke\ndata: {path: /tmp}\n", "data", "path"),
    ],
)
def test_bad_profile_names_the_setting(write, text, setting, found):
    with pytest.raises(JetfmError) as caught:
        load_profile(write(text))
    assert setting in str(caught.value) and found in str(caught.value)


def test_unknown_profile_lists_the_known_ones():
    with pytest.raises(JetfmError, match="laptop"):
        load_profile("desktop")


def test_extends_in_a_circle_is_refused(write, tmp_path):
    write(f"extends: {tmp_path}/b.yaml\n", "a.yaml")
    write(f"extends: {tmp_path}/a.yaml\n", "b.yaml")
    with pytest.raises(JetfmError, match="circle"):
        load_profile(tmp_path / "a.yaml")


@pytest.mark.parametrize("name", ["gpu", "paper"])
def test_dry_run_keeps_the_networks_and_shrinks_the_rest(name):
    full, short = load_profile(name), dry_run(load_profile(name))
    assert short.pretraining.backbone == full.pretraining.backbone
    assert short.tokenizer.n_codes == full.tokenizer.n_codes
    assert short.pretraining.training.max_steps == 2
    assert short.name == f"{name}-dry-run"


def test_with_folder_replaces_the_source(tmp_path):
    profile = with_folder(load_profile("laptop"), tmp_path)
    assert (profile.data.source, profile.data.path) == ("folder", tmp_path)
    assert profile.name == "laptop-data", "figures of real and simulated jets stay apart"
    with pytest.raises(JetfmError, match="no such folder"):
        with_folder(load_profile("laptop"), tmp_path / "absent")
    assert profile.landscape.source == "shipped"
    (tmp_path / "TopLandscape").mkdir()
    landscape = with_folder(load_profile("laptop"), tmp_path).landscape
    assert (landscape.source, landscape.path) == ("folder", tmp_path / "TopLandscape")


def test_without_a_top_landscape_such_jets_are_simulated(tmp_path):
    """As the README says of a real run."""
    assert load_profile("paper").landscape.source == "folder"
    landscape = with_folder(load_profile("paper"), tmp_path).landscape
    assert (landscape.source, landscape.path) == ("simulate", None)


@pytest.mark.parametrize("name", available_profiles())
def test_a_saved_profile_is_the_same_again(name, tmp_path):
    """Changed by --data, --dry-run or hand, it has the settings that it had."""
    profile = load_profile(name, seed=7)
    for changed in (profile, dry_run(profile), with_folder(profile, tmp_path)):
        assert load_profile(save_profile(changed, tmp_path / "saved.yaml")) == changed


def test_paths_are_relative_to_the_profiles_file(tmp_path, monkeypatch):
    """From wherever it is loaded; of a base in another folder, to the base's."""
    (tmp_path / "bases").mkdir()
    (tmp_path / "here").mkdir()
    base, mine = tmp_path / "bases" / "base.yaml", tmp_path / "here" / "mine.yaml"
    base.write_text("extends: smoke\ndata: {source: folder, path: ../jets}\n")
    landscape = "landscape: {source: folder, path: ~/tops}"
    mine.write_text(f"extends: ../bases/base.yaml\nseed: 3\n{landscape}\n")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = []
    for folder in (tmp_path, tmp_path / "here"):
        monkeypatch.chdir(folder)
        profile = load_profile(mine)
        found.append((profile.data.path.resolve(), profile.landscape.path))
    assert found == [(tmp_path / "jets", tmp_path / "home" / "tops")] * 2


def test_paths_of_a_call_are_relative_to_where_it_is_made(tmp_path, monkeypatch):
    """And stay there when the profile is saved elsewhere, as for other processes."""
    monkeypatch.chdir(tmp_path)
    data = {"source": "folder", "path": "jets"}
    profile = load_profile("smoke", data=data)
    assert profile.data.path == tmp_path / "jets" and data["path"] == "jets"
    (tmp_path / "elsewhere").mkdir()
    assert load_profile(save_profile(profile, tmp_path / "elsewhere/saved.yaml")) == profile


def test_profiles_that_ship_look_for_jets_in_the_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_profile("paper").data.path == project_folder() / "data" / "JetClass"
    (tmp_path / "data" / "JetClass").mkdir(parents=True)
    assert dry_run(load_profile("paper")).data.source == "sample", "not here, but in the clone"


@pytest.mark.parametrize(
    "text",
    [
        "extends: ~nobody_of_that_name/x.yaml\n",
        "extends: smoke\ndata: {source: folder, path: ~nobody_of_that_name/x}\n",
    ],
)
def test_a_home_folder_that_nobody_knows_is_named(write, text):
    with pytest.raises(JetfmError, match="~nobody_of_that_name.*home folder"):
        load_profile(write(text))
