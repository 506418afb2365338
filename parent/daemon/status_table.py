"""Formats the state of a daemon as tables for a terminal. No I/O."""

from __future__ import annotations

import textwrap
import unicodedata
from typing import TYPE_CHECKING, Any, Final

from parent.hosts_used import most_used
from parent.units import duration, size
from vsock_proxy.service.console import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WIDTH: Final = 80
"""Columns of a terminal of which nothing is known."""

MIN_WIDTH: Final = 40

_INDENT: Final = "    "


def table(state: Mapping[str, Any], *, now: float, width: int = WIDTH) -> str:
    """Format what `state.state` returns.

    Args:
        state: as it came from the daemon.
        now: seconds since 1970.
        width: columns; no line is longer. What does not fit beside the rest of its row follows
            below it.
    """
    parts = [
        f"enclave-parent {state['version']}: {state['status']}",
        *_trouble(state["components"]),
        *_forwards(state, width),
        *_enclaves(state["components"], width),
        *_others(state["components"], now),
    ]
    return "".join(f"{line}\n" for part in parts for line in _lines(printable(part), width))


def _trouble(components: Mapping[str, Any]) -> Iterator[str]:
    for name, component in components.items():
        if not component["healthy"]:
            yield f"  {name}: {component['detail']}"


def _forwards(state: Mapping[str, Any], width: int) -> Iterator[str]:
    rows = [
        (
            forward["name"],
            forward["listen"],
            forward["target"].removeprefix("tcp://"),
            f"{now['connections'] + now['connecting']} of {now['connection_limit']}",
            now["waiting"],
            so_far["relayed"],
            _sum(so_far["rejected"]),
            _sum(so_far["connect_failures"]),
            _sum(so_far["broken"]),
            size(so_far["bytes"]["up"]),
            size(so_far["bytes"]["down"]),
        )
        for forward in state.get("forwards", ())
        for now, so_far in [(forward["gauges"], forward["counters"])]
    ]
    names = "forward,listen,target,open,waiting,relayed,rejected,failed,broken,up,down"
    below = ("target", "listen", "waiting", "down", "up", "broken")
    yield from _aligned(names.split(","), rows, below, width)
    yield from _hosts(state, width)
    if state.get("leaving"):
        yield f"{state['leaving']} connections of forwards that were removed"


def _hosts(state: Mapping[str, Any], width: int) -> Iterator[str]:
    rows = [
        (
            host,
            forward["name"],
            so_far["relayed"],
            _sum(so_far["connect_failures"]),
            size(so_far["bytes"].get("up", 0)),
            size(so_far["bytes"].get("down", 0)),
        )
        for forward in state.get("forwards", ())
        for host, so_far in most_used(forward.get("hosts", {}))
    ]
    names = "host,by,tunnels,failed,up,down"
    yield from _aligned(names.split(","), rows, ("by", "down", "up"), width)


def _enclaves(components: Mapping[str, Any], width: int) -> Iterator[str]:
    every = [c["values"] for name, c in components.items() if name.startswith("enclave/")]
    rows = [
        (
            values["name"],
            values["state"] + (" (debug)" if values["debug"] else ""),
            duration(values["seconds"]),
            values["cid"],
            " ".join(map(str, values["cpu_ids"])) or "-",
            f"{values['memory_mib']} MiB",
            values["starts"],
            values["ended"],
            values["enclave_id"] or "-",
            values["pcr0"][:16],
        )
        for values in every
    ]
    names = "enclave,state,for,cid,cpus,memory,starts,ends,id,pcr0"
    below = ("pcr0", "id", "cpus", "memory", "ends", "starts")
    yield from _aligned(names.split(","), rows, below, width)


def _others(components: Mapping[str, Any], now: float) -> Iterator[str]:
    values = components.get("credentials", {}).get("values")
    if values:
        yield ""
        told = "credentials: none"
        if values["source"] and values["renewed_at"] is not None:
            left = values["expires_at"]
            end = f"{duration(left - now)} left" if left is not None else "without an expiration"
            age = duration(now - values["renewed_at"])
            told = f"credentials: from {values['source']}, {age} old, {end}"
        yield f"{told}; {values['renewals']} renewals, {values['failures']} failures"
    values = components.get("logs", {}).get("values")
    if values:
        yield ""
        dropped = sum(source["dropped"] for source in values["sources"])
        yield (
            f"logs: {values['connections']} connections; lines: {dropped} dropped,"
            f" {values['lost']} lost; {values['rejected']} connections rejected"
        )


def _sum(kinds: Mapping[str, int]) -> str:
    """Return how many there are in all, and of what kind most are."""
    if not kinds:
        return "0"
    most = max(kinds, key=lambda kind: kinds[kind])
    return f"{sum(kinds.values())} ({most})"


def _aligned(
    names: Sequence[str], rows: Sequence[Sequence[object]], below: Sequence[str], width: int
) -> Iterator[str]:
    """Align rows in columns.

    Args:
        names: of the columns.
        rows: their cells.
        below: the columns that move below their rows, in this order, until the others fit; after
            these, all but the first move, from the last on.
        width: columns of the terminal.
    """
    if not rows:
        return
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [
        max(_width(text) for text in (name, *(row[column] for row in cells)))
        for column, name in enumerate(names)
    ]
    beside = list(range(len(names)))
    moved = []
    for name in (*below, *(name for name in reversed(names[1:]) if name not in below)):
        if sum(widths[column] + 2 for column in beside) - 2 <= width:
            break
        moved.append(names.index(name))
        beside.remove(moved[-1])
    yield ""
    yield "  ".join(_padded(names[column].upper(), widths[column]) for column in beside).rstrip()
    for row in cells:
        yield "  ".join(_padded(row[column], widths[column]) for column in beside).rstrip()
        if moved:
            # A forward without a name of its own is called after its target.
            told = (column for column in sorted(moved) if row[column] != row[0])
            details = (f"{names[column]} {row[column]}" for column in told)
            yield _INDENT + ", ".join(details)


def _lines(text: str, width: int) -> list[str]:
    """Break a line that is too long, between words if possible."""
    if _width(text) <= width:
        return [text]
    indent = text[: len(text) - len(text.lstrip(" "))]
    # Wide characters take two columns each: half as many fit, at worst.
    room = width if text.isascii() else width // 2
    return textwrap.wrap(
        text.lstrip(" "),
        max(room, len(indent) + 10),
        initial_indent=indent,
        subsequent_indent=indent or _INDENT,
        break_on_hyphens=False,
    )


def _width(text: str) -> int:
    """Return how many columns a terminal needs for a text."""
    return len(text) + sum(unicodedata.east_asian_width(c) in "WF" for c in text)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))
