"""How the loss falls with network and data: a law of small trainings that foretells large ones.

    L(N, D) = E + A / N^a + B / D^b

with N parameters and D predicted tokens seen in training (J. Hoffmann and others, arXiv 2203.15556,
section 3.3). That it holds for jets at these sizes is an assumption, which a prediction tests.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import least_squares

from jetfm.errors import JetfmError
from jetfm.physics.statistics import Estimate

MIN_POINTS = 6  # one more than the law has parameters
_EXPONENTS = (0.05, 1.5)  # our choice: outside, the data do not say which
_STARTS = (0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Trained:
    """A training: parameters of the network, predicted tokens seen, validation loss [nats]."""

    n_parameters: int
    n_tokens: int
    loss: float

    @property
    def compute(self) -> float:
        """Floating-point operations, about: 6 for each parameter and token."""
        return 6.0 * self.n_parameters * self.n_tokens


@dataclass(frozen=True)
class Law:
    """The law's parameters; N and D are counted in units of `per_n` and `per_d`."""

    floor: float
    of_network: float
    of_tokens: float
    network_exponent: float
    token_exponent: float
    per_n: float
    per_d: float

    def loss(self, n_parameters, n_tokens):
        """Loss [nats] of networks (...,) and numbers of tokens (...,)."""
        network = (
            self.of_network * (np.asarray(n_parameters) / self.per_n) ** -self.network_exponent
        )
        tokens = self.of_tokens * (np.asarray(n_tokens) / self.per_d) ** -self.token_exponent
        return self.floor + network + tokens


def fit_law(points: Sequence[Trained], near: Law | None = None) -> Law:
    """The law that is nearest to the losses, none of which may pull at it alone (Huber's loss).

    Parameters
    ----------
    near : start from this one alone, instead of several

    Raises
    ------
    JetfmError
        Fewer than `MIN_POINTS` trainings, or all of one network or of one length.
    """
    n, d, loss = (np.array([getattr(p, k) for p in points], float) for k in asdict(points[0]))
    if len(points) < MIN_POINTS or len(set(n)) < 2 or len(set(d)) < 2:
        found = f"{len(points)} trainings, {len(set(n))} networks, {len(set(d))} lengths"
        raise JetfmError("scaling", found, f"{MIN_POINTS} or more, of two networks and two lengths")
    per_n, per_d = np.exp(np.log(n).mean()), np.exp(np.log(d).mean())
    if near is not None:
        per_n, per_d = near.per_n, near.per_d
    spread = max(float(np.ptp(loss)), 1e-3)

    def residuals(p: np.ndarray) -> np.ndarray:
        return Law(*p, per_n, per_d).loss(n, d) - loss

    least, most = _EXPONENTS
    bounds = ([0, 0, 0, least, least], [loss.min(), np.inf, np.inf, most, most])
    floor = max(loss.min() - spread, 1e-6) * 0.99
    starts = [(floor, spread / 2, spread / 2, a, b) for a in _STARTS for b in _STARTS]
    if near is not None:
        starts = [np.clip(list(asdict(near).values())[:5], *bounds)]
    options = {"loss": "huber", "f_scale": 0.1 * spread, "bounds": bounds}
    fits = [least_squares(residuals, start, **options) for start in starts]
    best = min(fits, key=lambda fit: fit.cost)
    return Law(*map(float, best.x), float(per_n), float(per_d))


def predict(points: Sequence[Trained], n_parameters: int, n_tokens: int) -> Estimate:
    """The loss of a training that is not among the points.

    The uncertainty adds in quadrature the jackknife's, how much the prediction hangs on single
    trainings, and the scatter of the trainings about the law: another one will scatter, too. It
    does not know of a law that fails beyond the points.
    """
    law = fit_law(points)
    value = float(law.loss(n_parameters, n_tokens))
    scatter = [p.loss - float(law.loss(p.n_parameters, p.n_tokens)) for p in points]
    variance = sum(r * r for r in scatter) / max(len(points) - 5, 1)
    if len(points) > MIN_POINTS:
        without = [
            float(fit_law([q for q in points if q is not p], law).loss(n_parameters, n_tokens))
            for p in points
        ]
        variance += (len(points) - 1) * float(np.var(without))
    return Estimate(value, math.sqrt(variance), len(points))


@dataclass(frozen=True)
class ScalingStudy:
    """Small trainings, and what they foretell of a large one.

    Attributes
    ----------
    points : trainings by width and number of blocks, of rising length
    target : the training to foretell; its loss is not used
    """

    points: Mapping[tuple[int, int], Sequence[Trained]]
    target: Trained

    @cached_property
    def prediction(self) -> Estimate:
        """Of the target's loss."""
        return predict(self._all, self.target.n_parameters, self.target.n_tokens)

    def figure_data(self, reached: Sequence[float]) -> dict:
        """Arguments of `jetfm.figures.scaling`.

        Parameters
        ----------
        reached : losses of the target's trainings
        """
        law = fit_law(self._all)
        lines = []
        for (dim, n_blocks), points in self.points.items():
            n, last = points[0].n_parameters, max(self.target.n_tokens, points[-1].n_tokens)
            tokens = np.geomspace(points[0].n_tokens / 2, last, 40)
            lines.append(
                {
                    "label": f"{_name(dim, n_blocks)}: {n:,} parameters",
                    "compute": [point.compute for point in points],
                    "loss": [point.loss for point in points],
                    "law_compute": (6.0 * n * tokens).tolist(),
                    "law_loss": law.loss(n, tokens).tolist(),
                }
            )
        foretold = {"loss": self.prediction.value, "uncertainty": self.prediction.uncertainty}
        target = {"n_parameters": self.target.n_parameters, "compute": self.target.compute}
        return {"lines": lines, "target": target | foretold, "reached": list(reached)}

    def as_text(self) -> str:
        """What was trained, and what it foretells."""
        rows = [f"{'network':24s} {'parameters':>12s} {'tokens seen':>14s} {'loss':>8s}"]
        for (dim, n_blocks), points in self.points.items():
            for point in points:
                name = _name(dim, n_blocks)
                rows.append(f"{name:24s} {point.n_parameters:12,d} {point.n_tokens:14,d} "
                            f"{point.loss:8.4f}")  # fmt: skip
        found, target = self.prediction, self.target
        rows.append(
            f"foretold for {target.n_parameters:,} parameters and {target.n_tokens:,} tokens: "
            f"{found.value:.3f} +- {found.uncertainty:.3f} nats"
        )
        return "\n".join(rows)

    def compared(self, reached: Sequence[float]) -> str:
        """What the target's trainings came to, beside what was foretold."""
        mean, found = float(np.mean(reached)), self.prediction
        losses = ", ".join(f"{loss:.3f}" for loss in reached)
        pull = (mean - found.value) / found.uncertainty
        return (
            f"foretold {found.value:.3f} +- {found.uncertainty:.3f} nats, reached {losses}: "
            f"{abs(pull):.1f} of its uncertainties {'above' if pull > 0 else 'below'}"
        )

    @property
    def _all(self) -> list[Trained]:
        return [point for points in self.points.values() for point in points]


def _name(dim: int, n_blocks: int) -> str:
    return f"width {dim}, {n_blocks} block{'s' if n_blocks > 1 else ''}"
