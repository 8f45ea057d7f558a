"""Files appear whole or not at all, and refusals name the file."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetfm.errors import JetfmError
from jetfm.storage import files


def hidden(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_text_json_and_npy_round_trip(tmp_path):
    value = {"auc": np.float64(0.5), "n": np.int64(3), "edges": np.arange(3), "name": "Tbqq"}
    files.write_json(tmp_path / "new" / "a.json", value)
    expected = {"auc": 0.5, "n": 3, "edges": [0, 1, 2], "name": "Tbqq"}
    assert files.read_json(tmp_path / "new" / "a.json") == expected
    array = np.arange(12, dtype="f4").reshape(3, 4)
    files.write_npy(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), array)
    files.write_text(tmp_path / "a.txt", "τ21\n")
    assert (tmp_path / "a.txt").read_bytes() == "τ21\n".encode()


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_error_inside_keeps_the_old_file_and_leaves_nothing(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyError), files.replacing(tmp_path / "a.txt") as aside:
        aside.write_text("half of the n")
        assert (tmp_path / "a.txt").read_text() == "old"
        raise KeyError
    assert (tmp_path / "a.txt").read_text() == "old" and not hidden(tmp_path)


def test_killed_writer_leaves_the_old_file(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")
    code = (
        "import os, signal, sys\nfrom jetfm.storage.files import replacing\n"
        "with replacing(sys.argv[1]) as aside:\n"
        "    aside.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], check=False)
    assert done.returncode == -9
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(hidden(tmp_path)) == 1
    assert files.remove_leftovers(tmp_path) == 1 and not hidden(tmp_path)


@pytest.mark.parametrize("kind", ["whole", "stream"])
def test_no_room_is_an_error_that_names_the_file(tmp_path, kind):
    """A limit on the size of files stands for a full disk: the write itself is refused."""
    action = {
        "whole": "files.write_npy(path, np.zeros(100_000))",
        "stream": "with files.NpyWriter(path, 'f8') as w:\n"
        "        [w.append(np.zeros(1000)) for _ in range(100)]",
    }[kind]
    code = (
        "import resource, signal, sys\nimport numpy as np\nfrom jetfm.storage import files\n"
        "from jetfm.errors import JetfmError\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "path = Path(sys.argv[1])\ntry:\n"
        f"    {action}\n"
        "except JetfmError as error:\n    print(error)\n"
    )
    path = tmp_path / "big.npy"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"{path}: found 'file too large'; expected room")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_refusals_become_jetfm_errors(tmp_path, monkeypatch, code):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(JetfmError) as caught:
        files.write_text(tmp_path / "a.txt", "text")
    assert str(tmp_path / "a.txt") in str(caught.value)
    assert os.strerror(code).lower() in caught.value.found
    with pytest.raises(JetfmError), files.NpyWriter(tmp_path / "a.npy", "f4") as writer:
        writer.append(np.zeros(3))
    assert not list(tmp_path.iterdir())


def test_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(JetfmError, match="file"):
        files.make_folder(tmp_path / "file")
    with pytest.raises(JetfmError, match="a folder, not a file"):
        files.write_text(tmp_path / "file" / "inside.txt", "")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root is never refused
    with pytest.raises(JetfmError, match="permission denied"):
        files.make_folder(tmp_path / "read_only")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JetfmError, match=f"^{re.escape(str(Path.cwd()))}: found 'permission"):
        files.make_folder(".")


def test_missing_and_damaged_json(tmp_path):
    with pytest.raises(JetfmError, match=r"none\.json: found 'no such file"):
        files.read_json(tmp_path / "none.json")
    (tmp_path / "half.json").write_text(json.dumps({"a": 1})[:-2])
    with pytest.raises(JetfmError, match=r"half\.json: found unreadable JSON"):
        files.read_json(tmp_path / "half.json")


def test_linked_files_outlive_either_folder_and_keep_what_is_there(tmp_path, monkeypatch):
    """With hard links and without; JSON last, since it tells that its neighbours are complete."""
    for kind in ("linked", "copied"):
        source, target = tmp_path / kind / "source", tmp_path / kind / "target"
        for name in ("a_1.json", "a_1.npy", "b_1.json"):
            files.write_text(source / name, name)
        files.write_text(target / "a_1.npy", "there before")
        if kind == "copied":
            monkeypatch.setattr(files.os, "link", lambda *paths: files.os.stat("/no such file"))
        files.link_files(source, target, "a_*")
        assert sorted(path.name for path in target.iterdir()) == ["a_1.json", "a_1.npy"]
        assert (target / "a_1.npy").read_text() == "there before"
        files.write_text(source / "a_1.json", "replaced")
        assert (target / "a_1.json").read_text() == "a_1.json"
    files.link_files(tmp_path / "missing", tmp_path / "nowhere", "*")
    assert not (tmp_path / "nowhere").exists()


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"jets" * 1000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"jets" * 1000).hexdigest()
    with pytest.raises(JetfmError, match="no such file"):
        files.sha256(tmp_path / "b")


@given(lengths=st.lists(st.integers(0, 200), max_size=6), width=st.integers(0, 3))
def test_streamed_npy_equals_saved_npy(tmp_path_factory, lengths, width):
    folder = tmp_path_factory.mktemp("npy")
    shape = (width,) if width else ()
    rng = np.random.default_rng(0)
    pieces = [rng.normal(size=(n, *shape)).astype("f4") for n in lengths]
    whole = np.concatenate([np.empty((0, *shape), "f4"), *pieces])
    with files.NpyWriter(folder / "stream.npy", "f4", shape) as writer:
        for piece in pieces:
            writer.append(piece)
    np.save(folder / "whole.npy", whole)
    assert (folder / "stream.npy").read_bytes() == (folder / "whole.npy").read_bytes()


def test_npy_writer_refuses_other_rows(tmp_path):
    with pytest.raises(JetfmError, match=r"shape \(2,\)"):
        with files.NpyWriter(tmp_path / "a.npy", "f4", (3,)) as writer:
            writer.append(np.zeros((5, 2)))
    with pytest.raises(TypeError):  # floats are no ids
        with files.NpyWriter(tmp_path / "a.npy", "i4") as writer:
            writer.append(np.zeros(5))
    assert not list(tmp_path.iterdir())
