"""Plain layers to compare with: torch's own dropout and attention, a whole batch at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor

from jetfm.models import normformer, transformer


@contextmanager
def plain_layers() -> Iterator[None]:
    """Our models' blocks in torch's own operations, over all slots, while the block runs."""
    block = transformer.Block
    with ExitStack() as stack:
        stack.enter_context(patch.object(transformer, "attention", _attention))
        for module in (transformer, normformer):
            stack.enter_context(patch.object(module, "dropout", F.dropout))
        stack.enter_context(patch.object(block, "forward", block.plain))
        yield


def _attention(q, k, v, mask=None, causal=False, p=0.0, bias=None) -> Tensor:
    """`jetfm.models.attention.attention` through torch's, with one explicit mask for padding."""
    if mask is None and bias is None:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=causal)
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
    seen = seen.tril() if causal else seen
    if mask is not None:
        seen = seen & mask[:, None, None, :]
    hidden = seen if bias is None else bias.masked_fill(~seen, -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, hidden, p)
