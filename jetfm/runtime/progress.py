"""Progress by tqdm: its bar where someone watches, elsewhere a line every ten seconds.

A log would keep every state of a bar that is drawn again and again, all in one line.
"""

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


class Progress(tqdm):
    """Progress of `total` units of work, each worth some jets; several threads may share it.

    Parameters
    ----------
    name : what is running
    total, done : units, and how many of them were done before, which the rate does not count
    unit : of the work, e.g. 'step' or 'jet'
    show : False keeps quiet
    """

    def __init__(
        self, name: str, total: int, done: int = 0, unit: str = "step", show: bool = True, **options
    ) -> None:
        self.jets, self.initial = 0, done
        self._began, self._note = time.monotonic(), ""
        if not is_interactive():  # 'gui' leaves the drawing to `display`
            options |= {"file": sys.stdout, "gui": True, "mininterval": _LINE_EVERY, "miniters": 0}
        super().__init__(
            desc=name, total=total, initial=done, unit=unit, disable=not show, **options
        )

    def __bool__(self) -> bool:  # tqdm's: whether there is anything to do
        return True

    @property
    def done(self) -> int:
        return self.n

    @property
    def jets_per_second(self) -> float:
        return self.jets / max(time.monotonic() - self._began, 1e-9)

    def update(self, units: int = 1, jets: int = 0) -> None:
        """Count finished work."""
        with self.get_lock():
            self.jets += jets
            if self.disable:
                self.n += units
            super().update(units)

    def note(self, text: str) -> None:
        """Show `text` (e.g. the latest validation loss) from now on."""
        self._note = text
        if not self.disable and not self.gui:
            self.refresh()

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Draw the bar, or print a line."""
        if not self.gui:
            self.postfix = f"{self._jets_rate()} {self._note}".strip()
            super().display(msg, pos)
            return
        rate = max(self.n - self.initial, 0) / max(self.format_dict["elapsed"], 1e-9)
        left = (self.total - self.n) / rate if rate else 0
        facts = (*self._facts(rate), f"{left:.0f} s left" if left > 0 else "")
        line = f"{self.desc}: {', '.join(filter(None, facts))} {self._note}"
        print(line.rstrip(), file=self.fp, flush=True)

    def close(self) -> None:
        """Finish: close the bar, or print the last line if there was anything to do."""
        if not self.disable and self.gui and self.total:
            self.display()
        super().close()

    def _jets_rate(self) -> str:
        return f"{self.jets_per_second:.0f} jets/s" if self.jets else ""

    def _facts(self, rate: float) -> tuple[str, ...]:
        return f"{self.unit} {self.n}/{self.total}", self._jets_rate()


class ByteProgress(Progress):
    """Progress of downloads in bytes.

    Parameters
    ----------
    name : what is running
    show : False keeps quiet
    """

    def __init__(self, name: str = "download", show: bool = True) -> None:
        super().__init__(name, 0, unit="B", show=show, unit_scale=True)

    def expect(self, n_bytes: int) -> None:
        """So many more in all."""
        with self.get_lock():
            self.total += n_bytes

    def keep(self, n_bytes: int) -> None:
        """Count bytes that an earlier download brought: done, but not part of the rate."""
        with self.get_lock():
            self.initial += n_bytes
            self.n += n_bytes

    def advance(self, n_bytes: int) -> None:
        """Count bytes that came; negative ones where a file begins anew."""
        self.update(n_bytes)

    def close(self) -> None:
        """Finish; nothing is waited for any more."""
        self._note = ""
        super().close()

    def _facts(self, rate: float) -> tuple[str, ...]:
        return f"{self.n / 1e9:.2f}/{self.total / 1e9:.2f} GB", f"{rate / 1e6:.1f} MB/s"
