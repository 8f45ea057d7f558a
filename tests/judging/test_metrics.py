"""All metrics of a sample at once, and their table."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from jetfm.data.batches import seed_of_repeat
from jetfm.errors import JetfmError
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.metrics import QUANTITIES, evaluate_sample
from jetfm.judging.table import as_text
from jetfm.schema import class_by_name
from tests.judging.jet_samples import joined, random_sample, sample_of

TRUTH, TRAINING = sample_of(1, 300), sample_of(2, 350)


def evaluate(sample, truth=TRUTH, training=None, **more):
    return evaluate_sample(sample, truth, training, n_bootstrap=20, progress=False, **more)


def measurements(entry):
    """Every distance of an entry: name, measurement."""
    for group in ("wasserstein", "kl"):
        yield from ((f"{group} {name}", one) for name, one in entry[group].items())
    yield "frechet", entry["frechet"]


def pull(one):
    """Excess over the floor in units of the floor's spread."""
    return (one["value"] - one["floor"]["value"]) / one["floor"]["uncertainty"]


def test_perfect_jets_score_the_floor_and_wide_ones_do_not():
    perfect = evaluate(sample_of(3, 400))["combined"]
    assert len(list(measurements(perfect))) == 2 * len(QUANTITIES) + 1 == 17
    for name, one in measurements(perfect):
        assert pull(one) < 4, name
        assert one["uncertainty"] > 0 and one["floor"]["value"] > 0, name
    wide = evaluate(sample_of(3, 400, width=0.3))["combined"]
    for name in ("jet_mass", "eta_rel", "phi_rel"):
        assert pull(wide["wasserstein"][name]) > 5 and pull(wide["kl"][name]) > 5
    assert pull(wide["frechet"]) > 5
    # what the angles do not change
    assert wide["wasserstein"]["pt"] == perfect["wasserstein"]["pt"]
    assert wide["wasserstein"]["n_constituents"] == perfect["wasserstein"]["n_constituents"]


def test_the_truth_itself_is_at_no_distance():
    for name, one in measurements(evaluate(TRUTH)["combined"]):
        # roots of nearly singular covariances keep half of the digits
        np.testing.assert_allclose(one["value"], 0, atol=1e-6, err_msg=name)


def test_numbers_count_jets_and_constituents():
    """Jets of 0, 1, 2 and 150 constituents: what is undefined is said so, per quantity."""
    odd = joined(sample_of(3, 60), random_sample(4, [0, 1, 2, 150]))
    result = evaluate(odd, training=TRAINING)["combined"]
    counts = {name: (one["n"], one["n_undefined"]) for name, one in result["wasserstein"].items()}
    assert counts["n_constituents"] == (64, 0)
    assert counts["jet_mass"] == counts["jet_pt"] == (63, 1)
    assert counts["tau21"] == counts["tau32"] == (61, 3)
    assert counts["pt"] == (odd.offsets[-1], 0)
    assert result["frechet"]["n_undefined"] == 1
    assert result["memorisation"]["close"]["n_undefined"] == 3
    assert result["violations"]["sample"]["empty_jets"] == 1
    assert result["n_jets"] == {"sample": 64, "truth": 300, "training": 350}


def test_a_generator_of_nothing_is_reported_without_numbers():
    """Only empty jets: None, in JSON and in the table, and no warning."""
    result = evaluate(random_sample(1, [0] * 12), training=TRAINING)
    combined = json.loads(json.dumps(result, allow_nan=False))["combined"]
    for name, one in measurements(combined):
        assert (one["value"] is None) == ("n_constituents" not in name)
    assert re.search(r"^nothing .* -", as_text({"nothing": result}), re.MULTILINE)


def test_unphysical_constituents_are_counted_and_left_out():
    clean = sample_of(3, 100)
    x = np.insert(clean.constituents, clean.offsets[1:], [-1.0, 0.0, 0.0], axis=0)
    offsets = clean.offsets + np.arange(101)
    dirty, clean = (
        evaluate(JetSample(values, at))["combined"]
        for values, at in ((x, offsets), (clean.constituents, clean.offsets))
    )
    assert dirty["violations"]["sample"]["no_momentum"] == 100
    assert clean["violations"]["sample"]["no_momentum"] == 0
    assert dirty["wasserstein"]["jet_mass"] == clean["wasserstein"]["jet_mass"]
    assert dirty["wasserstein"]["n_constituents"] != clean["wasserstein"]["n_constituents"]


def labelled(sample, *names):
    labels = np.resize([class_by_name(name).index for name in names], len(sample))
    return JetSample(sample.constituents, sample.offsets, labels=labels)


def test_classes_are_judged_on_their_own():
    """Every second jet; a class with too few jets is left out; a class equals its jets alone."""
    sample = labelled(sample_of(3, 240), "QCD", "Tbqq")
    sample.labels[-30:] = class_by_name("Hbb").index
    truth = labelled(TRUTH, "QCD", "Hbb", "Tbqq")
    training = labelled(TRAINING, "Tbqq", "QCD")
    result = evaluate(sample, truth, training)
    assert list(result["classes"]) == ["QCD", "Tbqq"]
    one = result["classes"]["Tbqq"]
    assert one["n_jets"] == {"sample": 105, "truth": 100, "training": 175}
    jets = (s.take(np.flatnonzero(s.labels == 8)) for s in (sample, truth, training))
    alone = evaluate(*(JetSample(s.constituents, s.offsets) for s in jets))["combined"]
    for entry in (one, alone):  # the acceptance is that of all training jets
        del entry["violations"]
    assert one == alone
    assert evaluate(sample, TRUTH)["classes"] == {}


def test_classifier_tests_tell_wide_jets_apart(tmp_path):
    """With either network; equal samples are not told apart."""
    counts = np.random.default_rng(1).integers(3, 9, (2, 500))  # short jets train fast
    truth = random_sample(1, counts[0])

    def tests(width, folder=None):
        options = {"classifiers": {"deepsets": 8, "transformer": 8}, "folder": folder}
        sample = random_sample(3, counts[1], width)
        return evaluate(sample, truth, **options)["combined"]["classifiers"]

    for test in tests(0.2).values():
        assert abs(test["auc"] - 0.5) < 4 * test["auc_error"]
    for test in tests(0.6, tmp_path).values():
        assert test["auc"] > 0.5 + 5 * test["auc_error"] and test["n_test"] == 200
    assert {path.name for path in tmp_path.iterdir()} == {"deepsets", "transformer"}


def test_several_classifier_tests_are_the_mean_of_single_ones():
    """Of other weights, and of other jets; their spread is part of the uncertainty."""
    counts = np.random.default_rng(1).integers(3, 9, (2, 200))
    sample, truth = random_sample(3, counts[1], 0.6), random_sample(1, counts[0])

    def test(n_tests, seed):
        options = {"classifiers": {"deepsets": 4}, "classifier_seeds": n_tests, "seed": seed}
        return evaluate(sample, truth, **options)["combined"]["classifiers"]["deepsets"]

    both = test(2, 5)
    ones = [test(1, 5), test(1, seed_of_repeat(5, 1))]
    areas = [one["auc"] for one in ones]
    assert both["auc_of_tests"] == areas and areas[0] != areas[1]
    assert both["auc"] == pytest.approx(np.mean(areas))
    errors = [np.mean([one["auc_error"] for one in ones]), abs(areas[0] - areas[1]) / 2**0.5]
    assert both["auc_error"] == pytest.approx(np.hypot(*errors))
    assert "auc_of_tests" not in ones[0]


def test_tokens_are_compared_where_all_have_them():
    ids = [np.arange(len(s.constituents)) for s in (TRUTH, TRAINING)]
    truth, training = (
        JetSample(s.constituents, s.offsets, ids=i)
        for s, i in zip((TRUTH, TRAINING), ids, strict=True)
    )
    copies = training.take(np.arange(90))
    memory = evaluate(copies, truth, training)["combined"]["memorisation"]
    assert memory["copied"]["value"] == memory["copied_sequence"]["value"] == 1
    assert memory["copied"]["floor"]["value"] < 0.01 and memory["repeated"]["value"] == 0
    assert "copied" not in evaluate(copies, TRUTH, training)["combined"]["memorisation"]
    assert evaluate(copies, truth)["combined"]["memorisation"] is None


def test_one_seed_fixes_the_result():
    first, again = (evaluate(sample_of(3, 100), training=TRAINING, seed=5) for _ in range(2))
    assert first == again


# --- table ---


def test_table_has_a_row_for_every_generator_and_the_floor():
    sample = sample_of(3, 200)
    asked = JetSample(sample.constituents, sample.offsets, sample.n_constituents + 1)
    results = {"ours": evaluate(asked, training=TRAINING), "theirs": evaluate(sample)}
    blocks = as_text(results).split("\n\n")
    for block in blocks:
        title, heading, *rows = block.split("\n")
        assert [row.split("  ")[0].strip() for row in rows] == ["ours", "theirs", "floor (truth)"]
        assert len({len(line) for line in (heading, *rows)}) == 1 and title.endswith("all classes")
    mass = results["ours"]["combined"]["wasserstein"]["jet_mass"]
    cell = blocks[0].split("\n")[2].split("  ")
    value, uncertainty = next(c for c in cell if "+-" in c).split(" +- ")
    np.testing.assert_allclose(float(value), mass["value"], atol=0.06 * mass["uncertainty"])
    np.testing.assert_allclose(float(uncertainty), mass["uncertainty"], rtol=0.06)
    assert blocks[-1].split("\n")[2].endswith(" 200")  # all of other multiplicity
    assert all(row.endswith(" -") for row in blocks[-1].split("\n")[3:])


def test_table_marks_missed_bins_and_refuses_an_absent_class():
    narrow = evaluate(sample_of(3, 100, width=0.01))
    assert narrow["combined"]["kl"]["jet_mass"]["n_missed"] > 20
    rows = [line for line in as_text({"narrow": narrow}).split("\n") if line.startswith("narrow")]
    assert sum("*" in row for row in rows) == 2  # jets and constituents
    with pytest.raises(JetfmError, match="no results of Tbqq"):
        as_text({"narrow": narrow}, "Tbqq")
