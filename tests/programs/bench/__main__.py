"""``make bench [BENCH="agent ..."]``: run the named benchmarks, or all of them.

With SVG=FOLDER in the environment their tables are also written there, as pictures.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module

from enclave_simulator.parent.processes import exit_on_signals
from tests.programs.bench import report

BENCHMARKS = ("agent", "egress", "endpoint", "engines", "ingress", "neighbour", "relay")


def main() -> int:
    """Run what was named on the command line; returns the exit code."""
    named = sys.argv[1:] or BENCHMARKS
    exit_on_signals()  # what was started ends with it
    report.draw_into(os.environ.get("SVG", ""))
    for name in named:
        if name not in BENCHMARKS:
            print(f"bench: error: no such benchmark: {name!r}; there are: {', '.join(BENCHMARKS)}")
            return 2
        report.begin(name)
        import_module(f"tests.programs.bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
