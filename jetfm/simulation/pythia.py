"""Batches of events from Pythia 8."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields

import numpy as np

from jetfm.errors import JetfmError
from jetfm.simulation.event_record import EventRecord, Truth
from jetfm.simulation.processes import Process, campaign_by_name
from jetfm.simulation.propagation import Particles


class Generator:
    """Pythia, set up for one class of one campaign.

    Parameters
    ----------
    campaign, class_name : what to generate
    seed : 1 to 900 000 000
    process : that of the class, or one of its sources

    Raises
    ------
    JetfmError
        Pythia is missing, or refuses a setting or to start.
    """

    def __init__(self, campaign: str, class_name: str, seed: int, process: Process):
        chosen = campaign_by_name(campaign)
        try:
            import pythia8mc
        except ImportError as error:
            found = f"no such package ({error})"
            raise JetfmError("pythia8mc", found, "it installed: 'jetfm[simulation]'") from None
        self.process = process
        self.name = f"Pythia, {campaign} {class_name}, seed {seed}"
        with _own_data():
            self._pythia = pythia8mc.Pythia("", False)
        if process.required:
            self._hook = _requiring(process.required)  # Pythia does not keep it alive
            self._pythia.setUserHooksPtr(self._hook)
        self._apply(
            "Print:quiet = on",
            "Random:setSeed = on",
            f"Random:seed = {seed}",
            f"PhaseSpace:pTHatMin = {self.process.pt_hat_min}",
            *chosen.settings,
            *self.process.settings,
            *self.process.variants[0],
        )
        if not self._pythia.init():
            raise JetfmError(self.name, "a failed initialisation", "settings that Pythia accepts")

    def _apply(self, *settings: str) -> None:
        for setting in settings:
            if not self._pythia.readString(setting):
                raise JetfmError(self.name, f"setting {setting!r}", "one that Pythia accepts")

    def batch(self, n_events: int) -> tuple[int, Particles, Truth]:
        """Generate events.

        Parameters
        ----------
        n_events : how many to ask for; Pythia leaves out the rare one that fails

        Returns
        -------
        n_events : how many came; with alternating decays a few may be empty
        particles : stable particles within ``ETA_MAX``, neutrinos left out
        truth : the resonances and their decays

        Raises
        ------
        JetfmError
            Pythia produced fewer than half of the events.
        """
        variants = self.process.variants
        share = -(-n_events // len(variants))
        parts = []
        for settings in variants:
            if len(variants) > 1:
                self._apply(*settings)
            record = self._pythia.nextBatch(share, errorMode="skip")
            if len(record) < 0.5 * share:
                raise JetfmError(self.name, f"{len(record)} of {share} events", "most of them")
            parts.append(self._read(EventRecord(record.prt.layout)))
        return parts[0] if len(parts) == 1 else _interleaved(parts)

    def _read(self, record: EventRecord) -> tuple[int, Particles, Truth]:
        truth = record.truth(self.process.resonance, self.process.match_resonance)
        particles = record.stable_particles(self._pythia.particleData.charge)
        return len(record.offsets) - 1, particles, truth


@contextmanager
def _own_data() -> Iterator[None]:
    """Pythia reads its settings and particles from its own package inside the block.

    ``PYTHIA8DATA``, as an experiment's software sets it, has those of another version.
    """
    other = os.environ.pop("PYTHIA8DATA", None)
    try:
        yield
    finally:
        if other is not None:
            os.environ["PYTHIA8DATA"] = other


def _requiring(pid: int):
    """A hook that lets Pythia drop, before hadrons are made, events without one such particle."""
    import pythia8mc  # optional; only simulating needs it

    class Requiring(pythia8mc.UserHooks):
        def canVetoPartonLevel(self) -> bool:
            return True

        def doVetoPartonLevel(self, event) -> bool:
            such = [i for i in range(event.size()) if event[i].idAbs() == pid]
            return sum(event[i].isFinal() for i in such) != 1

    return Requiring()


def _interleaved(parts: list[tuple[int, Particles, Truth]]) -> tuple[int, Particles, Truth]:
    """Events of several batches in turn, so that a file cut anywhere has its fair share of each."""
    n_parts, longest = len(parts), max(n for n, _, _ in parts)
    for number, (_, particles, _) in enumerate(parts):
        particles.event = particles.event * n_parts + number
    merged = [
        np.concatenate([getattr(particles, f.name) for _, particles, _ in parts])
        for f in fields(Particles)
    ]
    width = max(truth.code.shape[1] for _, _, truth in parts)
    tables = []
    for f in fields(Truth):
        columns = [getattr(truth, f.name) for _, _, truth in parts]
        # Code 0 marks the empty rows, so what the other tables hold there does not matter.
        table = np.zeros((n_parts * longest, width, *columns[0].shape[2:]))
        for number, column in enumerate(columns):
            table[number::n_parts][: len(column), : column.shape[1]] = column
        tables.append(table)
    return n_parts * longest, Particles(*merged), Truth(*tables)
