"""The small corpus in the repository: inputs that reach what no seed reaches.

A run leaves its whole corpus in `.fuzz/corpus`, hundreds of inputs. ``make fuzz-keep`` picks the
few that are worth keeping. `make fuzz` begins with them, and `tests/test_fuzz.py` runs them all.
"""

from __future__ import annotations

import base64
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.programs.fuzz.target import Target

FOLDER = Path(__file__).with_name("kept")
MAX_INPUTS = 40
"""For each target: few enough to be run with every test run."""

MAX_LENGTH = 2048
"""Bytes of one input. A longer one seldom reaches more than a shorter one."""

Step = tuple[str, int, int]
"""A file, and two of its lines that were executed one after the other."""


def load(name: str) -> list[bytes]:
    """Return the kept inputs of a target: none, if there is no file of its name."""
    path = FOLDER / f"{name}.txt"
    if not path.exists():
        return []
    return [base64.b64decode(line, validate=True) for line in path.read_bytes().split()]


def save(name: str, inputs: Iterable[bytes]) -> None:
    """Write the inputs of a target, a line of base64 each. No input: no file."""
    path = FOLDER / f"{name}.txt"
    lines = [base64.b64encode(data).decode() + "\n" for data in inputs]
    if lines:
        FOLDER.mkdir(exist_ok=True)
        path.write_text("".join(lines))
    else:
        path.unlink(missing_ok=True)


def worth_keeping(target: Target, inputs: Iterable[bytes]) -> list[bytes]:
    """Return the inputs that take a step which no seed and no shorter input takes.

    Of more than `MAX_INPUTS`, those with the most new steps are returned. Each input runs twice,
    and only what it does in both runs counts: a branch by a cache or by chance is not its own.
    """
    known: set[Step] = set()
    for data in target.seeds():
        known |= _steps(target, data)
    found: list[tuple[int, bytes]] = []
    for data in sorted({data for data in inputs if len(data) <= MAX_LENGTH}, key=_by_length):
        new = _steps(target, data) - known
        if new and (new := new & _steps(target, data)):
            known |= new
            found.append((len(new), data))
    most = sorted(found, key=lambda each: -each[0])[:MAX_INPUTS]
    return sorted((data for _, data in most), key=_by_length)


def _by_length(data: bytes) -> tuple[int, bytes]:
    return len(data), data


def _steps(target: Target, data: bytes) -> set[Step]:
    """Run one input, and return what it executed of the target's packages."""
    taken: set[Step] = set()
    ours = tuple(importlib.import_module(package).__path__[0] + "/" for package in target.packages)

    def called(frame: Any, _event: str, _arg: object) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(ours):
            return None
        last = 0

        def line(frame: Any, event: str, _arg: object) -> Any:
            nonlocal last
            if event == "line":
                taken.add((path, last, frame.f_lineno))
                last = frame.f_lineno
            return line

        return line

    before = sys.gettrace()
    sys.settrace(called)
    try:
        target.run(data)
    finally:
        sys.settrace(before)
    return taken
