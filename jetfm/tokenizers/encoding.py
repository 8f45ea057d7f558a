"""From a jets store to a token store: every constituent gets its id and its decoded vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from jetfm.data.batches import InOrderBatches, shuffle_dense
from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.tokenizers.interface import Tokenizer


def jet_batch(
    store: JetStore,
    tokenizer: Tokenizer,
    indices: np.ndarray,
    max_constituents: int,
    seed: tuple[int, ...],
) -> dict[str, torch.Tensor]:
    """Jets in network space: 'x' (B, T, F), 'mask' (B, T), and 'positions' (B, T).

    Positions are those of the constituents within their jet in the store. Constituents come in
    random order where the tokenizer's settings say so: paper 2 does not feed them sorted in pt
    (arXiv 2512.04149, figure 2 and official code), paper 1 does.
    """
    preprocessing = tokenizer.preprocessing
    physical, mask = store.dense(indices, max_constituents, preprocessing.features)
    order = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    if tokenizer.settings.order == "random":
        order = shuffle_dense(mask, np.random.default_rng(seed))
        physical = np.take_along_axis(physical, order[..., None], axis=1)
    x = preprocessing.forward(physical, mask)
    return {
        "x": torch.as_tensor(x, dtype=torch.float32),
        "mask": torch.as_tensor(mask),
        "positions": torch.tensor(order),
    }


def tokenize(
    tokenizer: Tokenizer,
    store: JetStore,
    folder: str | Path,
    seed: tuple[int, ...],
    max_constituents: int = 128,
    batch_size: int = 500,
    progress: bool = True,
    **info,
) -> TokenStore:
    """Write the token store of all jets of `store`, which keep their index.

    The store's manifest counts, under ``out_of_range``, the constituents that the tokenizer could
    only clip to the edge of its range, and the jets that have one.

    Parameters
    ----------
    seed : of the order of constituents, drawn once per jet and kept in the store
    max_constituents : longer jets keep their leading ones in pt; the store records how many
        constituents they had, which conditions the backbone
    batch_size : jets encoded at once; the order within a jet depends on it, the physics does not
    info : more entries for ``store.json``
    """
    lengths = np.minimum(store.n_constituents, max_constituents)
    batches = InOrderBatches(store.n_constituents, batch_size)
    device = tokenizer.device
    clipped = {"constituents": 0, "jets": 0}  # the writer reads it when all is done
    bar = tqdm(total=len(store), desc="tokenise", unit="jet", disable=not progress)
    with TokenStoreWriter(
        folder,
        tokenizer.n_codes,
        tokenizer.n_features,
        n_constituents=lengths,
        tokenizer=tokenizer.hash,
        seed=list(seed),
        n_truncated=store.n_truncated(max_constituents),
        out_of_range=clipped,
        **info,
    ) as writer:
        for step, indices in enumerate(batches):
            batch = jet_batch(store, tokenizer, indices, max_constituents, (*seed, step))
            mask = batch["mask"].to(device)
            x = batch["x"].to(device)
            ids = tokenizer.encode(x, mask)
            outside = tokenizer.out_of_range(x, mask)
            clipped["constituents"] += int(outside.sum())
            clipped["jets"] += int(outside.any(1).sum())
            decoded = tokenizer.decode(ids, mask)
            arrays = (ids.cpu(), decoded.cpu(), mask.cpu())
            of_jets = (store.labels[indices], store.n_constituents[indices])
            writer.put(indices, *arrays, *of_jets, batch["positions"])
            bar.update(len(indices))
    bar.close()
    return TokenStore(folder)
