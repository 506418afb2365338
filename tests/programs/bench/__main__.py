"""``make bench [BENCH="agent ..."]``: run the named benchmarks, or all of them."""

from __future__ import annotations

import sys
from importlib import import_module

BENCHMARKS = ("agent", "endpoint", "engines", "neighbour", "relay")


def main() -> int:
    """Run what was named on the command line; returns the exit code."""
    named = sys.argv[1:] or BENCHMARKS
    for name in named:
        if name not in BENCHMARKS:
            print(f"bench: error: no such benchmark: {name!r}; there are: {', '.join(BENCHMARKS)}")
            return 2
        import_module(f"tests.programs.bench.{name}").main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
