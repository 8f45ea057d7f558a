"""What a finished run leaves behind, without the run: blank pictures, a ledger, notebooks."""

from __future__ import annotations

import base64
from pathlib import Path

import nbformat
from PIL import Image

from jetfm.figures import CAPTIONS
from jetfm.ledger.claims import CLAIMS
from jetfm.ledger.verdicts import Ledger, Measurement
from jetfm.notebooks import numbered
from jetfm.storage.paths import figures_folder, work_folder


def finish(profile: str) -> Path:
    """Fill the folders that the environment names; return that of the figures."""
    folder = figures_folder(profile)
    for shade, name in enumerate(CAPTIONS):
        picture = Image.new("RGB", (320, 160), (shade, 120, 200))
        picture.save(folder / f"{name}.png", dpi=(160, 160))
        for suffix in (".pdf", ".json"):
            (folder / f"{name}{suffix}").write_text("{}")
    book = Ledger(profile)
    for number, claim in enumerate(CLAIMS[::2]):  # some are judged, some are out of reach
        book.measured[claim.id] = Measurement((-1) ** number * 2.5 * number, 0.31, 1000 + number)
    book.out_of_reach |= {claim.id: "too small <a profile> & 1 seed" for claim in CLAIMS[1::2]}
    book.save(folder / "ledger.json")
    for source in numbered():
        _execute(source, folder, work_folder() / "notebooks" / profile / source.name)
    return folder


def _execute(source: Path, folder: Path, copy: Path) -> None:
    """A copy in which each code cell printed something, and the first two showed pictures."""
    notebook = nbformat.read(source, as_version=4)
    name = next(one for one in CAPTIONS if one[3:5] == source.name[:2])
    elsewhere = Image.new("RGB", (8, 8), (1, 2, 3))
    elsewhere.save(folder.parent / "unknown.png")
    pictures = [folder / f"{name}.png", folder.parent / "unknown.png"]
    for number, cell in enumerate(c for c in notebook.cells if c.cell_type == "code"):
        cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="1 < 2 & 3\n")]
        if number < len(pictures):
            data = {"image/png": base64.b64encode(pictures[number].read_bytes()).decode()}
            cell.outputs.append(nbformat.v4.new_output("display_data", data=data))
    notebook.metadata["papermill"] = {"duration": 1.5, "end_time": "2026-11-30T00:36:49.1+00:00"}
    copy.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, copy)
