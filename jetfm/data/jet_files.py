"""A user's jets, in whatever files they come: a jets store of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jetfm.data.conversion import convert, in_parts
from jetfm.data.store import MANIFEST, JetStore, build_store
from jetfm.data.toplandscape import build_toplandscape_store
from jetfm.errors import JetfmError
from jetfm.schema import KINEMATICS
from jetfm.storage.files import sha256


def store_of(
    jets: str | Path,
    folder: str | Path,
    progress: bool = True,
    features: Sequence[str] = KINEMATICS,
) -> JetStore:
    """The jets store of some jets; written to `folder` first, unless they are one already.

    Parameters
    ----------
    jets : a jets store, a JetClass ROOT file, an h5 file of the Top Landscape, or a folder of
        either kind of files
    folder : a complete store of the same files there is used as it is
    features : of the constituents that are needed; files are not asked for others

    Many or large files become a store in parts, side by side (`jetfm.data.conversion`).

    Raises
    ------
    JetfmError
        Missing or damaged files, files of both kinds, or a store of other files in `folder`.
    """
    jets, folder = Path(jets), Path(folder)
    if (jets / MANIFEST).exists():
        return _with_features(JetStore(jets), features)
    files = [jets] if jets.is_file() else sorted((*jets.rglob("*.root"), *jets.rglob("*.h5")))
    kinds = {path.suffix for path in files}
    if len(kinds) != 1:
        found = "ROOT and h5 files" if files else "neither a jets store nor ROOT or h5 files"
        raise JetfmError(jets, found, "jets of one kind")
    if in_parts(files):
        return convert(files, folder, features=features, progress=progress)
    if not (folder / MANIFEST).exists():
        if kinds == {".h5"}:
            return _with_features(build_toplandscape_store(files, folder, progress), features)
        return build_store(files, folder, progress, features)
    store = _with_features(JetStore(folder), features)
    used = [source["sha256"] for source in store.info["sources"]]
    if list(dict.fromkeys(used)) != list(dict.fromkeys(map(sha256, files))):
        raise JetfmError(folder, "the store of other files", f"that of {jets}")
    return store


def _with_features(store: JetStore, features: Sequence[str]) -> JetStore:
    missing = [name for name in features if name not in store.features]
    if missing:
        raise JetfmError(store.folder, f"jets without {', '.join(missing)}", "jets that have them")
    return store
