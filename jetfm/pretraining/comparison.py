"""What pre-trained models predict: losses and accuracies together, by position and by pt.

Every model is judged on the same validation jets. Next-token prediction is also split by the
position of the predicted constituent, masked particles by theirs; both by the constituent's pt. The
stop counts in a model's loss alone: one that is told the number of constituents knows when to stop.
Validation alone says how a strategy does at its own task: the tasks differ in difficulty, and what
a backbone is worth shows when it is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from jetfm.data.batches import InOrderBatches
from jetfm.data.token_store import TokenStore
from jetfm.models.jet_model import JetModel
from jetfm.pretraining.train import token_batch
from jetfm.runtime.device import current_device
from jetfm.storage.files import read_json, write_json
from jetfm.tokenizers.interface import Tokenizer

PT_EDGES = np.geomspace(0.5, 500, 13)  # GeV
POSITION_EDGES = np.arange(0, 129, 8)
RESULT = "strategy.json"

MAX_JETS = 1500  # enough for errors of a per cent, few enough to wait for

_BATCH = 500


def judge(
    model: JetModel, tokenizer: Tokenizer, store: TokenStore, folder: Path, seed: int
) -> dict:
    """Measure a model on at most `MAX_JETS` tokenised jets, and write ``strategy.json``.

    For masked particles also the *leak*: the loss when the visible tokens are decoded alone
    ('mpm_leak_free'), beside that with the vectors that the model was trained on, on the same
    masks. A model that reads traces of the masked particles does worse without them.

    Returns
    -------
    by objective: 'loss' [nats] of 'n' predictions, stops among them, 'accuracy' of constituents;
    'by_position' and 'by_pt' with the same per bin, of constituents alone
    """
    device = current_device()
    found = losses(model, tokenizer, store, seed)
    if "mpm" in model.objectives:
        decoder, was = model.visible_decoder, model.settings
        model.settings = was.model_copy(update={"leak_free": True})
        alone = _judged(model, "mpm", tokenizer, store, seed, device)
        found["mpm_leak_free"] = {key: alone[key] for key in ("loss", "accuracy", "n")}
        model.settings, model.visible_decoder = was, decoder
    write_json(folder / RESULT, found)
    return {
        name: {key: one[key] for key in ("loss", "accuracy", "n")} for name, one in found.items()
    }


def losses(model: JetModel, tokenizer: Tokenizer, store: TokenStore, seed: int) -> dict:
    """The losses of `judge` alone, by objective, which writes nothing."""
    device = current_device()
    model.to(device).eval()
    return {
        objective: _judged(model, objective, tokenizer, store, seed, device)
        for objective in model.objectives
    }


def _judged(model, objective, tokenizer, store, seed, device) -> dict:
    if model.settings.leak_free and model.visible_decoder is None:
        model.visible_decoder = tokenizer.to(device).decode_known
    losses, correct, positions, pts = [], [], [], []
    some = np.random.default_rng(seed).permutation(len(store))[:MAX_JETS]
    for step, indices in enumerate(InOrderBatches(store.n_constituents, _BATCH, some)):
        generator = torch.Generator().manual_seed(seed + step)  # the same masks for every model
        batch = model.plan(token_batch(store, indices), generator)
        with torch.no_grad():
            asked = model.asked(objective, {key: x.to(device) for key, x in batch.items()})
        loss, hit = model.head(objective).per_target(*asked)
        shift = 0 if objective == "ntp" else 1  # slot k+1 holds constituent k; NTP there: k+1
        physical = tokenizer.preprocessing.inverse(batch["decoded"].numpy().astype(float))
        n_slots = physical.shape[1]
        pt = np.full((len(indices), n_slots + 1), np.nan)  # the stop has none
        pt[:, shift : shift + n_slots] = np.where(batch["mask"].numpy(), physical[..., 0], np.nan)
        flat = batch[f"{objective}_positions"].numpy()
        pts.append(pt.ravel()[flat])
        losses.append(loss.cpu().numpy())
        correct.append(hit.cpu().numpy())
        positions.append(flat % (n_slots + 1) - shift)
    losses, correct = np.concatenate(losses).astype(float), np.concatenate(correct).astype(float)
    positions, pts = np.concatenate(positions), np.concatenate(pts)
    some = ~np.isnan(pts)  # constituents, not stops
    return {
        "loss": float(losses.mean()),
        "accuracy": float(correct[some].mean()),
        "n": len(losses),
        "by_position": _binned(positions[some], POSITION_EDGES, losses[some], correct[some]),
        "by_pt": _binned(pts[some], PT_EDGES, losses[some], correct[some]),
    }


def _binned(values, edges, losses, correct) -> dict:
    """Loss, accuracy and number of predictions per bin; None where a bin is empty."""
    counts, loss_sums, hits = (
        np.histogram(values, edges, weights=weights)[0] for weights in (None, losses, correct)
    )
    safe = np.maximum(counts, 1)
    return {
        "edges": edges.tolist(),
        "n": counts.tolist(),
        "loss": [float(x) if n else None for x, n in zip(loss_sums / safe, counts, strict=True)],
        "accuracy": [float(x) if n else None for x, n in zip(hits / safe, counts, strict=True)],
    }


class Strategies:
    """Finished judgements of several pre-trained models.

    Parameters
    ----------
    labels : legend text, by name, in order
    folders : of `judge`, by name
    trained : folders of the models, which hold their learning curves
    """

    def __init__(
        self,
        labels: Mapping[str, str],
        folders: Mapping[str, str | Path],
        trained: Mapping[str, str | Path],
    ) -> None:
        self.labels = dict(labels)
        self.results = {name: read_json(Path(folder) / RESULT) for name, folder in folders.items()}
        self._trained = {name: Path(folder) for name, folder in trained.items()}

    @property
    def names(self) -> list[str]:
        """Models in order."""
        return list(self.labels)

    def figure_data(self) -> dict:
        """Arguments of `jetfm.figures.strategies`."""
        rows = []
        for name, label in self.labels.items():
            curves = read_json(self._trained[name] / "history.json")
            validation = [row for row in curves if row["split"] == "validation"]
            for objective in ("ntp", "mpm"):
                if objective in self.results[name]:
                    found = self.results[name][objective]
                    rows.append(
                        {
                            "label": label,
                            "objective": objective,
                            "step": [row["step"] for row in validation],
                            "loss": [row[objective] for row in validation],
                            "by_position": found["by_position"],
                            "by_pt": found["by_pt"],
                        }
                    )
        return {"rows": rows}

    def as_text(self) -> str:
        """Table of losses and accuracies, and the leak of masked particles."""
        width, none = max(map(len, self.labels.values())), f"{'-':>9s} {'-':>9s}"
        lines = [
            f"{'':{width}}  {'NTP loss':>9s} {'accuracy':>9s}  {'MPM loss':>9s} {'accuracy':>9s}  "
            f"{'decoded alone':>13s}"
        ]
        for name, label in self.labels.items():
            result, cells = self.results[name], []
            for objective in ("ntp", "mpm"):
                found = result.get(objective)
                cells.append(f"{found['loss']:9.3f} {found['accuracy']:9.4f}" if found else none)
            alone = result.get("mpm_leak_free")
            cells.append(f"{alone['loss']:13.3f}" if alone else f"{'-':>13s}")
            lines.append(f"{label:{width}}  " + "  ".join(cells))
        return "\n".join(lines)
