"""The page as a reader has it: a real browser, no network."""

from __future__ import annotations

import pytest

from jetfm.figures import CAPTIONS
from jetfm.ledger.claims import CLAIMS
from jetfm.ledger.verdicts import VERDICTS


@pytest.fixture(scope="module")
def opened(browser, finished):
    """Opens a file of the folder: the page, and what went wrong or came from elsewhere."""
    pages = []

    def open_file(name: str):
        page, faults = browser.new_page(viewport={"width": 1280, "height": 900}), []
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("requestfailed", lambda request: faults.append(request.url))
        page.on(
            "request",
            lambda request: (
                request.url.startswith(("file:", "data:")) or faults.append(request.url)
            ),
        )
        page.goto((finished / name).as_uri(), wait_until="load")
        pages.append(page)
        return page, faults

    yield open_file
    for page in pages:
        page.close()


def test_no_picture_is_missing_and_nothing_is_said_or_fetched(opened):
    page, faults = opened("index.html")
    widths = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
    assert len(widths) == len(CAPTIONS) and min(widths) > 0
    assert faults == []


def test_a_narrow_window_scrolls_tables_and_not_the_page(opened):
    page, _ = opened("index.html")
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    table = page.locator("#ledger .scroll")
    assert table.evaluate("one => one.scrollWidth > one.clientWidth")


def test_the_ledger_sorts_by_number_by_verdict_and_by_name(opened):
    page, faults = opened("index.html")
    heads = page.locator("#ledger th button")
    names = heads.all_inner_texts()

    def column(name: str) -> list[str]:
        place = names.index(name) + 1
        return page.locator(f"#ledger tbody td:nth-child({place})").evaluate_all(
            "cells => cells.map(one => one.dataset.key)"
        )

    first = column("claim")
    assert len(first) == len(CLAIMS) and first != sorted(first)
    heads.nth(names.index("claim")).click()
    assert column("claim") == sorted(first)
    heads.nth(names.index("here")).click()
    there = [float(value) for value in column("here") if value]
    assert there == sorted(there) and len(set(there)) > 10
    assert column("here")[len(there) :] == [""] * (len(first) - len(there)), "the others are last"
    heads.nth(names.index("here")).click()
    assert [float(value) for value in column("here") if value] == there[::-1]
    assert column("here")[-1] == "", "the others are still last"
    heads.nth(names.index("verdict")).click()
    ranks = [int(value) for value in column("verdict")]
    assert ranks == sorted(ranks) and max(ranks) < len(VERDICTS)
    assert sorted(column("claim")) == sorted(first) and faults == []


def test_a_notebook_shows_its_formulae(opened):
    page, faults = opened("00_data.html")
    sizes = page.eval_on_selector_all(
        "math", "all => all.map(one => one.getBoundingClientRect().width)"
    )
    assert len(sizes) >= 8 and min(sizes) > 4 and faults == []
