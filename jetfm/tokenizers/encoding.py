"""From a jets store to a token store: every constituent gets its id and its decoded vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jetfm.data.batches import InOrderBatches, shuffle_dense
from jetfm.data.ragged import MANIFEST, PARTS, join_parts, manifest
from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.runtime.progress import Progress
from jetfm.runtime.workers import run_tasks
from jetfm.storage.files import made_aside, make_folder, remove_leftovers
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
    (arXiv 2512.04149, figure 2 and official code), paper 1 does: stores keep them so
    (`jetfm.data.store.JetStoreWriter.append`).
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
    workers: int = 1,
    dask_address: str | None = None,
    **info,
) -> TokenStore:
    """Write the token store of all jets of `store`, which keep their index.

    A store in parts becomes one in parts of the same names. Those that an interrupted call finished
    are kept; each draws its random numbers by its place, so it does not matter who makes it.

    The store's manifest counts, under ``out_of_range``, the constituents that the tokenizer could
    only clip to the edge of its range, and the jets that have one.

    Parameters
    ----------
    seed : of the order of constituents, drawn once per jet and kept in the store
    max_constituents : longer jets keep their leading ones in pt; the store records how many
        constituents they had, which conditions the backbone
    batch_size : jets encoded at once; the order within a jet depends on it, the physics does not
    workers, dask_address : processes that take a part each, or a Dask cluster with this file system
    info : more entries for ``store.json``
    """
    info = {"seed": list(seed), "max_constituents": max_constituents} | info
    if not store.parts:
        options = (seed, max_constituents, batch_size, progress)
        return _tokenize(tokenizer, store, folder, *options, info)
    everywhere = workers != 1 or dask_address is not None
    sources = store.info["sha256"]
    tasks = [
        PartToTokenize(
            tokenizer.cpu() if everywhere else tokenizer,
            path,
            Path(folder) / PARTS / path.name,
            (*seed, number),
            max_constituents,
            batch_size,
            {
                "part": number,
                "seed": list(seed),
                "max_constituents": max_constituents,
                "source": sources[f"{PARTS}/{path.name}/{MANIFEST}"],
            },
            everywhere,
        )
        for number, path in enumerate(store.parts)
    ]
    (make_folder(folder) / MANIFEST).unlink(missing_ok=True)  # from here on not a store
    remove_leftovers(Path(folder) / PARTS)  # of killed workers
    pending = [task for task in tasks if not task.is_done()]
    run_tasks(
        tokenize_part,
        [(task,) for task in pending],
        workers,
        "tokenise",
        progress,
        "part",
        done=len(tasks) - len(pending),
        dask_address=dask_address,
    )
    return join_parts(folder, TokenStore, [path.name for path in store.parts], **info)


@dataclass(frozen=True, eq=False)
class PartToTokenize:
    """One part of a jets store, and where its tokens go."""

    tokenizer: Tokenizer
    jets: Path
    folder: Path
    seed: tuple[int, ...]
    max_constituents: int
    batch_size: int
    info: dict  # for the part's manifest: all that decides its tokens, beside the tokenizer
    elsewhere: bool  # in another process, which may have a GPU

    def is_done(self) -> bool:
        """Whether the tokens are there, of these jets and this tokenizer."""
        if not (self.folder / MANIFEST).exists():
            return False
        try:
            found = manifest(self.folder)
        except JetfmError:  # damaged: made anew
            return False
        wanted = {"tokenizer": self.tokenizer.hash} | self.info
        return {key: found.get(key) for key in wanted} == wanted


def tokenize_part(task: PartToTokenize) -> str:
    """Write the tokens of one part, unless they are there; returns its name.

    Two workers may do the same part, when a cluster takes one for dead that is not: each writes a
    folder of its own, and the second to finish finds the same in place.
    """
    if task.is_done():
        return task.folder.name
    tokenizer = task.tokenizer
    if task.elsewhere:
        tokenizer = tokenizer.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    options = (task.seed, task.max_constituents, task.batch_size, False)
    with made_aside(task.folder, task.is_done) as aside:
        _tokenize(tokenizer, JetStore(task.jets), aside, *options, task.info)
    return task.folder.name


def _tokenize(
    tokenizer: Tokenizer,
    store: JetStore,
    folder: str | Path,
    seeds: tuple[int, ...],
    max_constituents: int,
    batch_size: int,
    progress: bool,
    info: dict,
) -> TokenStore:
    """All jets of a store in one folder."""
    lengths = np.minimum(store.n_constituents, max_constituents)
    batches = InOrderBatches(store.n_constituents, batch_size) if len(store) else ()
    device = tokenizer.device
    clipped = {"constituents": 0, "jets": 0}  # the writer reads it when all is done
    bar = Progress("tokenise", len(store), unit="jet", show=progress)
    with TokenStoreWriter(
        folder,
        tokenizer.n_codes,
        tokenizer.n_features,
        n_constituents=lengths,
        may_be_empty=not len(store),
        tokenizer=tokenizer.hash,
        n_truncated=store.n_truncated(max_constituents),
        out_of_range=clipped,
        **info,
    ) as writer:
        for step, indices in enumerate(batches):
            batch = jet_batch(store, tokenizer, indices, max_constituents, (*seeds, step))
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
            bar.update(len(indices), len(indices))
    bar.close()
    return TokenStore(folder)
