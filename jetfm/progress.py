"""Progress in jets: a bar where someone watches, a line every ten seconds where nobody does."""

from __future__ import annotations

import os
import sys
import time

from tqdm import tqdm

_LINE_EVERY = 10.0  # seconds


def is_interactive() -> bool:
    """True in a terminal, or in a notebook that somebody works in.

    Run headless (`jetfm.notebooks`) a notebook streams into a log, and ``TQDM_MININTERVAL`` is set.
    """
    if "ipykernel" in sys.modules:
        return "TQDM_MININTERVAL" not in os.environ
    return sys.stderr.isatty()


class Progress:
    """Progress of `total` units of work, each worth some jets.

    Parameters
    ----------
    name : what is running
    total, done : units, and how many of them were done before
    unit : of the work, e.g. 'step' or 'jet'
    show : False keeps quiet
    """

    def __init__(
        self, name: str, total: int, done: int = 0, unit: str = "step", show: bool = True
    ) -> None:
        self.name, self.total, self.done, self.unit, self.show = name, total, done, unit, show
        self.first, self.jets = done, 0
        self.began = self._last_line = time.monotonic()
        self._note = ""
        self._bar = None
        if show and is_interactive():
            self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, leave=True)

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-9)

    @property
    def jets_per_second(self) -> float:
        return self.jets / self.seconds

    def update(self, units: int, jets: int) -> None:
        """Count finished work."""
        self.done += units
        self.jets += jets
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self.jets_per_second:.0f} jets/s {self._note}", False)
            self._bar.update(units)
        elif self.show and time.monotonic() - self._last_line >= _LINE_EVERY:
            self._line()

    def note(self, text: str) -> None:
        """Show `text` (e.g. the latest validation loss) from now on."""
        self._note = text

    def close(self) -> None:
        """Finish: close the bar, or print the last line."""
        if self._bar is not None:
            self._bar.close()
        elif self.show:
            self._line()

    def _line(self) -> None:
        self._last_line = time.monotonic()
        rate = (self.done - self.first) / self.seconds
        left = (self.total - self.done) / rate if rate else float("inf")
        time_left = f", {left:.0f} s left" if 0 < left < float("inf") else ""
        print(
            f"{self.name}: {self.unit} {self.done}/{self.total}, "
            f"{self.jets_per_second:.0f} jets/s{time_left} {self._note}".rstrip(),
            flush=True,
        )
