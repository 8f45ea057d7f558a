"""The page of all figures: whole, valid, and nothing of it is elsewhere."""

from __future__ import annotations

import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from jetfm import cli
from jetfm.errors import JetfmError
from jetfm.figures import CAPTIONS
from jetfm.ledger.claims import CLAIMS
from jetfm.notebooks import numbered
from jetfm.results import page, shown
from jetfm.results.state import is_up_to_date
from jetfm.settings.profiles import load_profile

NOTEBOOKS = [path.stem for path in numbered()]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr"}


class Outline(HTMLParser):
    """Elements, links and texts of a page; what closes must be what was opened last."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.loaded, self.texts = [], [], [], [], {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], "left open"

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if tag not in VOID:
            self.open.append((tag, found.get("id")))
        if "id" in found:
            self.ids.append(found["id"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])
        self.loaded += [found[name] for name in ("src", "srcset") if name in found]
        if tag == "link":
            self.loaded.append(found["href"])

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open and self.open.pop()[0] == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data):
        for _, name in self.open:
            if name:
                self.texts[name] = self.texts.get(name, "") + data


@pytest.fixture(scope="module")
def outlines(finished):
    return {name: Outline(finished / f"{name}.html") for name in ("index", *NOTEBOOKS)}


@pytest.mark.parametrize("name", ["index", *NOTEBOOKS])
def test_every_link_and_every_picture_is_there(finished, outlines, name):
    outline = outlines[name]
    assert len(set(outline.ids)) == len(outline.ids)
    assert outline.loaded
    for source in outline.loaded:
        assert source.startswith("data:") or (finished / source).exists(), source
    for link in outline.links:
        file, _, place = link.partition("#")
        if not file.startswith("https://arxiv.org/"):  # to follow, not to load
            assert not file or (finished / file).exists(), link
            target = file.removesuffix(".html") or name
            assert not place or place in outlines[target].ids, link


def test_every_figure_stands_with_its_caption_its_claims_and_their_verdicts(finished, outlines):
    texts = outlines["index"].texts
    rows = {row["id"]: row for row in json.loads((finished / "ledger.json").read_text())}
    for name, caption in CAPTIONS.items():
        text = " ".join(texts[name].split())
        assert caption in text
        of_it = {claim.id for claim in CLAIMS if name in claim.figures}
        assert {claim for claim in rows if f"{claim}: " in text} == of_it
        for claim in of_it:
            row, after = rows[claim], text.partition(f"{claim}: ")[2]
            said = [shown.statement(row), shown.papers_number(row), shown.our_number(row)]
            for part in filter(None, (*said, row["verdict"])):  # side by side, in this order
                before, found, after = after.partition(part)
                assert found and len(before) <= 4, (claim, part, before)


def test_the_ledger_has_every_claim(finished, outlines):
    texts = outlines["index"].texts
    for row in json.loads((finished / "ledger.json").read_text()):
        text = texts[f"claim-{row['id']}"]
        assert shown.statement(row) in text and row["verdict"] in text and row["note"] in text


def test_notebooks_link_pictures_that_lie_beside_them_and_embed_others(outlines):
    for name in NOTEBOOKS:
        linked = [source for source in outlines[name].loaded if not source.startswith("data:")]
        assert [source[3:5] for source in linked] == [name[:2]]
        embedded = [s for s in outlines[name].loaded if s.startswith("data:image/png;base64,")]
        assert len(embedded) == 1


def test_formulae_are_mathml_and_no_tex_is_left(finished):
    text = (finished / "00_data.html").read_text(encoding="utf-8")
    assert text.count("<math") >= 8 and "\\mathrm" not in text and "mathjax" not in text.lower()
    assert text.count("<math") == text.count("</math>")


def test_the_page_is_made_again_when_what_it_shows_has_changed(finished):
    assert is_up_to_date("smoke")
    for path in (finished / "fig05_fixed.png", finished / "ledger.json"):
        before = path.read_bytes()
        path.write_bytes(before + b" ")
        assert not is_up_to_date("smoke")
        path.write_bytes(before)
    (finished / "03_pretraining.html").rename(finished / "away.html")
    assert not is_up_to_date("smoke")
    (finished / "away.html").rename(finished / "03_pretraining.html")
    assert is_up_to_date("smoke")


def test_the_command_ends_with_the_page_and_makes_it_once(finished, monkeypatch, capsys):
    monkeypatch.setattr("jetfm.notebooks.run_all", lambda profile: [])
    monkeypatch.setattr(sys, "argv", ["jetfm", "figures", "--profile", "smoke"])
    (finished / "index.html").unlink()
    made = f"{len(CAPTIONS)} figures, {len(CLAIMS)} claims"
    for first in (True, False):
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr().out
        assert not ended.value.code and (finished / "index.html").exists()
        assert said.rstrip().endswith(str(finished / "index.html")) and (made in said) == first


@pytest.mark.parametrize("missing", ["fig04_qcd.png", "ledger.json"])
def test_an_unfinished_run_is_told(finished, missing):
    (finished / missing).rename(finished / "away")
    try:
        with pytest.raises(JetfmError, match=f"no {missing}.*make paper-figures PROFILE=smoke"):
            page.make_page(load_profile("smoke"), say=lambda text: None)
    finally:
        (finished / "away").rename(finished / missing)


@pytest.mark.parametrize(
    ("measured", "uncertainty", "expected"),
    [
        (9.3732, 0.184, "9.37 ± 0.18 GeV"),
        (-123.4, 25.0, "−123 ± 25 GeV"),
        (0.08137, 0.000123, "0.08137 ± 0.00012 GeV"),
        (0.5, 0.0, "0.5000 ± 0.0000 GeV"),
        (None, None, ""),
    ],
)
def test_numbers_are_rounded_to_two_digits_of_their_uncertainty(measured, uncertainty, expected):
    row = {"measured": measured, "uncertainty": uncertainty, "unit": "GeV"}
    assert shown.our_number(row) == expected
