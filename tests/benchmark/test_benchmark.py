"""The whole way: jets for others, rows of a study, of a model and of scores, and their page."""

from __future__ import annotations

import json
import re
import shutil
from itertools import combinations

import numpy as np
import pandas
import pytest
from safetensors.torch import load_file

from jetfm.benchmark.adding import Pretrained, Wanted, add_model, add_scores, collect, write_jets
from jetfm.benchmark.collected import size_of
from jetfm.benchmark.format import BENCHMARK, METRICS, read_benchmark, read_submissions
from jetfm.benchmark.jets import BenchmarkJets, digest_of
from jetfm.benchmark.own_model import tokenizer_of
from jetfm.benchmark.page import page_as_text, write_page
from jetfm.errors import JetfmError
from jetfm.finetuning import study
from jetfm.finetuning.contenders import Contender
from jetfm.finetuning.study import Runner
from jetfm.storage.paths import project_folder, work_folder
from tests.benchmark.conftest import pipeline_of

COMMITTED = project_folder() / "docs" / "benchmark" / BENCHMARK


@pytest.fixture(scope="module")
def splits(profile, out, tmp_path_factory):
    folder = tmp_path_factory.mktemp("splits") / "splits"
    write_jets(pipeline_of(profile), folder, Wanted(), out)
    return folder


@pytest.fixture(scope="module")
def added(profile, out, tmp_path_factory):
    """A copy of the folder with rows of the first pre-training, and of the scores of its fits."""
    folder = tmp_path_factory.mktemp("added") / "docs"
    shutil.copytree(out, folder)
    pipeline = pipeline_of(profile)
    model = pipeline.pretraining.pretrained().folder
    said = add_model(pipeline, Pretrained(model, starts=("finetuned", "fixed")),
                     Wanted(("tagging",), name="again"), folder)  # fmt: skip
    own = f"model-{json.loads((model / 'model.json').read_text())['hash'][:12]}-finetuned"
    scores = tmp_path_factory.mktemp("scores") / "others"
    scores.mkdir()
    for path in work_folder().glob(f"benchmark-*/runs/tagging/{own}_*.npy"):
        size, seed = re.search(r"_(\d+)_(\d+)$", path.stem).groups()
        np.save(scores / f"tagging_{size}_{seed}.npy", np.exp(np.load(path).astype(float)))
    about = {"who": "B. Author", "n_parameters": 7, "n_pretraining_jets": 0, "pretraining": "-",
             "pretraining_labels": "none", "tuned": "-", "n_configurations": 1,
             "commit": "abc"}  # fmt: skip
    (scores / "about.yaml").write_text(json.dumps(about))
    return folder, said, scores


def rows_of(folder, name):
    return next(one for one in read_submissions(folder / "benchmark") if one.name == name).rows


def hashes(frame: pandas.DataFrame) -> list[int]:
    """Of the constituents of each jet."""
    columns = [name for name in frame.columns if name.startswith("part_")]
    return [hash(tuple(tuple(values) for values in row)) for row in frame[columns].to_numpy()]


def test_labelled_jets_are_those_that_fits_train_on(profile, splits, tmp_path, monkeypatch):
    trained = {}

    def spy(module, sides, jets, indices, *rest, **more):
        trained[point] = jets.train.store, indices
        return {}, np.zeros((1, 2), np.float32)

    monkeypatch.setattr(study, "train_and_test", spy)
    runner = pipeline_of(profile).finetuning.runner("tagging", "deepsets", "scratch")
    labelled = pandas.read_parquet(splits / "tagging" / "labelled.parquet")
    points = list(dict.fromkeys(zip(labelled["size"], labelled["seed"], strict=True)))
    assert points == [(20, 0), (20, 1), (40, 0)]
    for point in points:
        study.one_fit(runner, *map(int, point), profile.finetuning, tmp_path, profile.seed)
    jets = pandas.read_parquet(splits / "tagging" / "train.parquet").set_index("jet")
    for (size, seed), (store, indices) in trained.items():
        some = labelled[(labelled["size"] == size) & (labelled["seed"] == seed)]
        written = jets.loc[some.jet]
        assert some.jet.tolist() == indices.tolist() and len(written) == size
        assert written["class"].value_counts().to_dict() == {"QCD": size // 2, "Tbqq": size // 2}
        for (_, jet), index in zip(written.iterrows(), indices, strict=True):
            own = store.constituents[store.offsets[index] : store.offsets[index + 1]]
            np.testing.assert_array_equal(np.stack(list(jet.filter(like="part_")), 1), own)
            assert store.class_names[store.labels[index]] == jet["class"]
    assert set(jets.index) == set(labelled.jet)


@pytest.mark.parametrize("task", ["tagging", "ten-classes", "landscape"])
def test_no_test_jet_is_among_the_others(profile, splits, task):
    sides = {
        split: pandas.read_parquet(splits / task / f"{split}.parquet")
        for split in ("train", "val", "test")
    }
    seen = {split: set(hashes(frame)) for split, frame in sides.items()}
    assert not seen["test"] & (seen["train"] | seen["val"])
    jets = pipeline_of(profile).finetuning.runner(task, "deepsets", "scratch").jets
    for split in ("val", "test"):
        side = getattr(jets, split)
        assert sides[split].jet.tolist() == side.indices.tolist()
        assert sides[split].label.tolist() == side.labels[side.indices].tolist()
    axis = sides["test"].jet_axis_pt
    px = [np.sum(p * np.cos(phi)) for p, phi in
          zip(sides["test"].part_pt, sides["test"].part_phi_rel, strict=True)]  # fmt: skip
    np.testing.assert_allclose(px, axis, rtol=1e-3)  # angles are about the constituents' sum


def test_digests_know_every_bit_of_a_jet(profile, out):
    known = read_benchmark(out / "benchmark")
    tables = BenchmarkJets(pipeline_of(profile)).tables("landscape")
    wanted = known.tasks["landscape"].digests
    assert {split: digest_of(table) for split, table in tables.items()} == wanted.model_dump()
    frame = tables["test"].to_pandas()
    frame.loc[3, "label"] = 1 - frame.loc[3, "label"]
    changed = tables["test"].set_column(1, "label", [frame.label.to_numpy()])
    assert digest_of(changed) != wanted.test
    assert digest_of(tables["test"].slice(1)) != wanted.test
    name = "part_eta_rel"
    place = tables["test"].column_names.index(name)
    values = [np.array(one, np.float32) for one in frame[name]]
    same = tables["test"].set_column(place, name, [values])
    assert digest_of(same) == wanted.test
    values[5][0] = np.nextafter(values[5][0], np.float32(1))
    assert digest_of(tables["test"].set_column(place, name, [values])) != wanted.test


def test_rows_are_those_of_the_study(profile, out):
    artifact = pipeline_of(profile).finetuning.finetuned().find()
    tasks = json.loads((artifact.folder / "study.json").read_text())
    rows, n_points = rows_of(out, "toy"), 0
    known = read_benchmark(out / "benchmark").tasks
    for task in known.keys() & tasks.keys():
        for one in tasks[task]["rows"]:
            row = next(row for row in rows if row.text == one["text"])
            found = row.at(task, one["size"]).model_dump()
            for key in METRICS:
                assert list(found[key]) == one[key]
            assert list(found["cut"]) == one["cut"]
            n_points += 1
    assert n_points == sum(len(row.points) for row in rows) >= 5 * 2 + 2
    turns = next(row for row in rows if row.text == "NTP, fine-tuned").at("tagging", 20)
    assert turns.pretraining == (0, 1)
    starts = {row.start or row.text: row.about.n_pretraining_jets for row in rows}
    n_jets = len(pipeline_of(profile).jets.store("train"))
    assert starts["finetuned"] == starts["fixed"] == n_jets and starts["scratch"] == 0


def test_a_model_gets_the_row_that_the_study_gave_it(added):
    """Even seeds of the study start from the first pre-training, too."""
    folder, said, _ = added
    own = {row.text: row for row in rows_of(folder, "again")}
    studied = {row.text.replace("NTP", "again"): row for row in rows_of(folder, "toy")}
    assert list(own) == ["again, fine-tuned", "again, backbone fixed"]
    for text, row in own.items():
        twin = studied[text]
        assert row.about.n_parameters == twin.about.n_parameters > 0
        for point in row.points:
            other = twin.at(*point.key)
            for key in (*METRICS, "cut", "rejection30_low", "auc_error"):
                mine, theirs = getattr(point, key), getattr(other, key)
                same = [i for i, number in enumerate(other.pretraining) if number == 0]
                assert [mine[i] for i in same] == [theirs[i] for i in same]
    assert "again, fine-tuned: tagging, 20 labels, accuracy: " in said and "; best " in said
    assert "the rules ask for more" in said and "pretraining_labels" in said


def test_a_model_that_reads_ids_gets_the_row_that_the_study_gave_it(profile, out, tmp_path):
    pipeline = pipeline_of(profile)
    model = pipeline.pretraining.pretrained("ntp-token-id").folder
    shutil.copytree(out, tmp_path / "docs")
    wanted = Wanted(("tagging",), (40,), "ids")
    add_model(pipeline, Pretrained(model, starts=("finetuned",)), wanted, tmp_path / "docs")
    (row,) = rows_of(tmp_path / "docs", "ids")
    twin = next(x for x in rows_of(out, "toy") if x.text == "NTP, token ids, fine-tuned")
    assert row.points == (twin.at("tagging", 40),)


def test_scores_of_a_fit_give_the_row_of_the_fit(profile, added, splits, tmp_path):
    folder, _, scores = added
    wanted = Wanted(("tagging",))
    for out, given in ((tmp_path / "a", None), (tmp_path / "b", splits)):
        shutil.copytree(folder, out)
        said = add_scores(profile, scores, wanted, out, given)
        (row,) = rows_of(out, "others")
        assert row.about.who == "B. Author" and "the rules ask for more" not in said
        fitted = next(one for one in rows_of(out, "again") if one.start == "finetuned")
        for point in row.points:
            found, expected = (one.model_dump() for one in (point, fitted.at(*point.key)))
            for key in set(found) - {"cut", "task", "size"}:
                numbers = [np.array(one[key], float) for one in (found, expected)]
                np.testing.assert_allclose(*numbers, rtol=1e-12, err_msg=key)
    assert (tmp_path / "a/benchmark.md").read_bytes() == (tmp_path / "b/benchmark.md").read_bytes()


def tables(text: str) -> dict[str, list[list[str]]]:
    """Cells of every table, by the heading over it."""
    found = {}
    for part in re.split(r"^#{2,4} ", text, flags=re.MULTILINE)[1:]:
        rows = [line[2:-2].split(" | ") for line in part.splitlines() if line[:1] == "|"]
        found[part.splitlines()[0]] = [[cell.strip() for cell in row] for row in rows]
    return found


def test_the_pages_numbers_are_those_of_the_files(added):
    folder, *_ = added
    text = (folder / "benchmark.md").read_text(encoding="utf-8")
    shown, n_numbers = tables(text), 0
    for one in read_submissions(folder / "benchmark"):
        for row in one.rows:
            for point in row.points:
                for metric in METRICS:
                    head, _, *lines = shown[f"{point.task}: {METRICS[metric]}"]
                    line = next(line for line in lines if line[0] == row.text)
                    cell = line[head.index(f"{point.size:,} labels")]
                    expected, digits, lower = np.mean(point.accuracy), 4, False
                    if metric.startswith("rejection"):
                        passed, lows = (getattr(point, f"{metric}_{x}") for x in ("passed", "low"))
                        n, digits, lower = 30, 1, not any(passed)
                        share = np.mean(1 / np.array(lows)) if lower else np.mean(passed) / n
                        expected = 1 / share
                    elif metric == "auc":
                        expected = np.mean(point.auc)
                    number = re.search(r"[\d.]+", cell)[0]
                    assert number == f"{expected:.{digits}f}", (row.text, metric, cell)
                    placed = cell.endswith(")")
                    lower = any(point.cut) or lower
                    assert placed == (not lower), cell
                    assert ("cut" in cell) == any(point.cut)
                    n_numbers += 1
    assert n_numbers >= 4 * (12 + 4)
    assert text.count("**") > 8 and "*ParT*" in text and "arXiv 2512.17011" in text


def test_a_pretraining_with_labels_of_these_classes_has_no_place(added, tmp_path):
    folder, *_ = added
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "benchmark" / "again.json"
    values = json.loads(path.read_text())
    values["rows"][0]["about"]["pretraining_labels"] = "these classes"
    path.write_text(json.dumps(values))

    def cell(page: str) -> str:
        lines = tables(page)["tagging: accuracy"]
        return next(line for line in lines if line[0] == values["rows"][0]["text"])[1]

    before, after = (write_page(out).read_text(encoding="utf-8") for out in (folder, tmp_path))
    assert cell(after).endswith(" labels") and "(" not in cell(after) and "**" not in cell(after)
    assert "labels" not in cell(before)


def test_the_page_depends_on_the_rows_alone(added, tmp_path):
    folder, *_ = added
    before = (folder / "benchmark.md").read_bytes()
    rows = read_submissions(folder / "benchmark")
    known = read_benchmark(folder / "benchmark")
    assert page_as_text(known, rows).encode() == before
    assert write_page(folder).read_bytes() == before
    names = set(re.findall(r"\]\((benchmark/[\w.]+)\)", before.decode()))
    assert names == {f"benchmark/{one.name}.json" for one in rows}
    assert all((folder / name).exists() for name in names)
    # lines of a table are in order of their places with the fewest labels
    lines = tables(before.decode())["tagging: accuracy"][2:]
    places = [int(found[1]) for line in lines if (found := re.search(r"\((\d+)\)$", line[1]))]
    assert places == sorted(places) and len(places) > 1


def test_a_page_without_rows_has_the_rules_and_the_papers_numbers(added):
    known = read_benchmark(added[0] / "benchmark")
    text = page_as_text(known, [])
    assert "No rows yet" in text and "## The rules" in text and "*ParticleNet*" in text
    assert "$" not in text
    assert all(task.digests.test[:16] in text for task in known.tasks.values())


def test_tasks_trained_on_a_range_are_none_of_the_benchmarks(profile, added):
    """Their test jets are inside and outside: their accuracy is no answer to either question."""
    known = read_benchmark(added[0] / "benchmark")
    tasks = profile.finetuning.tasks
    assert set(known.tasks) == {name for name, task in tasks.items() if not task.ranges}
    assert len(known.tasks) < len(tasks)


def test_draws_of_labelled_jets_that_share_some_are_told(profile, splits, added):
    known, n_shared = read_benchmark(added[0] / "benchmark"), 0
    for name, task in known.tasks.items():
        labelled = pandas.read_parquet(splits / name / "labelled.parquet")
        for size, of_size in labelled.groupby("size"):
            some = [set(jets) for _, jets in of_size.groupby("seed").jet]
            shared = np.mean([len(a & b) / size for a, b in combinations(some, 2)] or [0])
            assert task.overlap.get(size, 0) == pytest.approx(shared, abs=1e-4)
            said = f"{len(some)}, {shared:.0%} of labelled jets shared"
            assert (said in page_as_text(known, [])) == (shared > 0)
            n_shared += shared > 0
        n_test = pandas.read_parquet(splits / name / "test.parquet").label
        assert task.n_background == (n_test == 0).sum()
    assert n_shared


def test_more_rows_of_a_model_join_those_that_are_there(profile, added, tmp_path):
    folder = tmp_path / "docs"
    shutil.copytree(added[0], folder)
    pipeline = pipeline_of(profile)
    model = pipeline.pretraining.pretrained().folder
    before = {row.text: row for row in rows_of(folder, "again")}
    wanted = Wanted(("landscape",), name="again")
    add_model(pipeline, Pretrained(model, starts=("finetuned",)), wanted, folder)
    after = {row.text: row for row in rows_of(folder, "again")}
    assert list(after) == list(before) == ["again, fine-tuned", "again, backbone fixed"]
    assert after["again, backbone fixed"] == before["again, backbone fixed"]
    of_tagging = [point for point in after["again, fine-tuned"].points if point.task == "tagging"]
    assert of_tagging == list(before["again, fine-tuned"].points)
    assert after["again, fine-tuned"].at("landscape", 20)
    other = pipeline.pretraining.pretrained("ntp-token-id").folder
    with pytest.raises(JetfmError, match=r"again.json: found rows of model .* another --name"):
        add_model(pipeline, Pretrained(other, starts=("finetuned",)), wanted, folder)
    with pytest.raises(JetfmError, match=r"again.json: .* scores by B. Author: another --name"):
        add_scores(profile, added[2], Wanted(("tagging",), name="again"), folder)
    assert {row.text: row for row in rows_of(folder, "again")} == after


def test_parameters_are_of_all_that_scores_a_jet(profile, out):
    """Counted from the files: the backbone, what is put on it, the encoder before it."""
    pipeline = pipeline_of(profile)
    rows = {row.text: row.about.n_parameters for row in rows_of(out, "toy")}

    def count(folder, *prefixes: str) -> int:
        (path,) = folder.glob("*.safetensors")
        tensors = load_file(path).items()
        learned = (v for k, v in tensors if k.startswith(prefixes) and v.is_floating_point())
        return sum(tensor.numel() for tensor in learned)

    plain = pipeline.pretraining.pretrained().folder
    reads_ids = pipeline.pretraining.pretrained("ntp-token-id").folder
    backbone = count(plain, "backbone.")
    jets = pipeline.finetuning.runner("tagging", "main", "fixed").jets
    for start in ("linear", "neighbours"):
        runner = Runner("tagging", Contender("main", start, "NTP", plain), jets)
        plane = (3 * 16 + 1) if start == "linear" else 0
        assert size_of(runner, profile.finetuning) == backbone + plane
    head = rows["NTP, fine-tuned"] - backbone
    assert head > 0 and rows["NTP, backbone fixed"] == rows["NTP, fine-tuned"]
    tokenizer = pipeline.tokenizers.trained().folder
    encoder = count(tokenizer, "features_in.", "encoder.", "latent_in.", "quantizer.")
    of_ids = rows["NTP, token ids, fine-tuned"]
    assert of_ids == count(reads_ids, "backbone.") + head + encoder


@pytest.mark.skipif(not COMMITTED.exists(), reason="no benchmark has been committed yet")
def test_the_committed_page_is_the_one_that_the_code_writes():
    text = page_as_text(read_benchmark(COMMITTED.parent), read_submissions(COMMITTED.parent))
    page = COMMITTED.parents[1] / "benchmark.md"
    assert page.read_text(encoding="utf-8") == text, "run: python -m jetfm benchmark"


def test_tables_have_as_many_cells_as_columns(added):
    folder, *_ = added
    text = (folder / "benchmark.md").read_text(encoding="utf-8")
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_other_jets_are_refused(profile, out, splits, tmp_path):
    fewer = profile.finetuning.model_copy(update={"limit_test_jets": 58})
    other = pipeline_of(profile.model_copy(update={"finetuning": fewer}))
    with pytest.raises(JetfmError, match="jets of profile toy: found other test jets of tagging"):
        write_jets(other, tmp_path / "s", Wanted(), out)
    folder = tmp_path / "splits"
    shutil.copytree(splits, folder)
    shutil.copy(folder / "tagging/val.parquet", folder / "tagging/test.parquet")
    (tmp_path / "mine").mkdir()
    with pytest.raises(JetfmError, match=r"tagging.test.parquet: found other jets"):
        add_scores(profile, tmp_path / "mine", Wanted(("tagging",)), out, folder)
    with pytest.raises(JetfmError, match=r"no benchmark.json; expected the benchmark's folder"):
        add_scores(profile, tmp_path / "mine", Wanted(("tagging",)), tmp_path / "new", splits)
    (folder / "tagging/test.parquet").write_bytes(b"PAR1")
    with pytest.raises(JetfmError, match=r"tagging.test.parquet: found unreadable"):
        add_scores(profile, tmp_path / "mine", Wanted(("tagging",)), out, folder)


@pytest.mark.parametrize(
    ("wanted", "own", "expected"),
    [
        (Wanted(("tagging", "w-tagging")), {}, "'w-tagging'; expected one of tagging, ten"),
        (Wanted(("landscape",), (40,)), {}, "40 labelled jets, of landscape; expected some of 20"),
        (Wanted(name="toy"), {}, "'toy'; expected another"),
        (Wanted(name="a/b"), {}, "--name: found 'a/b'"),
        (Wanted(), {"starts": ("scratch",)}, "'scratch'; expected some of fixed"),
        (Wanted(), {"starts": ("beside",)}, "'beside'; expected some of fixed"),
    ],
)
def test_a_row_that_cannot_be_is_refused_at_once(profile, out, wanted, own, expected):
    pipeline = pipeline_of(profile)
    model = pipeline.pretraining.pretrained().folder
    before = sorted(path.name for path in model.parent.iterdir())
    with pytest.raises(JetfmError, match=expected):
        add_model(pipeline, Pretrained(model, **own), wanted, out)
    assert sorted(path.name for path in model.parent.iterdir()) == before  # nothing was trained


def test_a_tokenizer_is_found_by_its_hash(profile, tmp_path):
    pipeline = pipeline_of(profile)
    model, tokenizer = pipeline.pretraining.pretrained().folder, pipeline.tokenizers.trained()
    assert tokenizer_of(model) == tokenizer.folder
    record = json.loads((model / "model.json").read_text())
    record["config"]["tokenizer_hash"] = "0" * 64
    (tmp_path / "model.json").write_text(json.dumps(record))
    with pytest.raises(JetfmError, match="no tokenizer 000000000000 .* --tokenizer"):
        tokenizer_of(tmp_path)
    with pytest.raises(JetfmError, match=r"model.json"):
        tokenizer_of(tmp_path / "absent")


def test_rows_without_a_study_need_a_benchmark(profile, out, tmp_path):
    unfinished = profile.model_copy(
        update={"finetuning": profile.finetuning.model_copy(update={"max_steps": 31})}
    )
    with pytest.raises(JetfmError, match="no rows, and no fits of profile toy"):
        collect(pipeline_of(unfinished), tmp_path)
    shutil.copytree(out, tmp_path / "docs")
    before = (tmp_path / "docs/benchmark.md").read_bytes()
    said = collect(pipeline_of(unfinished), tmp_path / "docs")
    assert "is not finished: no rows of its own" in said
    assert (tmp_path / "docs/benchmark.md").read_bytes() == before
