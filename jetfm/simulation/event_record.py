"""Pythia's event record as numpy arrays: stable particles, resonances and their decays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jetfm.simulation.propagation import Particles

#: Stable particles beyond this |eta| are dropped: jets at |eta| < 2 with R = 0.8 end at 2.8. Our
#: choice; it saves half of the detector simulation.
ETA_MAX = 3.2

_MAX_PRODUCTS = 4
_NEUTRINOS = (12, 14, 16)
_UNSEEN = (*_NEUTRINOS, 23)  # a Z where it stands for one that decays into neutrinos


@dataclass
class Truth:
    """Decays of the resonances of a batch, padded to R per event and four products each.

    Attributes
    ----------
    code : (events, R) value of ``aux_truth_match``; 0 where there is no resonance
    pid, pt, eta, phi : (events, R) of the resonance, after radiation and before its decay
    product_eta, product_phi : (events, R, 4) of what must lie in the jet; NaN where there is none
    """

    code: np.ndarray
    pid: np.ndarray
    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    product_eta: np.ndarray
    product_phi: np.ndarray


class EventRecord:
    """Numpy view of Pythia's batch: flat columns, with the events' offsets."""

    def __init__(self, layout):
        self.offsets = np.asarray(layout.offsets)
        self.offsets = self.offsets - self.offsets[0]
        content = layout.content
        columns = {name: np.asarray(content[name].data) for name in ("id", "status", "m")}
        columns |= {n: np.asarray(content[n].data) for n in ("daughter1", "daughter2")}
        columns |= {n: np.asarray(content["p"][n].data) for n in ("px", "py", "pz", "e")}
        self.column = columns
        self.vertex = content["vProd"]
        self.stable = np.flatnonzero(columns["status"] > 0)  # status > 0: final state

    def stable_particles(self, charge_of: Callable[[int], float]) -> Particles:
        column = self.column
        px, py, pz = (column[n][self.stable] for n in ("px", "py", "pz"))
        pid = np.abs(column["id"][self.stable])
        kept = np.abs(pz) < np.sinh(ETA_MAX) * np.hypot(px, py)
        for unseen in _UNSEEN:
            kept &= pid != unseen
        index = self.stable[kept]
        pid = column["id"][index]
        link = np.asarray(self.vertex.index.data)[index]  # < 0: the origin
        x, y, z = (
            np.where(link >= 0, np.asarray(self.vertex.content[n].data)[link], 0.0)
            if len(self.vertex.content)
            else np.zeros(len(index))
            for n in ("px", "py", "pz")  # Pythia's names for x, y, z, in mm
        )
        return Particles(
            event=np.searchsorted(self.offsets, index, side="right") - 1,
            pid=pid,
            px=px[kept],
            py=py[kept],
            pz=pz[kept],
            energy=column["e"][index],
            mass=np.maximum(column["m"][index], 0.0),
            charge=_charges(pid, charge_of),
            x=x,
            y=y,
            z=z,
        )

    def _daughters(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = self.offsets[np.searchsorted(self.offsets, index, side="right") - 1]
        first, last = self.column["daughter1"][index], self.column["daughter2"][index]
        return start + first, start + np.maximum(first, last)

    def _last_copy(self, index: np.ndarray) -> np.ndarray:
        """Follow particles through radiation and recoil to the copy that decays or is stable."""
        pid, index = self.column["id"], index.copy()
        while True:
            first, last = self._daughters(index)
            has_daughters = self.column["daughter1"][index] > 0
            via_first = has_daughters & (pid[first] == pid[index])
            via_last = has_daughters & ~via_first & (pid[last] == pid[index])
            if not (via_first | via_last).any():
                return index
            index = np.where(via_first, first, np.where(via_last, last, index))

    def truth(self, resonance: int, match_resonance: bool) -> Truth:
        """Resonances with their decays; see ``Truth``."""
        pid = self.column["id"]
        found = np.flatnonzero(np.abs(pid) == resonance) if resonance else np.zeros(0, dtype=int)
        index = found[self._last_copy(found) == found]
        products = self._products(index)
        product_pid = np.where(products >= 0, pid[products], 0)
        code = truth_code(resonance, product_pid)
        if match_resonance:  # a top has three products, so the fourth column is free
            products[:, -1] = index

        event = np.searchsorted(self.offsets, index, side="right") - 1
        n_events = len(self.offsets) - 1
        counts = np.bincount(event, minlength=n_events)
        slot = np.arange(len(index)) - (np.cumsum(counts) - counts)[event]
        width = int(counts.max(initial=0))

        def padded(values, fill):
            table = np.full((n_events, width, *values.shape[1:]), fill, dtype=float)
            table[event, slot] = values
            return table

        pt, eta, phi = self._direction(index)
        _, product_eta, product_phi = self._direction(products)
        missing = products < 0
        return Truth(
            code=padded(code, 0),
            pid=padded(pid[index], 0),
            pt=padded(pt, 0),
            eta=padded(eta, np.nan),
            phi=padded(phi, np.nan),
            product_eta=padded(np.where(missing, np.nan, product_eta), np.nan),
            product_phi=padded(np.where(missing, np.nan, product_phi), np.nan),
        )

    def _products(self, index: np.ndarray) -> np.ndarray:
        """Quarks, gluons and charged leptons of decays, (n, 4), -1 where there are fewer."""
        pid = self.column["id"]
        products = np.full((len(index), _MAX_PRODUCTS), -1)
        for column, daughter in enumerate(self._daughters(index)):
            boson = np.isin(np.abs(pid[daughter]), (23, 24))
            first, last = self._daughters(self._last_copy(daughter))
            products[:, 2 * column] = np.where(boson, first, daughter)
            products[:, 2 * column + 1] = np.where(boson, last, -1)
        products = np.where(np.isin(np.abs(pid[products]), _NEUTRINOS), -1, products)
        leptons = (products >= 0) & np.isin(np.abs(pid[products]), (11, 13, 15))
        products[leptons] = self._last_copy(products[leptons])
        # Present ones first, so that the last column is free wherever there are three.
        return np.take_along_axis(products, np.argsort(products < 0, axis=1, kind="stable"), axis=1)

    def _direction(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        px, py, pz = (self.column[n][index] for n in ("px", "py", "pz"))
        pt = np.maximum(np.hypot(px, py), 1e-9)
        return pt, np.arcsinh(pz / pt), np.arctan2(py, px)


def _charges(pid: np.ndarray, charge_of: Callable[[int], float]) -> np.ndarray:
    """Charges of particles, each kind looked up once."""
    code = np.abs(pid)
    kinds = np.flatnonzero(np.bincount(code))  # stable particles have codes of four digits
    table = np.zeros(int(kinds.max(initial=0)) + 1)
    table[kinds] = [charge_of(int(kind)) for kind in kinds]
    return np.sign(pid) * table[code]


def truth_code(resonance: int, product_pid: np.ndarray) -> np.ndarray:
    """Value of ``aux_truth_match`` for decays (jetclass_generation, ``makeNtuples.C``).

    Parameters
    ----------
    resonance : |PDG code|
    product_pid : (n, 4) PDG codes of the decay products, 0 where there are fewer

    Returns
    -------
    (n,) int array
        Top: 11 with charm, 12 without, 15 e, 16 mu. W: 21 with charm, 22 without. Z: 31 bb, 32 cc,
        33 lighter. Higgs: 41 bb, 42 cc, 43 lighter, 44 gg, 45 four quarks, 46 two quarks and a
        lepton. Zero for any other decay.
    """
    pid = np.abs(product_pid)
    n_quarks = ((pid >= 1) & (pid <= 5)).sum(axis=1)
    n_bottom, n_charm = (pid == 5).sum(axis=1), (pid == 4).sum(axis=1)
    electron, muon = (pid == 11).any(axis=1), (pid == 13).any(axis=1)
    n_gluons = (pid == 21).sum(axis=1)
    code = np.zeros(len(pid), dtype=int)
    if resonance == 6:
        heavy = n_charm + np.maximum(n_bottom - 1, 0) > 0
        code[n_quarks == 3] = np.where(heavy, 11, 12)[n_quarks == 3]
        code[(n_quarks == 1) & electron] = 15
        code[(n_quarks == 1) & muon] = 16
    elif resonance == 24:
        code[n_quarks == 2] = np.where(n_charm + n_bottom > 0, 21, 22)[n_quarks == 2]
    elif resonance == 23:
        both = n_quarks == 2
        code[both] = np.where(n_bottom == 2, 31, np.where(n_charm == 2, 32, 33))[both]
    elif resonance == 25:
        both = n_quarks == 2
        code[both] = np.where(n_bottom == 2, 41, np.where(n_charm == 2, 42, 43))[both]
        code[n_gluons == 2] = 44
        code[n_quarks == 4] = 45
        code[both & (electron | muon)] = 46
    return code
