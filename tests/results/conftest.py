"""A finished run and its page, made once for all tests of what readers see."""

from __future__ import annotations

from pathlib import Path

import pytest

from jetfm.results.page import make_page
from jetfm.settings.profiles import load_profile
from tests.results.finished_run import finish


@pytest.fixture(scope="package")
def finished(tmp_path_factory) -> Path:
    """The figures' folder of a finished run at smoke, with its page."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JETFM_WORK", str(folder / "work"))
        patch.setenv("JETFM_FIGURES", str(folder / "figures"))
        finish("smoke")
        make_page(load_profile("smoke"), say=lambda text: None)
        yield folder / "figures" / "smoke"
