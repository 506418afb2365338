"""What a listener has seen, in numbers that only grow: made for metrics."""

from __future__ import annotations

import bisect
import collections
import errno
import itertools
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from vsock_proxy.net.addresses import Address

LATENCY_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: the upper bounds of a latency histogram, each inclusive. Above them is infinity."""

NOT_ALLOWED = "allowlist"
WRONG_CID = "cid"
NO_PLACE = "limit"
"""Why clients were refused: the target is not allowed, they are not, all places were taken."""

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
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, PermissionError):
        return "permission"
    return _KINDS.get(error.errno or 0, "other")


class Histogram:
    """Counts of times, by upper bounds."""

    __slots__ = ("_counts", "_sum")

    def __init__(self) -> None:
        self._counts = [0] * (len(LATENCY_BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect.bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self._sum += seconds

    def snapshot(self) -> HistogramSnapshot:
        """Return the numbers so far."""
        return HistogramSnapshot(tuple(itertools.accumulate(self._counts)), self._sum)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram as Prometheus has it.

    Attributes:
        cumulative: how many were at most each of `LATENCY_BOUNDS`, and last, how many there were.
        sum: of all times, in seconds.
    """

    cumulative: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many there were."""
        return self.cumulative[-1]


@dataclass(slots=True)
class Counters:
    """What one listener has seen since it began.

    Attributes:
        accepted: connections taken from the kernel.
        relayed: of those, the ones that were connected.
        waited: of those, the ones that had to wait for a place first.
        refused: of those, the ones turned away, by reason: `NOT_ALLOWED`, `WRONG_CID`, `NO_PLACE`.
        failed: of those, the ones whose target could not be connected to, by `kind_of` error.
        broken: relayed connections that did not end orderly, by `kind_of` error; ``timeout`` is
            one that was idle for too long.
        bytes_up: delivered from clients to the target, by connections that have ended.
        bytes_down: the same, from the target to clients.
        connect_seconds: from being accepted to being connected.
    """

    accepted: int = 0
    relayed: int = 0
    waited: int = 0
    refused: collections.Counter[str] = field(default_factory=collections.Counter)
    failed: collections.Counter[str] = field(default_factory=collections.Counter)
    broken: collections.Counter[str] = field(default_factory=collections.Counter)
    bytes_up: int = 0
    bytes_down: int = 0
    connect_seconds: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True)
class ForwardSnapshot:
    """One forward at one moment. What is not described here is as in `Counters`.

    Attributes:
        name: its name in the configuration, or else its target.
        listen: where it listens, with the real port where 0 was asked for.
        to: its target.
        connections: relayed at this moment.
        connecting: on the way to that.
        waiting: waiting for a place.
        limit: how many may be relayed and on the way to it.
        bytes_up: delivered so far, by open connections as well. So `bytes_down`.
    """

    name: str
    listen: Address
    to: Address
    connections: int
    connecting: int
    waiting: int
    limit: int
    accepted: int
    relayed: int
    waited: int
    refused: Mapping[str, int]
    failed: Mapping[str, int]
    broken: Mapping[str, int]
    bytes_up: int
    bytes_down: int
    connect_seconds: HistogramSnapshot


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A daemon at one moment.

    Attributes:
        forwards: one each, in the order of the configuration, by unique names.
        leaving: connections of forwards that a reload removed, still open.
        turns: of the loop, so far; an idle daemon takes one a second.
        reloads: how many reloads have been taken.
    """

    forwards: tuple[ForwardSnapshot, ...]
    leaving: int
    turns: int
    reloads: int
