"""Two sets of jets side by side: what is the same passes, what differs is found and named."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ks_2samp

from jetfm.errors import JetfmError
from jetfm.judging.compare import as_text, compare, compare_files, quantities
from jetfm.judging.jet_sample import JetSample
from jetfm.physics.observables import jet_observables
from jetfm.storage.files import read_json
from jetfm.storage.paths import sample_folder


def jets(seed: int, n_jets: int = 400, width: float = 0.2) -> JetSample:
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 30, n_jets)
    n = counts.sum()
    x = np.stack([rng.exponential(20, n) + 0.5, *rng.normal(0, width, (2, n))], 1)
    return JetSample(x, np.concatenate([[0], np.cumsum(counts)]))


def test_quantities_are_those_of_the_observables():
    some = jets(1, 60)
    found, expected = quantities(some), jet_observables(some.constituents, some.offsets)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    pt = np.split(some.constituents[:, 0], some.offsets[1:-1])
    np.testing.assert_allclose(found["leading_share"], [p.max() / p.sum() for p in pt])
    assert ((found["sdmass"] >= 0) & (found["sdmass"] <= found["mass"] * (1 + 1e-9))).all()
    assert ((found["width"] > 0) & (found["leading_share"] <= 1)).all()


@pytest.mark.parametrize("n", [1, 2])
def test_jets_of_one_and_two_constituents_have_what_is_defined(n):
    some = JetSample(np.tile([100.0, 0.1, 0.0], (2 * n, 1)), np.array([0, n, 2 * n]))
    found = quantities(some)
    assert (found["n_constituents"] == n).all()
    np.testing.assert_allclose(found["pt"], 100 * n)
    np.testing.assert_allclose(found["mass"], 0, atol=1e-4)
    np.testing.assert_allclose(found["leading_share"], 1 / n)


def test_jets_of_one_origin_agree_and_wider_ones_do_not():
    same = compare(jets(1), jets(2), n_seeds=0)["quantities"]
    assert min(one["p_value"] for one in same.values()) > 1e-3 / len(same)
    assert all(abs(one["ratio"] - 1) < 4 * one["ratio_error"] for one in same.values())
    wider = compare(jets(3, width=0.25), jets(4), n_seeds=0)["quantities"]
    assert wider["width"]["p_value"] < 1e-6 and wider["tau1"]["p_value"] < 1e-6
    assert wider["width"]["ratio"] == pytest.approx(1.25, abs=0.03)
    assert wider["n_constituents"]["p_value"] > 1e-4


def test_the_expected_distance_is_what_chance_gives():
    rng = np.random.default_rng(5)
    n = 300, 500
    found = [ks_2samp(rng.normal(size=n[0]), rng.normal(size=n[1])).statistic for _ in range(300)]
    one = compare(jets(1, n[0]), jets(2, n[1]), n_seeds=0)["quantities"]["mass"]
    assert np.mean(found) == pytest.approx(one["ks_expected"], rel=0.05)


def test_the_classifier_test_sees_what_the_null_does_not():
    tests = compare(jets(1, width=0.5), jets(2), 2, epochs=30, progress=False)["classifier"]
    assert min(tests["auc"]) > 0.8
    assert np.mean(tests["null"]) == pytest.approx(0.5, abs=0.1)


def test_files_and_few_jets(tmp_path):
    folder = tmp_path / "sample"
    for path in sample_folder().glob("*/[TZ]*.root"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        (folder / path.parent.name / path.name).symlink_to(path)
    result = compare_files(
        folder / "test", folder / "train", tmp_path, ("Tbqq",), n_seeds=0, progress=False
    )
    assert result["names"] == ["test", "train"] and result["n_jets"] == [75, 165]
    assert read_json(tmp_path / "numbers.json")["n_jets"] == [75, 165]
    assert (tmp_path / "figure.pdf").exists() and (tmp_path / "figure.png").exists()
    text = as_text(result, tuple(result["names"]))
    assert "mass [GeV]" in text and "75 jets against 165" in text
    with pytest.raises(JetfmError, match="--jets.*40 jets.*at least 50"):
        compare_files(folder / "val", folder / "test", tmp_path / "few", ("Tbqq",), n_seeds=0)
    with pytest.raises(JetfmError, match=r"Z\w+\.root: found no jets of Tbqq; expected some"):
        only = next(folder.glob("val/Z*.root"))
        compare_files(only, folder / "test", tmp_path / "none", ("Tbqq",), n_seeds=0)
