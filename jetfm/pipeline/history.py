"""What trained models leave in their stage's folder, written and read in one place."""

from __future__ import annotations

from pathlib import Path

from jetfm.runtime.distributed import rank
from jetfm.storage.artifacts import Artifact
from jetfm.storage.files import read_json, write_json

HISTORY = "history.json"
NOTE = "history_of"  # in the record of a stage whose curves are another's


def save_trained(model, result, folder: Path) -> dict:
    """Write a trained model and its history; return what the record says of the training.

    Parameters
    ----------
    model : with ``save(folder, **metrics)``
    result : its TrainingResult
    """
    if rank() == 0:
        model.save(folder, best_loss=result.best_metric, best_step=result.best_step)
        write_json(folder / HISTORY, result.history)
    return result.metrics


def learning_curves(artifact: Artifact) -> dict:
    """Arguments of `jetfm.figures.training`: learning curves, the step that was kept, and what the
    record says of whose curves they are, where they are not its own."""
    rows = read_json(artifact / HISTORY)
    history = {}
    for split, name in (("train", "train"), ("val", "validation")):
        chosen = [row for row in rows if row["split"] == name]
        keys = [key for key in chosen[0] if key != "split"] if chosen else []
        history[split] = {key: [row[key] for row in chosen] for key in keys}
    curves = {"history": history, "best_step": artifact.metrics["best_step"]}
    return curves | ({"note": artifact.record[NOTE]} if NOTE in artifact.record else {})
