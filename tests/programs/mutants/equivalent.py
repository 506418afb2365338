"""Mutants that no test can tell from the code, each with the reason. ``make mutants`` holds them.

Written as ``file function``, then the lines that the mutant takes away (-) and brings (+), then
the reason (=). An entry whose mutant does not survive any more is an error, as is a survivor
without an entry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("equivalent.txt")


@dataclass(frozen=True, slots=True)
class Change:
    """What a mutant changes: the function, the lines taken away, and the lines brought."""

    function: str
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"- {line}" for line in self.removed] + [f"+ {line}" for line in self.added]
        return "\n".join([self.function, *lines])


def read(text: str) -> dict[Change, str]:
    """Return the reason of each equivalent mutant.

    Raises:
        ValueError: an entry is not of its form, or has no reason.
    """
    found: dict[Change, str] = {}
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line and not line.startswith("#")]
        if not lines:
            continue
        head, *rest = lines
        parts: dict[str, list[str]] = {"-": [], "+": [], "=": []}
        for line in rest:
            if line[:1] not in parts or line[1:2] not in (" ", ""):
                raise ValueError(f"not a line of an equivalent mutant: {line!r}")
            parts[line[0]].append(line[2:].strip())
        if not parts["="] or not (parts["-"] or parts["+"]):
            raise ValueError(f"no reason, or no change: {head}")
        change = Change(head, tuple(parts["-"]), tuple(parts["+"]))
        found[change] = " ".join(parts["="])
    return found
