"""Fine-tuning on 1000 jets at the paper's size: jetfm's way on a CPU against the plain loop.

Plain: every jet padded to 128, blocks as torch's layers make them, and with a fixed backbone every
batch goes through it again, in training and in validation. Ours: batches in groups of similar
length, validation in order of length, blocks computed in cachefuls, jets of a fixed backbone
encoded once (its time is in the row), and one core each for as many seeds as there are cores:
'seconds per fit' is the wall time of one fit per core, over their number.

Both take `EPOCHS` epochs of 1000 jets, batches of 100, each followed by a validation on 400 jets.

Scoring jets: as many at once as `jetfm.runtime.device.evaluation_batch` says, against 500.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks._plain import plain_layers
from jetfm.data.batches import InOrderBatches
from jetfm.data.labelled import LabelledJets
from jetfm.data.store import build_store
from jetfm.finetuning import Contender, Jets, Runner, run_study
from jetfm.models.classifier import JetClassifier, cross_entropy
from jetfm.models.jet_model import JetModel
from jetfm.runtime.cores import n_cores
from jetfm.runtime.device import evaluation_batch
from jetfm.settings import FinetuningSettings, OptimizerSettings, PretrainingSettings, TaskSettings
from jetfm.training.optimizer import make_optimizer

SAMPLE = Path(__file__).parents[1] / "data/sample"
N_JETS, N_VAL, BATCH, LONGEST, EPOCHS = 1000, 400, 100, 128, 2
OPTIMIZER = OptimizerSettings(name="adamw", lr=1e-4, betas=(0.9, 0.999), eps=1e-8, warmup_steps=0)


def run() -> Iterator[dict]:
    """Rows of the benchmark: seconds per fit; 'ratio' is how many times the plain loop takes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        jets = _jets(folder)
        torch.manual_seed(0)
        JetModel(PretrainingSettings()).save(folder / "model")
        for weights in ("finetuned", "fixed"):
            contender = Contender("main", weights, "NTP", folder / "model")
            reference = _plain(contender, jets)
            value = _ours(contender, jets, folder / weights)
            yield {
                "name": f"fine-tuning 1000 jets, {EPOCHS} epochs: {contender.text}",
                "value": round(value, 2),
                "unit": "s/fit",
                "reference": round(reference, 2),
                "ratio": round(reference / value, 1),
            }
        yield _scoring(jets, folder / "model")


def _jets(folder: Path) -> Jets:
    sides = {}
    for split in ("train", "val", "test"):
        paths = sorted((SAMPLE / split).glob("*.root"))
        build_store(paths, folder / split, progress=False)
        sides[split] = LabelledJets(folder / split, ())
    # the same jets validate and test, so that little but training is timed
    few = LabelledJets(folder / "val", (), limit=10)
    return Jets(sides["train"], LabelledJets(folder / "val", (), limit=N_VAL), few)


def _ours(contender: Contender, jets: Jets, folder: Path) -> float:
    steps = EPOCHS * N_JETS // BATCH
    settings = FinetuningSettings(
        tasks={"ten-classes": TaskSettings()},
        sizes=(N_JETS,),
        n_seeds=n_cores(),
        max_steps=steps,
        batch_size=BATCH,
        small_batch_size=BATCH,
        n_bootstrap=2,
        optimizer=OPTIMIZER,
    )
    start = time.perf_counter()
    run_study([Runner("ten-classes", contender, jets)], settings, folder, 1, progress=False)
    return (time.perf_counter() - start) / n_cores()


def _plain(contender: Contender, jets: Jets) -> float:
    """One fit on all cores."""
    torch.manual_seed(1000)
    fixed = contender.weights == "fixed"
    module = JetClassifier(contender.backbone(), len(jets.train.class_names)).train()
    if fixed:
        module.backbone.requires_grad_(False).eval()
    order = jets.train.training_order(1000)[:N_JETS]
    optimizer = make_optimizer(module, OPTIMIZER)
    start = time.perf_counter()
    with plain_layers():
        for epoch in range(EPOCHS):
            shuffled = order[torch.randperm(N_JETS, generator=torch.Generator().manual_seed(epoch))]
            for indices in shuffled.reshape(-1, BATCH):
                batch = _padded(jets.train, indices)
                loss, _ = cross_entropy(module(batch), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
            with torch.no_grad():
                for indices in jets.val.indices.reshape(-1, BATCH):
                    module(_padded(jets.val, indices))
    return time.perf_counter() - start


def _scoring(jets: Jets, folder: Path) -> dict:
    module = JetClassifier(Contender("main", "finetuned", "NTP", folder).backbone(), 10).eval()
    rates = []
    for at_once in (evaluation_batch(), 500):
        batches = InOrderBatches(jets.train.store.n_constituents, at_once, jets.train.indices)
        start = time.perf_counter()
        with torch.no_grad():
            for indices in batches:
                module(jets.train.batch(indices))
        rates.append(len(batches.order) / (time.perf_counter() - start))
    value, reference = rates
    return {
        "name": f"scoring jets, {evaluation_batch()} at once",
        "value": round(value),
        "unit": "jets/s",
        "reference": round(reference),
        "ratio": round(value / reference, 1),
    }


def _padded(jets: LabelledJets, indices) -> dict:
    batch = jets.batch(indices)
    missing = LONGEST - batch["mask"].shape[1]
    batch["x"] = F.pad(batch["x"], (0, 0, 0, missing))
    batch["mask"] = F.pad(batch["mask"], (0, missing))
    return batch
