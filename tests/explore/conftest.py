"""Displays without pixels, which take longer than all the rest."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from jetfm.explore import displays


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made, but not drawn: a picture is what stands in it, as text."""

    def made(figure) -> bytes:
        plt.close(figure)
        points = [one.get_offsets() for axis in figure.axes for one in axis.collections]
        titles = [axis.get_title(loc="left") for axis in figure.axes]
        return repr((points, titles)).encode()

    monkeypatch.setattr(displays, "_png", made)


@pytest.fixture(autouse=True)
def no_figure_is_open():
    """Before each test, whatever other tests have left."""
    plt.close("all")
