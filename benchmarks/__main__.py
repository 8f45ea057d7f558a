"""``make bench``: each fast path against its plain reference, in one run.

One JSON object a line: name, value, unit, reference, ratio. Every module of this package that has
a ``run()`` yields such rows. Close other programs first: with a second job on the same cores the
values mean nothing, though ratios from one run survive better.
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys

import benchmarks


def main() -> None:
    """Run all benchmarks, or those named on the command line."""
    names = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    names = [name for name in names if not name.startswith("_")]
    chosen = sys.argv[1:] or names
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        sys.exit(f"benchmarks: found {', '.join(unknown)}; expected some of {', '.join(names)}")
    # Libraries and worker processes greet on standard output; that belongs to people, the rows to
    # programs: everything but the rows goes to standard error.
    rows = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in chosen:
        for row in importlib.import_module(f"benchmarks.{name}").run():
            print(json.dumps(row), file=rows, flush=True)


if __name__ == "__main__":
    main()
