"""``make soak``: run the long checks, print what each found, and fail if one failed.

'fuzz': readers against damaged files; 'tests': those marked ``soak``, too long for `make test`.
"""

from __future__ import annotations

import subprocess
import sys

from soak import fuzz


def run_tests() -> bool:
    """The tests marked ``soak``; True if none failed."""
    command = [sys.executable, "-m", "pytest", "-m", "soak", "--durations=0", "tests"]
    return subprocess.run(command).returncode == 0


CHECKS = {"fuzz": fuzz.run, "tests": run_tests}


def main() -> None:
    """Run all checks, or those named on the command line."""
    chosen = sys.argv[1:] or list(CHECKS)
    unknown = sorted(set(chosen) - set(CHECKS))
    if unknown:
        sys.exit(f"soak: found {', '.join(unknown)}; expected some of {', '.join(CHECKS)}")
    failed = [name for name in chosen if not CHECKS[name]()]
    print(f"soak: {len(chosen) - len(failed)} of {len(chosen)} checks passed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
