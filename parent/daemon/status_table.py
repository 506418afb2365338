"""The state of a daemon for people: tables on a terminal. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def table(state: Mapping[str, Any], *, now: float) -> str:
    """Draw what `state.state` tells.

    Args:
        state: as it came from the daemon.
        now: seconds since 1970.
    """
    parts = [
        f"enclave-parent {state['version']}: {state['status']}",
        *_trouble(state["components"]),
        *_forwards(state),
        *_enclaves(state["components"]),
        *_others(state["components"], now),
    ]
    return "".join(f"{_printable(part)}\n" for part in parts)


def duration(seconds: float) -> str:
    """Say a time in its two largest units: ``3 h 20 min``."""
    left = max(0, int(seconds))
    said = []
    for size, unit in _UNITS:
        count, left = divmod(left, size)
        if count:
            said.append(f"{count} {unit}")
    return " ".join(said[:2]) or "0 s"


def size(count: float) -> str:
    """Say a number of bytes: ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def _trouble(components: Mapping[str, Any]) -> Iterator[str]:
    for name, component in components.items():
        if not component["healthy"]:
            yield f"  {name}: {component['detail']}"


def _forwards(state: Mapping[str, Any]) -> Iterator[str]:
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
    yield from _aligned(names.split(","), rows)
    if state.get("leaving"):
        yield f"{state['leaving']} connections of forwards that are no longer there"


def _enclaves(components: Mapping[str, Any]) -> Iterator[str]:
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
    yield from _aligned(names.split(","), rows)


def _others(components: Mapping[str, Any], now: float) -> Iterator[str]:
    values = components.get("credentials", {}).get("values")
    if values:
        yield ""
        said = "credentials: none"
        if values["source"] and values["renewed_at"] is not None:
            left = values["expires_at"]
            end = f"{duration(left - now)} left" if left is not None else "without an end"
            age = duration(now - values["renewed_at"])
            said = f"credentials: from {values['source']}, {age} old, {end}"
        yield f"{said}; {values['renewals']} renewals, {values['failures']} failures"
    values = components.get("logs", {}).get("values")
    if values:
        yield ""
        dropped = sum(source["dropped"] for source in values["sources"])
        yield (
            f"logs: {values['connections']} connections; lines: {dropped} left out,"
            f" {values['failed']} lost; {values['refused']} connections refused"
        )


def _sum(kinds: Mapping[str, int]) -> str:
    """How many there are in all, and of what kind most are."""
    if not kinds:
        return "0"
    most = max(kinds, key=lambda kind: kinds[kind])
    return f"{sum(kinds.values())} ({most})"


def _aligned(names: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    if not rows:
        return
    lines = [[name.upper() for name in names], *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    yield ""
    for line in lines:
        yield "  ".join(
            cell.ljust(width) for cell, width in zip(line, widths, strict=True)
        ).rstrip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
