"""JetClass and Top Landscape from Zenodo: checked, resumable, unpacked where ``DATA=`` finds them.

========  ==========================================================  =====================
data set  archives                                                    what is left
========  ==========================================================  =====================
JetClass  ``JetClass_Pythia_...``, tars without compression, 190 GB   ``train_100M/``, ``val_5M/``,
                                                                      ``test_20M/`` with
                                                                      ``CLASS_NNN.root``
Top       ``train.h5``, ``val.h5``, ``test.h5``, 1.7 GB               the same files
========  ==========================================================  =====================

Whole archives are compared with their published MD5 before they are used. A single class file is
fetched out of its archive by ranges of bytes; no checksum exists for it, so its structure is
checked instead, as the reader does. Everything can be repeated: what is complete is left alone,
what is partial is continued.

Sources: the MD5s are those of ``get_datasets.py`` in jet-universe/particle_transformer (JetClass)
and of three public downloaders that agree (Top Landscape).
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from jetfm.data.jetclass import open_tree
from jetfm.download.http import Patience, Remote, Stopped, check_md5, fetch, part_of
from jetfm.download.remote_tar import find_members
from jetfm.errors import JetfmError
from jetfm.runtime.progress import ByteProgress
from jetfm.schema import CLASSES, class_by_name
from jetfm.storage.files import make_folder, read_json, replacing, write_json

URL_VARIABLE = "JETFM_DOWNLOAD_URL"  # folder on a server that holds the archives, e.g. a mirror

_MARGIN = 2**28  # bytes to leave free
_ROOT_FILE = re.compile(f"({'|'.join(c.prefix for c in CLASSES)})_[0-9]+[.]root")


@dataclass(frozen=True)
class Archive:
    """A file of the data set: its name on the server, its MD5, and the folder it unpacks to."""

    name: str
    md5: str
    folder: str = ""


_TRAIN_MD5 = (
    "de4fd2dca2e68ab3c85d5cfd3bcc65c3",
    "9722a359c5ef697bea0fbf79bf50f003",
    "1e9f66cd1f915f9d10e90ae1d7761720",
    "47348fc8985319fa4806da87500482fa",
    "6b0ce16bd93b442a8d51914466990279",
    "416e347512e716de51d392bee327b8e9",
    "e9b9c1557b1b39bf0a16e4ab631ae451",
    "5bfc6cb285ccb7680cefa9ac82ad1a2e",
    "540c1a0d66dfad78d2b363c5740ccf86",
    "668f40b3275167ff7104c48317c0ae2a",
)
JETCLASS_URL = "https://zenodo.org/record/6619768/files"
JETCLASS = {
    f"train{i}": Archive(f"JetClass_Pythia_train_100M_part{i}.tar", md5, "train_100M")
    for i, md5 in enumerate(_TRAIN_MD5)
} | {
    "val": Archive("JetClass_Pythia_val_5M.tar", "7235ccb577ed85023ea3ab4d5e6160cf", "val_5M"),
    "test": Archive("JetClass_Pythia_test_20M.tar", "64e5156d26d101adeb43b8388207d767", "test_20M"),
}
TOPLANDSCAPE_URL = "https://zenodo.org/record/2603256/files"
TOPLANDSCAPE = {
    "train": Archive("train.h5", "45663819f47c13724f67eb0fd80bfa5c"),
    "val": Archive("val.h5", "dca4b7248027618f041f9baa86d360fc"),
    "test": Archive("test.h5", "13163479dee30a5fe546e4536cc3d04d"),
}


def download_jetclass(
    dest: str | Path,
    parts: Sequence[str],
    *,
    jobs: int = 2,
    keep_archives: bool = False,
    base_url: str | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> list[Path]:
    """Download archives of JetClass, check and unpack them, and delete them.

    Parameters
    ----------
    dest : folder for ``train_100M/``, ``val_5M/`` and ``test_20M/``
    parts : of val, test, train0 to train9, and train for all ten
    jobs : archives at once; Zenodo asks for few
    base_url : folder on another server; else ``JETFM_DOWNLOAD_URL``, else Zenodo

    Returns
    -------
    the ROOT files of these archives, sorted

    Raises
    ------
    JetfmError
        An unknown part, no room for the archives and what is in them, a server that refuses, a
        wrong checksum, or an archive with unexpected contents.
    """
    archives = [JETCLASS[name] for name in _known(parts, JETCLASS)]
    dest = make_folder(dest)
    missing = [archive for archive in archives if not _unpacked(dest, archive)]

    def one(archive: Archive, remote: Remote, size: int | None, bar) -> None:
        path = _whole(archive, remote, size, dest, bar)
        bar.note(f"unpacking {archive.name}")
        _unpack(path, dest, archive, remote.stop)
        if not keep_archives:
            path.unlink(missing_ok=True)

    url = _base(base_url, JETCLASS_URL)
    beside = len(missing) if keep_archives else jobs
    _together(missing, one, dest, beside, url, jobs, patience, progress)
    return sorted(path for archive in archives for path in _unpacked(dest, archive))


def download_toplandscape(
    dest: str | Path,
    parts: Sequence[str],
    *,
    jobs: int = 2,
    base_url: str | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> list[Path]:
    """Download files of the Top Landscape, ``train``, ``val`` or ``test``, and check them.

    Parameters and errors as for `download_jetclass`. A file that is there already is checked, too.
    """
    archives = [TOPLANDSCAPE[name] for name in _known(parts, TOPLANDSCAPE)]
    dest = make_folder(dest)
    for archive in archives:
        if (dest / archive.name).exists():
            check_md5(dest / archive.name, archive.md5)
    missing = [archive for archive in archives if not (dest / archive.name).exists()]

    def one(archive: Archive, remote: Remote, size: int | None, bar) -> None:
        _whole(archive, remote, size, dest, bar)

    url = _base(base_url, TOPLANDSCAPE_URL)
    _together(missing, one, dest, 0, url, jobs, patience, progress)
    return [dest / archive.name for archive in archives]


def download_class_files(
    dest: str | Path,
    part: str,
    class_name: str,
    n_files: int = 1,
    *,
    base_url: str | None = None,
    patience: Patience | None = None,
    progress: bool = True,
) -> list[Path]:
    """Fetch the first files of one class out of an archive of JetClass, without the rest of it.

    The headers of the archive are walked, one small request per member, until the files are found;
    where they lie is kept in ``dest``, so that no later call walks the same way.

    Parameters
    ----------
    part : val, test, or train0 to train9
    class_name : as ``HToBB`` or ``Hbb``
    n_files : of 100 000 jets each

    Raises
    ------
    JetfmError
        An unknown part or class, fewer files of it in the archive, a server without ranges of
        bytes, no room, or a file that is not JetClass's.
    """
    archive = JETCLASS[_known([part], JETCLASS, alone=True)[0]]
    jet_class = class_by_name(class_name)
    if n_files < 1:
        raise JetfmError("--files", str(n_files), "at least 1")
    dest = make_folder(dest)
    bar = ByteProgress(jet_class.prefix, show=progress)
    url = f"{_base(base_url, JETCLASS_URL)}/{archive.name}"
    remote = Remote(url, patience, say=bar.note)
    try:
        record = _record(dest, archive, "members")
        members = find_members(remote, record, f"{jet_class.prefix}_[0-9]+[.]root", n_files)
        paths = {dest / archive.folder / name: place for name, place in members.items()}
        missing = {path: place for path, place in paths.items() if not _is_there(path, place[1])}
        _check_room(dest, sum(size - _have(path) for path, (_, size) in missing.items()))
        bar.expect(sum(size for _, size in missing.values()))
        for path, (offset, size) in missing.items():
            fetch(remote, path, _check_structure, offset, size, bar)
    finally:
        bar.close()
    return list(paths)


def _known(parts: Sequence[str], archives: dict[str, Archive], alone: bool = False) -> list[str]:
    """Names of archives; ``train`` stands for all of them, unless one `alone` is asked for."""
    grouped = not alone and "train" not in archives
    groups = {"train": [name for name in archives if "train" in name]} if grouped else {}
    wanted = [name for part in parts for name in groups.get(part, [part])]
    if wrong := [name for name in wanted if name not in archives]:
        expected = f"one of {', '.join([*archives, *groups])}"
        raise JetfmError("--part", ", ".join(map(repr, wrong)), expected)
    if not wanted:
        raise JetfmError("--part", "nothing", f"some of {', '.join([*archives, *groups])}")
    return list(dict.fromkeys(wanted))


def _base(base_url: str | None, default: str) -> str:
    return (base_url or os.environ.get(URL_VARIABLE) or default).rstrip("/")


def _together(
    archives: Sequence[Archive],
    one: Callable,
    dest: Path,
    beside: int,
    url: str,
    jobs: int,
    patience: Patience | None,
    progress: bool,
) -> None:
    """Run `one` for every archive, `jobs` at a time, after looking whether all find room.

    At most `beside` archives lie beside what was unpacked from them. The first failure, or an
    interruption, ends the others within a block of bytes.
    """
    if jobs < 1:
        raise JetfmError("--jobs", str(jobs), "at least 1")
    if not archives:
        return
    stop, bar = threading.Event(), ByteProgress("download", show=progress)
    remotes = [Remote(f"{url}/{archive.name}", patience, stop, bar.note) for archive in archives]
    pool = ThreadPoolExecutor(jobs)
    try:
        sizes = [remote.size() for remote in remotes]
        known = sorted((size for size in sizes if size), reverse=True)
        have = sum(_have(dest / archive.name) for archive in archives)
        _check_room(dest, sum(known) + sum(known[:beside]) - have)
        bar.expect(sum(known))
        tasks = [
            pool.submit(one, archive, remote, size, bar)
            for archive, remote, size in zip(archives, remotes, sizes, strict=True)
        ]
        for task in as_completed(tasks):
            task.result()  # or the first error; it is what ends the others as `Stopped`
    finally:
        for remote in remotes:
            remote.interrupt()
        pool.shutdown(cancel_futures=True)
        bar.close()


def _have(path: Path) -> int:
    """Bytes of a download that are on the disk, finished or not."""
    return next((p.stat().st_size for p in (path, part_of(path)) if p.exists()), 0)


def _check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if free < needed + _MARGIN:
        found, expected = f"{free / 1e9:.1f} GB free", f"{(needed + _MARGIN) / 1e9:.1f} GB"
        raise JetfmError(folder, found, f"{expected} for the download and what is unpacked from it")


def _whole(
    archive: Archive, remote: Remote, size: int | None, dest: Path, bar: ByteProgress
) -> Path:
    """The archive on the disk, its MD5 checked now, whenever it was downloaded."""
    path = dest / archive.name
    if path.exists():
        bar.keep(path.stat().st_size)
        check_md5(path, archive.md5)
        return path
    return fetch(remote, path, partial(check_md5, expected=archive.md5), 0, size, bar)


def _record(dest: Path, archive: Archive, what: str) -> Path:
    return dest / f".{archive.name}.{what}.json"


def _unpacked(dest: Path, archive: Archive) -> list[Path]:
    """Files of an archive if all that were unpacked from it are still there, else none."""
    record = _record(dest, archive, "unpacked")
    if not record.exists():
        return []
    sizes = {dest / archive.folder / name: size for name, size in read_json(record).items()}
    whole = all(path.exists() and path.stat().st_size == size for path, size in sizes.items())
    return sorted(sizes) if whole else []


def _unpack(path: Path, dest: Path, archive: Archive, stop: threading.Event) -> None:
    """Write the ROOT files of a checked tar into their folder, each as a whole or not at all.

    Whatever folder the tar names, they come into ours; tarfile's 'data' filter refuses what points
    elsewhere, and links and devices are none of our files.
    """
    folder, sizes = make_folder(dest / archive.folder), {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                tarfile.data_filter(member, str(folder))
                if stop.is_set():
                    raise Stopped
                if not member.isreg() or not _ROOT_FILE.fullmatch(name):
                    continue
                if name in sizes:
                    raise JetfmError(path, f"{name} twice", "different files")
                sizes[name] = member.size
                with replacing(folder / name) as aside, aside.open("wb") as file:
                    shutil.copyfileobj(tar.extractfile(member), file, 2**22)
    except tarfile.TarError as error:
        found = f"an archive that cannot be unpacked ({' '.join(str(error).split())[:120]})"
        raise JetfmError(path, found, "a tar of ROOT files") from None
    if not sizes:
        raise JetfmError(path, "no ROOT files", "CLASS_NNN.root of JetClass's classes")
    write_json(_record(dest, archive, "unpacked"), sizes)


def _is_there(path: Path, size: int) -> bool:
    if path.exists() and (found := path.stat().st_size) != size:
        raise JetfmError(
            path, f"a file of {found} bytes", f"{size} as in the archive; move it away"
        )
    return path.exists()


def _check_structure(path: Path) -> None:
    """Tree, branches, entries and recorded length, since no checksum exists."""
    with open_tree(path):
        pass
