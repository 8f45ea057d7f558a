"""Which optimiser learns jets: the study behind docs/optimisers.md, its figure and its tables.

    .venv/bin/python examples/optimisers.py [profile] [folder]

AdamW, Ranger, Muon and SOAP on the profile's tokens, network, batches and schedule. Each gets three
rates, in trainings of a third of the steps, for next tokens, for masked particles and for the
tokenizer; joint training takes what is best for next tokens. The best rate is then trained for as
many seconds as Muon takes for all steps, and fine-tuned on jets of the other detector.

Trainings are stages like all others: what is done is found, and a killed study continues. Written
are ``optimisers.png``, ``optimisers.pdf`` and ``optimisers.json``; tables are printed.
"""

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from jetfm.figures import style
from jetfm.pipeline import Pipeline
from jetfm.pipeline.history import learning_curves
from jetfm.settings import OptimizerSettings
from jetfm.settings.finetuning import TaskSettings
from jetfm.settings.profiles import Profile, load_profile

RATES = {
    "adamw": (1e-3, 2e-3, 4e-3),
    "ranger": (2e-3, 5e-3, 1e-2),
    "muon": (5e-3, 1e-2, 2e-2),
    "soap": (1e-3, 3e-3, 1e-2),
}
BETAS = {"adamw": (0.9, 0.999), "ranger": (0.95, 0.999), "muon": (0.9, 0.99), "soap": (0.95, 0.95)}
LABELS = {"adamw": "AdamW", "ranger": "Ranger", "muon": "Muon", "soap": "SOAP"}
COLORS = {"adamw": "#0072B2", "ranger": "#E69F00", "muon": "#D55E00", "soap": "#009E73"}
TITLES = {
    "ntp": "Next tokens",
    "mpm": "Masked particles",
    "joint": "Both, NTP + MPM",
    "tokenizer": "Tokenizer",
}
SEARCH = 1 / 3  # of the steps


def optimised(training, name: str, rate: float, n_steps: int):
    """A training with another optimiser; its schedule and clipping stay, validations are ten."""
    optimizer = OptimizerSettings(
        name=name, lr=rate, betas=BETAS[name], eps=1e-5 if name == "ranger" else 1e-8,
        warmup_steps=0, clip=training.optimizer.clip, schedule=training.optimizer.schedule,
    )  # fmt: skip
    every = max(n_steps // 10, 1)
    n_steps = every * (n_steps // every)
    changes = {"max_steps": n_steps, "validate_every": every, "optimizer": optimizer}
    return training.model_copy(update=changes)


def trained(profile: Profile, models: dict[str, tuple]) -> dict[str, dict]:
    """Train what is missing, side by side; 'step', 'seconds' and 'loss' of each validation.

    Parameters
    ----------
    models : by name: objective or 'tokenizer', optimiser, rate, steps
    """
    strategies, tokenizers = {}, dict(profile.token_quality.tokenizers)
    for name, (objective, *how) in models.items():
        base = profile.tokenizer if objective == "tokenizer" else profile.pretraining
        settings = base.model_copy(update={"training": optimised(base.training, *how)})
        if objective == "tokenizer":
            tokenizers[name] = settings
        else:
            strategies[name] = settings.model_copy(update={"objective": objective})
    quality = profile.token_quality.model_copy(update={"tokenizers": tokenizers})
    pipeline = Pipeline(
        profile.model_copy(update={"strategies": strategies, "token_quality": quality})
    )
    stages = {name: pipeline.pretraining.pretrained(name) for name in strategies}
    stages |= {name: pipeline.tokenizers.trained(name) for name in models if name in tokenizers}
    pipeline.run.side_by_side("train", [[stage] for stage in stages.values()], "model")
    rows = [row for row in pipeline.stages().rows() if row["stage"] in ("pretraining", "tokenizer")]
    seconds = {row["variant"]: row["seconds"] for row in rows}
    found = {}
    for name, stage in stages.items():
        curve = learning_curves(stage.artifact)["history"]["val"]
        steps = np.array(curve["step"])
        found[name] = {
            "step": steps.tolist(),
            "seconds": (seconds[name] * steps / steps[-1]).round(1).tolist(),
            "loss": curve.get("reconstruction", curve["loss"]),
        }
    return found


def search(profile: Profile) -> dict[str, dict]:
    """Every rate of every optimiser: by 'objective-optimiser-rate', its curve."""
    objectives = {"ntp": profile.pretraining, "mpm": profile.pretraining}
    objectives["tokenizer"] = profile.tokenizer
    models = {
        f"{objective}-{name}-{rate:g}": (
            objective, name, rate, round(settings.training.max_steps * SEARCH)
        )
        for objective, settings in objectives.items()
        for name, rates in RATES.items()
        for rate in rates
    }  # fmt: skip
    return trained(profile, models)


def best_rate(found: dict, objective: str, name: str) -> float:
    """Of the lowest last loss."""
    losses = {rate: found[f"{objective}-{name}-{rate:g}"]["loss"][-1] for rate in RATES[name]}
    return min(losses, key=lambda rate: losses[rate] if np.isfinite(losses[rate]) else np.inf)


def equal_seconds(profile: Profile, found: dict) -> dict[str, tuple]:
    """The best rate of each, for as long as Muon takes: objective, optimiser, rate, steps."""
    models = {}
    for objective in ("ntp", "mpm", "joint"):
        tuned = "ntp" if objective == "joint" else objective
        for name in RATES:
            rate = best_rate(found, tuned, name)
            ours, muons = (
                found[f"{tuned}-{one}-{best_rate(found, tuned, one):g}"]["seconds"][-1]
                for one in (name, "muon")
            )
            n_steps = round(profile.pretraining.training.max_steps * muons / ours / 10) * 10
            models[f"{objective}-{name}"] = (objective, name, rate, n_steps)
    return models


def finetuned(profile: Profile, models: dict[str, tuple]) -> dict[str, list[float]]:
    """Accuracy of every seed on the other detector's test jets, and from scratch; the most labels
    that the profile has there."""
    strategies, n_labels = {}, max(profile.finetuning.sizes_of("landscape"))
    for name, (objective, *how) in models.items():
        training = optimised(profile.pretraining.training, *how)
        changes = {"objective": objective, "training": training}
        strategies[name] = profile.pretraining.model_copy(update=changes)
    contenders = {"main": ("scratch",)} | dict.fromkeys(strategies, ("finetuned",))
    task = TaskSettings(
        jets="toplandscape", classes=("QCD", "Tbqq"), contenders=contenders, sizes=(n_labels,)
    )
    settings = profile.finetuning.model_copy(update={"tasks": {"landscape": task}})
    pipeline = Pipeline(
        profile.model_copy(update={"strategies": strategies, "finetuning": settings})
    )
    results = pipeline.finetuning.study()["landscape"]
    return {
        name: results.runs(name, weights[0], n_labels, "accuracy").tolist()
        for name, weights in contenders.items()
    }


def drawn(curves: dict[str, dict]) -> plt.Figure:
    """Validation loss against steps and against seconds, a column an objective."""
    figure, axes = plt.subplots(2, len(TITLES), figsize=(3.6 * len(TITLES), 6.4))
    for column, (objective, title) in zip(axes.T, TITLES.items(), strict=True):
        for axis, x, label in zip(
            column, ("step", "seconds"), ("Training step", "Time on one core [s]"), strict=True
        ):
            for name, text in LABELS.items():
                curve = curves[f"{objective}-{name}"]
                axis.plot(curve[x], curve["loss"], color=COLORS[name], marker="o", ms=3, label=text)
            axis.set_xlabel(label)
            axis.set_ylabel("Validation loss [nats per token]")
            if objective == "tokenizer":
                axis.set_yscale("log")
                axis.set_ylabel("Mean squared error")
        column[0].set_title(title)
    axes[0, 0].legend()
    return figure


def main(profile_name: str = "laptop", folder: str = "docs") -> None:
    profile = load_profile(profile_name)
    style.use_style()
    found = search(profile)
    print("Validation loss after a third of the steps, by rate")
    for objective in ("ntp", "mpm", "tokenizer"):
        for name, rates in RATES.items():
            losses = [f"{r:g}: {found[f'{objective}-{name}-{r:g}']['loss'][-1]:.4f}" for r in rates]
            print(f"  {TITLES[objective]:18s}{LABELS[name]:8s}" + "   ".join(losses))
    models = equal_seconds(profile, found)
    curves = trained(profile, models)
    for name in RATES:
        rate = best_rate(found, "tokenizer", name)
        curves[f"tokenizer-{name}"] = found[f"tokenizer-{name}-{rate:g}"]
    print("\nThe best rate of each, for equal seconds (the tokenizer: for equal steps)")
    for key, curve in curves.items():
        print(f"  {key:18s}{curve['step'][-1]:6d} steps  loss {curve['loss'][-1]:.4f}"
              f"  {1000 * curve['seconds'][-1] / curve['step'][-1]:.0f} ms a step")  # fmt: skip
    accuracies = finetuned(profile, models)
    print("\nFine-tuned on jets of the other detector: accuracy of each seed")
    for name, values in accuracies.items():
        print(f"  {name:18s}" + "  ".join(f"{value:.3f}" for value in values))
    rates = {name: {"loss": curve["loss"][-1]} for name, curve in found.items()}
    data = {"profile": profile.name, "search": rates, "curves": curves, "finetuned": accuracies}
    style.save(drawn(curves), data, "optimisers", Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
