"""Train a classifier on a user's own jets, and write the scores of the test jets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from pyarrow import parquet

from jetfm.data.jet_files import Paths, named
from jetfm.data.labelled import LabelledJets
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.own_jets import classes_of, store_of
from jetfm.data.store import JetStore
from jetfm.errors import JetfmError
from jetfm.figures import style
from jetfm.figures.roc import roc
from jetfm.finetuning.classifier import Classifier, architecture_of, pt_range_of
from jetfm.finetuning.contenders import Contender
from jetfm.finetuning.encoded_jets import EncodedJets, encode
from jetfm.finetuning.scores_file import scores_table
from jetfm.finetuning.study import Jets, train_and_test
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import HeadOnly
from jetfm.models.jet_model import JetModel, load_backbone
from jetfm.physics.features import Preprocessing
from jetfm.physics.statistics import roc_curve
from jetfm.settings import BASELINES, FinetuningSettings
from jetfm.settings.finetuning import Weights
from jetfm.storage.artifacts import as_json, fingerprint
from jetfm.storage.files import make_folder, replacing, write_json
from jetfm.storage.locks import exclusive
from jetfm.storage.weights import identity, weights_bytes
from jetfm.tokenizers.interface import NAME as TOKENIZER
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.kinds import load_tokenizer
from jetfm.tokenizers.own_jets import tokenize_files

VALIDATION_SHARE = 0.1  # of the training jets, where no others are given

OWN_STARTS = get_args(Weights)  # no probe: it is no classifier that is kept

SCORES, METRICS = "scores.parquet", "metrics.json"


@dataclass(frozen=True)
class OwnJets:
    """A user's files.

    Parameters
    ----------
    train, test : jets stores, JetClass ROOT, parquet or Top Landscape h5 files, or folders of them;
        one path or several
    val : the same; None sets a tenth of the training jets aside
    classes : to tell apart, the signal last of two; empty takes those that the training jets have
    n_train : training jets at most, balanced; None takes all that balance
    any_pt : take jets of another selection than the data sets'
    layout : what the files call their branches, and classes by expression
    """

    train: Paths
    test: Paths
    val: Paths | None = None
    classes: tuple[str, ...] = ()
    n_train: int | None = None
    any_pt: bool = False
    layout: Layout = JETCLASS


def finetune_files(
    own: OwnJets,
    contender: Contender,
    settings: FinetuningSettings,
    out: str | Path,
    seed: int,
    tokenizer: str | Path | None = None,
    max_constituents: int = 128,
    progress: bool = True,
) -> dict:
    """One fit; interrupted, it continues where it was. Another process at `out` is waited for.

    Parameters
    ----------
    tokenizer : folder of the tokenizer that the contender's pre-trained model belongs to; a
        baseline needs none
    out : gets ``scores.parquet`` (for each test jet of the classes, in the order of the files: its
        place among all jets of the files, label, class name and the probability of every class),
        ``metrics.json``, ``roc.pdf``, ``.png`` and ``.json``, and the classifier
        (`jetfm.finetuning.classifier`), which ``jetfm score`` takes

    Returns
    -------
    what ``metrics.json`` holds

    Raises
    ------
    JetfmError
        Unreadable or unsuitable files, fewer than two classes or a class without jets, a test jet
        among the training jets, a model of another tokenizer, or a contender that is a probe.
    """
    if contender.weights not in OWN_STARTS:
        raise JetfmError("weights", repr(contender.weights), f"one of {', '.join(OWN_STARTS)}")
    with exclusive(make_folder(out), print):
        return _finetune_files(
            own, contender, settings, Path(out), seed, tokenizer, max_constituents, progress
        )


def _finetune_files(
    own: OwnJets,
    contender: Contender,
    settings: FinetuningSettings,
    out: Path,
    seed: int,
    tokenizer: str | Path | None,
    max_constituents: int,
    progress: bool,
) -> dict:
    given = [own.train, own.test] + ([] if own.val is None else [own.val])
    classes = classes_of(own.classes, own.layout, *given)
    if classes and len(set(classes)) < max(len(classes), 2):
        raise JetfmError("classes", ", ".join(own.classes), "two different ones or more")
    for kind in (JetModel.kind, TOKENIZER):
        if (out / f"{kind}.json").exists():
            raise JetfmError(out, f"the folder of a {kind}", "another one, for the classifier")
    start = _start(contender, tokenizer)
    preprocessing = start.preprocessing
    files = {"train": own.train, "val": own.val, "test": own.test}
    how = (progress, preprocessing.features, own.any_pt, own.layout)
    stores = {
        split: store_of(path, out / "jets" / split, *how)
        for split, path in files.items()
        if path is not None
    }
    classes = classes or _classes_of(stores["train"])
    tokens: dict[str, Path] = {}
    if start.tokenizer is not None:
        for split, store in stores.items():
            tokens[split] = out / "tokens" / split
            options = (seed, max_constituents, progress)
            tokenize_files(start.tokenizer, store.folder, tokens[split], *options)
        start.tokenizer.to("cpu")

    def side(split: str) -> LabelledJets:
        return LabelledJets(
            stores[split].folder, classes, preprocessing, max_constituents, tokens.get(split)
        )

    train, test = side("train"), side("test")
    order = train.training_order(seed)
    if own.val is None:
        n_val = max(len(classes), int(VALIDATION_SHARE * len(order)))
        val_indices, order = order[:n_val], order[n_val:]
        val = _Chosen(train, val_indices)
    else:
        val = side("val")
    n_train = len(order) if own.n_train is None else own.n_train
    if not len(classes) <= n_train <= len(order):
        expected = f"at least {len(classes)}, one of each class"
        if n_train > len(order):
            expected = f"at most {len(order)}, equally many of each class beside the validation's"
        raise JetfmError(named(own.train), f"{n_train} training jets", expected)
    indices = order[:n_train]
    leaked = test.hashes(test.indices) & (train.hashes(indices) | val.hashes(val.indices))
    if leaked:
        found = f"{len(leaked)} jets that are training or validation jets, too"
        raise JetfmError(named(own.test), found, "test jets of their own")
    # What was trained before counts only for the same question: another model, weights to start
    # from, files or classes have their own checkpoints in the same folder.
    question = fingerprint(
        {
            "contender": [contender.model, contender.weights],
            "model": start.hash,
            "preprocessing": preprocessing.to_dict(),
            "classes": list(classes),
            "stores": {split: store.info["sha256"] for split, store in stores.items()},
            "max_constituents": max_constituents,
            "n_train": n_train,
        }
    )
    jets = Jets(train, val, test)
    return _fit(jets, contender, start, settings, out, question, seed, indices, progress)


@dataclass(frozen=True, eq=False)
class _Start:
    """What a fit begins with, loaded once."""

    preprocessing: Preprocessing = Preprocessing()
    backbone: Backbone | None = None  # the pre-trained one
    tokenizer: Tokenizer | None = None  # if the backbone reads ids

    @property
    def hash(self) -> str | None:
        """Of the backbone as it is now."""
        if self.backbone is None:
            return None
        settings = self.backbone.settings.model_dump(mode="json")
        return identity(settings, weights_bytes(self.backbone.state_dict()))


def _start(contender: Contender, tokenizer: str | Path | None) -> _Start:
    if contender.model in BASELINES:
        return _Start()
    if tokenizer is None:
        raise JetfmError("tokenizer", "nothing", f"the folder of that of {contender.folder}")
    known = load_tokenizer(tokenizer)
    backbone = load_backbone(contender.folder, known.hash)
    return _Start(known.preprocessing, backbone, known if backbone.reads_ids else None)


def _fit(
    jets: Jets,
    contender: Contender,
    start: _Start,
    settings: FinetuningSettings,
    out: Path,
    question: str,
    seed: int,
    indices: np.ndarray,
    progress: bool,
) -> dict:
    torch.manual_seed(seed)
    classes, preprocessing = jets.train.class_names, jets.train.preprocessing
    network = contender.network(
        len(classes), preprocessing, settings.baselines, loaded=start.backbone
    )
    module = network
    sides: dict = {"train": jets.train, "val": jets.val, "test": jets.test}
    if contender.weights == "fixed":
        module = HeadOnly(network.head)
        wanted = {"train": indices, "val": jets.val.indices, "test": jets.test.indices}
        for split, some in wanted.items():
            where = out / f"encoded-{question}" / split
            encode(network.backbone, sides[split], some, where, network.causal)
            sides[split] = EncodedJets(where)
    folder = out / f"training-{question}"
    metrics, scores = train_and_test(
        module, sides, jets, indices, settings, folder, seed, progress, contender.weights
    )
    classifier = Classifier(
        network,
        architecture_of(contender, network, settings.baselines),
        classes,
        preprocessing,
        jets.train.max_constituents,
        pt_range_of(jets.train.store, indices),
        start.tokenizer,
        seed,
    )
    classifier.save(out, contender=contender.text, n_train=len(indices))
    metrics |= {"classes": classes, "contender": contender.text, "n_train": len(indices)}
    metrics |= {"n_val": len(jets.val.indices), "n_test": len(jets.test.indices), "seed": seed}
    write_json(out / METRICS, metrics)
    labels = jets.test.labels[jets.test.indices].astype(np.int64)
    store, chosen = jets.test.store, jets.test.indices
    named = (np.asarray(store.labels[chosen]), scores, classes, store.class_names)
    with replacing(out / SCORES) as aside:
        parquet.write_table(scores_table(chosen, *named), aside)
    style.use_style()
    data = as_json(_roc_data(labels, scores, classes, contender.text))
    style.save(roc(**data), data, "roc", out)
    return metrics


class _Chosen:
    """Labelled jets, of which only some count."""

    def __init__(self, jets: LabelledJets, indices: np.ndarray) -> None:
        self._jets, self.indices = jets, np.sort(indices)

    def __getattr__(self, name: str):
        return getattr(self._jets, name)


def _classes_of(store: JetStore) -> tuple[str, ...]:
    names = enumerate(store.class_names)
    found = tuple(name for index, name in names if (store.labels == index).any())
    if len(found) < 2:
        text = f"jets of {', '.join(found) or 'no class'} alone"
        raise JetfmError(store.folder, text, "jets of two classes or more")
    return found


def _roc_data(labels: np.ndarray, scores: np.ndarray, classes: Sequence[str], text: str) -> dict:
    """A curve for the signal of two classes, or for each class against the rest."""
    curves = []
    for index, name in enumerate(classes):
        if len(classes) == 2 and index == 0:
            continue
        p = scores[:, index].astype(np.float64)
        if len(classes) == 2:
            p = p - scores[:, 0]
        signal, background = roc_curve((labels == index).astype(int), p)
        curves.append({"class": name, "signal": signal, "background": background})
    return {"curves": curves, "classes": list(classes), "n_test": len(labels), "text": text}
