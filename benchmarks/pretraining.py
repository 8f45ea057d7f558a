"""Pre-training steps at the papers' sizes: jetfm's way on a CPU against the plain one.

Plain: every jet padded to 100, torch's own dropout, attention with dropout through torch's SDPA,
the backbone over all slots of a masked jet too, logits of every slot; one process, all cores. Ours:
batches bucketed by length, blocks computed in cachefuls (`jetfm.models.fast_block`), the masked
pass on the survivors alone, logits where there is a target, in chunks; with 'bf16' products of
matrices in bfloat16, left out where the processor lacks it. 'processes' is what ``jetfm pretrain
--processes`` does: one process a core, each with its share of every batch, gradients summed over
gloo. Jets have 50 constituents on average, as many as the plain way can hold; data are ready in
memory (`benchmarks.loader`).

``share of matmul rate`` is the rate of multiplications in our step, counted by torch, over that of
products of large matrices at the same precision on the same cores.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._plain import plain_layers
from jetfm.data.batches import LengthBucketedBatches
from jetfm.models.jet_model import JetModel
from jetfm.models.masking import draw_masked, pt_ranks
from jetfm.models.objectives import next_token_targets
from jetfm.runtime.cores import n_cores
from jetfm.runtime.precision import precision_on
from jetfm.settings import OptimizerSettings, PretrainingSettings
from jetfm.training.optimizer import make_optimizer

N_CODES, BATCH, LONGEST, SECONDS = 8192, 100, 100, 15.0

STRATEGIES = {
    "OmniJet-alpha NTP": {"preset": "omnijet"},
    "NTP, token ids": {"backbone": {"input": "token-id"}},
    "NTP": {},
    "MPM": {"objective": "mpm"},
    "MPM, causal": {"objective": "mpm-causal"},
    "NTP + MPM": {"objective": "joint"},
}


def run() -> Iterator[dict]:
    """Rows of the benchmark: jets a second through forward, backward and optimiser."""
    low = precision_on("cpu", "bf16", say=lambda text: None)
    rates = {precision: _matmul_rate(precision) for precision in dict.fromkeys(("fp32", low))}
    for precision, rate in rates.items():
        row = {"name": f"matmul rate, {precision}", "value": round(rate / 1e9)}
        yield row | {"unit": "GFLOP/s", "reference": None, "ratio": None}
    ways = dict.fromkeys((("fp32", 1), (low, 1), (low, n_cores())))
    for name, values in STRATEGIES.items():
        settings = PretrainingSettings.model_validate(values)
        reference = _rate(_model(settings), _batches(padded=True), plain=True)
        flops = _flops_per_jet(_model(settings), _batches(padded=False))
        for precision, processes in ways:
            if processes == 1:
                value = _rate(_model(settings), _batches(padded=False), precision)
            else:
                value = _shared_rate(settings, precision, processes)
            manner = f"{precision}, {processes} process{'es' if processes > 1 else ''}"
            yield {
                "name": f"pre-training step: {name}, {manner}",
                "value": round(value, 1),
                "unit": "jets/s",
                "reference": round(reference, 1),
                "ratio": round(value / reference, 1),
                "share of matmul rate": round(value * flops / rates[precision], 2),
            }


def _model(settings: PretrainingSettings) -> JetModel:
    torch.manual_seed(0)
    return JetModel(settings, N_CODES).train()


def _batches(padded: bool) -> list[dict[str, Tensor]]:
    """Batches of jets with 50 constituents on average.

    Ours are four of those that training cuts from a chunk of 6400 jets, short and long
    ones; the plain ones take jets as they come, and pad all to 100.
    """
    rng = np.random.default_rng(0)
    counts = np.clip(rng.gamma(8, 50 / 8, 64 * BATCH), 3, LONGEST).astype(int)
    schedule = LengthBucketedBatches(counts, BATCH, seed=0, shuffle=not padded)
    cut = [counts[schedule.indices(step)] for step in range(64)]
    made = []
    for n in cut[:2] if padded else sorted(cut, key=lambda n: n.max())[8::16]:
        n = torch.as_tensor(n)
        mask = torch.arange(LONGEST if padded else int(n.max())) < n[:, None]
        x = torch.as_tensor(rng.normal(size=(*mask.shape, 3))).float() * mask[..., None]
        ids = torch.as_tensor(rng.integers(0, N_CODES, mask.shape)) * mask
        made.append({"ids": ids, "decoded": x, "mask": mask, "n_constituents": n})
    return made


def _rate(
    model: JetModel, batches: list[dict], precision: str = "fp32", plain: bool = False
) -> float:
    """Jets a second, from the fastest time of each batch."""
    with plain_layers() if plain else nullcontext():
        return BATCH * len(batches) / sum(_best_times(model, batches, precision, plain))


def _best_times(
    model: JetModel, batches: list[dict], precision: str, plain: bool = False, world: int = 1
) -> list[float]:
    """Seconds that a step takes on each batch, at best."""
    optimizer = make_optimizer(model, OptimizerSettings())
    loss_of = _plain_loss if plain else JetModel.loss

    def step(batch):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            result = loss_of(model, batch)
        loss = result if plain else result[0]
        optimizer.zero_grad()
        loss.backward()
        if world > 1:
            gradients = nn.utils.parameters_to_vector([p.grad for p in model.parameters()])
            torch.distributed.all_reduce(gradients)
            nn.utils.vector_to_parameters(gradients / world, [p.grad for p in model.parameters()])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    best = [float("inf")] * len(batches)
    rounds, seconds = 0, 0.0
    while rounds < 3 or seconds < SECONDS:  # the first round is slow: kernels are made then
        for i, batch in enumerate(batches):
            took = _timed(lambda batch=batch: step(batch))
            best[i], seconds = min(best[i], took), seconds + took
        rounds += 1
        if world > 1:  # all do the same number of rounds
            seconds = _largest([seconds])[0]
    return best


def _shared_rate(settings: PretrainingSettings, precision: str, world: int) -> float:
    """Jets a second of `world` processes together, the slowest deciding."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_share, (settings, precision, world, Path(folder)), world)
        return json.loads((Path(folder) / "rate.json").read_text())


def _share(
    rank: int, settings: PretrainingSettings, precision: str, world: int, folder: Path
) -> None:
    torch.set_num_threads(max(n_cores() // world, 1))
    meeting = f"file://{folder / 'meeting'}"
    torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world)
    batches = [{k: v[rank::world] for k, v in b.items()} for b in _batches(padded=False)]
    best = _largest(_best_times(_model(settings), batches, precision, world=world))
    if rank == 0:
        (folder / "rate.json").write_text(json.dumps(BATCH * len(batches) / sum(best)))
    torch.distributed.barrier()  # who leaves first would tear the other's threads down
    torch.distributed.destroy_process_group()
    os._exit(0)  # gloo's threads sometimes abort an orderly end


def _largest(values: list[float]) -> list[float]:
    shared = torch.tensor(values)
    torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
    return shared.tolist()


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _flops_per_jet(model: JetModel, batches: list[dict]) -> float:
    def steps() -> None:
        for batch in batches:
            model.loss(batch)[0].backward()

    return _flops(steps) / (BATCH * len(batches))


def _flops(call: Callable[[], object]) -> int:
    # torch does not know this one, by which the blocks and heads add up their weights' gradients
    known = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=known) as counter:
        call()
    return counter.get_total_flops()


def _matmul_rate(precision: str) -> float:
    """Multiplications and additions a second of the best of thirty products of 2048 x 2048."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    return 2 * 2048**3 / min(_timed(lambda: a @ b) for _ in range(30))


def _plain_loss(model: JetModel, batch: dict[str, Tensor]) -> Tensor:
    """The loss with all slots and all logits."""
    mask, ids, n = batch["mask"], batch["ids"], batch["n_constituents"]
    seen = torch.cat([mask.new_ones(len(mask), 1), mask], 1)
    total = 0.0
    if model.settings.predicts_next:
        x = ids if model.backbone.reads_ids else batch["decoded"]
        targets = next_token_targets(ids, mask, n, model.n_codes)
        logits = model(x, mask, n)
        total = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)
    if model.settings.masks:
        masked = draw_masked(mask, model.settings.mask_fraction)
        causal = model.settings.objective == "mpm-causal"
        # survivors first, since a causal backbone takes everything before them for real
        order = (masked | ~mask).to(torch.uint8).argsort(dim=1, stable=True)[..., None]
        survivors = batch["decoded"].take_along_dim(order, 1)
        real = (mask & ~masked).take_along_dim(order[..., 0], 1)
        hidden, _ = model.backbone(survivors, real, n, causal)
        start, hidden = hidden[:, :1], hidden[:, 1:].take_along_dim(order.argsort(1), 1)
        ranks = pt_ranks(batch["decoded"][..., 0], masked)
        vectors = model.mask_vectors[ranks.clamp(min=0)]
        inside = torch.where(masked[..., None], vectors, hidden)
        logits = model.mpm_head(torch.cat([start, inside], 1), seen, False)
        targets = torch.full(seen.shape, -1)
        targets[:, 1:] = torch.where(masked, ids + 1, -1)
        losses = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum"
        )
        per = (targets >= 0).sum() if not model.settings.predicts_next else mask.sum() + len(mask)
        total = total + losses / per
    return total
