"""A sample of jets to be judged or to judge by, and what of it is not physical."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np

from jetfm.errors import JetfmError
from jetfm.schema import KINEMATICS
from jetfm.token_quality.measurement import observables

#: Beyond these the squares of momenta overflow or lose all their digits.
MAX_ETA, MAX_PT = 20.0, 1e9


@dataclass(frozen=True)
class JetSample:
    """Jets as they come from a generator, a token store or a jets store.

    Parameters
    ----------
    constituents : (n_total, 3) pt [GeV], eta_rel, phi_rel; anything, also what is not physical
    offsets : (n_jets + 1,) int; jet j owns the rows ``offsets[j]:offsets[j + 1]``
    requested : (n_jets,) int, optional; multiplicities that the generator was asked for
    labels : (n_jets,) int, optional; class indices of the schema, -1 unknown
    ids : (n_total,) int, optional; the token of each constituent

    Raises
    ------
    JetfmError
        No jets, or shapes that do not fit.
    """

    constituents: np.ndarray
    offsets: np.ndarray
    requested: np.ndarray | None = None
    labels: np.ndarray | None = None
    ids: np.ndarray | None = None

    def __post_init__(self) -> None:
        x, offsets = np.asarray(self.constituents, np.float64), np.asarray(self.offsets, np.int64)
        object.__setattr__(self, "constituents", x)
        object.__setattr__(self, "offsets", offsets)
        if x.ndim != 2 or x.shape[1] != 3:
            found = f"constituents of shape {x.shape}"
            raise JetfmError("sample", found, f"(n_total, 3): {', '.join(KINEMATICS)}")
        if offsets.ndim != 1 or len(offsets) < 2:
            raise JetfmError("sample", "no jets", "at least one")
        if offsets[0] != 0 or offsets[-1] != len(x) or (np.diff(offsets) < 0).any():
            found = f"offsets from {offsets[0]} to {offsets[-1]}"
            raise JetfmError("sample", found, f"rising from 0 to {len(x)}, the constituents")
        lengths = {"requested": len(self), "labels": len(self), "ids": len(x)}
        for name, length in lengths.items():
            if getattr(self, name) is not None:
                array = np.asarray(getattr(self, name))
                object.__setattr__(self, name, array)
                if array.shape != (length,):
                    raise JetfmError(f"sample: {name}", f"shape {array.shape}", f"({length},)")

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_constituents(self) -> np.ndarray:
        """(n_jets,) multiplicities, unphysical constituents included."""
        return np.diff(self.offsets)

    def take(self, jets: np.ndarray) -> JetSample:
        """Some jets, in the order of the indices."""
        counts = self.n_constituents[jets]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.repeat(self.offsets[:-1][jets] - offsets[:-1], counts) + np.arange(offsets[-1])
        per_jet = {"requested": self.requested, "labels": self.labels}
        return JetSample(
            self.constituents[rows],
            offsets,
            ids=None if self.ids is None else self.ids[rows],
            **{k: None if v is None else v[jets] for k, v in per_jet.items()},
        )

    @cached_property
    def physical(self) -> JetSample:
        """The same jets without constituents that have no momentum or cannot be computed with.

        Kept are finite ones with 0 < pt < 1e9 GeV and abs(eta_rel) < 20. `count_violations` says
        how many are not. Outside the acceptance is no reason to leave one out.
        """
        x = self.constituents
        good = np.isfinite(x).all(1)
        with np.errstate(invalid="ignore"):
            good &= (x[:, 0] > 0) & (x[:, 0] < MAX_PT) & (np.abs(x[:, 1]) < MAX_ETA)
        if good.all():
            return self
        offsets = np.concatenate([[0], np.cumsum(good)])[self.offsets]
        ids = None if self.ids is None else self.ids[good]
        return JetSample(x[good], offsets, self.requested, self.labels, ids)

    @cached_property
    def observables(self) -> dict[str, np.ndarray]:
        """(n_jets,) jet_mass, jet_pt [GeV], tau21, tau32 (papers' definitions), n_constituents.

        NaN where undefined: the ratios below three constituents, mass and pt without any. The
        multiplicity counts all constituents, the others the physical ones.
        """
        physical = self.physical
        found = observables(physical.constituents, physical.offsets)
        return found | {"n_constituents": self.n_constituents.astype(np.float64)}


@dataclass(frozen=True)
class Violations:
    """What of a sample is not physical, or not what was asked for. All are counts.

    Attributes
    ----------
    not_finite : constituents with a NaN or an infinity
    no_momentum : finite constituents with pt <= 0
    outside : others beyond the acceptance in abs(eta_rel) or abs(phi_rel)
    left_out : constituents that no observable includes, see `JetSample.physical`
    jets_with_any : jets with at least one of those above
    empty_jets : jets without physical constituents
    undefined_ratios : jets with fewer than three, for which tau21 or tau32 is not defined
    other_multiplicity : jets whose length is not what was asked for; None if nothing was
    """

    n_jets: int
    n_constituents: int
    not_finite: int
    no_momentum: int
    outside: int
    left_out: int
    jets_with_any: int
    empty_jets: int
    undefined_ratios: int
    other_multiplicity: int | None

    def to_dict(self) -> dict:
        """By name, for JSON."""
        return asdict(self)


def acceptance_of(sample: JetSample) -> tuple[float, float]:
    """Largest abs(eta_rel) and abs(phi_rel) of a sample that shows what is possible.

    Our choice: the training jets', or at least 0.8, the radius of the jets and the cut of arXiv
    2403.05618. The angles are relative to the constituents' vector sum, so that a physical jet may
    reach a little beyond 0.8.
    """
    angles = np.abs(sample.physical.constituents[:, 1:])
    eta, phi = angles.max(0, initial=0.8)
    return float(eta), float(phi)


def count_violations(sample: JetSample, acceptance: tuple[float, float]) -> Violations:
    """Count what is not physical; `acceptance` bounds abs(eta_rel) and abs(phi_rel)."""
    x = sample.constituents
    finite = np.isfinite(x).all(1)
    no_momentum = finite & (x[:, 0] <= 0)
    with np.errstate(invalid="ignore"):
        outside = finite & ~no_momentum & (np.abs(x[:, 1:]) > acceptance).any(1)
    physical = sample.physical
    n_left_out = sample.n_constituents - physical.n_constituents
    of_jet = np.repeat(np.arange(len(sample)), sample.n_constituents)
    marked = np.bincount(of_jet[~finite | no_momentum | outside], minlength=len(sample)) > 0
    others = None
    if sample.requested is not None:
        others = int((sample.n_constituents != sample.requested).sum())
    ratios = sample.observables["tau21"] + sample.observables["tau32"]
    return Violations(
        n_jets=len(sample),
        n_constituents=len(x),
        not_finite=int((~finite).sum()),
        no_momentum=int(no_momentum.sum()),
        outside=int(outside.sum()),
        left_out=int(n_left_out.sum()),
        jets_with_any=int((marked | (n_left_out > 0)).sum()),
        empty_jets=int((physical.n_constituents == 0).sum()),
        undefined_ratios=int(np.isnan(ratios).sum()),
        other_multiplicity=others,
    )
