"""Stores of small jets, identified or not, and untrained models, for the displays' tests."""

from __future__ import annotations

import numpy as np
import torch

from jetfm.data.store import JET_DTYPE, JetStore, JetStoreWriter
from jetfm.finetuning.classifier import Classifier
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import JetClassifier
from jetfm.physics.features import Preprocessing
from jetfm.schema import CONSTITUENT_FEATURES
from jetfm.settings import BackboneSettings, TokenizerSettings
from jetfm.tokenizers import make_tokenizer
from tests.toys import randomise

CLASSES = ("QCD", "Tbqq")
COUNTS = (0, 1, 2, 3, 40, 130)  # of the jets of each class


def store_of(folder, counts=COUNTS, seed=0, features=CONSTITUENT_FEATURES) -> JetStore:
    """Jets of both classes by turns, each of these numbers of constituents."""
    counts, rng = np.repeat(counts, 2), np.random.default_rng(seed)
    rows = np.zeros((counts.sum(), len(features)), np.float32)
    rows[:, 0] = rng.exponential(20, len(rows)) + 0.5
    rows[:, 1:3] = rng.normal(0, 0.25, (len(rows), 2))
    if len(features) > 3:
        rows[np.arange(len(rows)), 5 + rng.integers(0, 5, len(rows))] = 1  # its kind
    jets = np.zeros(len(counts), JET_DTYPE)
    jets["label"] = np.resize((0, 8), len(counts))
    with JetStoreWriter(folder, features) as writer:
        writer.append(rows, counts, jets)
    return JetStore(folder)


def tokenizer_of(**more):
    small = {"n_codes": 32, "dim": 8, "n_blocks": 1, "n_heads": 2}
    small = {} if more.get("preset") == "binned" else small
    return randomise(make_tokenizer(TokenizerSettings.model_validate(small | more), seed=1)).eval()


def classifier_of(max_constituents=128, **more) -> Classifier:
    torch.manual_seed(3)
    backbone = Backbone(BackboneSettings(dim=16, n_blocks=1, n_heads=2, n_registers=2))
    module = randomise(JetClassifier(backbone, len(CLASSES))).eval()
    options = {"architecture": {}, "classes": CLASSES, "pt_range": (0.0, 1e4)} | more
    options |= {"preprocessing": Preprocessing(), "max_constituents": max_constituents}
    return Classifier(module, **options).eval()
