"""A headless Chromium for the tests of pages: the system's, or one of playwright's own.

Neither comes with `make env`, which stays small: playwright drives whatever Chromium is there
(`apt-get install chromium`, say). Without one, tests that ask for `browser` are skipped and say so.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOW = "`apt-get install chromium`, or `.venv/bin/python -m playwright install chromium`"


def chromium_path(own: str) -> str | None:
    """Where a Chromium is: the system's, or playwright's own, whose path it says; None if none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or (own if Path(own).exists() else None)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A running Chromium, as `playwright.sync_api.Browser`; it is closed after the module.

    While it runs, its event loop does, too: notebooks are executed in processes of their own.
    """
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make env")
    with api.sync_playwright() as playwright:
        path = chromium_path(playwright.chromium.executable_path)
        if path is None:
            pytest.skip(f"no Chromium to open pages in: {HOW}")
        # root, as in a container, has no sandbox; the pages are our own
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()
