"""The jets that ship: complete, made as their manifest says, and rounded where nothing sees it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import torch
import uproot
from hypothesis import given, settings
from hypothesis import strategies as st

from jetfm.data.own_jets import store_of
from jetfm.errors import JetfmError
from jetfm.judging.samples import original_sample
from jetfm.pipeline import Pipeline
from jetfm.schema import BRANCHES, KINEMATICS, class_by_name, is_jagged
from jetfm.settings.profiles import load_profile
from jetfm.simulation import shipped
from jetfm.simulation.jetclass_file import rounded, write_jetclass_file
from jetfm.simulation.processes import CAMPAIGNS
from jetfm.simulation.shipped import MANIFEST, SHIPMENTS, check, shipped_files
from jetfm.simulation.simulate import make_file, plan, read_settings
from jetfm.storage.files import read_json
from jetfm.storage.paths import sample_folder, shipped_folder
from tests.data.jetclass_files import random_jets
from tests.tokenizers.test_interface import made
from tests.trees import separation

JETS = SHIPMENTS["jets"]
MANTISSA = 2.0**-13  # largest relative change of 12 bits


def read(path) -> dict:
    with uproot.open(path) as file:
        jets = file["tree"].arrays(list(BRANCHES))
    return {name: jets[name] if is_jagged(name) else ak.to_numpy(jets[name]) for name in BRANCHES}


def equal(one: dict, two: dict) -> bool:
    return all(ak.array_equal(one[name], two[name]) for name in BRANCHES)


@pytest.mark.parametrize("name", list(SHIPMENTS))
def test_what_ships_is_complete_and_unchanged(name):
    folder = {"jets": shipped_folder(), "sample": sample_folder()}[name]
    check(folder)
    shipment = SHIPMENTS[name]
    n_files = 0
    for campaign, sizes in shipment.jets_per_class.items():
        for split, n_jets in sizes.items():
            for class_name in CAMPAIGNS[campaign].processes:
                prefix = class_by_name(class_name).prefix
                paths = sorted(shipment.folder(folder, campaign, split).glob(f"{prefix}_*.root"))
                assert sum(uproot.open(path)["tree"].num_entries for path in paths) == n_jets
                n_files += len(paths)
    assert n_files == len(list(folder.rglob("*.root")))
    assert n_files == len((folder / "SHA256SUMS").read_text().splitlines())


def test_checks_name_the_damaged_file(tmp_path):
    (tmp_path / "SHA256SUMS").write_text("0" * 64 + "  train/TTBar_000.root\n")
    with pytest.raises(JetfmError, match="TTBar_000.root: found no such file"):
        check(tmp_path)


def test_all_that_ships_is_small():
    folders = (shipped_folder(), sample_folder())
    sizes = [sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) for folder in folders]
    assert sizes[1] < 5_000_000
    assert sum(sizes) < 50_000_000


@pytest.mark.parametrize(
    ("campaign", "class_name"), [("jetclass", "Wqq"), ("toplandscape", "Tbqq")]
)
@pytest.mark.parametrize("n_jets", [25, pytest.param(None, marks=pytest.mark.soak, id="all")])
def test_a_file_made_anew_has_the_jets_that_ship(campaign, class_name, n_jets, tmp_path):
    """Or its first 20 jets, of a first batch of events that is the same for any number from 25."""
    pytest.importorskip("pythia8mc")
    made_on, here = read_json(shipped_folder() / MANIFEST)["made_on"], shipped.made_on()
    if made_on != here:
        pytest.skip(f"made on {made_on}, this is {here}")
    (task,) = plan(
        tmp_path, campaign, [class_name], JETS.jets_per_class[campaign]["val"], "val", JETS.seed,
        1000, None,
    )  # fmt: skip
    task = replace(task, mantissa_bits=JETS.mantissa_bits)
    again = make_file(replace(task, n_jets=n_jets or task.n_jets))
    there = shipped_folder() / campaign / "val" / Path(again).name
    assert read_settings(there) == task.settings()
    one, two = (
        {name: values[: n_jets and 20] for name, values in read(path).items()}
        for path in (there, again)
    )
    assert equal(one, two)


def test_the_laptop_simulates_the_jets_that_ship():
    """With 'source: simulate', its request is that of the shipped files."""
    profile = load_profile("laptop")
    assert profile.seed == JETS.seed
    for campaign, data in (("jetclass", profile.data), ("toplandscape", profile.landscape)):
        assert data.source == "shipped"
        assert data.jets_per_class.model_dump() == JETS.jets_per_class[campaign]
        assert data.detector == CAMPAIGNS[campaign].detector
        (path, *_) = shipped_files(shipped_folder(), campaign, "train", 1)
        assert uproot.open(path)["tree"].num_entries == data.jets_per_file


def test_more_jets_than_ship_are_refused(tmp_path):
    shipped_files(shipped_folder(), "jetclass", "val", 300)
    with pytest.raises(JetfmError, match=r"jets_per_class.val = 301.*at most the 300.*simulate"):
        shipped_files(shipped_folder(), "jetclass", "val", 301)
    with pytest.raises(JetfmError, match=r"no shipped jets.*source: simulate"):
        shipped_files(tmp_path, "jetclass", "val", 1)


def test_only_the_classes_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("JETFM_WORK", str(tmp_path / "work"))
    profile = tmp_path / "two.yaml"
    profile.write_text(
        "extends: smoke\ndata: {source: shipped, classes: [QCD, Hbb], "
        "jets_per_class: {train: 3, val: 4, test: 5}}\n"
    )
    jets = Pipeline(profile, progress=False).jets
    assert jets.count_by_class("test") == {"QCD": 5, "Hbb": 5}
    assert len(jets.files("test")) == 2


# Rounding ----------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(counts=st.lists(st.integers(0, 140), min_size=1, max_size=6), bits=st.integers(1, 23))
def test_rounding_stays_within_half_a_bit_and_is_done_once(counts, bits):
    jets = random_jets(counts)
    fewer = rounded(jets, bits)
    for name, dtype in BRANCHES.items():
        if not (name.startswith("part_") and dtype == "f4"):
            assert ak.array_equal(fewer[name], jets[name]), name
            continue
        old, new = (ak.to_numpy(ak.flatten(of[name])) for of in (jets, fewer))
        assert ak.array_equal(ak.num(fewer[name]), np.asarray(counts))
        assert new.dtype == np.float32
        if name != "part_energy":
            assert (np.abs(new - old) <= 2.0 ** -(bits + 1) * np.abs(old)).all(), name
            assert not (new.view("u4") & ((1 << (23 - bits)) - 1)).any(), name
            again = rounded(fewer, bits)[name]
            assert ak.array_equal(again, fewer[name]), name


def test_rounding_keeps_the_mass_of_every_constituent():
    jets = read(sorted((sample_folder() / "val").glob("TTBar_*.root"))[0])

    def mass2(of):
        px, py, pz, energy = (
            ak.to_numpy(ak.flatten(of[f"part_{n}"])).astype(float)
            for n in ("px", "py", "pz", "energy")
        )
        return energy**2 - px**2 - py**2 - pz**2, energy

    (before, energy), (after, _) = mass2(jets), mass2(rounded(jets, 12))
    # to float32's own precision of E^2; energies rounded to 12 bits would miss a thousandfold
    assert (np.abs(after - before) <= 3 * 2.0**-24 * 2 * energy**2).all()


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """The sample's test jets, in full, rounded as those that ship, and to two bits."""
    folder = tmp_path_factory.mktemp("rounded")
    stores = {"full": store_of(sample_folder() / "test", folder / "full", progress=False)}
    for name, bits in (("rounded", 12), ("coarse", 2)):
        for path in sorted((sample_folder() / "test").glob("*.root")):
            write_jetclass_file(folder / f"{name} files" / path.name, rounded(read(path), bits), {})
        stores[name] = store_of(folder / f"{name} files", folder / name, progress=False)
    return stores


def test_observables_do_not_see_the_rounding(stores):
    """Jet by jet within a hundredth of what JetClass's detector smears (8 % of a jet's mass).

    But for a few: where two pairs are about equally near, clustering for the axes of tau_N may go
    the other way. Their mean does not move.
    """
    full, fewer = (original_sample(stores[name], 200).observables for name in ("full", "rounded"))
    for name, values in full.items():
        change = np.abs(fewer[name] - values)
        scale = np.maximum(np.abs(values), 0.05 * np.abs(values).mean())
        assert (change / scale > 8e-4).mean() < 0.05, name
        assert abs(np.nanmean(fewer[name] - values)) < 0.005 * np.nanstd(values), name


@pytest.mark.parametrize("kind", ["binned", "conditional"])
def test_tokens_do_not_see_the_rounding(stores, kind):
    tokenizer, ids = made(kind), []
    for name in ("full", "rounded"):
        dense = stores[name].dense(np.arange(200), 128, KINEMATICS)
        features, mask = (torch.as_tensor(array) for array in dense)
        ids.append(tokenizer.encode(tokenizer.preprocessing.forward(features.float(), mask), mask))
    assert (ids[0] != ids[1]).sum() < 0.01 * (ids[0] >= 0).sum()


def test_a_classifier_sees_two_bits_and_not_twelve(stores):
    """Every second jet in full, the others rounded, of all classes."""
    jets = {name: original_sample(store, 200) for name, store in stores.items()}
    even, odd = np.arange(0, len(jets["full"]), 2), np.arange(1, len(jets["full"]), 2)
    full = jets["full"].take(even)
    auc, chance = separation(full, jets["rounded"].take(odd))
    assert auc < 0.5 + 3 * chance
    auc, chance = separation(full, jets["coarse"].take(odd))
    assert auc > 0.5 + 5 * chance
