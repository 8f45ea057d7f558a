"""Progress in jets or bytes: a bar where someone watches, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import sys
import threading
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


class ByteProgress:
    """Progress of downloads in bytes; several threads may share it.

    Parameters
    ----------
    name : what is running
    show : False keeps quiet
    """

    def __init__(self, name: str = "download", show: bool = True) -> None:
        self.name, self.show = name, show
        self.total = self.done = self.kept = 0
        self.began = self._last_line = time.monotonic()
        self._note, self._lock, self._bar = "", threading.Lock(), None
        if show and is_interactive():
            self._bar = tqdm(total=0, desc=name, unit="B", unit_scale=True)

    def expect(self, n_bytes: int) -> None:
        """So many more in all."""
        with self._lock:
            self.total += n_bytes
            if self._bar is not None:
                self._bar.total = self.total
                self._bar.refresh()

    def keep(self, n_bytes: int) -> None:
        """Count bytes that an earlier download brought: done, but not part of the rate."""
        with self._lock:
            self.done += n_bytes
            self.kept += n_bytes
            if self._bar is not None:
                self._bar.initial += n_bytes
                self._bar.n += n_bytes
                self._bar.refresh()

    def advance(self, n_bytes: int) -> None:
        """Count bytes that came; negative ones where a file begins anew."""
        with self._lock:
            self.done += n_bytes
            if self._bar is not None:
                self._bar.update(n_bytes)
            elif self.show and time.monotonic() - self._last_line >= _LINE_EVERY:
                self._line()

    def note(self, text: str) -> None:
        """Show `text` (what is waited for) at once, or in the next line."""
        with self._lock:
            self._note = text
            if self._bar is not None:
                self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Finish: close the bar, or print the last line if there was anything to do."""
        with self._lock:
            if self._bar is not None:
                self._bar.close()
            elif self.show and self.total:
                self._note = ""
                self._line()

    def _line(self) -> None:
        now = time.monotonic()
        self._last_line = now
        rate = max(self.done - self.kept, 0) / max(now - self.began, 1e-9)
        left = (self.total - self.done) / rate if rate else 0
        time_left = f", {left:.0f} s left" if left > 0 else ""
        print(
            f"{self.name}: {self.done / 1e9:.2f}/{self.total / 1e9:.2f} GB, "
            f"{rate / 1e6:.1f} MB/s{time_left} {self._note}".rstrip(),
            flush=True,
        )
