"""Simulation end to end with a few jets: files, physics, reproducibility, restart, bad requests."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.schema import BRANCHES, SPLITS, class_by_name, is_jagged
from jetfm.simulation.clustering import wrap
from jetfm.simulation.jetclass_file import read_settings, write_jetclass_file
from jetfm.simulation.processes import CAMPAIGNS
from jetfm.simulation.pythia import Generator
from jetfm.simulation.simulate import (
    MAX_FILES,
    PYTHIA_SEEDS,
    _seed_of_source,
    simulate,
    task_seeds,
)

pytest.importorskip("pythia8mc")

N_JETS = 8
REQUEST = {
    "classes": ["QCD", "Hqql", "Tbqq"],
    "jets_per_class": N_JETS,
    "jets_per_file": N_JETS,
    "seed": 5,
    "progress": False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("jets")
    simulate(out, workers=1, **REQUEST)
    return out


def read(path) -> ak.Array:
    with uproot.open(path) as file:
        return file["tree"].arrays(list(BRANCHES))


def all_jets(folder) -> ak.Array:
    return ak.concatenate([read(path) for path in sorted(folder.glob("*.root"))])


# --- the file -----------------------------------------------------------------------------------


def test_tree_has_exactly_the_branches_and_types_of_jetclass(folder):
    with uproot.open(folder / "TTBar_000.root") as file:
        tree = file["tree"]
        assert set(tree.keys()) == set(BRANCHES) | {"npart"}  # one shared counter
        for name, dtype in BRANCHES.items():
            interpretation = tree[name].interpretation
            assert isinstance(interpretation, uproot.AsJagged) == is_jagged(name)
            content = interpretation.content if is_jagged(name) else interpretation
            assert content.to_dtype == np.dtype(dtype), name
        assert file.file.compression == uproot.LZ4(4)


def test_files_have_jetclass_names_labels_and_sizes(folder):
    names = sorted(p.name for p in folder.glob("[!.]*"))
    assert names == ["HToWW2Q1L_000.root", "TTBar_000.root", "ZJetsToNuNu_000.root"]
    for name in ("QCD", "Hqql", "Tbqq"):
        jets = read(folder / f"{class_by_name(name).prefix}_000.root")
        assert len(jets) == N_JETS
        labels = {b: ak.to_numpy(jets[b]) for b in BRANCHES if b.startswith("label_")}
        assert all((v == (b == f"label_{name}")).all() for b, v in labels.items())


def test_jets_pass_the_selection(folder):
    jets = all_jets(folder)
    assert ak.all((jets.jet_pt > 500) & (jets.jet_pt < 1000) & (abs(jets.jet_eta) <= 2))
    assert ak.all(jets.jet_nparticles == ak.num(jets.part_px))


def test_constituents_follow_the_formulas_of_the_ntuples(folder):
    jets = all_jets(folder)
    pt = np.hypot(jets.part_px, jets.part_py)
    assert ak.all(pt[:, :-1] >= pt[:, 1:] * (1 - 1e-6))
    assert ak.all(pt > 0)
    sign = np.where(jets.jet_eta > 0, 1, -1)
    deta = sign * (np.arcsinh(jets.part_pz / pt) - jets.jet_eta)
    assert ak.max(abs(deta - jets.part_deta)) < 1e-4
    dphi = np.arctan2(jets.part_py, jets.part_px) - jets.jet_phi
    assert np.abs(wrap(ak.to_numpy(ak.flatten(dphi - jets.part_dphi)))).max() < 1e-5
    # pseudorapidities are those at the calorimeter, which moves the sum a little
    px, py = ak.sum(jets.part_px, axis=1), ak.sum(jets.part_py, axis=1)
    np.testing.assert_allclose(np.hypot(px, py), jets.jet_pt, rtol=1e-5)


def test_flags_are_one_hot_and_neutrals_have_no_track(folder):
    jets = all_jets(folder)
    flags = [b for b in BRANCHES if b.startswith("part_is")]
    assert ak.all(sum(jets[b] for b in flags) == 1)
    neutral = (jets.part_isPhoton + jets.part_isNeutralHadron) == 1
    assert ak.all((jets.part_charge == 0) == neutral)
    for name in ("d0val", "d0err", "dzval", "dzerr"):
        assert ak.all(jets[f"part_{name}"][neutral] == 0)
    mass2 = jets.part_energy**2 - jets.part_px**2 - jets.part_py**2 - jets.part_pz**2
    assert ak.all(mass2 > -1e-5 * jets.part_energy**2)


def test_truth_columns(folder):
    qcd = read(folder / "ZJetsToNuNu_000.root")
    assert ak.all(qcd.aux_truth_match == 50)
    assert ak.all(qcd.aux_genpart_pt == 0) and ak.all(qcd.aux_genpart_pid == 0)
    top = read(folder / "TTBar_000.root")
    assert set(top.aux_truth_match.to_list()) <= {11, 12}
    assert set(abs(top.aux_genpart_pid).to_list()) == {6}
    distance = np.hypot(
        top.aux_genpart_eta - top.jet_eta,
        wrap(ak.to_numpy(top.aux_genpart_phi - top.jet_phi)),
    )
    assert ak.all(distance < 0.8)
    assert ak.all(abs(top.aux_genpart_pt / top.jet_pt - 1) < 0.6)
    higgs = read(folder / "HToWW2Q1L_000.root")
    assert set(higgs.aux_truth_match.to_list()) == {46}


def test_mixed_decays_come_with_both_charges(folder):
    jets = read(folder / "HToWW2Q1L_000.root")
    leptons = (jets.part_isElectron + jets.part_isMuon) == 1
    pt = np.hypot(jets.part_px, jets.part_py)
    hard = ak.fill_none(ak.firsts(jets.part_charge[leptons & (pt > 15)]), 0)
    assert {-1, 1} <= set(hard.to_list())


# --- reproducibility and restart ----------------------------------------------------------------


def test_two_workers_make_the_jets_of_one(folder, tmp_path):
    paths = simulate(tmp_path, workers=2, **(REQUEST | {"classes": ["Tbqq", "Hqql"]}))
    for path in paths:
        one, two = read(folder / path.name), read(path)
        assert all(ak.array_equal(one[b], two[b]) for b in BRANCHES)


def test_restart_keeps_finished_files_and_makes_the_missing(folder, tmp_path):
    request = REQUEST | {"classes": ["Tbqq"], "jets_per_class": 4, "jets_per_file": 2}
    first, second = simulate(tmp_path, workers=1, **request)
    before = read(second)
    os.utime(first, (1, 1))
    second.unlink()
    (tmp_path / f".{second.name}.0a1b2c3d.part").write_bytes(b"half a file")
    assert simulate(tmp_path, workers=1, **request) == [first, second]
    assert first.stat().st_mtime == 1
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == [first.name, second.name]
    assert all(ak.array_equal(before[b], read(second)[b]) for b in BRANCHES)


@pytest.mark.parametrize(
    ("change", "setting"),
    [({"seed": 6}, "seed"), ({"split": "test"}, "split"), ({"detector": "atlas"}, "detector")],
)
def test_files_made_with_other_settings_are_not_reused(folder, change, setting):
    with pytest.raises(JetfmError, match=f"_000.root.*{setting} = "):
        simulate(folder, workers=1, **(REQUEST | change))


def test_damaged_files_are_not_taken_for_finished(tmp_path, folder):
    whole = (folder / "TTBar_000.root").read_bytes()
    (tmp_path / "TTBar_000.root").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(JetfmError, match="TTBar_000.root.*(truncated|unreadable)"):
        simulate(tmp_path, workers=1, **(REQUEST | {"classes": ["Tbqq"]}))


SAMPLES = [(c, name) for c, chosen in CAMPAIGNS.items() for name in chosen.processes]
_FILE = st.tuples(
    st.sampled_from(SAMPLES), st.sampled_from(["train", "val", "test"]), st.integers(0, 999_999)
)


@given(st.integers(0, 2**40), _FILE, _FILE)
def test_different_files_never_share_a_seed(seed, one, other):
    def seeds(file):
        (campaign, name), split, index = file
        pythia, rng = task_seeds(seed, campaign, name, split, index)
        assert 1 <= pythia <= PYTHIA_SEEDS
        return pythia, rng.random()

    assert (seeds(one)[0] == seeds(other)[0]) == (one == other)
    assert (seeds(one)[1] == seeds(other)[1]) == (one == other)


def test_the_seed_changes_the_jets():
    assert (
        task_seeds(1, "jetclass", "QCD", "train", 0)[0]
        != (task_seeds(2, "jetclass", "QCD", "train", 0)[0])
    )


# --- the second campaign ------------------------------------------------------------------------


def test_top_landscape_selection(tmp_path):
    files = simulate(
        tmp_path,
        campaign="toplandscape",
        jets_per_class=10,
        workers=1,
        progress=False,
    )
    assert [f.name for f in files] == ["ZJetsToNuNu_000.root", "TTBar_000.root"]
    assert read_settings(files[0])["detector"] == "atlas-2015"  # the campaign's own
    jets = all_jets(tmp_path)
    assert ak.all((jets.jet_pt > 550) & (jets.jet_pt < 650) & (abs(jets.jet_eta) < 2))
    assert ak.max(ak.num(jets.part_px)) <= 200
    top = read(files[1])
    distance = np.hypot(
        top.aux_genpart_eta - top.jet_eta,
        wrap(ak.to_numpy(top.aux_genpart_phi - top.jet_phi)),
    )
    assert ak.all(distance < 0.8)
    assert np.median(top.jet_sdmass) > 120 > np.median(read(files[0]).jet_sdmass)


# --- bad requests -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["Hee"]}, "'Hee'.*QCD, Hbb"),
        ({"campaign": "jetclass3"}, "'jetclass3'.*jetclass, toplandscape"),
        ({"campaign": "toplandscape"}, "'Hqql'.*QCD, Tbqq"),
        ({"detector": "lhcb"}, "'lhcb'.*atlas, atlas-2015, cms"),
        ({"jets_per_class": 0}, "jets_per_class: found 0"),
        ({"jets_per_file": -1}, "jets_per_file: found -1"),
        ({"split": "dev"}, "'dev'.*train, val, test"),
        ({"seed": -1}, "seed: found -1"),
        ({"compression": "rar"}, "'rar'.*lz4"),
        ({"dask_address": "nonsense://host"}, "dask_address: found 'nonsense://host'"),
    ],
)
def test_bad_requests_name_the_setting(tmp_path, change, message):
    with pytest.raises(JetfmError, match=message):
        simulate(tmp_path, **(REQUEST | change))


def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JetfmError, match="file/jets.*not a directory"):
        simulate(tmp_path / "file" / "jets", workers=1, **REQUEST)


def test_errors_come_back_from_workers(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path / "new")  # not the workers of an earlier test
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limits[1]))  # inherited: a very full disk
    try:
        with pytest.raises(JetfmError, match="_000.root.*room for a file") as caught:
            simulate(
                tmp_path, workers=2, **(REQUEST | {"classes": ["Tbqq", "QCD"], "jets_per_class": 1})
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == [".simulate.lock"]
    assert type(caught.value) is JetfmError
    assert "Traceback" not in str(caught.value)


def test_full_disk_leaves_nothing_behind(folder, tmp_path, monkeypatch):
    jets = read(folder / "TTBar_000.root")
    columns = {b: jets[b] if is_jagged(b) else ak.to_numpy(jets[b]) for b in BRANCHES}

    def full(path, data):
        with open(path, "wb") as file:
            file.write(bytes(data)[:1000])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(JetfmError, match="TTBar_007.root.*no space left"):
        write_jetclass_file(tmp_path / "TTBar_007.root", columns, {})
    assert list(tmp_path.iterdir()) == []


def test_settings_tell_how_a_file_was_made(folder):
    found = read_settings(folder / "TTBar_000.root")
    expected = {
        "campaign": "jetclass",
        "class_name": "Tbqq",
        "seed": 5,
        "index": 0,
        "split": "train",
    }
    assert expected.items() <= found.items()
    assert found["pythia8mc"] == "8.317.2"


def test_a_dask_cluster_makes_the_same_jets(folder, tmp_path):
    distributed = pytest.importorskip("distributed")
    request = REQUEST | {"classes": ["QCD"]}
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:  # in this process: needs no network
        (path,) = simulate(tmp_path, dask_address=cluster.scheduler_address, **request)
    one, two = read(folder / path.name), read(path)
    assert all(ak.array_equal(one[b], two[b]) for b in BRANCHES)


def test_a_radiated_z_is_in_every_event_once_and_unseen():
    _, radiated = CAMPAIGNS["jetclass"].processes["QCD"].sources[1]
    generator = Generator("jetclass", "QCD", 5, radiated)
    n_events, particles, _ = generator.batch(2)
    assert n_events == 2 and not np.isin(np.abs(particles.pid), (12, 14, 16, 23)).any()
    event = generator._pythia.event  # the last one
    assert [event[i].id() for i in range(event.size()) if event[i].isFinal()].count(23) == 1


def test_shares_of_sources_are_whole_and_their_seeds_apart():
    for campaign in CAMPAIGNS.values():
        for process in campaign.processes.values():
            assert not process.sources or sum(s for s, _ in process.sources) == pytest.approx(1)
            assert len(process.sources) <= 3  # as many as seeds are kept apart for
    largest = len(SPLITS) * sum(len(c.processes) for c in CAMPAIGNS.values()) * MAX_FILES
    first = [_seed_of_source(1, number) for number in range(3)]
    assert min(np.diff(sorted(first))) >= largest and first[2] + largest <= PYTHIA_SEEDS


def test_seeds_do_not_depend_on_what_is_added_later(monkeypatch):
    before = task_seeds(1, "jetclass", "QCD", "test", 3)[0]
    monkeypatch.setitem(CAMPAIGNS, "another", CAMPAIGNS["toplandscape"])
    assert task_seeds(1, "jetclass", "QCD", "test", 3)[0] == before


def test_data_of_another_pythia_are_not_read(monkeypatch, tmp_path):
    """As an experiment's software sets it; and what it has set stays."""
    monkeypatch.setenv("PYTHIA8DATA", str(tmp_path / "other/xmldoc"))
    process = CAMPAIGNS["jetclass"].processes["Wqq"]
    Generator("jetclass", "Wqq", 1, process)
    assert os.environ["PYTHIA8DATA"] == str(tmp_path / "other/xmldoc")
