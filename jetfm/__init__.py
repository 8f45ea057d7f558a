"""Foundation models for jets, after arXiv 2403.05618 (OmniJet-alpha) and arXiv 2512.04149."""

from __future__ import annotations

from jetfm.version import __version__

__all__ = ["__version__", "load_backbone", "load_classifier", "load_pretrained", "load_tokenizer"]

# Imports inside the functions save the seconds that torch takes to load.


def load_backbone(folder, tokenizer_hash: str | None = None):
    """The backbone of a pre-trained model's folder; see `jetfm.models.jet_model.load_backbone`."""
    from jetfm.models.jet_model import load_backbone as load

    return load(folder, tokenizer_hash)


def load_classifier(folder):
    """A classifier from the folder that ``jetfm finetune`` left, complete; see
    `jetfm.finetuning.classifier.Classifier`."""
    from jetfm.finetuning.classifier import Classifier

    return Classifier.load(folder)


def load_pretrained(name: str = "joint"):
    """A model that came with the repository, and its tokenizer; see
    `jetfm.pretraining.shipped.load_pretrained`."""
    from jetfm.pretraining.shipped import load_pretrained as load

    return load(name)


def load_tokenizer(folder):
    """A trained tokenizer from its folder; see `jetfm.tokenizers.load_tokenizer`."""
    from jetfm.tokenizers import load_tokenizer as load

    return load(folder)
