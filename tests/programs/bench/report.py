"""What benchmarks print: the machine they ran on, and tables."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.programs.bench.picture import drawn

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def machine() -> str:
    """One line on the machine, as figures must be quoted with it."""
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    model = found[1] if found else platform.machine()
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} x {model}, Python {platform.python_version()}, load {load:.1f}"


def draw_into(folder: str) -> None:
    """Write each table that is printed from now on as an SVG too, unless `folder` is empty."""
    _Pictures.folder = folder


class _Pictures:
    folder = ""
    benchmark = ""
    tables = 0


def begin(benchmark: str) -> None:
    """Name the benchmark whose tables are printed next; it names the pictures."""
    _Pictures.benchmark, _Pictures.tables = benchmark, 0


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, across: bool = False) -> None:
    """Print a table: the first column to the left, figures to the right.

    Args:
        header: of the columns.
        rows: their cells.
        across: for its picture, see `picture.drawn`.
    """
    rows = list(rows)
    lines = [header, *rows]
    if _Pictures.folder:
        _Pictures.tables += 1
        path = Path(_Pictures.folder, f"{_Pictures.benchmark}-{_Pictures.tables}.svg")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(drawn(header, rows, across=across), encoding="utf-8")
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for number, line in enumerate(lines):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))
