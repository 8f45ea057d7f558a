"""From a jets store to a token store: every constituent gets its id and its decoded vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from jetfm.data.batches import InOrderBatches
from jetfm.data.constituent_order import shuffled
from jetfm.data.ragged import MANIFEST, PARTS, join_parts, manifest
from jetfm.data.store import JetStore
from jetfm.data.token_store import TokenStore, TokenStoreWriter
from jetfm.errors import JetfmError
from jetfm.physics.features import within_cuts
from jetfm.runtime.device import current_device
from jetfm.runtime.progress import Progress
from jetfm.runtime.workers import run_tasks
from jetfm.schema import KINEMATICS
from jetfm.storage.files import made_aside, make_folder, remove_leftovers
from jetfm.tokenizers.interface import Tokenizer

_CHUNK = 50_000  # jets in memory at once
_SIGNS = ((1, 1), (-1, 1), (1, -1), (-1, -1))  # factors on eta_rel and phi_rel


def jet_batch(
    store: JetStore,
    tokenizer: Tokenizer,
    indices: np.ndarray,
    max_constituents: int,
    seed: tuple[int, ...],
    signs: tuple[int, int] = (1, 1),
) -> dict[str, torch.Tensor]:
    """Jets in network space: 'x' (B, T, F), 'mask' (B, T), and 'positions' (B, T).

    Positions are those of the constituents within their jet in the store. Those outside the
    tokenizer's cuts are left out. Constituents come in
    random order where the tokenizer's settings say so (`jetfm.data.constituent_order`), else in
    falling pt, as stores have them. Jets are mirrored where `signs`, the factors on eta_rel and
    phi_rel, are negative.
    """
    preprocessing = tokenizer.preprocessing
    physical, mask = store.dense(indices, max_constituents, preprocessing.features)
    if signs != (1, 1):
        physical[..., 1:3] *= np.array(signs, physical.dtype)
    order = np.broadcast_to(np.arange(mask.shape[1]), mask.shape)
    if tokenizer.settings.half_width is not None:
        kept = mask & within_cuts(physical, tokenizer.settings.half_width)
        if not np.array_equal(kept, mask):
            order = np.argsort(~kept, axis=1, kind="stable")
            physical = np.take_along_axis(physical, order[..., None], axis=1)
            mask = np.arange(mask.shape[1]) < kept.sum(1, keepdims=True)
    if tokenizer.settings.order == "random":
        places = shuffled(mask, np.random.default_rng(seed))
        order = np.take_along_axis(order, places, axis=1)
        physical = np.take_along_axis(physical, places[..., None], axis=1)
    x = preprocessing.forward(physical, mask)
    return {
        "x": torch.as_tensor(x, dtype=torch.float32),
        "mask": torch.as_tensor(mask),
        "positions": torch.tensor(order),
    }


def outside_cuts(
    store: JetStore, half_width: float | None, max_constituents: int | None = None
) -> np.ndarray:
    """How many constituents of each jet are outside the cuts, (n_jets,) int64.

    Parameters
    ----------
    half_width : of `jetfm.physics.features.within_cuts`; None is no cut
    max_constituents : longer jets are asked about their leading ones in pt alone
    """
    found = np.zeros(len(store), np.int64)
    if half_width is None:
        return found
    columns = store.columns(KINEMATICS)
    for start in range(0, len(store), _CHUNK):
        jets = slice(start, start + _CHUNK)
        first, last = store.offsets[:-1][jets], store.offsets[1:][jets]
        rows = np.asarray(store.constituents[first[0] : last[-1]])
        outside = ~within_cuts(rows[:, columns], half_width)
        if max_constituents is not None:
            outside &= np.arange(len(rows)) - np.repeat(first - first[0], last - first) < (
                max_constituents
            )
        before = np.concatenate([[0], np.cumsum(outside)])
        found[jets] = before[last - first[0]] - before[first - first[0]]
    return found


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
    only clip to the edge of its range, and the jets that have one; under ``removed`` those that its
    cuts leave without a token.

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


def tokenize_mirrored(
    tokenizer: Tokenizer,
    store: JetStore,
    folder: str | Path,
    seed: tuple[int, ...],
    classes: Sequence[str] = (),
    max_constituents: int = 128,
    batch_size: int = 500,
    progress: bool = True,
) -> TokenStore:
    """Write tokens of jets and of their mirror images in eta_rel, in phi_rel and in both.

    Our choice, for small samples: the papers have jets enough. Nature and detectors treat a jet and
    its mirror image in phi alike, and nearly so in eta; a tokenizer does not, so that a model of
    tokens sees four jets for one.

    Parameters
    ----------
    seed, max_constituents, batch_size : as for `tokenize`
    classes : of the jets that are taken; none named means all

    Returns
    -------
    tokens of the jets as they are, then of each kind of mirror image

    Raises
    ------
    JetfmError
        A tokenizer of more than the kinematics: charges and impact parameters mirror otherwise.
    """
    if tokenizer.preprocessing.features != KINEMATICS:
        found = f"a tokenizer of {tokenizer.n_features} features"
        raise JetfmError("mirror images", found, f"one of {', '.join(KINEMATICS)}")
    jets, device = store.jets_of(classes), tokenizer.device
    n_removed = outside_cuts(store, tokenizer.settings.half_width, max_constituents)[jets]
    lengths = np.minimum(store.n_constituents[jets], max_constituents) - n_removed
    multiplicity = store.n_constituents[jets] - n_removed
    batches = InOrderBatches(lengths, batch_size)
    bar = Progress("tokenise mirrored", len(_SIGNS) * len(jets), unit="jet", show=progress)
    with TokenStoreWriter(
        folder,
        tokenizer.n_codes,
        tokenizer.n_features,
        n_constituents=np.tile(lengths, len(_SIGNS)),  # cuts do not see a sign
        tokenizer=tokenizer.hash,
        seed=list(seed),
    ) as writer:
        for number, signs in enumerate(_SIGNS):
            for step, places in enumerate(batches):
                indices, seeds = jets[places], (*seed, number, step)
                batch = jet_batch(store, tokenizer, indices, max_constituents, seeds, signs)
                mask = batch["mask"].to(device)
                ids = tokenizer.encode(batch["x"].to(device), mask)
                arrays = (ids.cpu(), tokenizer.decode(ids, mask).cpu(), batch["mask"])
                of_jets = (store.labels[indices], multiplicity[places], batch["positions"])
                writer.put(number * len(jets) + places, *arrays, *of_jets)
                bar.update(len(indices), len(indices))
    bar.close()
    return TokenStore(folder)


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
        tokenizer = tokenizer.eval().to(current_device())
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
    n_removed = outside_cuts(store, tokenizer.settings.half_width, max_constituents)
    batches = InOrderBatches(store.n_constituents, batch_size) if len(store) else ()
    device = tokenizer.device
    clipped = {"constituents": 0, "jets": 0}  # the writer reads it when all is done
    bar = Progress("tokenise", len(store), unit="jet", show=progress)
    with TokenStoreWriter(
        folder,
        tokenizer.n_codes,
        tokenizer.n_features,
        n_constituents=lengths - n_removed,
        may_be_empty=not len(store),
        tokenizer=tokenizer.hash,
        n_truncated=store.n_truncated(max_constituents),
        out_of_range=clipped,
        half_width=tokenizer.settings.half_width,
        removed={"constituents": int(n_removed.sum()), "jets": int((n_removed > 0).sum())},
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
            of_jets = (store.labels[indices], store.n_constituents[indices] - n_removed[indices])
            writer.put(indices, *arrays, *of_jets, batch["positions"])
            bar.update(len(indices), len(indices))
    bar.close()
    return TokenStore(folder)
