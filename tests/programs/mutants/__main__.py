"""``make mutants``: mutates the security core; each survivor must be named as equivalent."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import TYPE_CHECKING

from tests.programs.mutants import equivalent
from tests.programs.mutants.modules import MODULES
from tests.programs.mutants.run import run

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.programs.mutants.equivalent import Change

KINDS = ("killed", "timeout", "survived", "untested")


def of_module(name: str, known: Iterable[Change]) -> set[Change]:
    """Return the equivalent mutants of a module, by the file in their first line."""
    files = MODULES[name].files
    return {change for change in known if change.function.partition(" ")[0] in files}


def main() -> int:
    """Run modules and return the exit status: 1 for survivors without a reason."""
    parser = argparse.ArgumentParser(prog="make mutants", description=__doc__)
    add = parser.add_argument
    add("modules", nargs="*", metavar="MODULE", help=f"of: {', '.join(MODULES)} (default: all)")
    add("--children", type=int, default=2, help="mutants at the same time (default: %(default)s)")
    options = parser.parse_args()
    if unknown := set(options.modules) - set(MODULES):
        parser.error(f"no such module: {', '.join(unknown)}; there are {', '.join(MODULES)}")
    os.nice(19 - os.nice(0))  # minutes, beside whatever else this machine does
    known = equivalent.read(equivalent.FILE.read_text(encoding="utf-8"))
    code = 0
    print(f"{'module':<12}{'mutants':>9}", *(f"{kind:>9}" for kind in KINDS),
          f"{'named':>9}{'seconds':>9}", sep="", flush=True)  # fmt: skip
    for name in options.modules or MODULES:
        began = time.monotonic()
        result = run(name, MODULES[name], children=options.children)
        expected = of_module(name, known)
        print(f"{name:<12}{result.counts.total():>9}",
              *(f"{result.counts[kind]:>9}" for kind in KINDS),
              f"{len(expected):>9}{time.monotonic() - began:>9.0f}",
              sep="", flush=True)  # fmt: skip
        for change in sorted(set(result.survivors) - expected, key=str):
            code = 1
            print(f"mutants: error: no test notices\n{change}", flush=True)
        for change in sorted(expected - set(result.survivors), key=str):
            code = 1
            print(f"mutants: error: named as equivalent, and killed or gone\n{change}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
