"""Lightning's view of a training; apart from `jetfm.training`, because importing it takes seconds.

An epoch, to Lightning, is what lies between two validations. Loggers, checkpoints and progress are
ours (`jetfm.checkpoints`, `jetfm.progress`): Lightning's checkpoints cannot resume exactly from
within a stream of batches, and write more than a small fit takes to run.
"""

from __future__ import annotations

import csv
import io
import logging
import math
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jetfm.checkpoints import read_checkpoint, save_newest, write_checkpoint
from jetfm.distributed import local_world_size, rank, summed, world_size
from jetfm.errors import JetfmError
from jetfm.files import write_text
from jetfm.progress import Progress
from jetfm.settings import TrainingSettings
from jetfm.training import BEST, Batches, make_optimizer

with warnings.catch_warnings():  # it imports a notebook widget that it does not need
    warnings.filterwarnings("ignore", message="IProgress not found")
    import lightning.pytorch as L
    from lightning.pytorch.plugins.precision import MixedPrecision
    from lightning.pytorch.strategies import DDPStrategy

_LOGS_PER_VALIDATION = 10  # rows of training metrics between two validations
_VALIDATION = 2**62  # stands for the step in the seed of a validation


def run(task: Task, settings: TrainingSettings, device: str) -> None:
    accelerator = "cpu" if device == "auto" and not torch.cuda.is_available() else device
    world, strategy = world_size(), "auto"
    if world > 1:
        # unused parameters would hide a mistake in the model, so they are not looked for
        backend = "gloo" if accelerator == "cpu" else "nccl"
        strategy = DDPStrategy(process_group_backend=backend)
    plugin = None
    if settings.precision == "bf16":
        kind = "cpu" if accelerator == "cpu" else "cuda"
        plugin = MixedPrecision("bf16-mixed", kind)
    trainer = L.Trainer(
        accelerator=accelerator,
        devices=local_world_size() if world > 1 else 1,
        num_nodes=world // local_world_size() if world > 1 else 1,
        strategy=strategy,
        use_distributed_sampler=False,  # the batches shard themselves
        plugins=plugin,
        max_steps=settings.max_steps - task.state.step,
        max_epochs=-1,
        limit_val_batches=1.0 if task.validation is not None else 0,
        gradient_clip_val=settings.optimizer.clip,
        reload_dataloaders_every_n_epochs=1,  # the last epoch may be shorter
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,  # ours are exact, see jetfm.checkpoints
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(task)
    except SystemExit:  # Lightning's answer to Ctrl-C would end a notebook's kernel
        raise KeyboardInterrupt from None


class _Steps:
    """Batches first..last-1 as Lightning wants its loader: iterable, with a length."""

    def __init__(self, batches: Batches, first: int, last: int) -> None:
        self.batches, self.first, self.last = batches, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self):
        return (self.batches(step) for step in range(self.first, self.last))


class _Again:
    """An iterable that Lightning cannot take for a list of loaders."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Task(L.LightningModule):
    """One training: its module, its batches, and what the checkpoint holds."""

    def __init__(self, module, batches, validation, settings, seed, folder, request, state):
        super().__init__()
        self.module = module
        self.batches, self.validation = batches, validation
        self.settings, self.seed, self.folder = settings, seed, folder
        self.request, self.state = request, state
        self.best: dict[str, Tensor] | None = None
        self.average = Average(module, settings.ema) if settings.ema else None
        self.progress: Progress | None = None
        self.optimizer_state: dict | None = None
        self.curves: Any = None  # a TensorBoard writer
        self.log_every = max(1, settings.validate_every // _LOGS_PER_VALIDATION)
        self._train, self._validation = _Means(), _Means()

    # Data ----------------------------------------------------------------------------------------

    def train_dataloader(self):
        step, every = self.state.step, self.settings.validate_every
        end = min((step // every + 1) * every, self.settings.max_steps)
        return _Steps(self.batches, step, end)

    def val_dataloader(self):
        return _Again(self.validation if self.validation is not None else [])

    # Steps ---------------------------------------------------------------------------------------

    def configure_optimizers(self):
        optimizer = make_optimizer(self.module, self.settings.optimizer)
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]
        if self.optimizer_state is not None:
            optimizer.load_state_dict(self.optimizer_state)
            self.optimizer_state = None
        return optimizer

    def on_train_batch_start(self, batch, batch_idx):
        _seed_all(self.seed, self.state.step)
        factor = rate_factor(self.settings, self.state.step)
        groups = self.trainer.optimizers[0].param_groups
        for group, rate in zip(groups, self._learning_rates, strict=True):
            group["lr"] = rate * factor

    def training_step(self, batch, batch_idx):
        loss, metrics = self.module.loss(batch)
        self._train.add(loss.detach(), metrics)
        if world_size() > 1:
            # DDP averages gradients over processes. What is wanted is the mean over all that they
            # predict together, so that each counts with its share.
            weight = torch.as_tensor(metrics["weight"], dtype=torch.float32, device=loss.device)
            loss = loss * (world_size() * weight / summed(weight).clamp(min=1))
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if hasattr(self.module, "after_step"):
            self.module.after_step(self.trainer.optimizers[0])
        if self.average is not None:
            self.average.update()
        self.state.step += 1
        self.progress.update(1, _n_jets(batch))
        if self.state.step % self.log_every == 0:
            self._log("train", self._train)

    def on_validation_epoch_start(self):
        self._validation = _Means()
        _seed_all(self.seed, _VALIDATION)
        if self.average is not None:  # judged, and kept if best, are the averaged weights
            self.average.swap()

    def validation_step(self, batch, batch_idx):
        self._validation.add(*self.module.loss(batch))

    def on_train_epoch_end(self):
        """Validated, or without validation at the same interval: judge, save, maybe stop."""
        state = self.state
        row = None
        if self._train.n:
            row = self._log("train", self._train)
        if self.validation is not None:
            row = self._log("validation", self._validation)
        elif row is None:
            row = state.history[-1]
        monitor = getattr(self.module, "monitor", "loss")
        metric = row[monitor.removeprefix("-")] * (-1 if monitor.startswith("-") else 1)
        improved = metric < state.best_metric
        if improved:
            state.best_metric, state.best_step, state.bad_validations = metric, state.step, 0
            self.best = {k: v.detach().cpu().clone() for k, v in self.module.state_dict().items()}
        else:
            state.bad_validations += 1
        if self.average is not None and self.average.swapped:
            self.average.swap()
        stop = state.bad_validations >= self.settings.patience
        state.finished = stop or state.step >= self.settings.max_steps
        self.progress.note(f"{monitor} {metric:.4f}, best {state.best_metric:.4f}")
        if self.folder is not None:
            self._save(improved)
        if stop:
            self.trainer.should_stop = True

    # State ---------------------------------------------------------------------------------------

    def _log(self, split: str, means: _Means) -> dict[str, Any]:
        row = {"step": self.state.step, "split": split, **means.take()}
        if not math.isfinite(row["loss"]):
            where = f"{split} loss at step {self.state.step}"
            raise JetfmError(where, str(row["loss"]), "a finite number: check the input for NaN, "
                             "or lower the learning rate")  # fmt: skip
        self.state.history.append(row)
        if self.curves is not None:
            for key in row.keys() - {"step", "split"}:
                self.curves.add_scalar(f"{key}/{split}", row[key], self.state.step)
        return row

    def _save(self, improved: bool) -> None:
        if rank() > 0:  # all hold the same; one writes
            return
        write_text(self.folder / "metrics.csv", _csv(self.state.history))
        if improved:  # before the checkpoint that counts on it; a repeat writes the same again
            write_checkpoint(self.folder / BEST, {"step": self.state.step, "module": self.best})
        content = {
            "request": self.request,
            "state": vars(self.state),
            "module": self.module.state_dict(),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "average": self.average.weights if self.average is not None else None,
        }
        save_newest(self.folder, content)

    def restore(self, saved: dict) -> None:
        if saved["request"] != self.request:
            raise JetfmError(self.folder, "a training with other settings", "the same, or a new "
                             "folder")  # fmt: skip
        vars(self.state).update(saved["state"])
        self.module.load_state_dict(saved["module"])
        self.optimizer_state = saved["optimizer"]
        if self.average is not None:
            self.average.weights = saved["average"]
        best = read_checkpoint(self.folder / BEST)
        if best is None:
            raise JetfmError(self.folder / BEST, "a damaged or missing file", "the best weights; "
                             "delete the folder to start again")  # fmt: skip
        self.best = best["module"]


class Average:
    """Exponential moving average of a module's parameters, w <- d w + (1 - d) p, from its start.

    Parameters
    ----------
    module : whose parameters are averaged; buffers are the module's own
    decay : d
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.module, self.decay, self.swapped = module, decay, False
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """After each step of the optimiser."""
        for name, parameter in self.module.named_parameters():
            average = self.weights[name] = self.weights[name].to(parameter.device)
            average.lerp_(parameter, 1 - self.decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's parameters and their averages; a second call undoes it."""
        for name, parameter in self.module.named_parameters():
            average = self.weights[name].to(parameter.device)
            self.weights[name] = parameter.clone()
            parameter.copy_(average)
        self.swapped = not self.swapped


def rate_factor(settings: TrainingSettings, step: int) -> float:
    """Factor on the learning rate in a step.

    A third in the first `warmup_steps` (official code of paper 2: a scheduler default), times the
    schedule: straight lines between its points.
    """
    factor = 1 / 3 if step < settings.optimizer.warmup_steps else 1.0
    if not settings.optimizer.schedule:
        return factor
    shares, factors = zip(*settings.optimizer.schedule, strict=True)
    return factor * float(np.interp(step / settings.max_steps, shares, factors))


class _Means:
    """Weighted means of loss and metrics, kept on the device until they are asked for.

    A metric that is a pair is a sum and the number of things in it; others are means, and count
    with the batch's 'weight'.
    """

    def __init__(self) -> None:
        self.n, self._sums, self._weights = 0, {}, {}

    def add(self, loss: Tensor, metrics: dict[str, Any]) -> None:
        weight = metrics.get("weight", 1.0)
        for key, value in {"loss": loss, **metrics}.items():
            if key == "weight":
                continue
            if isinstance(value, tuple):
                total, n = _double(value[0]), _double(value[1])
            else:
                total, n = _double(value) * weight, weight
            self._sums[key] = self._sums.get(key, 0.0) + total
            self._weights[key] = self._weights.get(key, 0.0) + n
        self.n += 1

    def take(self) -> dict[str, float]:
        """The means, and start again."""
        keys = sorted(self._sums)
        both = [[float(part[key]) for key in keys] for part in (self._sums, self._weights)]
        sums, weights = summed(torch.tensor(both, dtype=torch.float64)).tolist()
        self.__init__()
        values = {key: s / max(w, 1e-300) for key, s, w in zip(keys, sums, weights, strict=True)}
        return {"loss": values.pop("loss"), **values}


def _double(value):
    return value.detach().double() if torch.is_tensor(value) else float(value)


@contextmanager
def quiet():
    """No banners, tips and warnings from Lightning; ours say what matters."""
    loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*`isinstance.treespec, LeafSpec.`.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _seed_all(seed: int, step: int) -> None:
    """Seed torch's generators from (seed, step)."""
    number = int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> 1)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # torch.manual_seed would queue a call per step without a GPU
        torch.cuda.manual_seed_all(number)


def _n_jets(batch: Any) -> int:
    if torch.is_tensor(batch):
        return len(batch)
    values = batch.values() if isinstance(batch, dict) else batch
    return _n_jets(next(iter(values)))


def _csv(history: list[dict[str, Any]]) -> str:
    columns = ["step", "split", "loss"]
    columns += sorted({key for row in history for key in row} - set(columns))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return text.getvalue()
