"""``make gpu-check``: what can only be seen on a GPU, in eight minutes on one.

The tests marked ``gpu``, rates beside those of docs/gpu.md, all notebooks at ``smoke``, and a few
jets through every stage of profile ``gpu``. What is found is written after each part into
``gpu-check.json``, and as text that docs/gpu.md can take.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import gpu
from jetfm.storage.files import write_json, write_text

RESULT = Path("gpu-check.json")
ENVIRONMENT = {"JETFM_GPU_CHECK": "1"}


def main() -> None:
    """Run all parts; the exit code says whether every one passed."""
    parts: dict[str, Callable[[], dict]] = {
        "tests": lambda: _run("-m", "pytest", "-m", "gpu", "-q", "tests"),
        "rates": _rates,
        "smoke": lambda: _run("-m", "jetfm", "figures", "--profile", "smoke"),
        "profile gpu": lambda: _run("-m", "jetfm", "figures", "--profile", "gpu", "--dry-run"),
    }
    if not torch.cuda.is_available():
        print(f"gpu-check: found no CUDA device; with one it would run {', '.join(parts)}")
        return
    found: dict = {"card": _card()}
    for name, part in parts.items():
        print(f"gpu-check: {name}", flush=True)
        start = time.monotonic()
        found[name] = part() | {"seconds": round(time.monotonic() - start, 1)}
        write_json(RESULT, found)
        write_text(RESULT.with_suffix(".md"), as_markdown(found))
    failed = [name for name in parts if not found[name]["passed"]]
    print(f"gpu-check: {len(parts) - len(failed)} of {len(parts)} parts passed, in {RESULT}")
    sys.exit(1 if failed else 0)


def as_markdown(found: dict) -> str:
    """What was found as text, for docs/gpu.md."""
    card = found["card"]
    lines = [
        f"## Measured: {card['name']}, torch {card['torch']}, {card['n_cores']} cores", "",
        "| what | value | unit | against docs/gpu.md |", "|---|---|---|---|",
    ]  # fmt: skip
    for row in found.get("rates", {}).get("rows", []):
        ratio = "" if row["ratio"] is None else f"{row['ratio']} ×"
        lines.append(f"| {row['name']} | {row['value']:,} | {row['unit']} | {ratio} |")
    lines += ["", "| part | passed | seconds |", "|---|---|---|"]
    for name, part in found.items():
        if name != "card":
            passed = "yes" if part["passed"] else "no"
            lines.append(f"| {name} | {passed} | {part['seconds']} |")
    return "\n".join(lines) + "\n"


def _card() -> dict:
    return {
        "name": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "n_cores": os.cpu_count(),
    }


def _rates() -> dict:
    rows = []
    for row in gpu.run():
        print(json.dumps(row), flush=True)
        rows.append(row)
    return {"rows": rows, "passed": bool(rows)}


def _run(*arguments: str) -> dict:
    """A command of this interpreter, in a work folder of its own."""
    with tempfile.TemporaryDirectory(prefix="jetfm-gpu-") as folder:
        own = {"JETFM_WORK": f"{folder}/work", "JETFM_FIGURES": f"{folder}/figures"}
        done = subprocess.run([sys.executable, *arguments], env=os.environ | ENVIRONMENT | own)
    return {"passed": done.returncode == 0}


if __name__ == "__main__":
    main()
