"""Gauges and monotonic counters of one forward, for metrics."""

from __future__ import annotations

import bisect
import dataclasses
import errno
import itertools
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vsock_proxy.net.http_connect import TunnelRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsock_proxy.net.addresses import Address, TunnelAddress
    from vsock_proxy.proxy.forward import Egress

LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of a latency histogram, each inclusive. Above them is infinity."""

NOT_ALLOWED = "allowlist"
WRONG_CID = "cid"
OVER_LIMIT = "limit"
OVER_CID_LIMIT = "cid_limit"
OVER_CID_RATE = "cid_rate"
BAD_REQUEST = "request"
"""Why a client was rejected: the target is not on the allowlist, the client's CID is not allowed,
no connection ended in time, its enclave has as many as it may, its enclave opens them faster than
it may, its request is not a CONNECT."""

OTHER_HOSTS = "other"
"""The label of hosts beyond the number that is counted one by one."""

UP, DOWN = "up", "down"
"""Directions of bytes: from clients to the target, from the target to clients."""

_KINDS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EPIPE: "reset",
    errno.ETIMEDOUT: "timeout",
    errno.ENETUNREACH: "unreachable",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENOENT: "missing",
}


def kind_of(error: OSError) -> str:
    """Name the kind of an error: one of a dozen words, for a metric's label."""
    if isinstance(error, socket.gaierror):
        return "name"
    if isinstance(error, TunnelRefusedError):
        return "proxy"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, PermissionError):
        return "permission"
    return _KINDS.get(error.errno or 0, "other")


class Tally(dict[str, int]):
    """Counts by label; a label that was never counted has 0."""

    def __missing__(self, label: str) -> int:
        return 0


@dataclass(slots=True)
class Histogram:
    """Durations, counted by upper bound.

    Attributes:
        counts: durations up to each of `LATENCY_BOUNDS` and above the one before it; last, those
            above all bounds.
        sum: all durations together, in seconds.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))
    sum: float = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect.bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self.sum += seconds

    @property
    def cumulative(self) -> list[int]:
        """How many were at most each of `LATENCY_BOUNDS`; last, how many there are."""
        return list(itertools.accumulate(self.counts))


def _help(text: str, label: str = "") -> dict[str, str]:
    """Return metadata of a field: the help text and the label of its metric."""
    return {"help": text, "label": label}


@dataclass(frozen=True, slots=True)
class Gauges:
    """Connections of one forward at one moment."""

    connections: int = field(metadata=_help("Relayed at this moment."))
    connecting: int = field(metadata=_help("Connecting to the target at this moment."))
    waiting: int = field(metadata=_help("Queued, because the connection limit is reached."))
    connection_limit: int = field(metadata=_help("Limit of connections relayed and connecting."))


@dataclass(slots=True)
class Counters:
    """Monotonic counters of one forward.

    `rejected` has the labels `NOT_ALLOWED`, `WRONG_CID`, `OVER_LIMIT`, `OVER_CID_LIMIT`,
    `OVER_CID_RATE` and `BAD_REQUEST`; `connect_failures` and `broken` those of `kind_of`, where
    ``timeout`` of `broken` is a connection that was idle for too long; `bytes` has `UP` and `DOWN`.
    """

    accepted: int = field(default=0, metadata=_help("Connections accepted."))
    relayed: int = field(
        default=0, metadata=_help("Connections that were connected to the target.")
    )
    waited: int = field(default=0, metadata=_help("Connections that were queued first."))
    rejected: Tally = field(
        default_factory=Tally, metadata=_help("Connections rejected.", "reason")
    )
    connect_failures: Tally = field(
        default_factory=Tally, metadata=_help("Connections without a target.", "kind")
    )
    broken: Tally = field(
        default_factory=Tally, metadata=_help("Relayed connections that ended by an error.", "kind")
    )
    bytes: Tally = field(
        default_factory=Tally,
        metadata=_help("Bytes delivered; up is from the enclave to the target.", "direction"),
    )
    connect_seconds: Histogram = field(
        default_factory=Histogram, metadata=_help("From accepted to connected.")
    )

    def copy(self) -> Counters:
        """Return a copy that later events do not change."""
        return dataclasses.replace(
            self,
            rejected=Tally(self.rejected),
            connect_failures=Tally(self.connect_failures),
            broken=Tally(self.broken),
            bytes=Tally(self.bytes),
            connect_seconds=Histogram([*self.connect_seconds.counts], self.connect_seconds.sum),
        )


@dataclass(slots=True)
class HostCounters:
    """Monotonic counters of one entry of the allowlist that clients of an egress listener use.

    The entry, and not the host, is counted: its number is the configuration's, and not one that
    an enclave can raise.
    """

    relayed: int = field(default=0, metadata=_help("Tunnels that were connected."))
    connect_failures: Tally = field(
        default_factory=Tally, metadata=_help("Tunnels without a target.", "kind")
    )
    bytes: Tally = field(
        default_factory=Tally,
        metadata=_help("Bytes delivered; up is from the enclave to the host.", "direction"),
    )

    def copy(self) -> HostCounters:
        """Return a copy that later events do not change."""
        return HostCounters(self.relayed, Tally(self.connect_failures), Tally(self.bytes))


@dataclass(frozen=True, slots=True)
class ForwardSnapshot:
    """One forward at one moment.

    Attributes:
        name: its name in the configuration; without one, its target.
        listen: the address it listens on, with the real port where the configuration has 0.
        target: where it leads.
        gauges: connections at this moment.
        counters: counters so far; bytes of open connections are included.
        hosts: the same of an egress listener by the entry of the allowlist, ``HOST:PORT``, with
            `OTHER_HOSTS` for those beyond `egress.MAX_HOSTS`; empty for a forward.
    """

    name: str
    listen: Address
    target: Address | TunnelAddress | Egress
    gauges: Gauges
    counters: Counters
    hosts: Mapping[str, HostCounters] = field(default_factory=dict)

    def with_hosts(self, hosts: Mapping[str, HostCounters]) -> ForwardSnapshot:
        """Return the same with `hosts`."""
        return dataclasses.replace(self, hosts=hosts)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A daemon at one moment.

    Attributes:
        forwards: one each, in the order of the configuration, with unique names.
        leaving: open connections of forwards that a reload removed.
        turns: turns of the loop so far; an idle daemon takes one a second.
        reloads: reloads so far.
    """

    forwards: tuple[ForwardSnapshot, ...]
    leaving: int
    turns: int
    reloads: int
