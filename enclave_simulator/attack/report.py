"""Results as lines of a table, and as JSON. No I/O."""

from __future__ import annotations

import textwrap
from collections import Counter
from typing import TYPE_CHECKING, Any

from enclave_simulator.attack.table import ATTACKS, BEYOND
from enclave_simulator.attack.verdict import Verdict
from vsock_proxy.service.console import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enclave_simulator.attack.running import Result

WIDTH = 100
"""Columns of a terminal of which nothing is known."""

_NAME = max(map(len, ATTACKS))
_VERDICT = max(len(verdict.value) for verdict in Verdict)
_MIN_FINDING = 20
_COLOURS = {
    Verdict.REFUSED: "\x1b[32m",
    Verdict.UNMET: "\x1b[33m",
}
_RED, _RESET = "\x1b[31m", "\x1b[0m"


def heading() -> str:
    """Return the first line of the table."""
    return f"{'ATTACK':<{_NAME}}  {'VERDICT':<{_VERDICT}}  SECONDS  FINDING\n"


def row(result: Result, *, width: int | None = None, colour: bool = False) -> str:
    """Return the line of one attack, at most `width` columns of it."""
    verdict = result.finding.verdict
    told = f"{verdict.value:<{_VERDICT}}"
    if colour:
        told = f"{_COLOURS.get(verdict, _RED)}{told}{_RESET}"
    left = f"{result.attack.name:<{_NAME}}  {told}  {result.seconds:7.1f}  "
    text = printable(result.finding.text)
    room = len(text) if width is None else max(width - _NAME - _VERDICT - 13, _MIN_FINDING)
    if len(text) > room:
        text = text[: room - 3] + "..."
    return f"{left}{text}".rstrip() + "\n"


def summary(results: Sequence[Result]) -> str:
    """Return the last line."""
    counts = Counter(result.finding.verdict for result in results)
    told = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    return f"{len(results)} attack{'s' * (len(results) != 1)}: {told}\n"


def as_json(program: Sequence[str], results: Sequence[Result]) -> dict[str, Any]:
    """Return the results as JSON types."""
    return {
        "program": list(program),
        "attacks": [
            {
                "name": result.attack.name,
                "place": result.attack.place.value,
                "effect": result.attack.effect,
                "verdict": result.finding.verdict.value,
                "finding": printable(result.finding.text),
                "seconds": round(result.seconds, 3),
            }
            for result in results
        ],
        "failed": [r.attack.name for r in results if r.finding.verdict.is_failure],
        "unmet": [r.attack.name for r in results if r.finding.verdict is Verdict.UNMET],
    }


def listing_as_json() -> dict[str, Any]:
    """Return every attack, and what no client can refuse, as JSON types."""
    return {
        "attacks": [
            {"name": attack.name, "place": attack.place.value, "effect": attack.effect}
            for attack in ATTACKS.values()
        ],
        "beyond": [{"name": name, "reason": reason} for name, reason in BEYOND.items()],
    }


def listing(width: int = WIDTH) -> str:
    """Return every attack with its effect, and what no client can refuse."""
    lines = []
    place = ""
    for attack in ATTACKS.values():
        if attack.place.value != place:
            place = attack.place.value
            lines.append(f"{place}:")
        lines += _hanging(f"  {attack.name:<{_NAME}}  ", attack.effect, width)
    lines.append("no client can refuse, so it is no attack here:")
    for name, reason in BEYOND.items():
        lines += _hanging("  ", f"{name}: {reason}.", width, indent=4)
    return "\n".join(lines) + "\n"


def _hanging(first: str, text: str, width: int, indent: int = 0) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, len(first) + _MIN_FINDING),
        initial_indent=first,
        subsequent_indent=" " * (indent or len(first)),
        break_on_hyphens=False,
    )
