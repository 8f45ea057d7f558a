"""Tokenise one's own jets with a trained tokenizer: files or a jets store in, tokens out."""

from __future__ import annotations

from pathlib import Path

from jetfm.data.jet_files import Paths
from jetfm.data.layout import JETCLASS, Layout
from jetfm.data.own_jets import store_of
from jetfm.data.store import MANIFEST
from jetfm.data.token_store import TokenStore
from jetfm.errors import JetfmError
from jetfm.runtime.device import current_device
from jetfm.storage.files import make_folder
from jetfm.storage.locks import exclusive
from jetfm.tokenizers.encoding import tokenize
from jetfm.tokenizers.interface import Tokenizer
from jetfm.tokenizers.kinds import load_tokenizer


def tokenize_files(
    tokenizer: str | Path | Tokenizer,
    jets: Paths,
    out: str | Path,
    seed: int = 1,
    max_constituents: int = 128,
    progress: bool = True,
    workers: int = 1,
    dask_address: str | None = None,
    verify: bool = False,
    any_pt: bool = False,
    layout: Layout = JETCLASS,
) -> TokenStore:
    """Write the token store of some jets, streamed: memory does not grow with their number.

    Another process at `out` is waited for.

    Parameters
    ----------
    tokenizer : a trained one, or its folder
    jets : a jets store, or files as `jetfm.data.own_jets.store_of` takes them, whose store is
        written to ``out/jets`` first
    out : folder of the token store; one that is complete already, by the same tokenizer from the
        same jets, is left as it is
    seed : of the order of constituents, where the tokenizer wants it random
    workers, dask_address : of a jets store in parts, see `tokenize`
    any_pt, layout : take jets of another selection, or other names of branches, as `store_of`
    verify : check the checksums of a complete store, and make what is damaged anew

    Raises
    ------
    JetfmError
        Missing, damaged or mismatched files, or a complete token store of other jets.
    """
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = load_tokenizer(tokenizer)
    out = make_folder(out)
    with exclusive(out, print, "tokenize."):
        features = tokenizer.preprocessing.features
        store = store_of(jets, out / "jets", progress, features, any_pt, layout)
        wanted = {
            "tokenizer": tokenizer.hash,
            "source": store.info["sha256"],
            "seed": [seed],
            "max_constituents": max_constituents,
        }
        if (out / MANIFEST).exists():
            done = TokenStore(out)
            if wanted != {key: done.info.get(key) for key in wanted}:
                found = "a token store of other jets or another tokenizer"
                expected = "an empty folder, or the tokens of the same jets, tokenizer, seed and "
                raise JetfmError(out, found, f"{expected}length")
            if not verify or not done.forget_damaged():
                return done
        tokenizer.to(current_device())
        return tokenize(
            tokenizer,
            store,
            out,
            (seed,),
            max_constituents,
            progress=progress,
            workers=workers,
            dask_address=dask_address,
            source=wanted["source"],
        )
