"""Scores of anybody's code: metrics as scikit-learn has them, and no number that is none."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn.metrics import accuracy_score, roc_auc_score, roc_curve

from jetfm.benchmark.format import Benchmark
from jetfm.benchmark.submitted import log_probabilities, read_about, row_of_scores
from jetfm.errors import JetfmError

N = 500
DIGESTS = dict.fromkeys(("train", "val", "test"), "0" * 64)


def benchmark_of(n_classes: int) -> Benchmark:
    classes = ("QCD", "Hbb", "Tbqq")[-n_classes:]
    task = {"jets": "jetclass", "classes": classes, "seeds": {100: 2}, "n_val": 9, "n_test": N}
    task["n_background"] = int((scored(n_classes, 0)[0] == 0).sum())
    return Benchmark(
        profile="toy", seed=1, made_with={}, tasks={"toy": {**task, "digests": DIGESTS}}
    )


def scored(n_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels, the same for every seed, and probabilities that know something of them."""
    labels = np.random.default_rng(1).integers(0, n_classes, N)
    rng = np.random.default_rng(10 + seed)
    logits = rng.normal(0, 1, (N, n_classes)) + 1.2 * (labels[:, None] == np.arange(n_classes))
    p = np.exp(logits)
    return labels, p / p.sum(1, keepdims=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "about.yaml").write_text("who: A. Author\nn_parameters: 12\n")
    return tmp_path


@pytest.mark.parametrize("n_classes", [2, 3])
def test_metrics_are_those_of_scikit_learn(folder, n_classes):
    for seed in range(2):
        np.save(folder / f"toy_100_{seed}.npy", scored(n_classes, seed)[1])
    known = benchmark_of(n_classes)
    labels = scored(n_classes, 0)[0]
    tests = {"toy": (np.arange(N), labels)}
    row = row_of_scores(folder, "mine", tests, {"toy": (100,)}, known, 50)
    one = row.at("toy", 100)
    assert row.about.n_parameters == 12 and one.n_seeds == 2 and not any(one.cut)
    for seed in range(2):
        p = scored(n_classes, seed)[1]
        assert one.accuracy[seed] == pytest.approx(accuracy_score(labels, p.argmax(1)))
        share = one.accuracy[seed]
        assert one.accuracy_error[seed] == pytest.approx(np.sqrt(share * (1 - share) / N))
        if n_classes == 3:
            expected = roc_auc_score(labels, p, multi_class="ovo", average="macro")
            assert one.auc[seed] == pytest.approx(expected) and one.rejection30 is None
            continue
        assert one.auc[seed] == pytest.approx(roc_auc_score(labels, p[:, 1]))
        background, signal, _ = roc_curve(labels, p[:, 1], drop_intermediate=False)
        for name, efficiency in (("rejection30", 0.3), ("rejection50", 0.5)):
            passed = background[np.argmax(signal >= efficiency - 1e-12)]
            assert getattr(one, name)[seed] == pytest.approx(1 / passed)


def test_parquet_may_have_the_jets_in_any_order(tmp_path):
    _, p = scored(2, 0)
    jets = np.random.default_rng(2).permutation(4 * N)[:N]
    order = np.random.default_rng(3).permutation(N)
    columns = {"p_Tbqq": p[order, 1], "jet": jets[order], "p_QCD": p[order, 0]}
    parquet.write_table(pa.table(columns), tmp_path / "toy_100_0.parquet")
    found = log_probabilities(tmp_path / "toy_100_0.parquet", jets, ("QCD", "Tbqq"))
    np.testing.assert_allclose(np.exp(found), p)
    parquet.write_table(pa.table(columns).slice(1), tmp_path / "less.parquet")
    with pytest.raises(JetfmError, match=f"{N - 1} jets; expected the {N} test jets"):
        log_probabilities(tmp_path / "less.parquet", jets, ("QCD", "Tbqq"))
    with pytest.raises(JetfmError, match="columns .*; expected jet, p_QCD, p_Hbb"):
        log_probabilities(tmp_path / "toy_100_0.parquet", jets, ("QCD", "Hbb"))


def test_a_sure_score_keeps_its_rank(tmp_path):
    """Probabilities of zero are the smallest that there are, and not infinitely far from others."""
    p = np.array([[1.0, 0.0], [1 - 1e-12, 1e-12], [0.5, 0.5]])
    np.save(tmp_path / "s.npy", p)
    found = log_probabilities(tmp_path / "s.npy", np.arange(3), ("QCD", "Tbqq"))
    assert np.isfinite(found).all() and (np.diff(found[:, 1] - found[:, 0]) > 0).all()


def _changed(row=None, value=None, shape=None, dtype=None):
    p = scored(2, 0)[1]
    if row is not None:
        p[row] = value
    p = p if shape is None else np.resize(p, shape)
    return p if dtype is None else p.astype(dtype)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (_changed(7, np.nan), "a score that is not finite, row 7"),
        (_changed(7, np.inf), "a score that is not finite, row 7"),
        (_changed(9, [0.7, 0.7]), r"in row 9; expected probabilities"),
        (_changed(9, [1.5, -0.5]), r"in row 9; expected probabilities"),
        (np.log(_changed()), r"in row 0; expected probabilities"),
        (_changed(shape=(N - 1, 2)), rf"shape \({N - 1}, 2\); expected floats of shape \({N}, 2\)"),
        (_changed(shape=(N, 3)), rf"shape \({N}, 3\)"),
        (_changed()[:, 1], rf"shape \({N},\)"),
        (_changed(dtype=int), "int64"),
    ],
)
def test_what_is_no_probability_is_refused(tmp_path, scores, expected):
    np.save(tmp_path / "bad.npy", scores)
    with pytest.raises(JetfmError, match=expected):
        log_probabilities(tmp_path / "bad.npy", np.arange(N), ("QCD", "Tbqq"))


@pytest.mark.parametrize("name", ["bad.npy", "bad.parquet"])
def test_a_damaged_file_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x93NUMPY or PAR1, and then nothing")
    with pytest.raises(JetfmError, match=f"{name}: found damaged"):
        log_probabilities(tmp_path / name, np.arange(N), ("QCD", "Tbqq"))


def test_about_says_which_fits_were_cut_and_who_starts_from_what(folder):
    """Scores do not show it; the rules ask for it."""
    for seed in range(2):
        np.save(folder / f"toy_100_{seed}.npy", scored(2, seed)[1])
    tests = {"toy": (np.arange(N), scored(2, 0)[0])}
    (folder / "about.yaml").write_text("who: A\nn_pretrainings: 2\ncut: [toy_100_1]\n")
    row = row_of_scores(folder, "mine", tests, {"toy": (100,)}, benchmark_of(2), 10)
    point = row.at("toy", 100)
    assert point.cut == (False, True) and point.pretraining == (0, 1) and row.about.who == "A"
    (folder / "about.yaml").write_text("cut: [toy_100_2]\n")
    with pytest.raises(JetfmError, match="about.yaml: found cut: 'toy_100_2'"):
        row_of_scores(folder, "mine", tests, {"toy": (100,)}, benchmark_of(2), 10)


def test_missing_scores_and_unknown_words_are_named(folder):
    np.save(folder / "toy_100_0.npy", scored(2, 0)[1])
    tests = {"toy": (np.arange(N), scored(2, 0)[0])}
    with pytest.raises(JetfmError, match=r"no toy_100_1.npy or .parquet"):
        row_of_scores(folder, "mine", tests, {"toy": (100,)}, benchmark_of(2), 10)
    with pytest.raises(JetfmError, match="absent.yaml"):
        read_about(folder / "absent.yaml")
    (folder / "about.yaml").write_text("who: [")
    with pytest.raises(JetfmError, match="unreadable YAML"):
        read_about(folder / "about.yaml")
    (folder / "about.yaml").write_text("parameters: 12")
    with pytest.raises(
        JetfmError, match=r"about.yaml: parameters: found 12; expected one of who, n_"
    ):
        read_about(folder / "about.yaml")


def test_a_commit_may_be_of_digits_alone(tmp_path):
    """YAML takes it for a number."""
    (tmp_path / "about.yaml").write_text("commit: 1234567\nn_configurations: 2\n")
    assert read_about(tmp_path / "about.yaml").commit == "1234567"
    (tmp_path / "about.yaml").write_text("commit: true\n")
    with pytest.raises(JetfmError, match="commit: found True"):
        read_about(tmp_path / "about.yaml")
