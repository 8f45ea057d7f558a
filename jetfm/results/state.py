"""Whether a profile's page shows what is there; told without loading what draws it."""

from __future__ import annotations

from pathlib import Path

from jetfm.notebooks import code_digest, numbered
from jetfm.storage.artifacts import fingerprint
from jetfm.storage.files import sha256
from jetfm.storage.paths import figures_folder, work_folder

PAGE = "index.html"
TEMPLATES = Path(__file__).parent / "templates"


def executed(profile: str) -> dict[str, Path]:
    """Executed copies of the numbered notebooks, by name; those that there are."""
    folder = work_folder() / "notebooks" / profile
    paths = {source.stem: folder / source.name for source in numbered()}
    return {name: path for name, path in paths.items() if path.exists()}


def state_of(profile: str) -> str:
    """Hash of all that a profile's page is made from."""
    folder, notebooks = figures_folder(profile), executed(profile)
    files = [*sorted(folder.glob("fig*.png")), *folder.glob("ledger.json"), *notebooks.values()]
    files += sorted(TEMPLATES.iterdir())
    digests = {path.name: sha256(path) for path in files}
    return fingerprint([code_digest(), digests], length=32)


def is_up_to_date(profile: str) -> bool:
    """Whether the page and those of its notebooks are there, made from what is there now."""
    folder = figures_folder(profile)
    pages = [folder / PAGE, *(folder / f"{name}.html" for name in executed(profile))]
    if not all(path.exists() for path in pages):
        return False
    return state_of(profile) in pages[0].read_text(encoding="utf-8")
