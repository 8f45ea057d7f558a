"""Pre-trained models that come with the repository, in ``weights/``.

``weights/models/<name>`` holds a model in half precision, ``weights/tokenizers/<name>`` the
tokenizer whose tokens it predicts, ``weights/classifiers/<name>`` a fine-tuned classifier: each a
folder like those in ``work/``, with a card, ``README.md``, of what it was made from and is for.
`jetfm.results.shipping` writes them from a finished profile.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jetfm.errors import JetfmError
from jetfm.models.jet_model import JetModel
from jetfm.settings import PretrainingSettings
from jetfm.storage.files import read_json
from jetfm.storage.paths import weights_folder
from jetfm.tokenizers import Tokenizer, load_tokenizer

#: The one that commands take where none is named.
DEFAULT = "joint"


@dataclass(frozen=True)
class Shipped:
    """Where a shipped model is, and what its files say of it.

    Attributes
    ----------
    model, tokenizer : folders
    profile : whose pre-training made it
    settings : of the pre-training, without those of its steps
    """

    name: str
    model: Path
    tokenizer: Path
    profile: str
    settings: PretrainingSettings

    @property
    def multiplicities(self) -> np.ndarray:
        """(n,) constituents of held-out jets, each number as often as they have it."""
        counts = np.array(read_json(self.model / "model.json")["n_constituents"])
        return np.repeat(np.arange(len(counts)), counts)


@dataclass(frozen=True)
class Pretrained:
    """A pre-trained model, in evaluation mode on the CPU, and its tokenizer.

    ``model.backbone`` is what fine-tuning starts from.
    """

    name: str
    model: JetModel
    tokenizer: Tokenizer


def shipped_models() -> dict[str, Shipped]:
    """The models that came with the repository, by name; none where it was installed without."""
    found = {}
    for path in sorted(weights_folder().glob("models/*/model.json")):
        record = read_json(path)
        tokenizer = weights_folder() / "tokenizers" / record["tokenizer"]
        settings = PretrainingSettings.model_validate(record["config"]["settings"])
        about = (record["profile"], settings)
        found[path.parent.name] = Shipped(path.parent.name, path.parent, tokenizer, *about)
    return found


def shipped_model(name: str = DEFAULT) -> Shipped:
    """One of them.

    Raises
    ------
    JetfmError
        There is none of this name.
    """
    known = shipped_models()
    if name not in known:
        expected = f"one of {', '.join(known)}" if known else "a clone of the repository with them"
        raise JetfmError(weights_folder(), f"no model {name!r}", expected)
    return known[name]


def shipped_classifier() -> Path | None:
    """Folder of the classifier that came with the repository, if one did."""
    found = sorted(weights_folder().glob("classifiers/*/classifier.json"))
    return found[0].parent if found else None


def load_pretrained(name: str = DEFAULT) -> Pretrained:
    """A model that came with the repository, with its tokenizer.

    Parameters
    ----------
    name : 'joint', 'main' (next tokens), 'mpm' (masked particles), 'omnijet'

    Raises
    ------
    JetfmError
        There is none of this name, or its files are damaged.
    """
    found = shipped_model(name)
    model, tokenizer = JetModel.load(found.model), load_tokenizer(found.tokenizer)
    if model.tokenizer_hash != tokenizer.hash:
        text = f"tokens of tokenizer {model.tokenizer_hash[:12]}"
        raise JetfmError(found.model, text, f"of {tokenizer.hash[:12]} in {found.tokenizer}")
    return Pretrained(name, model, tokenizer)
