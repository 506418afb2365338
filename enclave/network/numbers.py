"""The numbers of the program's network, for ``/metrics``. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vsock_proxy.service.exposition import Family, Sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from vsock_proxy.proxy.counters import Snapshot

_PREFIX: Final = "enclave_agent_network_"


def network_families(snapshot: Snapshot) -> Iterable[Family]:
    """Return the numbers of each listener, and of egress by entry of the allowlist."""
    forwards = [(("forward", each.name), each) for each in snapshot.forwards]
    yield Family(
        f"{_PREFIX}connections",
        "gauge",
        "Relayed at this moment.",
        [Sample(each.gauges.connections, (label,)) for label, each in forwards],
    )
    yield Family(
        f"{_PREFIX}relayed_total",
        "counter",
        "Connections that were connected to the target.",
        [Sample(each.counters.relayed, (label,)) for label, each in forwards],
    )
    for name, text, key, rows in (
        ("rejected_total", "Connections rejected.", "reason",
         [(label, each.counters.rejected) for label, each in forwards]),
        ("connect_failures_total", "Connections without a target.", "kind",
         [(label, each.counters.connect_failures) for label, each in forwards]),
        ("bytes_total", "Delivered; up is from the enclave.", "direction",
         [(label, each.counters.bytes) for label, each in forwards]),
    ):  # fmt: skip
        yield _tallies(name, text, key, rows)
    hosts = [
        (("host", host), counted) for _, each in forwards for host, counted in each.hosts.items()
    ]
    if hosts:
        yield Family(
            f"{_PREFIX}host_relayed_total",
            "counter",
            "Tunnels that were connected, by entry of the allowlist.",
            [Sample(counted.relayed, (label,)) for label, counted in hosts],
        )
        yield _tallies(
            "host_bytes_total", "Delivered; up is from the enclave.", "direction",
            [(label, counted.bytes) for label, counted in hosts],
        )  # fmt: skip


def _tallies(
    name: str, text: str, key: str, rows: Iterable[tuple[tuple[str, str], Mapping[str, int]]]
) -> Family:
    samples = [
        Sample(number, (label, (key, kind)))
        for label, tally in rows
        for kind, number in sorted(tally.items())
    ]
    return Family(f"{_PREFIX}{name}", "counter", text, samples)
