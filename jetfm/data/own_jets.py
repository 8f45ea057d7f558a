"""A user's jets, in whatever files they come: a jets store of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from jetfm.data.conversion import READERS, convert, in_parts
from jetfm.data.jet_files import Paths, jet_files, named, several
from jetfm.data.layout import JETCLASS, Layout, known_classes
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
    layout: Layout = JETCLASS,
) -> JetStore:
    """The jets store of some jets; written to `folder` first, unless they are one already.

    Parameters
    ----------
    jets : a jets store, or JetClass ROOT files, or parquet files, or h5 files of the Top Landscape,
        or folders of one kind of files: one path, or several
    folder : a complete store of the same files there is used as it is
    features : of the constituents that are needed; files are not asked for others
    any_pt : take jets of another selection than the data sets'; MeV for GeV is not noticed then
    layout : what ROOT and parquet files call their branches, and which jets make which class; a
        jets store has had its own

    Many or large files become a store in parts, side by side (`jetfm.data.conversion`).

    Raises
    ------
    JetfmError
        Missing or damaged files, files of several kinds, or a store of other files in `folder`, or
        of the same by another layout.
    """
    paths, folder = several(jets), Path(folder)
    stores = [path for path in paths if (path / MANIFEST).exists()]
    if stores:
        if len(paths) > 1:
            raise JetfmError(stores[0], "a jets store among other jets", "one store, or files")
        return _with_features(_with_classes(JetStore(stores[0]), layout), features)
    files = jet_files(paths, say=print if progress else None)
    kinds = sorted({path.suffix for path in files})
    if len(kinds) != 1:
        raise JetfmError(named(jets), f"{' and '.join(kinds)} files", "jets of one kind")
    if in_parts(files):
        options = {"features": features, "progress": progress, "any_pt": any_pt, "layout": layout}
        return convert(files, folder, **options)
    if not (folder / MANIFEST).exists():
        options = {"pt_range": None} if any_pt else {}
        if kinds == [".h5"] and layout.is_jetclass:
            store = build_toplandscape_store(files, folder, progress, **options)
            return _with_features(store, features)
        reader = partial(READERS[kinds[0]].iterate, layout=layout, **options)
        return build_store(files, folder, progress, features, iterate=reader, layout=layout)
    store = _with_features(JetStore(folder), features)
    used = [source["sha256"] for source in store.info["sources"]]
    if list(dict.fromkeys(used)) != list(dict.fromkeys(map(sha256, files))):
        raise JetfmError(folder, "the store of other files", f"that of {named(jets)}")
    if store.info.get("layout") != layout.recorded().get("layout"):
        found = "a store of the same files with other names of branches or other classes"
        raise JetfmError(folder, found, "the same as before, or another folder")
    return store


def classes_of(names: Iterable[str], layout: Layout, *jets: Paths) -> tuple[str, ...]:
    """Names of classes as the jets have them, before any file is read.

    Parameters
    ----------
    names : as in the schema, as in the layout, or as in a jets store among `jets`

    Raises
    ------
    JetfmError
        A class that is none of these.
    """
    own = set(layout.class_names)
    for path in (path for one in jets for path in several(one)):
        if (path / MANIFEST).exists():
            with suppress(JetfmError):  # said when it is opened
                own |= set(JetStore(path).class_names)
    return known_classes(names, own)


def _with_classes(store: JetStore, layout: Layout) -> JetStore:
    """The store, unless classes are asked for that its jets were not sorted by."""
    made = (store.info.get("layout") or {}).get("classes", {})
    if layout.classes and made != dict(layout.classes):
        found = "a jets store, whose jets have their classes, and classes by expression"
        expected = "names alone, or the files that the store was made from"
        raise JetfmError(store.folder, found, expected)
    return store


def _with_features(store: JetStore, features: Sequence[str]) -> JetStore:
    missing = [name for name in features if name not in store.features]
    if missing:
        raise JetfmError(store.folder, f"jets without {', '.join(missing)}", "jets that have them")
    return store
