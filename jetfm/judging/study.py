"""Several generators, each judged against its own truth: one stage's work, and the results read.

Generators of tokens are held against tokenised and decoded jets, since they learn tokens and
nothing finer; generators without tokens against the jets themselves (2403.05618, appendix C). Only
generators that learned from the same classes compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from jetfm.figures.style import BINS, histogram, to_data
from jetfm.judging import table
from jetfm.judging.distances import TailExcess, judge
from jetfm.judging.jet_sample import JetSample
from jetfm.judging.metrics import (
    JET_QUANTITIES,
    QUANTITIES,
    evaluate_sample,
    values_of,
)
from jetfm.schema import KINEMATICS, class_by_name
from jetfm.settings import GenerativeQualitySettings
from jetfm.storage.files import read_json, write_json

RESULT = "quality.json"

#: Panels of the figures in order: jets in the first row, constituents in the second.
PANELS = ("jet_pt", "jet_mass", "tau32", "tau21", *KINEMATICS, "n_constituents")


@dataclass(frozen=True)
class Generator:
    """What tables and figures say of a generator.

    Attributes
    ----------
    name : in the profile
    label : for legends
    classes : that it learned from; none named means all
    tokens : whether it learned tokens, which decides its truth
    steps : of its training
    """

    name: str
    label: str
    classes: tuple[str, ...]
    tokens: bool
    steps: int

    @property
    def jets(self) -> str:
        """The classes for tables."""
        return " and ".join(self.classes) or "all classes"

    @property
    def latex(self) -> str:
        """The classes for figures."""
        return " and ".join(class_by_name(name).latex for name in self.classes) or "All classes"

    @property
    def truth(self) -> str:
        """Name of the truth for legends."""
        return "Tokenised jets" if self.tokens else "Original jets"


def judge_generator(
    sample: JetSample,
    truth: JetSample,
    training: JetSample,
    folder: Path,
    settings: GenerativeQualitySettings,
    seed: int,
    progress: bool = True,
) -> dict:
    """Write all metrics and the histograms of a generator; return what identifies them."""
    found = evaluate_sample(
        sample,
        truth,
        training,
        classifiers={name: n for name, n in settings.classifier_epochs.items() if n},
        folder=folder / "training",
        classifier_seeds=settings.classifier_seeds,
        n_bootstrap=settings.n_bootstrap,
        seed=seed,
        progress=progress,
    )
    again = {"n_bootstrap": settings.n_bootstrap, "seed": seed}
    tails = {
        name: judge(TailExcess, values_of(sample, name), values_of(truth, name), **again).to_dict()
        for name in QUANTITIES
    }
    histograms = {
        name: {
            side: to_data(histogram(values_of(jets, name).values, BINS[name]))
            for side, jets in (("truth", truth), ("generated", sample))
        }
        for name in PANELS
    }
    write_json(folder / RESULT, {"metrics": found, "tails": tails, "histograms": histograms})
    return {"n_jets": found["combined"]["n_jets"], "classifiers": found["combined"]["classifiers"]}


class GenerativeStudy:
    """Finished judgements of several generators.

    Parameters
    ----------
    generators : in the order of tables and legends
    folders : of `judge_generator`, by name
    seconds_per_1000 : jets, by name; of one core
    n_unfinished : jets cut at the largest length, by name; None where that cannot be
    """

    def __init__(
        self,
        generators: Iterable[Generator],
        folders: Mapping[str, str | Path],
        seconds_per_1000: Mapping[str, float],
        n_unfinished: Mapping[str, int | None],
    ) -> None:
        self.generators = {one.name: one for one in generators}
        self._results = {name: read_json(Path(folders[name]) / RESULT) for name in self.generators}
        self.seconds_per_1000, self.n_unfinished = dict(seconds_per_1000), dict(n_unfinished)

    @property
    def names(self) -> list[str]:
        """Generators in order."""
        return list(self.generators)

    def metrics(self, name: str) -> dict:
        """All jets' entry of `jetfm.judging.metrics.evaluate_sample`."""
        return self._results[name]["metrics"]["combined"]

    def tails(self, name: str) -> dict[str, dict]:
        """By quantity, how wrong a generator's tails are (`jetfm.judging.distances.TailExcess`)."""
        return self._results[name]["tails"]

    def groups(self) -> dict[str, list[str]]:
        """Generators that learned from the same classes and thus compare, by those classes."""
        found: dict[str, list[str]] = {}
        for name, one in self.generators.items():
            found.setdefault(one.jets, []).append(name)
        return found

    def only(self, classes: Sequence[str] = ()) -> list[str]:
        """Names of the generators that learned from exactly these classes; none means all."""
        return [name for name, one in self.generators.items() if one.classes == tuple(classes)]

    def as_text(self, classes: Sequence[str] = ()) -> str:
        """Tables of the generators of some classes, all metrics."""
        names = self.only(classes)
        results = {self.generators[n].label: self._results[n]["metrics"] for n in names}
        speed = {self.generators[n].label: self.seconds_per_1000[n] for n in names}
        return table.as_text(results, of=self.generators[names[0]].jets, speed=speed)

    def violations_as_text(self) -> str:
        """Table: what is not physical, what was not asked for, what did not end."""
        rows = {
            f"{one.label}, {one.jets}": self.metrics(name)["violations"]["sample"]
            for name, one in self.generators.items()
        }
        return table.violations_as_text(rows, [self.n_unfinished[n] for n in self.names])

    def save(self, path: str | Path) -> Path:
        """Write what was judged, and all metrics but the time taken, which never repeats."""
        rows = [
            asdict(one)
            | {"unfinished": self.n_unfinished[name], "tails": self.tails(name)}
            | self._results[name]["metrics"]
            for name, one in self.generators.items()
        ]
        return write_json(path, rows)

    # Figures -------------------------------------------------------------------------------------

    def beside_truth(self, *names: str) -> dict:
        """Arguments of `jetfm.figures.generation`: generators, each with its own truth.

        The first generator of a kind brings the truth that is drawn.
        """
        chosen = [self.generators[name] for name in names]
        truths = {one.truth: one.name for one in reversed(chosen)}
        truths = {one.truth: truths[one.truth] for one in chosen}
        sizes = {truth: self.metrics(name)["n_jets"]["truth"] for truth, name in truths.items()}
        entries = [
            {
                "label": one.label,
                "truth": one.truth,
                "n_jets": self.metrics(one.name)["n_jets"]["sample"],
            }
            for one in chosen
        ]
        histograms = {}
        for quantity in PANELS:
            found = {name: self._results[name]["histograms"][quantity] for name in names}
            histograms[quantity] = {t: found[name]["truth"] for t, name in truths.items()}
            histograms[quantity] |= {one.label: found[one.name]["generated"] for one in chosen}
        title = ", ".join(dict.fromkeys(one.latex for one in chosen))
        return {"histograms": histograms, "truths": sizes, "generators": entries, "title": title}

    def distances(self, classes: Sequence[str] = ()) -> dict:
        """Arguments of `jetfm.figures.generator_distances`: Wasserstein over floor by quantity."""
        rows = {}
        for name in self.only(classes):
            found = self.metrics(name)["wasserstein"]
            rows[self.generators[name].label] = {
                quantity: {
                    "value": _over(one["value"], one["floor"]["value"]),
                    "error": _over(one["uncertainty"], one["floor"]["value"]),
                }
                for quantity, one in found.items()
            }
        return {"rows": rows, "quantities": [*JET_QUANTITIES, *KINEMATICS]}


def _over(value: float | None, floor: float | None) -> float | None:
    """Their ratio; None where a quantity is that of no jet, or the truth does not vary."""
    return value / floor if value is not None and floor else None
