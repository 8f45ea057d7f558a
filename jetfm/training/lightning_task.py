"""Lightning's view of a training; apart from `jetfm.training.fit`: importing it takes seconds.

An epoch, to Lightning, is what lies between two validations. Loggers, checkpoints and progress are
ours (`jetfm.training.checkpoints`, `jetfm.runtime.progress`): Lightning's checkpoints cannot resume
exactly from within a stream of batches, and write more than a small fit takes to run.
"""

from __future__ import annotations

import copy
import csv
import io
import logging
import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from jetfm.data.batches import seed_of
from jetfm.data.prefetch import all_prefetched, pinned, prefetched
from jetfm.errors import JetfmError
from jetfm.models.compiled import compiled
from jetfm.runtime.distributed import SHARDING, rank, sharding, summed, world_size
from jetfm.runtime.precision import precision_on
from jetfm.runtime.progress import Progress
from jetfm.storage.files import write_text
from jetfm.training.checkpoints import read_checkpoint, save_newest, write_checkpoint
from jetfm.training.job import Batches, Training
from jetfm.training.optimizer import Average, make_optimizer, rate_factor

with warnings.catch_warnings():  # it imports a notebook widget that it does not need
    warnings.filterwarnings("ignore", message="IProgress not found")
    import lightning.pytorch as L
    from lightning.pytorch.plugins.precision import MixedPrecision, Precision

    from jetfm.training.sharding import put_away, shared_out, trainer_options, whole

BEST = "best.ckpt"
_LOGS_PER_VALIDATION = 10  # rows of training metrics between two validations
_VALIDATION = 2**62  # stands for the step in the seed of a validation


def run(task: Task) -> None:
    """Train from where the task's state is, to the end."""
    settings, device = task.settings, task.job.runs_on
    sharded = world_size() > 1 and sharding() == "fsdp"
    if sharded and task.average is not None:
        raise JetfmError("ema", f"an average of weights, with {SHARDING}=fsdp", "ddp, or no ema")
    options = trainer_options(device, sharded)
    task.state.precision = precision_on(device, settings.precision, task.job.say)
    if task.state.precision == "bf16":
        options["plugins"].append(_BFloat16("bf16-mixed", device))
    trainer = L.Trainer(
        **options,
        accelerator=device,
        use_distributed_sampler=False,  # the batches shard themselves
        max_steps=settings.max_steps - task.state.step,
        max_epochs=-1,
        limit_val_batches=1.0 if task.job.validation is not None else 0,
        gradient_clip_val=settings.optimizer.clip,
        reload_dataloaders_every_n_epochs=1,  # the last epoch may be shorter
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,  # ours are exact, see jetfm.training.checkpoints
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = task.module
    if sharded:  # what is shared out cannot be put together in place
        task.module = copy.deepcopy(module)
    try:
        with compiled(task.module, settings.compiles_on(device)):
            trainer.fit(task)
        if sharded:
            module.load_state_dict(task.last)
    except SystemExit:  # Lightning's answer to Ctrl-C would end a notebook's kernel
        raise KeyboardInterrupt from None
    finally:
        task.stop_loading()


class _BFloat16(MixedPrecision):
    """Autocast that clips gradients of a fused optimiser too.

    Lightning refuses, since such an optimiser could scale gradients itself; bfloat16 has no scale.
    """

    def clip_gradients(self, *args, **kwargs) -> None:
        Precision.clip_gradients(self, *args, **kwargs)


class _Steps:
    """Batches first..last-1 as Lightning wants its loader: iterable, with a length.

    Parameters
    ----------
    ahead : make them in another thread, in page-locked memory
    """

    def __init__(self, batches: Batches, first: int, last: int, ahead: bool) -> None:
        self.batches, self.first, self.last, self.ahead = batches, first, last, ahead
        self._batches: Iterator = (_ for _ in ())

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self):
        steps = range(self.first, self.last)
        if self.ahead:
            self._batches = prefetched(lambda step: pinned(self.batches(step)), steps)
        else:
            self._batches = (self.batches(step) for step in steps)
        return self._batches

    def close(self) -> None:
        """End the other thread, which Lightning would leave waiting after the last batch."""
        self._batches.close()


class _Again:
    """An iterable that Lightning cannot take for a list of loaders; `ahead` as of `_Steps`."""

    def __init__(self, batches: Iterable[Any], ahead: bool) -> None:
        self.batches, self.ahead = batches, ahead

    def __iter__(self):
        return all_prefetched(self.batches, pinned) if self.ahead else iter(self.batches)


@dataclass
class State:
    """What early stopping and the log remember; part of the checkpoint."""

    step: int = 0
    best_metric: float = math.inf
    best_step: int = 0
    bad_validations: int = 0
    finished: bool = False
    history: list[dict[str, Any]] = field(default_factory=list)
    precision: str = "fp32"  # of the newest steps; the settings ask, the device decides


class Task(L.LightningModule):
    """A training under way: its module, and what the checkpoint holds beside it.

    Parameters
    ----------
    job : its `folder` exists, or is None
    """

    def __init__(self, job: Training) -> None:
        super().__init__()
        self.job, self.module, self.settings = job, job.module, job.settings
        self.state = State(precision=self.settings.precision)
        self.best: dict[str, Tensor] | None = None
        self.last: dict[str, Tensor] | None = None  # where weights were shared out
        self.average = Average(self.module, self.settings.ema) if self.settings.ema else None
        self.progress: Progress | None = None
        self._steps: _Steps | None = None
        self.optimizer_state: dict | None = None
        self.curves: Any = None  # a TensorBoard writer
        self.log_every = max(1, self.settings.validate_every // _LOGS_PER_VALIDATION)
        self._train, self._validation = _Means(), _Means()

    # Data ----------------------------------------------------------------------------------------

    def train_dataloader(self):
        step, every = self.state.step, self.settings.validate_every
        end = min((step // every + 1) * every, self.settings.max_steps)
        self._steps = _Steps(self.job.batches, step, end, ahead=self.device.type == "cuda")
        return self._steps

    def stop_loading(self) -> None:
        """No more batches from the present loader."""
        if self._steps is not None:
            self._steps.close()

    def val_dataloader(self):
        batches = self.job.validation if self.job.validation is not None else []
        return _Again(batches, ahead=self.device.type == "cuda")

    # Steps ---------------------------------------------------------------------------------------

    def configure_optimizers(self):
        optimizer = make_optimizer(self.module, self.settings.optimizer)
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]
        if self.optimizer_state is not None:
            optimizer.load_state_dict(shared_out(self.optimizer_state, optimizer))
            self.optimizer_state = None
        return optimizer

    def on_train_batch_start(self, batch, batch_idx):
        # every process its own dropout, the first the same as if it were alone
        _seed_all(self.job.seed, self.state.step, *([rank()] if rank() else []))
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
            parts = metrics.get("parts", [(loss, metrics["weight"])])
            loss = sum(self._shared(part, weight) for part, weight in parts)
        if self.job.mean_weight is not None:
            weight = summed(_on(loss.device, metrics["weight"]))
            loss = loss * (weight / self.job.mean_weight)
        return loss

    @staticmethod
    def _shared(mean: Tensor, weight) -> Tensor:
        """This process's part of a mean over what all predict."""
        weight = _on(mean.device, weight)
        return mean * (world_size() * weight / summed(weight).clamp(min=1))

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
        _seed_all(self.job.seed, _VALIDATION)
        if self.average is not None:  # judged, and kept if best, are the averaged weights
            self.average.swap()

    def validation_step(self, batch, batch_idx):
        self._validation.add(*self.module.loss(batch))

    def on_train_epoch_end(self):
        """Validated, or without validation at the same interval: judge, save, maybe stop."""
        self.stop_loading()
        put_away(self.module)
        state = self.state
        row = None
        if self._train.n:
            row = self._log("train", self._train)
        if self.job.validation is not None:
            row = self._log("validation", self._validation)
        elif row is None:
            row = state.history[-1]
        monitor = getattr(self.module, "monitor", "loss")
        name, sign = monitor.removeprefix("-"), -1 if monitor.startswith("-") else 1
        metric = sign * row[name]
        improved = metric < state.best_metric
        if improved:
            state.best_metric, state.best_step, state.bad_validations = metric, state.step, 0
            self.best = self._weights()
        else:
            state.bad_validations += 1
        if self.average is not None and self.average.swapped:
            self.average.swap()
        stop = state.bad_validations >= self.settings.patience
        state.finished = stop or state.step >= self.settings.max_steps
        self.progress.note(f"{name} {sign * metric:.4f}, best {sign * state.best_metric:.4f}")
        if self.job.folder is not None:
            self._save(improved)
        if stop:
            self.trainer.should_stop = True

    def on_train_end(self):
        if isinstance(self.module, FSDPModule):
            self.last = self._weights()

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

    def _weights(self) -> dict[str, Tensor]:
        return {k: v.detach().cpu().clone() for k, v in whole(self.module.state_dict()).items()}

    def _save(self, improved: bool) -> None:
        optimizer = self.trainer.optimizers[0]
        parts = {"module": self.module.state_dict(), "optimizer": optimizer.state_dict()}
        parts = whole(parts)  # by all, if they hold shares
        if rank() > 0:  # one writes
            return
        write_text(self.job.folder / "metrics.csv", _csv(self.state.history))
        if improved:  # before the checkpoint that counts on it; a repeat writes the same again
            write_checkpoint(self.job.folder / BEST, {"step": self.state.step, "module": self.best})
        content = {
            "request": self.job.request,
            "state": vars(self.state),
            **parts,
            "average": self.average.weights if self.average is not None else None,
        }
        save_newest(self.job.folder, content)

    def restore(self, saved: dict) -> None:
        if saved["request"] != self.job.request:
            found = "a training with other settings"
            raise JetfmError(self.job.folder, found, "the same, or a new folder")
        vars(self.state).update(saved["state"])
        self.module.load_state_dict(saved["module"])
        self.optimizer_state = saved["optimizer"]
        if self.average is not None:
            self.average.weights = saved["average"]
        best = read_checkpoint(self.job.folder / BEST)
        if best is None:
            wanted = "the best weights; delete the folder to start again"
            raise JetfmError(self.job.folder / BEST, "a damaged or missing file", wanted)
        self.best = best["module"]


class _Means:
    """Weighted means of loss and metrics, kept on the device until they are asked for.

    A metric that is a pair is a sum and the number of things in it; others are means, and count
    with the batch's 'weight'. A loss of 'parts' is the sum of their means.
    """

    def __init__(self) -> None:
        self.n, self._sums, self._weights = 0, {}, {}
        self._device = torch.device("cpu")

    def add(self, loss: Tensor, metrics: dict[str, Any]) -> None:
        self._device = loss.device
        weight = metrics.get("weight", 1.0)
        parts = metrics.get("parts", [(loss, weight)])
        losses = {f"loss {i}": (_double(mean) * n, n) for i, (mean, n) in enumerate(parts)}
        for key, value in (losses | metrics).items():
            if key in ("weight", "parts"):
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
        both = [_on(self._device, part[key], torch.float64)
                for part in (self._sums, self._weights) for key in keys]  # fmt: skip
        # on the loss's device: processes of several GPUs have no other way to meet
        total = summed(torch.stack(both)) if both else torch.zeros(0)
        sums, weights = total.view(2, -1).tolist()
        self.__init__()
        values = {key: s / max(w, 1e-300) for key, s, w in zip(keys, sums, weights, strict=True)}
        loss = sum(values.pop(key) for key in keys if key.startswith("loss "))
        return {"loss": loss, **values}


def _on(device: torch.device, value, dtype: torch.dtype = torch.float32) -> Tensor:
    """A number there; filled in by the device, which nothing has to wait for."""
    if torch.is_tensor(value):
        return value.to(device, dtype)
    return torch.full((), float(value), dtype=dtype, device=device)


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


def _seed_all(*numbers: int) -> None:
    """Seed torch's generators from the numbers."""
    number = seed_of(*numbers)
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
