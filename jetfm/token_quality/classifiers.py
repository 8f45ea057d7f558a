"""How much a jet classifier loses to tokenisation (arXiv 2403.05618, figure 5 and appendix A 2).

A DeepSets network and a transformer learn to tell the jet classes apart, once from the original
constituents and once per tokenizer from those that its tokens decode to. Whatever the source, the
networks see (pt, eta_rel, phi_rel) of the leading constituents in one and the same network space,
so that the inputs differ by tokenisation alone. That space has ln(1 + pt) instead of the paper's
ln pt, because a decoded pt may be zero. Tokenizers of all 14 features have a study of their own,
whose networks see all 14 (ours).

For every input the same jets come in the same batches. Repetitions differ in the initial weights
and in the order of the batches, not in the jets; repetition i starts from the same weights for
every input. The paper is silent on how the jets are chosen (here at random, as many of each class
as there are) and on which weights are tested (here those of the lowest validation loss).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from jetfm.data.batches import EvaluationBatches, InOrderBatches, LengthBucketedBatches
from jetfm.errors import JetfmError
from jetfm.models.deepsets import TOKEN_QUALITY, DeepSets
from jetfm.models.transformer import n_parameters
from jetfm.models.transformer_classifier import TransformerClassifier
from jetfm.physics.statistics import accuracy
from jetfm.runtime.device import evaluation_batch
from jetfm.runtime.parallel import run_fits
from jetfm.schema import SPLITS
from jetfm.settings import TokenClassifierSettings, TokenQualitySettings
from jetfm.storage.files import read_json, write_json
from jetfm.token_quality.classifier_jets import ClassifierJets
from jetfm.tokenizers.encoding import outside_cuts
from jetfm.training.fit import fit
from jetfm.training.job import Training

CLASSIFIERS = ("deepsets", "transformer")
ORIGINAL = "original"
# The text counts "four different codebook sizes from 512 to 8192"; which ones: official code,
# configs/experiment/experiment_classification_transformer.yaml.
PAPER_CODEBOOKS = (512, 2048, 4096, 8192)


Splits = Mapping[str, ClassifierJets]


def run_study(
    inputs: Mapping[str, Splits],
    settings: TokenQualitySettings,
    folder: Path,
    seed: int,
    progress: bool = True,
    workers: int = 0,
) -> dict:
    """All fits of the study; finished ones are found and skipped, an interrupted one continues.

    Parameters
    ----------
    inputs : by name, 'original' first, the jets of 'train', 'val' and 'test'; in a split the same
        jets in the same order for every input, with the same features
    settings : `n_train` (of all classes together; all there are if there are fewer), `n_seeds` and
        the two classifiers
    folder : gets ``classifiers.json``, which `TokenClassifiers` reads
    workers : processes that fit side by side, each on one thread; 0 is one per core. The results
        do not depend on it.

    Returns
    -------
    'rows' by classifier and input with test accuracy and loss (cross-entropy, nats), one entry a
    seed; 'n_train', 'n_val', 'n_test', 'n_leaked', 'classes'

    Raises
    ------
    JetfmError
        Inputs that are not the same jets, splits without the same classes.
    """
    _check(inputs)
    original = inputs[ORIGINAL]
    runs = {
        (name, source, i): folder / "training" / f"{name}_{source}_{i}.json"
        for name in CLASSIFIERS
        for source in inputs
        for i in range(settings.n_seeds)
    }
    cost = {name: _cost(name, getattr(settings, name), original["train"]) for name in CLASSIFIERS}
    # The longest first, so that no worker is left alone with one of them at the end.
    missing = (run for run, path in runs.items() if not path.exists())
    tasks = [
        (dict(inputs[source]), settings, name, i, runs[name, source, i], seed)
        for name, source, i in sorted(missing, key=lambda run: -cost[run[0]])
    ]
    run_fits(one_fit, tasks, workers, "classifiers", progress)
    rows = []
    for name in CLASSIFIERS:
        for source, jets in inputs.items():
            found = [read_json(runs[name, source, i]) for i in range(settings.n_seeds)]
            rows.append({"classifier": name, "input": source, "n_codes": jets["train"].n_codes})
            keys = ("accuracy", "loss", "best_step", "last_step")
            rows[-1] |= {key: [run[key] for run in found] for key in keys}
    chosen = {split: original[split].indices for split in SPLITS}
    chosen["train"] = training_jets(original["train"], settings, seed)
    train, val, test = (_hashes(original[split], chosen[split]) for split in SPLITS)
    result = {
        "rows": rows,
        **{f"n_{split}": len(chosen[split]) for split in SPLITS},
        "n_leaked": int(np.isin(test, np.concatenate([train, val])).sum()),
        "classes": original["train"].class_names,
    }
    write_json(folder / "classifiers.json", result)
    return result


def training_jets(jets: ClassifierJets, settings: TokenQualitySettings, seed: int) -> np.ndarray:
    """The jets of the store that all fits train on."""
    return jets.balanced_order(seed)[: settings.n_train or None]


def make_classifier(
    name: str, settings: TokenClassifierSettings, jets: ClassifierJets, seed: int
) -> nn.Module:
    """An untrained classifier of such jets, 'deepsets' or 'transformer', its weights drawn with
    `seed`."""
    n_features, n_classes = jets.n_features, len(jets.classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if name == "deepsets":
            return DeepSets(n_features, n_classes, phi=TOKEN_QUALITY)
        return TransformerClassifier(
            n_features, n_classes, settings.dim, settings.n_blocks, settings.n_heads
        )


def one_fit(
    jets: Splits,
    settings: TokenQualitySettings,
    classifier: str,
    repetition: int,
    path: Path,
    seed: int,
) -> None:
    """Train one classifier on one input, and write its test result to `path`.

    Parameters
    ----------
    path : a ``.json``; checkpoints go to the folder of the same name without it
    seed : of the study
    """
    run_seed = seed * 1000 + repetition
    chosen: TokenClassifierSettings = getattr(settings, classifier)
    train, val = jets["train"], jets["val"]
    network = make_classifier(classifier, chosen, train, run_seed)
    indices = training_jets(train, settings, seed)
    schedule = LengthBucketedBatches(
        train.lengths, chosen.training.batch_size, run_seed, indices, chunk_batches=1
    )
    training = Training(
        network,
        lambda step: train.batch(schedule.indices(step)),
        chosen.training,
        validation=EvaluationBatches(_in_order(val), val.batch),
        folder=path.with_suffix(""),
        seed=run_seed,
        progress=False,
        say=lambda text: None,
    )
    outcome = fit(training)
    labels, logits = evaluate(network, jets["test"])
    result = {
        "accuracy": accuracy(labels, logits.argmax(1)).value,
        "loss": float(F.cross_entropy(torch.as_tensor(logits), torch.as_tensor(labels))),
        **outcome.steps,
    }
    write_json(path, result)


@torch.no_grad()
def evaluate(network: nn.Module, jets: ClassifierJets) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of all labelled jets, short jets first.

    Returns
    -------
    labels : (n,) position in the jets' `classes`
    logits : (n, n_classes) float64

    Raises
    ------
    JetfmError
        A score that is not finite; names the first such jet.
    """
    network.eval()
    schedule = _in_order(jets)
    batches = EvaluationBatches(schedule, jets.batch)
    logits = torch.cat([network(b["x"], b["mask"]) for b in batches]).double().numpy()
    bad = ~np.isfinite(logits).all(1)
    if bad.any():
        jet = int(schedule.order[np.flatnonzero(bad)[0]])
        raise JetfmError(jets.store.folder, f"a score that is not finite, jet {jet}", "scores")
    return jets.labels[schedule.order], logits


def _in_order(jets: ClassifierJets) -> InOrderBatches:
    return InOrderBatches(jets.lengths, evaluation_batch(), jets.indices)


def _cost(name: str, settings: TokenClassifierSettings, jets: ClassifierJets) -> int:
    """Of one training, up to a factor: nearly every weight acts on every constituent."""
    network = make_classifier(name, settings, jets, seed=0)
    return n_parameters(network) * settings.training.max_steps * settings.training.batch_size


def _check(inputs: Mapping[str, Splits]) -> None:
    if next(iter(inputs), None) != ORIGINAL:
        raise JetfmError("inputs", f"{', '.join(inputs) or 'nothing'}", f"{ORIGINAL!r} first")
    for name, jets in inputs.items():
        if set(jets) != set(SPLITS):
            raise JetfmError(f"input {name!r}", ", ".join(jets), f"splits {', '.join(SPLITS)}")
    original = inputs[ORIGINAL]
    for split in SPLITS:
        if original[split].n_codes is not None:
            found = "reconstructed constituents"
            raise JetfmError(original[split].store.folder, found, "original ones")
        if not np.array_equal(original[split].classes, original["train"].classes):
            found = f"jets of {', '.join(original[split].class_names)}"
            expected = f"{', '.join(original['train'].class_names)}, as in the training jets"
            raise JetfmError(original[split].store.folder, found, expected)
        for jets in inputs.values():
            _check_same(jets[split], original[split])


def _check_same(jets: ClassifierJets, original: ClassifierJets) -> None:
    """Refuse jets that cannot be the original ones."""
    folder = jets.store.folder
    if jets.features != original.features:
        raise JetfmError(folder, f"features {jets.features!r}", f"{original.features!r}")
    if len(jets.store) != len(original.store):
        raise JetfmError(folder, f"{len(jets.store)} jets", f"the {len(original.store)} originals")
    half_width = jets.store.info.get("half_width")  # cuts leave some without a token
    n_removed = outside_cuts(original.store, half_width, original.max_constituents)
    for what, ours, theirs in (
        ("constituents", jets.lengths, original.lengths - n_removed),
        ("as its class", jets.store.labels, original.store.labels),
    ):
        different = np.flatnonzero(ours != theirs)
        if len(different):
            jet = int(different[0])
            raise JetfmError(folder, f"jet {jet}, {ours[jet]} {what}", f"{theirs[jet]} {what}")


def _hashes(jets: ClassifierJets, indices: np.ndarray) -> np.ndarray:
    """(n,) uint64 of the jets' constituents; jets without any say nothing and are left out."""
    store = jets.store
    digests = (
        blake2b(store.constituents[store.offsets[i] : store.offsets[i + 1]], digest_size=8).digest()
        for i in indices
        if store.n_constituents[i]
    )
    return np.frombuffer(b"".join(digests), np.uint64)


@dataclass(frozen=True)
class TokenClassifiers:
    """A finished study, read from its folder."""

    folder: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "result", read_json(self.folder / "classifiers.json"))

    @property
    def rows(self) -> list[dict]:
        """One row per classifier and input, see `run_study`."""
        return self.result["rows"]

    @property
    def inputs(self) -> list[str]:
        """'original' and the tokenizers whose jets were classified."""
        return list(dict.fromkeys(row["input"] for row in self.rows))

    @property
    def n_fits(self) -> int:
        """Trainings in all."""
        return sum(len(row["accuracy"]) for row in self.rows)

    @property
    def n_test(self) -> int:
        """Test jets."""
        return self.result["n_test"]

    @property
    def n_leaked(self) -> int:
        """Test jets that are, constituent for constituent, training or validation jets too."""
        return self.result["n_leaked"]

    def accuracies(self, classifier: str, input: str) -> np.ndarray:
        """(n_seeds,) share of test jets put into their class; one that is not there is an error."""
        for row in self.rows:
            if (row["classifier"], row["input"]) == (classifier, input):
                return np.asarray(row["accuracy"])
        known = sorted({f"{row['classifier']} on {row['input']}" for row in self.rows})
        raise JetfmError(self.folder, f"no {classifier} on {input}", ", ".join(known))

    @property
    def shown(self) -> dict:
        """'rows' and numbers of jets, as figures take them."""
        return {key: self.result[key] for key in ("rows", "n_train", "n_test")}

    def figure_data(self) -> dict:
        """Arguments of the figure; 'missing' are codebook sizes of the paper's."""
        present = {row["n_codes"] for row in self.rows}
        missing = [size for size in PAPER_CODEBOOKS if size not in present]
        return self.shown | {"missing": missing}

    def as_text(self) -> str:
        """Table of accuracy and cross-entropy, mean and standard deviation over seeds."""
        result, width = self.result, max(len("input"), *(len(row["input"]) for row in self.rows))
        lines = [
            f"{len(result['classes'])} classes, {result['n_train']} training jets, "
            f"{result['n_val']} validation jets, {result['n_test']} test jets",
            f"{'classifier':11s} {'input':{width}s} {'codes':>6s} {'accuracy':>18s} "
            f"{'cross-entropy':>18s}  seeds, best at their last",
        ]
        for row in self.rows:
            cells = [_mean_and_spread(row[metric]) for metric in ("accuracy", "loss")]
            n_at_last = sum(np.equal(row["best_step"], row["last_step"]))
            lines.append(
                f"{row['classifier']:11s} {row['input']:{width}s} {row['n_codes'] or '-':>6} "
                f"{cells[0]:>18s} {cells[1]:>18s} {len(row['accuracy']):6d}  {n_at_last:d}"
            )
        return "\n".join(lines)


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = np.std(values, ddof=1) if len(values) > 1 else math.nan
    return f"{np.mean(values):.4f} +- {spread:.4f}"
