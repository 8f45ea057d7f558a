"""Results for readers of the repository."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.figures.style import COLORS
from jetfm.ledger.claims import CLAIMS
from jetfm.results.repository import BEGIN, END, HEADLINES, write_headlines, write_results
from jetfm.storage.paths import project_folder


def test_every_picture_and_claim_is_there_and_again_the_same(finished, tmp_path):
    text = write_results("smoke", tmp_path).read_text(encoding="utf-8")
    pictures = re.findall(r"!\[(\w+)\]\(([\w/.]+)\)", text)
    assert [name for name, _ in pictures] == list(CAPTIONS)
    assert all((tmp_path / path).exists() for _, path in pictures)
    ledger = text.partition("## The ledger")[2]
    assert all(f"| `{claim.id}` |" in ledger for claim in CLAIMS)
    assert "Finished 2026-11-30 00:36 UTC" in text and "0 stages took 0 minutes" in text

    stale = tmp_path / "results" / "smoke" / "fig09_gone.png"
    stale.write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    write_results("smoke", tmp_path)
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert before.keys() - after.keys() == {stale}
    assert after == {path: data for path, data in before.items() if path != stale}


def test_small_copies_keep_the_colours_of_lines_apart(finished, tmp_path):
    """Thin lines in many colours on a white page that also has a smooth gradient."""
    colors = sorted({tuple(bytes.fromhex(code[1:])) for code in COLORS.values()})
    pixels = np.full((1600, 2000, 3), 255, np.uint8)
    pixels[1000:, :, :] = np.linspace(0, 255, 2000).astype(np.uint8)[None, :, None]
    for row, color in enumerate(colors):
        pixels[100 * row + 40 : 100 * row + 44] = color
    picture = finished / "fig00_classes.png"
    before = picture.read_bytes()
    Image.fromarray(pixels).save(picture)
    write_results("smoke", tmp_path)
    picture.write_bytes(before)
    with Image.open(tmp_path / "results/smoke/fig00_classes.png") as copy:
        assert copy.size == (1000, 800) and copy.mode == "P"
        small = np.asarray(copy.convert("RGB"), int)
    for row, color in enumerate(colors):
        assert abs(small[50 * row + 20 : 50 * row + 22, 500] - color).max() < 25


def test_tables_have_as_many_cells_as_columns(finished, tmp_path):
    lines = write_results("smoke", tmp_path).read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) > len(CLAIMS)
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {6, 9}


def test_the_headlines_stand_between_their_marks_and_nothing_else_changes(finished, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"# before\n{BEGIN}\nold | table\n{END}\nafter\n", encoding="utf-8")
    for _ in range(2):  # the second time finds what the first wrote
        text = write_headlines(finished, readme).read_text(encoding="utf-8")
        assert text.startswith(f"# before\n{BEGIN}\nProfile `smoke`:")
        assert text.endswith(f"{END}\nafter\n") and "old | table" not in text
        rows = re.findall(r"^\| `([\w-]+)` \|", text, re.MULTILINE)
        assert tuple(rows) == HEADLINES
    readme.write_text(f"{END} {BEGIN}", encoding="utf-8")
    with pytest.raises(JetfmError, match="no place for the claims"):
        write_headlines(finished, readme)


def test_the_readme_has_the_headlines_of_kept_results(tmp_path):
    text = (project_folder() / "README.md").read_text(encoding="utf-8")
    profile = re.search(re.escape(BEGIN) + r"\nProfile `(\w+)`", text)[1]
    copy = tmp_path / "README.md"
    copy.write_text(text, encoding="utf-8")
    kept = project_folder() / "results" / profile
    assert write_headlines(kept, copy).read_text(encoding="utf-8") == text
