"""The stages hang together: what is done is found, and only what changed runs again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from jetfm import figures
from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.notebooks import numbered
from jetfm.pipeline import Pipeline
from jetfm.pipeline.stage import silent
from jetfm.results.alone import draw_alone
from jetfm.results.cells import makers, needed, run
from jetfm.results.keeping import keep_finished
from jetfm.schema import CLASSES
from jetfm.settings.profiles import dry_run, load_profile, with_folder
from jetfm.storage.artifacts import as_json
from jetfm.storage.files import sha256
from jetfm.storage.paths import work_folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """One folder for the whole file: what a test finds done, it need not do."""
    folder = tmp_path_factory.mktemp("pipeline")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETFM_WORK", str(folder / "work"))
        patch.setenv("JETFM_FIGURES", str(folder / "figures"))
        yield folder / "work"


@pytest.fixture(scope="module")
def tiny():
    """The smoke profile with fewer jets and steps, and fewer of a kind."""
    smoke = load_profile("smoke")
    quality = smoke.token_quality
    tokenizers = {
        name: quality.tokenizers[name] for name in ("conditional-512", "full-512", "binned-64")
    }
    fewer = {"tokenizers": tokenizers, "classified": ("conditional-512",)}
    strategies = {name: smoke.strategies[name] for name in ("mpm", "joint", "ntp-full")}
    some = {"contenders": {"main": ("scratch", "finetuned"), "mpm": ("fixed",)}}
    tasks = {name: task.model_copy(update=some) for name, task in smoke.finetuning.tasks.items()}
    changed = smoke.model_copy(
        update={
            "token_quality": quality.model_copy(update=fewer),
            "strategies": strategies,
            "finetuning": smoke.finetuning.model_copy(update={"tasks": tasks}),
        }
    )
    return dry_run(changed)


@pytest.fixture(scope="module")
def first(work, tiny):
    """The ledger once every stage has run."""
    return Pipeline(tiny, progress=False).ledger()


def test_everything_is_found_the_second_time(first, tiny, capsys):
    capsys.readouterr()
    second = Pipeline(tiny, progress=False).ledger()
    said = [line for line in capsys.readouterr().out.splitlines() if ": " in line]
    assert second == first
    assert said and all("done before" in line for line in said)


def test_the_graph_shows_what_is_done_and_makes_nothing(first, tiny, tmp_path, monkeypatch):
    rows = _graph_of(tiny)
    # the ledger needs none of these
    missing = {row["stage"] for row in rows.values() if not row["done"]}
    assert missing == {"calibration", "scaling", "strategy"}
    assert rows["generated main"]["needs"] == ["pretraining main", "tokenizer main", "store-val"]
    assert all(needed in rows for row in rows.values() for needed in row["needs"])
    done = {key: row for key, row in rows.items() if row["done"]}
    made = {path.parent.name for path in work_folder().glob("*/artifact.json")}
    assert made == {row["folder"].name for row in done.values()}, "every stage is in the graph"
    assert all(row["bytes"] > 0 and row["seconds"] >= 0 for row in done.values())

    longer = tiny.pretraining.training.model_copy(update={"max_steps": 4})
    pretraining = tiny.pretraining.model_copy(update={"training": longer})
    after = _graph_of(tiny.model_copy(update={"pretraining": pretraining}))
    gone = {key for key in done if not after[key]["done"]}
    assert gone == {"pretraining main", "generated main", "generative-quality main", "finetuning"}

    monkeypatch.setenv("JETFM_WORK", str(tmp_path))
    elsewhere = Pipeline(tiny, progress=False).stages()
    assert not any(row["done"] for row in elsewhere.rows()) and not any(tmp_path.iterdir())
    text, every = elsewhere.as_text(), elsewhere.as_text(every=True)
    assert f"0 of {len(rows)} stages are done, in {tmp_path}" in text
    assert len(text.splitlines()) < 40, "one screen"
    assert {line.strip().partition("  ")[0] for line in every.splitlines()} >= rows.keys()


def _graph_of(profile) -> dict[str, dict]:
    rows = Pipeline(profile, progress=False).stages().rows()
    return {f"{row['stage']} {row['variant']}".rstrip(): row for row in rows}


def test_a_changed_setting_reruns_its_stage_and_what_follows(first, tiny):
    def finished() -> set[str]:
        return {path.parent.name for path in work_folder().glob("*/artifact.json")}

    before = finished()
    longer = tiny.pretraining.training.model_copy(update={"max_steps": 3})
    pretraining = tiny.pretraining.model_copy(update={"training": longer})
    Pipeline(tiny.model_copy(update={"pretraining": pretraining}), progress=False).ledger()
    made = {name.rpartition("-")[0] for name in finished() - before}
    assert made == {"pretraining", "generated", "generative-quality", "finetuning"}


def test_the_graph_of_jets_that_are_not_there(work, tmp_path):
    """A profile whose files are missing shows everything as missing, instead of an error."""
    profile = with_folder(load_profile("paper"), tmp_path)
    assert not any(row["done"] for row in Pipeline(profile).stages().rows())


def test_several_trainings_of_a_model_differ_and_the_first_is_that_of_one(first, tiny):
    """What is done with one training holds when a profile wants two."""
    one = Pipeline(tiny, progress=False, say=lambda text: None).pretraining
    changed = tiny.model_copy(
        update={"pretraining": tiny.pretraining.model_copy(update={"n_trainings": 2})}
    )
    pipeline = Pipeline(changed, progress=False, say=lambda text: None)
    artifacts = [stage.artifact for stage in pipeline.pretraining.repeated()]
    assert artifacts[0].digest == one.pretrained().find().digest
    weights = [load_file(found / "weights.safetensors") for found in artifacts]
    assert not torch.equal(*(found["backbone.registers"] for found in weights))
    reads = [stage.key for stage in pipeline.finetuning.finetuned().needs]
    assert {"pretraining main", "pretraining main 2"} <= set(reads)


def test_the_scaling_figure_alone_reads_every_training_of_the_main_model(work, tiny):
    """It shows the loss of each; nothing is made here."""
    twice = tiny.pretraining.model_copy(update={"n_trainings": 2})
    profile = tiny.model_copy(update={"pretraining": twice})
    pipeline = Pipeline(profile, progress=False, say=lambda text: None, only=["fig03_scaling"])
    trainings = pipeline.pretraining.repeated()
    assert len(trainings) == 2 and all(map(pipeline.run.wants, trainings))


def test_two_of_a_kind_are_told_apart(work, tiny):
    strategies = tiny.strategies | {"mpm-long": tiny.strategies["mpm"]}
    pipeline = Pipeline(tiny.model_copy(update={"strategies": strategies}), progress=False)
    labels = [pipeline.pretraining.label(name) for name in pipeline.profile.models]
    assert len(set(labels)) == len(labels)
    assert labels[-1] == "MPM (mpm-long)" and "MPM" in labels


def test_generators_of_a_kind_are_told_apart(work, tiny):
    strategies = tiny.strategies | {"joint-again": tiny.strategies["joint"]}
    pipeline = Pipeline(tiny.model_copy(update={"strategies": strategies}), progress=False)
    labels = [(one.label, one.classes) for one in pipeline.generation.generators.values()]
    assert len(set(labels)) == len(labels)
    assert ("NTP + MPM (joint-again)", ()) in labels


@pytest.mark.parametrize(("tokenizer", "mirrored"), [("conditional-512", True), ("main", False)])
def test_generators_of_jet_types_learn_and_are_judged_by_their_own_tokens(tokenizer, mirrored):
    model = {"tokenizer": tokenizer, "mirrored": mirrored}
    profile = load_profile("smoke", generative_quality={"model": model})
    pipeline = Pipeline(profile, progress=False)
    one = "omnijet-Tbqq"
    train = f"tokens-mirrored {tokenizer} QCD Tbqq" if mirrored else f"tokens-train {tokenizer}"
    needed = {
        stage: {need.key for need in getattr(pipeline.generation, stage)(one).needs}
        for stage in ("model", "generated", "judged")
    }
    assert needed["model"] == {train, f"tokens-val {tokenizer}"}
    assert f"tokenizer {tokenizer}" in needed["generated"]
    assert {f"tokens-test {tokenizer}", f"tokens-train {tokenizer}"} <= needed["judged"]
    tagged = {need.key for need in pipeline.finetuning.finetuned().needs}
    assert {f"tokens-{split} {tokenizer}" for split in ("train", "val", "test")} <= tagged
    assert {need.key for need in pipeline.generation.model("main").needs} == {
        "tokens-train main", "tokens-val main",
    }  # fmt: skip


def test_studies_share_the_fits_of_equal_contenders(first, tiny):
    """Another choice of contenders costs no fit that was done; other steps cost every one."""
    settings = tiny.finetuning
    task = settings.tasks["ten-classes"]
    fewer = task.model_copy(update={"contenders": {"main": ("scratch",), "part": ("scratch",)}})
    tasks = settings.tasks | {"ten-classes": fewer}

    def runs(**changed) -> dict[str, Path]:
        finetuning = settings.model_copy(update=changed)
        profile = tiny.model_copy(update={"finetuning": finetuning})
        folder = Pipeline(profile, progress=False).finetuning.study().folder / "runs"
        return {str(path.relative_to(folder)): path for path in folder.rglob("*.json")}

    usual, other, longer = runs(), runs(tasks=tasks), runs(tasks=tasks, max_steps=3)
    assert 0 < len(other) < len(usual) and longer.keys() == other.keys()
    assert all(path.samefile(usual[name]) for name, path in other.items())
    assert not any(path.samefile(usual[name]) for name, path in longer.items())


def test_what_is_kept_gives_the_ledger_again_on_another_machine(
    first, work, tiny, tmp_path, monkeypatch
):
    """From the jets, which are made anew, with nothing trained; scores lost half their digits."""
    keep_finished(Pipeline(tiny, progress=False), tmp_path / "kept", 2**20, say=silent)
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("JETFM_KEPT", str(tmp_path / "kept"))
    started = []
    ledger = Pipeline(tiny, progress=False, say=started.append).ledger()
    assert ledger == first
    kinds = {line.partition(":")[0].partition("-")[0] for line in started if "starting" in line}
    assert kinds <= {"jets", "store", "tokens", "observables", "finetuning"}
    assert not list(work_folder().rglob("*.ckpt"))
    n_before = sum(1 for _ in (tmp_path / "kept").rglob("*.json"))
    keep_finished(Pipeline(tiny, progress=False), tmp_path / "kept", 2**20, say=silent)
    assert sum(1 for _ in (tmp_path / "kept").rglob("*.json")) == n_before


def test_fits_are_known_by_their_jets_whoever_simulated_them(tmp_path, monkeypatch):
    """ROOT files name the time when they were written, which differs from machine to machine."""
    pytest.importorskip("pythia8mc")
    files, fits = [], []
    for machine, n_train in (("one", 1), ("another", 1), ("one", 2)):
        monkeypatch.setenv("JETFM_WORK", str(tmp_path / machine))
        data = {"source": "simulate", "jets_per_class": {"train": n_train, "val": 1, "test": 1}}
        profile = load_profile("smoke", data=data | {"classes": ["QCD", "Tbqq"], "workers": 1})
        pipeline = Pipeline(profile, progress=False, say=silent)
        files.append([sha256(path) for path in pipeline.jets.files("val")])
        runner = pipeline.finetuning.runner("tagging", "deepsets", "scratch")
        fits.append(pipeline.finetuning.fits_of(runner).name)
    assert files[0] != files[1]
    assert fits[0] == fits[1] != fits[2]


def test_tokens_belong_to_their_jets(work, tiny):
    pipeline = Pipeline(tiny, progress=False)
    store, tokens = pipeline.jets.store("test"), pipeline.tokenizers.tokens("test")
    assert np.array_equal(tokens.labels, store.labels)
    assert np.array_equal(tokens.multiplicity, store.n_constituents)
    kept = np.minimum(store.n_constituents, tiny.data.max_constituents)
    assert np.array_equal(tokens.n_constituents, kept)
    tokenizer, jet = pipeline.tokenizers.load(), 7
    ids, decoded, mask = (array[0] for array in tokens.dense([jet]))
    again = tokenizer.decode(_tensor(ids)[None], _tensor(mask)[None])[0]
    np.testing.assert_allclose(again.numpy(), decoded, atol=1e-5)


def _tensor(array):
    import torch

    return torch.as_tensor(array)


def test_counts_by_class(work, tiny):
    counts = Pipeline(tiny, progress=False).jets.count_by_class("val")
    assert counts == {c.name: tiny.data.jets_per_class.val for c in CLASSES}


def test_a_folder_without_the_files_is_named(work, tiny, tmp_path):
    profile = with_folder(load_profile("smoke"), tmp_path)
    with pytest.raises(JetfmError, match="train"):
        Pipeline(profile, progress=False).jets.store("train")


def test_figures_drawn_side_by_side_are_those_drawn_one_by_one(first, tiny):
    """Bytes of the pictures and of the numbers behind them."""
    pipeline = Pipeline(tiny, progress=False)
    quality = pipeline.token_quality.study()
    series = {
        "fig02_class_jet_mass": quality.by_class("jet_mass"),
        "fig02_class_tau21_residual": quality.by_class("tau21", residual=True),
    }
    for data in series.values():
        data["histograms"] = {name: data["histograms"][name] for name in ("QCD", "Tbqq")}
    pipeline.figure_series(figures.by_class, series)
    for name, data in series.items():
        plt.close(pipeline.figure(f"{name}_alone", figures.by_class, **data))
        for suffix in (".png", ".json"):
            together, alone = (pipeline.figures / f"{n}{suffix}" for n in (name, f"{name}_alone"))
            assert together.read_bytes() == alone.read_bytes()


def test_the_gallery_names_the_notebook_of_a_missing_figure(work, tiny):
    with pytest.raises(JetfmError, match="fig00_calibration.*notebook 00"):
        Pipeline(tiny, progress=False).gallery()


def test_each_figure_alone_shows_what_it_shows_among_all(first, tiny, monkeypatch):
    """From the stages that it says it reads, and no others; fits shown alone are the same fits."""
    drawn = {}

    def keep(pipeline, name, draw, **data):
        if not pipeline.only or name in pipeline.only:
            drawn[name] = json.dumps(as_json(data), default=lambda array: array.tolist())

    def keep_all(pipeline, draw, series):
        for name, data in series.items():
            keep(pipeline, name, draw, **data)

    monkeypatch.setattr(Pipeline, "figure", keep)
    monkeypatch.setattr(Pipeline, "figure_series", keep_all)

    def draw(names, **options):
        drawn.clear()
        pipeline = Pipeline(tiny, progress=False, say=lambda text: None, **options)
        for notebook in numbered():
            targets = [one for name in names for one in makers(name) if one.notebook == notebook]
            if targets:
                run(needed(targets, ["pipeline"]), {"pipeline": pipeline})
        return dict(drawn)

    whole = draw(CAPTIONS)
    assert whole.keys() == CAPTIONS.keys()
    for name in CAPTIONS:
        assert draw([name], only=[name]) == {name: whole[name]}

    study = Pipeline(tiny, progress=False, say=lambda text: None).finetuning.finetuned().folder
    study.rename(study.with_name("away"))
    for name in (name for name in CAPTIONS if name.startswith("fig05")):
        assert draw([name], only=[name]) == {name: whole[name]}
    made = {path.parent for path in work_folder().glob("finetuning-*/artifact.json")}
    assert len(made) > 3 and study not in made, "each of its own contenders"
    for folder in made:
        shutil.rmtree(folder)
    study.with_name("away").rename(study)


def test_a_figure_alone_makes_what_it_reads_and_nothing_else(tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("JETFM_FIGURES", str(tmp_path / "figures"))
    pictures = draw_alone(tiny, ["fig01_tokenizer"], say=lambda text: None, progress=False)
    assert [path.name for path in pictures] == ["fig01_tokenizer.png"] and pictures[0].exists()
    made = {path.parent.name for path in work_folder().glob("*/artifact.json")}
    kinds = sorted(name.rpartition("-")[0] for name in made)
    assert kinds == ["store-train", "store-val", "tokenizer"]
    left = {path.name for path in pictures[0].parent.glob("[!.]*")}
    assert left == {f"fig01_tokenizer{suffix}" for suffix in (".png", ".pdf", ".json")}


def test_a_figure_that_reads_more_than_it_says_is_found_out(work, tiny):
    pipeline = Pipeline(tiny, progress=False, only=["fig00_classes"])
    with pytest.raises(RuntimeError, match="tokenizer main is read by a figure"):
        pipeline.tokenizers.load()
