"""``notebooks/explore.ipynb`` in JupyterLab, in a real browser: displays follow their controls."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import nbformat
import pytest

from jetfm.settings.profiles import save_profile
from tests.browser import browser  # noqa: F401, a fixture
from tests.explore.small_profile import small_profile
from tests.loopback import talking

PROJECT = Path(__file__).parents[2]
STARTED, RUN, REDRAWN = 60, 120, 60  # seconds, at most
SETTINGS = "lab/user-settings/@jupyterlab/notebook-extension/tracker.jupyterlab-settings"
PIXELS = """image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    return canvas.toDataURL();
}"""

pytestmark = [talking, pytest.mark.soak, pytest.mark.timeout(600)]


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """The address of a JupyterLab with the notebook alone, at a small profile."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = nbformat.read(PROJECT / "notebooks" / "explore.ipynb", as_version=4)
    (cell,) = (one for one in notebook.cells if "parameters" in one.metadata.get("tags", []))
    cell.source = f"profile = {str(save_profile(small_profile(), tmp_path / 'small.yaml'))!r}"
    nbformat.write(notebook, folder / "explore.ipynb")
    settings = tmp_path / "config" / SETTINGS
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # cells out of sight are on the page, too
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, log = secrets.token_hex(16), tmp_path / "lab.log"
    environment = os.environ | {
        "HOME": str(tmp_path),
        "IPYTHONDIR": str(tmp_path / "ipython"),
        "JETFM_FIGURES": str(tmp_path / "figures"),
        "JETFM_WORK": str(tmp_path / "work"),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PROJECT),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    command += [f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None"]
    command += ["--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with log.open("wb") as file:
        server = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={token}", server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/explore.ipynb?token={token}"
    finally:
        server.terminate()  # and its kernels
        server.wait(30)
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
    said = log.read_text(errors="replace")
    assert "Traceback" not in said, said[-3000:]


def _wait_for(address: str, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + STARTED
    while time.monotonic() < end and server.poll() is None:
        try:
            with urlopen(address):
                return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"JupyterLab does not answer: {log.read_text(errors='replace')[-3000:]}")


def _wait_for_kernel(lab: str) -> None:
    address, end = lab.replace("lab/tree/explore.ipynb", "api/kernels"), time.monotonic() + STARTED
    while time.monotonic() < end:
        with urlopen(address) as answer:
            found = [(one["execution_state"], one["connections"]) for one in json.load(answer)]
        if found == [("idle", 1)]:
            return
        time.sleep(0.2)
    pytest.fail(f"no kernel that is ready: {found}")


def test_every_display_follows_its_slider(lab, browser):  # noqa: F811
    page, errors = browser.new_page(viewport={"width": 1400, "height": 1000}), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.goto(lab)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=1000 * STARTED)
    _wait_for_kernel(lab)
    page.wait_for_timeout(1000)  # the page hears of it, and asks for no kernel
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    displays = page.locator(".jp-OutputArea .widget-vbox")
    for number in range(3):
        picture = displays.nth(number).locator("img.widget-image")
        picture.wait_for(timeout=1000 * RUN)
        before = picture.evaluate(PIXELS)
        assert len(before) > 20_000, "a picture with something on it"
        handle = displays.nth(number).locator(".widget-slider .noUi-handle").last
        handle.focus()
        page.keyboard.press("ArrowRight")
        end = time.monotonic() + REDRAWN
        while picture.evaluate(PIXELS) == before and time.monotonic() < end:
            page.wait_for_timeout(100)
        assert picture.evaluate(PIXELS) != before, f"display {number} is drawn anew"
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert not errors
    page.close()
