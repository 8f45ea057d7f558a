"""Run the numbered notebooks in order, headless, each only when something it shows has changed.

papermill executes a copy into the work folder and streams what the notebook prints; the sources
stay clean. A notebook is up to date when its source, the profile, the library's code and every
figure it made are as they were when it last ran through.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from pathlib import Path

from jetfm.errors import JetfmError
from jetfm.settings.profiles import Profile, available_profiles, save_profile
from jetfm.storage.artifacts import as_json, fingerprint
from jetfm.storage.files import (
    make_folder,
    naming,
    read_json,
    remove_leftovers,
    sha256,
    write_json,
)
from jetfm.storage.locks import exclusive
from jetfm.storage.paths import figures_folder, project_folder, work_folder


def run_all(profile: Profile, say=print) -> list[str]:
    """Execute every notebook that is not up to date; return the names of those executed.

    A second call for the same figures waits for the first.

    Raises
    ------
    JetfmError
        A notebook failed: names it, the error, and the copy that holds the traceback.
    """
    sources = numbered()
    if not sources:
        where = project_folder() / "notebooks"
        raise JetfmError(where, "no notebook", "a clone of the repository, with its notebooks")
    folder = figures_folder(profile.name)
    with exclusive(folder, say):
        remove_leftovers(folder)
        return _run_all(sources, profile, say)


def numbered() -> list[Path]:
    """The notebooks in their order, without copies such as ``00_data-Copy1.ipynb``."""
    every = sorted((project_folder() / "notebooks").glob("*.ipynb"))
    return [path for path in every if re.fullmatch(r"\d\d_[a-z_]+", path.stem)]


def _run_all(sources: list[Path], profile: Profile, say) -> list[str]:
    name, executed = _profile_argument(profile), []
    for source in sources:
        request = {
            "notebook": sha256(source),
            "profile": as_json(profile),
            "code": code_digest(),
        }
        record_path = work_folder() / "notebooks" / profile.name / f"{source.stem}.json"
        if _up_to_date(record_path, request, profile):
            continue
        say(f"\n=== {source.stem} ({sources.index(source) + 1} of {len(sources)}) ===")
        before = _times(figures_folder(profile.name))
        seconds = _run(source, record_path.with_suffix(".ipynb"), name)
        figures = {
            path.name: sha256(path)
            for path in sorted(figures_folder(profile.name).glob("[!.]*"))
            if before.get(path.name) != path.stat().st_mtime_ns
        }
        write_json(record_path, {"request": fingerprint(request), "figures": figures})
        executed.append(source.stem)
        say(f"=== {source.stem} finished in {seconds:.0f} s, {len(figures)} files in figures ===")
    return executed


def _times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def code_digest() -> str:
    """Hash of the library: after a change of it notebooks run again, and find what still holds."""
    package = Path(__file__).parent
    files = sorted(p for p in package.rglob("*") if p.suffix in (".py", ".yaml"))
    return fingerprint({str(p.relative_to(package)): sha256(p) for p in files})


def _up_to_date(record_path: Path, request: dict, profile: Profile) -> bool:
    if not record_path.exists():
        return False
    record = read_json(record_path)
    folder = figures_folder(profile.name)
    return record["request"] == fingerprint(request) and all(
        (folder / name).exists() and sha256(folder / name) == digest
        for name, digest in record["figures"].items()
    )


def _run(source: Path, copy: Path, profile: str) -> float:
    # Imported here: the other commands need neither papermill nor a kernel.
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    if not sys.stdout.isatty():  # a log: what is new at once, but no bar that redraws itself
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(write_through=True)
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    logging.getLogger("papermill").setLevel(logging.WARNING)
    make_folder(copy.parent)
    start = time.monotonic()
    kernels = "jetfm.runtime.kernels.AsyncOwnKernelManager"
    try:
        with naming(copy):
            papermill.execute_notebook(
                source,
                copy,
                parameters={"profile": profile},
                cwd=source.parent,
                kernel_name="python3",
                progress_bar=False,
                stdout_file=sys.stdout,
                stderr_file=sys.stdout,
                config=Config({"NotebookClient": {"kernel_manager_class": kernels}}),
            )
    except PapermillExecutionError as error:
        found = f"{error.ename}: {error.evalue}"
        raise JetfmError(source.name, found, f"no error; its traceback is in {copy}") from None
    return time.monotonic() - start


def store_checked_outputs() -> None:
    """Write into the sources what their ``NBVAL_CHECK_OUTPUT`` cells print at the smoke profile.

    For maintainers (``make notebooks``), after a change that is meant to change these outputs:
    runs whatever is not up to date, then copies text outputs of those cells and of no others.
    """
    import nbformat

    from jetfm.settings.profiles import load_profile

    profile = load_profile("smoke")
    run_all(profile)
    for source in numbered():
        notebook = nbformat.read(source, as_version=4)
        copy = work_folder() / "notebooks" / profile.name / source.name
        executed = {cell.id: cell for cell in nbformat.read(copy, as_version=4).cells}
        for number, cell in enumerate(notebook.cells):
            if cell.cell_type == "code":
                checked = cell.source.startswith("# NBVAL_CHECK_OUTPUT")
                cell.outputs = _joined(executed[cell.id].outputs) if checked else []
                cell.execution_count = number if checked else None
        nbformat.write(notebook, source)


def _joined(outputs: list) -> list:
    """Text that a kernel sent in pieces, as it does when busy, in one."""
    joined: list = []
    for output in outputs:
        before = joined[-1] if joined else {}
        if output["output_type"] == before.get("output_type") == "stream" and (
            output["name"] == before["name"]
        ):
            before["text"] += output["text"]
        else:
            joined.append(output)
    return joined


def _profile_argument(profile: Profile) -> str:
    """Name of a shipped profile, or the path of a file that holds exactly these settings."""
    from jetfm.settings.profiles import load_profile

    if profile.name in available_profiles() and load_profile(profile.name) == profile:
        return profile.name
    path = work_folder() / "profiles" / f"{profile.name}.yaml"
    return str(save_profile(profile, path))
