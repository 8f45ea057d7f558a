"""Random batches at the papers' lengths, for counting and timing steps."""

from __future__ import annotations

import torch

from jetfm.tokenizers.quantizer import rows_of


def jets(n_jets: int, n_constituents: int) -> dict:
    """Network space; all but one slot in a hundred filled, as in batches of similar length."""
    lengths = n_constituents - torch.arange(n_jets) % 2
    mask = torch.arange(n_constituents) < lengths[:, None]
    x = torch.randn(*mask.shape, 3, generator=torch.Generator().manual_seed(1))
    return {"x": x, "mask": mask, "rows": rows_of(mask)}


def labelled(n_jets: int, n_constituents: int) -> dict:
    """For classifiers of two classes."""
    made = jets(n_jets, n_constituents)
    n = made["mask"].sum(1)
    return {"x": made["x"], "mask": made["mask"], "n_constituents": n, "label": n % 2}


def tokens(n_jets: int, n_constituents: int, n_codes: int) -> dict:
    """For pre-training, without its plan."""
    made = jets(n_jets, n_constituents)
    mask = made["mask"]
    ids = torch.randint(0, n_codes, mask.shape, generator=torch.Generator().manual_seed(2))
    ids = torch.where(mask, ids, -1)
    return {"ids": ids, "decoded": made["x"], "mask": mask, "n_constituents": mask.sum(1)}
