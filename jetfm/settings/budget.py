"""What a profile costs on one GPU, by arithmetic, and what it has less of than the papers.

Jets through each network over their rate.

Every training is counted to its last step, though patience may end it sooner; of fine-tuning, whose
limit none reaches, `EPOCHS` says how often a fit sees its jets. One thing after another: what runs
side by side only makes it less.

Rates are those of one H200 where they were measured, once, with the code as it was before its steps
stopped waiting for the host (docs/gpu.md); the others are estimates from them, and marked. Neither
is a promise for another card.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jetfm.settings import (
    BASELINES,
    COMBINED,
    PretrainingSettings,
    TrainingSettings,
)
from jetfm.settings.profiles import Profile

MEASURED = {  # jets/s
    "tokenizer": 11_200,
    "ntp": 13_400,
    "joint": 12_900,
    "mpm": 18_600,
    "omnijet": 20_400,
    "generate, batches of 512": 483,
    "generate, batches of 4096": 3_485,
}
ESTIMATED = {
    "simulate, a core": 40,  # measured, on other cores
    "encode": 30_000,  # the tokenizer's step without its gradients
    "mpm-causal": 13_400,  # as many positions as ntp
    "continuous": 13_400,  # ntp with another head
    "pairs": 6_000,  # a third of mpm: the bias of every pair, with its gradient
    "classify": 13_400,  # ntp without its head, both directions
    "token classifier": 20_000,  # five blocks instead of eight
    "DeepSets": 200_000,
    "EPiC-FM": 20_000,
    "generate, EPiC-FM": 1_000,
}
SECONDS_OF_A_STEP = 0.02  # at least, for the launches of a small batch
EPOCHS = ((1_000, 30), (10_000, 20), (100_000, 10), (10_000_000, 5))  # of a fit of up to so many
N_CORES = 16
#: Settings that count something, of which a profile may have less than the papers.
COUNTS = (
    "train", "val", "test", "batch_size", "max_steps", "n_jets", "n_train", "n_training", "n_seeds",
    "n_trainings", "sizes", "limit_train_jets", "limit_val_jets", "limit_test_jets",
    "deepsets", "transformer",
)  # fmt: skip
BYTES = {"simulated": 1_520, "jets": 2_260, "tokens": 730, "encoded, a constituent": 512}


@dataclass(frozen=True)
class Work:
    """One kind of work of a profile.

    Attributes
    ----------
    name : what is done
    jets : how many pass, counted as often as they do
    rate : jets/s
    measured : whether the rate is
    """

    name: str
    jets: int
    rate: float
    measured: bool

    @property
    def hours(self) -> float:
        """Time it takes."""
        return self.jets / self.rate / 3600


def work_of(profile: Profile) -> list[Work]:
    """All large work of a profile, in the notebooks' order; what takes seconds is left out."""
    parts = (_simulated, _tokenizers, _classified_tokens, _pretraining, _generation, _finetuning)
    return [work for part in parts for work in part(profile) if work.jets]


def disk_of(profile: Profile) -> float:
    """Bytes of simulated files, jets, tokens, and the encoded jets of one fixed backbone."""
    n_bytes = _n_jets(profile) * BYTES["jets"]
    n_bytes += _n_simulated(profile) * BYTES["simulated"]
    n_bytes += len(profile.tokenizers) * _n_main_jets(profile) * BYTES["tokens"]
    largest = max(max(profile.finetuning.sizes_of(task)) for task in profile.finetuning.tasks)
    return n_bytes + largest * 40 * BYTES["encoded, a constituent"]


def smaller_than(profile: Profile, reference: Profile) -> dict[tuple[str, str, str], list[str]]:
    """Counts that a profile has less of than another one.

    Returns
    -------
    where it is so, by setting, the profile's number and the other's. Zero jets mean all; lists are
    compared by their largest, seeds by size by their mean
    """
    found: dict[tuple[str, str, str], list[str]] = {}

    def compare(path: tuple[str, ...], mine: Any, its: Any) -> None:
        if isinstance(mine, dict) and isinstance(its, dict):
            for name in mine.keys() & its.keys():
                compare((*path, name), mine[name], its[name])
        elif path[-1] in COUNTS and _largest(path[-1], mine) < _largest(path[-1], its):
            where = ".".join(path[:-1])
            found.setdefault((path[-1], _plain(mine), _plain(its)), []).append(where)

    compare((), _values(profile), _values(reference))
    return {key: sorted(found[key]) for key in sorted(found)}


def _values(profile: Profile) -> dict[str, Any]:
    """All settings; a task without sizes of its own has those of the study."""
    values = profile.model_dump(mode="json")
    for name, task in values["finetuning"]["tasks"].items():
        task["sizes"] = list(profile.finetuning.sizes_of(name))
    return values


def _largest(setting: str, value: Any) -> float:
    if setting == "n_seeds" and isinstance(value, list):  # by size
        return float(np.mean([number for _, number in value]))
    if isinstance(value, list):
        return max(value, default=0)
    if value is None or (value == 0 and setting.startswith(("limit_", "n_train"))):
        return float("inf")
    return value


def _plain(value: Any) -> str:
    if isinstance(value, list):
        pairs = (one if isinstance(one, list) else [one] for one in value)
        return ", ".join(" labels: ".join(f"{n:,}" for n in pair) for pair in pairs)
    return f"{value:,}" if value else "all"


def as_list(profile: Profile, reference: Profile) -> str:
    """`smaller_than` as a table for a reader."""
    lines = [f"| setting | where | {profile.name} | {reference.name} |", "|---|---|---|---|"]
    for (setting, mine, its), where in smaller_than(profile, reference).items():
        places = ", ".join(where[:2]) + (f" and {len(where) - 2} more" if len(where) > 2 else "")
        lines.append(f"| `{setting}` | {places} | {mine} | {its} |")
    return "\n".join(lines)


def as_table(profile: Profile) -> str:
    """The work as a table for a reader, with its sum."""
    work = work_of(profile)
    lines = ["| work | jets | jets/s | minutes |", "|---|---|---|---|"]
    for one in work:
        mark = "" if one.measured else " ¹"
        lines.append(
            f"| {one.name} | {one.jets:,} | {one.rate:,.0f}{mark} | {60 * one.hours:.0f} |"
        )
    total = sum(one.hours for one in work)
    lines.append(f"| together, one after another | | | {60 * total:.0f} |")
    return "\n".join(lines)


def _work(name: str, jets: float, kind: str, at_most: float = float("inf")) -> Work:
    rate = (MEASURED | ESTIMATED)[kind]
    return Work(name, round(jets), min(rate, at_most), kind in MEASURED and rate <= at_most)


def _n_main_jets(profile: Profile) -> int:
    return 10 * sum(profile.data.jets_per_class.model_dump().values())


def _n_jets(profile: Profile) -> int:
    return _n_main_jets(profile) + 2 * sum(profile.landscape.jets_per_class.model_dump().values())


def _n_simulated(profile: Profile) -> int:
    simulated = 0
    if profile.data.source == "simulate":
        simulated += _n_main_jets(profile)
    if profile.landscape.source == "simulate":
        simulated += 2 * sum(profile.landscape.jets_per_class.model_dump().values())
    return simulated


def _passes(training: TrainingSettings) -> int:
    return training.max_steps * training.batch_size


def _simulated(profile: Profile) -> Iterator[Work]:
    one = _work(f"simulate, {N_CORES} cores", _n_simulated(profile), "simulate, a core")
    yield replace(one, rate=N_CORES * one.rate)


def _tokenizers(profile: Profile) -> Iterator[Work]:
    learned = [one for one in profile.tokenizers.values() if one.network != "binned"]
    jets = sum(_passes(one.training) for one in learned)
    yield _work(f"train {len(learned)} tokenizers", jets, "tokenizer")
    # all splits of those whose tokens are learned or classified, the test jets of the others
    whole = {model.tokenizer for model in profile.models.values()}
    whole |= {profile.generative_quality.model.tokenizer, *profile.token_quality.classified}
    n_test = 10 * profile.data.jets_per_class.test
    n_others = len(profile.tokenizers) - len(whole)
    yield _work("tokenise", len(whole) * _n_main_jets(profile) + n_others * n_test, "encode")


def _classified_tokens(profile: Profile) -> Iterator[Work]:
    quality = profile.token_quality
    features = {quality.tokenizers[name].features for name in quality.classified}
    n_fits = (len(quality.classified) + len(features)) * quality.n_seeds  # and the originals
    for name, kind in (("deepsets", "DeepSets"), ("transformer", "token classifier")):
        jets = n_fits * _passes(getattr(quality, name).training)
        yield _work(f"classify tokens, {n_fits} fits of {name}", jets, kind)


def _kind_of(model: PretrainingSettings) -> str:
    if model.backbone.network == "gpt":
        return "omnijet"
    return "pairs" if model.backbone.pair_bias else model.objective


def _pretraining(profile: Profile) -> Iterator[Work]:
    for name, model in profile.models.items():
        jets = model.n_trainings * _passes(model.training)
        times = f", {model.n_trainings} times" if model.n_trainings > 1 else ""
        yield _work(f"pre-train {name}{times}", jets, _kind_of(model))
    yield _work("pre-train continuous", _passes(profile.continuous.training), "continuous")


def _generation(profile: Profile) -> Iterator[Work]:
    quality, n_jets = profile.generative_quality, profile.generation.n_jets
    single = quality.steps_of_single or quality.model.training.max_steps
    steps = sum(
        quality.model.training.max_steps if len(classes) != 1 else single
        for classes in quality.trained_on.values()
    )
    jets = steps * quality.model.training.batch_size
    yield _work("train generators of jet types", jets, _kind_of(quality.model))
    yield _work("train EPiC-FM", _passes(profile.flow.training), "EPiC-FM")
    generating = [name for name, model in profile.models.items() if model.predicts_next]
    n_generators = len(generating) + len(quality.trained_on) + 1  # and the continuous one
    batch = 4096 if profile.generation.batch_size >= 4096 else 512
    yield _work("generate", n_generators * n_jets, f"generate, batches of {batch}")
    yield _work("generate, EPiC-FM", n_jets, "generate, EPiC-FM")
    for name, kind in (("deepsets", "DeepSets"), ("transformer", "token classifier")):
        epochs = quality.classifier_epochs.get(name, 0)
        jets = 2 * n_jets * epochs * (n_generators + 1)
        yield _work(f"tell generated jets from others, {name}", jets, kind)


def _finetuning(profile: Profile) -> Iterator[Work]:
    """Fixed backbones count like the others: their jets are encoded once, which is less."""
    settings = profile.finetuning
    known = {*profile.models, COMBINED, *BASELINES}
    for task, chosen in settings.tasks.items():
        n_starts = sum(len(w) for name, w in chosen.contenders.items() if name in known)
        for size in settings.sizes_of(task):
            n_fits = n_starts * len(settings.seeds(task, size))
            epochs = next(n for limit, n in EPOCHS if size <= limit)
            small = size <= settings.small_size
            batch = settings.small_batch_size if small else settings.batch_size
            at_most = min(batch, size) / SECONDS_OF_A_STEP
            jets = n_fits * size * epochs
            yield _work(f"{task}, {size:,} labels, {n_fits} fits", jets, "classify", at_most)
