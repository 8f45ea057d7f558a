"""A finished study of classifiers: its tables and the data of its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

import numpy as np

from jetfm.data.jet_ranges import ranges_as_text
from jetfm.figures.style import seed_spread
from jetfm.finetuning.contenders import STARTS, Contender
from jetfm.finetuning.label_savings import LabelSaving, label_saving
from jetfm.finetuning.paper_curves import published_lines
from jetfm.finetuning.scores import FEW_PASSED
from jetfm.finetuning.study import LABELS, STUDY, fit_path, runs_folder
from jetfm.settings import BASELINES, FinetuningSettings
from jetfm.storage.files import read_json

_REGIONS = ("inside", "outside")  # of the ranges that a task is trained on


@dataclass(frozen=True)
class TaskResults:
    """All fits of one task.

    Attributes
    ----------
    name : of the task
    result : what `jetfm.finetuning.study.run_study` collected for it
    folder : of its fits, with their scores of the test jets
    jets : campaign that its jets are of
    """

    name: str
    result: dict
    folder: Path | None = None
    jets: str = "jetclass"

    @property
    def sizes(self) -> list[int]:
        """Training sizes that there were enough jets for."""
        return self.result["sizes"]

    @property
    def n_test(self) -> int:
        """Test jets."""
        return self.result["n_test"]

    @property
    def n_leaked(self) -> int:
        """Test jets that are, constituent for constituent, training or validation jets too."""
        return self.result["n_leaked"]

    @property
    def contenders(self) -> list[tuple[str, str]]:
        """Model and weights of every contender."""
        return list(dict.fromkeys((row["model"], row["weights"]) for row in self.result["rows"]))

    @property
    def is_binary(self) -> bool:
        """Whether there is one signal and one background."""
        return len(self.result["classes"]) == 2

    def row(self, model: str, weights: str, size: int) -> dict | None:
        """All that is known of a contender at a size, None where it did not run."""
        for row in self.result["rows"]:
            if (row["model"], row["weights"], row["size"]) == (model, weights, size):
                return row
        return None

    def runs(self, model: str, weights: str, size: int, metric: str) -> np.ndarray | None:
        """The metric of every seed, None where the study has no such point."""
        row = self.row(model, weights, size)
        return None if row is None else np.array(row[metric], float)

    def correct(self, model: str, weights: str, size: int) -> np.ndarray | None:
        """Whether each fit is right on each test jet, (n_seeds, n_test) bool; None where the study
        has no such point, or did not write down the jets' labels."""
        runs, labels = self.runs(model, weights, size, "accuracy"), self._labels
        if runs is None or labels is None:
            return None
        found = []
        for seed in range(len(runs)):  # one at a time: scores are far larger than what is kept
            path = fit_path(self.folder, Contender(model, weights), size, seed)
            scores = np.load(path.with_suffix(".npy"), allow_pickle=False)
            found.append(scores.argmax(1) == labels)
        return np.array(found)

    @cached_property
    def _labels(self) -> np.ndarray | None:
        if self.folder is None or not (self.folder / LABELS).exists():
            return None
        return np.load(self.folder / LABELS, allow_pickle=False)

    def n_cut(self, model: str, weights: str, size: int) -> int:
        """Fits that their limit of steps ended: their accuracies are lower limits."""
        return sum(self.row(model, weights, size)["cut"])

    def scratch_of(self, model: str) -> str | None:
        """Whose training from scratch a pre-trained model is compared with: its own network's, or
        the main one's where that did not run."""
        for name in (model, "main"):
            if (name, "scratch") in self.contenders:
                return name
        return None

    def saving(self, model: str, size: int) -> LabelSaving | None:
        """How many times `size` labels `scratch_of` the model needs to do as well."""
        scratch = self.scratch_of(model)
        reached = self.runs(model, "finetuned", size, "accuracy")
        if scratch is None or reached is None:
            return None
        curve = {n: self.runs(scratch, "scratch", n, "accuracy") for n in self.sizes}
        curve = {n: accuracies for n, accuracies in curve.items() if accuracies is not None}
        return label_saving(list(curve), list(curve.values()), size, reached, self.n_test)

    def curves(
        self, metric: str, contenders: Sequence[tuple[str, str]], region: str = ""
    ) -> list[dict]:
        """Lines of a figure: 'text', 'model', 'weights', 'sizes', 'mean', 'spread' over seeds,
        and 'jets', the mean uncertainty from the test jets, None where the metric has none; 'cut',
        where the limit of steps ended a fit.

        With a `region`, 'inside' or 'outside', of the test jets there alone. Of rejections also
        'limited', where fewer than `FEW_PASSED` background jets passed, and
        'low', the lower end of the interval, which exists where a seed let none pass.
        """
        lines = []
        for model, weights in contenders:
            rows = [self.row(model, weights, size) for size in self.sizes]
            rows = [row for row in rows if row is not None]
            if not rows:
                continue
            if region:
                rows = [row | row[region] for row in rows]
            values = [np.array(row[metric], float) for row in rows]
            lines.append(
                {
                    "text": rows[0]["text"],
                    "model": model,
                    "weights": weights,
                    "sizes": [row["size"] for row in rows],
                    "mean": [_or_none(v.mean()) for v in values],
                    "spread": [_or_none(seed_spread(v)) for v in values],
                    "jets": [_from_jets(row, metric) for row in rows],
                    "cut": [any(row["cut"]) for row in rows],
                }
                | (_limits(rows, metric) if metric.startswith("rejection") else {})
            )
        return lines

    def against(self, names: Mapping[float, str], what: str, model: str) -> list[dict]:
        """Lines of a figure, one a size: fine-tuned accuracy by a property of the pre-training.

        Parameters
        ----------
        names : pre-trained models by that property's value
        what : name of the property
        model : whose network from scratch they are compared with, see `scratch_of`

        Returns
        -------
        'size', `what` (the values), 'mean', 'spread' and 'jets' as in `curves`, and 'scratch', mean
        and spread without pre-training, empty where it did not run
        """
        lines = []
        for size in self.sizes:
            found = {x: self._at(names[x], "finetuned", size) for x in sorted(names)}
            found = {x: point for x, point in found.items() if point}
            line = {"size": size, what: list(found)}
            for key in ("mean", "spread", "jets"):
                line[key] = [point[key] for point in found.values()]
            scratch = self._at(self.scratch_of(model), "scratch", size)
            line["scratch"] = [scratch[key] for key in ("mean", "spread")] if scratch else []
            lines.append(line)
        return lines

    def _at(self, model: str | None, weights: str, size: int) -> dict:
        """'mean', 'spread' and 'jets' of accuracy at a size; nothing where it did not run."""
        for curve in self.curves("accuracy", [(model, weights)]):
            if size in curve["sizes"]:
                at = curve["sizes"].index(size)
                return {key: curve[key][at] for key in ("mean", "spread", "jets")}
        return {}

    def falls(self, contenders: Sequence[tuple[str, str]]) -> list[dict]:
        """Lines as of `curves`: accuracy inside minus outside, fit by fit.

        The test jets of the two are different ones, whose uncertainties add in quadrature.
        """
        lines = self.curves("accuracy", contenders, "inside")
        for line in lines:
            found: dict[str, list] = {"mean": [], "spread": [], "jets": []}
            for size in line["sizes"]:
                row = self.row(line["model"], line["weights"], size)
                values, errors = (
                    [np.array(row[region][key]) for region in _REGIONS]
                    for key in ("accuracy", "accuracy_error")
                )
                found["mean"].append(float(np.mean(values[0] - values[1])))
                found["spread"].append(seed_spread(values[0] - values[1]))
                found["jets"].append(float(np.mean(np.hypot(*errors))))
            line |= found
        return lines

    def out_of_range_as_text(self) -> str:
        """Table of a task with ranges: accuracy inside, outside, and the difference, each with the
        standard deviation over seeds and the uncertainty from the test jets."""
        lines = [f"trained on {ranges_as_text(self.result['ranges'])}: {self.result['n_inside']:,} "
                 f"test jets inside, {self.result['n_outside']:,} outside"]  # fmt: skip
        sides = [self.curves("accuracy", self.contenders, region) for region in _REGIONS]
        width = max(len(line["text"]) for line in sides[0])
        heads = "".join(f"{head:>28s}" for head in (*_REGIONS, "inside - outside"))
        lines.append(f"{'':{width}s} {'jets':>8s}{heads}")
        for three in zip(*sides, self.falls(self.contenders), strict=True):
            for at, size in enumerate(three[0]["sizes"]):
                cells = "".join(
                    f"{one['mean'][at]:11.4f} +- {one['spread'][at]:.4f} +- {one['jets'][at]:.4f}"
                    for one in three
                )
                lines.append(f"{three[0]['text']:{width}s} {size:8,d}{cells}")
        return "\n".join(lines)

    def reliability(self, contenders: Sequence[tuple[str, str]], size: int) -> dict:
        """A panel of `jetfm.figures.reliability`, all seeds of a contender together."""
        lines = []
        for model, weights in contenders:
            row = self.row(model, weights, size)
            if row is None:
                continue
            n = np.array([one["n"] for one in row["reliability"]])  # (seeds, bins)
            line = {"text": row["text"], "n": n.sum(0)}
            for key in ("confidence", "accuracy"):
                means = np.array([[x or 0.0 for x in one[key]] for one in row["reliability"]])
                total = (n * means).sum(0)
                line[key] = [t / k if k else None for t, k in zip(total, n.sum(0), strict=True)]
            error = np.array(row["calibration_error"])
            line["error"] = [error.mean(), _or_none(seed_spread(error))]
            lines.append(line)
        return {"title": f"{size:,} labelled jets, {self.n_test:,} test jets", "lines": lines}

    def savings_as_text(self) -> str:
        """Labels that fine-tuning saves, by model and size, and against whom."""
        lines = []
        for model, weights in self.contenders:
            for size in self.sizes:
                saving = self.saving(model, size) if weights == "finetuned" else None
                if saving is not None:
                    text = self.row(model, weights, size)["text"]
                    others = (self.row(self.scratch_of(model), "scratch", n) for n in self.sizes)
                    against = next(row["text"] for row in others if row is not None)
                    lines.append(f"{text:40s} {size:8,d} labels are worth {saving.as_text()} times "
                                 f"as many of {against}")  # fmt: skip
        return "\n".join(lines)

    def as_text(self) -> str:
        """Table: mean, standard deviation over seeds, and uncertainty from the test jets."""
        names = ["accuracy", "auc"]
        names += ["rejection30", "rejection50"] if self.is_binary else []
        titles = {"accuracy": "accuracy", "auc": "AUC", "rejection30": "1/eps_B at 30 %"}
        titles["rejection50"] = "1/eps_B at 50 %"
        width = max(len(row["text"]) for row in self.result["rows"])
        head = "".join(f"{titles[name]:>30s}" for name in names)
        lines = [f"{'':{width}s} {'jets':>8s}{head}  seeds, cut short"]
        for row in self.result["rows"]:
            cells = "".join(f"{_cell(row, name):>30s}" for name in names)
            n_cut = self.n_cut(row["model"], row["weights"], row["size"])
            lines.append(
                f"{row['text']:{width}s} {row['size']:8,d}{cells} {len(row['accuracy']):6d}  "
                f"{n_cut}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Finetuning:
    """A finished study, read from its folder.

    Attributes
    ----------
    labels : what legends call models, also those that did not run
    jets : campaign of each task's jets, where it is another than 'jetclass'
    """

    folder: Path
    labels: Mapping[str, str] = field(default_factory=dict)
    jets: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def tasks(self) -> dict[str, TaskResults]:
        """Results by name of the task."""
        found = read_json(self.folder / STUDY)
        return {
            name: TaskResults(
                name, result, runs_folder(self.folder, name), self.jets.get(name, "jetclass")
            )
            for name, result in found.items()
        }

    def __getitem__(self, task: str) -> TaskResults:
        return self.tasks[task]

    @property
    def n_fits(self) -> int:
        """Trainings in all."""
        rows = [row for task in self.tasks.values() for row in task.result["rows"]]
        return sum(len(row["accuracy"]) for row in rows)

    @property
    def n_leaked(self) -> int:
        """Test jets seen in training or validation, of all tasks."""
        return sum(task.n_leaked for task in self.tasks.values())

    def panel(self, task: str, metric: str, *patterns: str) -> dict:
        """Data of one panel of `jetfm.figures.learning_curves`.

        Parameters
        ----------
        patterns : contenders, as 'model weights', e.g. 'main scratch' or '* finetuned'; in the
            order of the legend. Those of the papers' settings that the profile lacks are named.
        """
        results = self.tasks[task]
        contenders = [
            one
            for pattern in patterns
            for one in results.contenders
            if fnmatchcase(" ".join(one), pattern)
        ]
        paper = FinetuningSettings()
        missing = paper.sizes_of(task) if task in paper.tasks else ()
        wanted = paper.tasks[task].contenders if task in paper.tasks else {}
        lacking = [
            BASELINES.get(model) or f"{self._text(model)}, {STARTS[weights]}"
            for model, starts in wanted.items()
            for weights in starts
            if (model, weights) not in results.contenders
            and any(fnmatchcase(f"{model} {weights}", pattern) for pattern in patterns)
        ]
        for pattern in patterns:  # and those that only larger profiles have
            model, _, weights = pattern.partition(" ")
            named = weights in STARTS and model != "*" and weights not in wanted.get(model, ())
            if named and (model, weights) not in results.contenders:
                lacking.append(f"{self._text(model)}, {STARTS[weights]}")
        return {
            "metric": metric,
            "classes": list(results.result["classes"]),
            "jets": results.jets,
            "n_test": results.n_test,
            "lines": results.curves(metric, list(dict.fromkeys(contenders))),
            "published": published_lines(task, metric),
            "missing_sizes": [size for size in missing if size not in results.sizes],
            "missing_contenders": lacking,
        }

    def out_of_range(self) -> list[dict]:
        """Panels of `jetfm.figures.out_of_range`, one for each task with ranges, all contenders."""
        panels = []
        for name, task in self.tasks.items():
            if "ranges" not in task.result:
                continue
            panel = {
                "classes": list(task.result["classes"]),
                "jets": task.jets,
                "ranges": task.result["ranges"],
                "n_inside": task.result["n_inside"],
                "n_outside": task.result["n_outside"],
                "fall": task.falls(task.contenders),
            }
            panel |= {one: task.curves("accuracy", task.contenders, one) for one in _REGIONS}
            panels.append({"task": name} | panel)
        return panels

    def out_of_range_as_text(self) -> str:
        """The tables of all tasks with ranges."""
        found = {name: task for name, task in self.tasks.items() if "ranges" in task.result}
        return "\n\n".join(f"{name}, {task.out_of_range_as_text()}" for name, task in found.items())

    def _text(self, model: str) -> str:
        return self.labels.get(model) or model

    def as_text(self) -> str:
        """The tables of all tasks."""
        return "\n\n".join(
            f"{name}: {task.n_test:,} test jets\n{task.as_text()}"
            for name, task in self.tasks.items()
        )


def _cell(row: dict, metric: str) -> str:
    values = np.array(row[metric], float)
    if metric.startswith("rejection"):
        passed = np.mean(row[f"{metric}_passed"])
        mark = " *" if passed < FEW_PASSED else ""
        return f"{_number(values.mean(), 1)} +- {_number(seed_spread(values), 1)}{mark}"
    errors = row[f"{metric}_error"]
    jets = "" if errors[0] is None else f" +- {np.mean(errors):.4f}"
    return f"{values.mean():.4f} +- {_number(seed_spread(values), 4)}{jets}"


def _limits(rows: list[dict], metric: str) -> dict:
    return {
        "limited": [np.mean(row[f"{metric}_passed"]) < FEW_PASSED for row in rows],
        "low": [_or_none(np.array(row[f"{metric}_low"], float).mean()) for row in rows],
    }


def _from_jets(row: dict, metric: str) -> float | None:
    """Mean uncertainty from the test jets; of rejections half the interval, where it is bounded."""
    if metric.startswith("rejection"):
        low, high = (np.array(row[f"{metric}_{end}"], float) for end in ("low", "high"))
        return _or_none((high - low).mean() / 2)
    errors = row[f"{metric}_error"]
    return None if errors[0] is None else float(np.mean(errors))


def _number(value: float, digits: int) -> str:
    return "?" if math.isnan(value) else f"{value:.{digits}f}"


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
