"""What a GPU does a second at the papers' sizes: steps, tokens, generated jets, a small fit.

The rows of ``make gpu-check``; without a GPU there are none. References are the rates of
docs/gpu.md, of one H200 and the code before its steps stopped waiting. The same code runs at small
sizes on a CPU in ``make test``, where its rates mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._batches import jets, labelled, tokens
from benchmarks._rows import row
from jetfm.generation.autoregressive import generate
from jetfm.models.backbone import Backbone
from jetfm.models.classifier import JetClassifier
from jetfm.models.compiled import compiled
from jetfm.models.jet_model import JetModel
from jetfm.settings import (
    BackboneSettings,
    OptimizerSettings,
    PretrainingSettings,
    TokenizerSettings,
    TrainingSettings,
    budget,
)
from jetfm.tokenizers.vqvae import VQVAE
from jetfm.training.fit import fit
from jetfm.training.job import Training
from jetfm.training.optimizer import make_optimizer


@dataclass(frozen=True)
class Sizes:
    """Of what is timed; by default the papers'."""

    n_codes: int = 8192
    backbone: BackboneSettings = BackboneSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    n_constituents: int = 50
    max_constituents: int = 128
    batch: int = 1000
    tokenizer_batch: int = 500
    generated: tuple[int, ...] = (64, 512, 4096)
    fitted: int = 1000
    fit_steps: int = 100
    n_steps: int = 20
    matrix: int = 8192


MEASURED = {  # jets/s, docs/gpu.md
    **{f"{name} step, bf16, adamw": budget.MEASURED[name] for name in ("joint", "ntp", "mpm")},
    "joint step, bf16, ranger": 7_300,
    "tokenizer step": budget.MEASURED["tokenizer"],
    "generation, batch 64": 63,
    **{f"generation, batch {n}": budget.MEASURED[f"generate, batches of {n}"] for n in (512, 4096)},
}


def run() -> Iterator[dict]:
    """Rows of the benchmark, where there is a GPU."""
    if torch.cuda.is_available():
        yield from rows("cuda", Sizes())


def rows(device: str, sizes: Sizes) -> Iterator[dict]:
    """Rates on a device, one row a time, so that what was measured stays when a later one fails."""
    matmul = _matmul_rate(device, sizes.matrix)
    yield _row("matmul rate, bf16", matmul / 1e12, "TFLOP/s")
    for objective, optimizer, form in (
        ("joint", "adamw", ""), ("joint", "adamw", "compiled"), ("joint", "adamw", "packed"),
        ("joint", "adamw", "packed, compiled"), ("joint", "muon", ""), ("joint", "ranger", ""),
        ("ntp", "adamw", ""), ("ntp", "adamw", "compiled"), ("mpm", "adamw", ""),
    ):  # fmt: skip
        compiles = "compiled" in form and device == "cuda"
        model = _model(sizes, objective, packed="packed" in form).to(device)
        batch = _on(device, model.plan(tokens(sizes.batch, sizes.n_constituents, sizes.n_codes)))
        _forget_peak(device)
        with compiled(model, compiles):
            rate, flops = _steps_rate(model, batch, optimizer, sizes, device, "bf16")
        name = ", ".join(filter(None, (f"{objective} step, bf16, {optimizer}", form)))
        found = _row(name, rate, "jets/s")
        yield found | {"share of matmul rate": round(flops * rate / sizes.batch / matmul, 4),
                     "peak memory": _peak(device)}  # fmt: skip
    tokenizer = VQVAE(sizes.tokenizer).to(device)
    batch = _on(device, jets(sizes.tokenizer_batch, sizes.n_constituents))
    rate, _ = _steps_rate(tokenizer, batch, "adamw", sizes, device, "fp32")
    yield _row("tokenizer step", rate, "jets/s")
    tokenizer.eval()
    seconds = _seconds(lambda: tokenizer.encode(batch["x"], batch["mask"]), sizes.n_steps, device)
    yield _row("tokenise", sizes.tokenizer_batch / seconds, "jets/s")
    model = _model(sizes, "ntp").to(device)
    for n_jets in sizes.generated:
        asked = np.full(n_jets, sizes.n_constituents)

        def make(asked=asked) -> None:
            generate(
                model, tokenizer, asked, seed=1, batch_size=len(asked),
                max_constituents=sizes.max_constituents, progress=False,
            )  # fmt: skip

        yield _row(f"generation, batch {n_jets}", n_jets / _seconds(make, 2, device), "jets/s")
    name = f"fit of {sizes.fitted} jets, {sizes.fit_steps} steps"
    yield _row(name, _fit_seconds(sizes, device), "s")


def _steps_rate(
    module: nn.Module, batch: dict, optimizer: str, sizes: Sizes, device: str, precision: str
) -> tuple[float, int]:
    """Jets a second through loss, gradients and optimiser, and the multiplications of a step."""
    module.train()
    stepper = make_optimizer(module, OptimizerSettings(name=optimizer))

    def step() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            loss, _ = module.loss(batch)
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        stepper.step()
        stepper.zero_grad()

    with FlopCounterMode(display=False) as counted:
        step()
    return len(batch["mask"]) / _seconds(step, sizes.n_steps, device), counted.get_total_flops()


def _fit_seconds(sizes: Sizes, device: str) -> float:
    model = JetClassifier(Backbone(sizes.backbone))
    whole = labelled(sizes.fitted, sizes.n_constituents)

    def batches(step: int) -> dict:
        rows = torch.arange(100 * step, 100 * (step + 1)) % sizes.fitted
        return {name: tensor[rows] for name, tensor in whole.items()}

    n = sizes.fit_steps
    settings = TrainingSettings(batch_size=100, max_steps=n, validate_every=n // 2)
    start = time.perf_counter()
    fit(Training(model, batches, settings, device=device, progress=False))
    return time.perf_counter() - start


def _seconds(work: Callable[[], object], n: int, device: str) -> float:
    """Of one call, after two that nobody counts."""
    for _ in range(2):
        work()
    _wait(device)
    start = time.perf_counter()
    for _ in range(n):
        work()
    _wait(device)
    return (time.perf_counter() - start) / n


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _forget_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()


def _peak(device: str) -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB" if device == "cuda" else "-"


def _matmul_rate(device: str, size: int) -> float:
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / _seconds(lambda: a @ a, 5, device)


def _model(sizes: Sizes, objective: str, packed: bool = False) -> JetModel:
    settings = {"objective": objective, "backbone": sizes.backbone.model_dump()}
    if packed:
        settings |= {"layout": "packed"}
        settings["backbone"] |= {"dropout_on": "residual"}
    return JetModel(PretrainingSettings.model_validate(settings), sizes.n_codes, 3)


def _on(device: str, batch: dict) -> dict:
    return {name: tensor.to(device) for name, tensor in batch.items()}


def _row(name: str, value: float, unit: str) -> dict:
    return row(name, value, unit, MEASURED.get(name))
