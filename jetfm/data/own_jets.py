"""A user's jets, in whatever files they come: a jets store of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jetfm.data import jetclass
from jetfm.data.conversion import convert, in_parts
from jetfm.data.jet_files import Paths, jet_files, named, several
from jetfm.data.store import MANIFEST, JetStore, build_store
from jetfm.data.toplandscape import build_toplandscape_store
from jetfm.errors import JetfmError
from jetfm.schema import KINEMATICS
from jetfm.storage.files import sha256


def store_of(
    jets: Paths,
    folder: str | Path,
    progress: bool = True,
    features: Sequence[str] = KINEMATICS,
    any_pt: bool = False,
) -> JetStore:
    """The jets store of some jets; written to `folder` first, unless they are one already.

    Parameters
    ----------
    jets : a jets store, or JetClass ROOT files, or h5 files of the Top Landscape, or folders of
        either kind of files: one path, or several
    folder : a complete store of the same files there is used as it is
    features : of the constituents that are needed; files are not asked for others
    any_pt : take jets of another selection than the data sets'; MeV for GeV is not noticed then

    Many or large files become a store in parts, side by side (`jetfm.data.conversion`).

    Raises
    ------
    JetfmError
        Missing or damaged files, files of both kinds, or a store of other files in `folder`.
    """
    paths, folder = several(jets), Path(folder)
    stores = [path for path in paths if (path / MANIFEST).exists()]
    if stores:
        if len(paths) > 1:
            raise JetfmError(stores[0], "a jets store among other jets", "one store, or files")
        return _with_features(JetStore(stores[0]), features)
    files = jet_files(paths, say=print if progress else None)
    kinds = {path.suffix for path in files}
    if len(kinds) != 1:
        raise JetfmError(named(jets), "ROOT and h5 files", "jets of one kind")
    if in_parts(files):
        return convert(files, folder, features=features, progress=progress, any_pt=any_pt)
    if not (folder / MANIFEST).exists():
        options = {"pt_range": None} if any_pt else {}
        if kinds == {".h5"}:
            store = build_toplandscape_store(files, folder, progress, **options)
            return _with_features(store, features)
        reader = partial(jetclass.iterate, **options)
        return build_store(files, folder, progress, features, iterate=reader)
    store = _with_features(JetStore(folder), features)
    used = [source["sha256"] for source in store.info["sources"]]
    if list(dict.fromkeys(used)) != list(dict.fromkeys(map(sha256, files))):
        raise JetfmError(folder, "the store of other files", f"that of {named(jets)}")
    return store


def _with_features(store: JetStore, features: Sequence[str]) -> JetStore:
    missing = [name for name in features if name not in store.features]
    if missing:
        raise JetfmError(store.folder, f"jets without {', '.join(missing)}", "jets that have them")
    return store
