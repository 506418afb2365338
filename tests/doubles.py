"""Stand-ins for what production code takes from outside: time and connections."""

from __future__ import annotations

import contextlib
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from unittest import mock

from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping

    from vsock_proxy.net.addresses import Address


class ManualClock:
    """Time that moves only when it is told to, or slept through."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime.now(UTC)
        self.elapsed = 0.0
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self._start + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.elapsed += seconds


class RedirectingDialer:
    """Dials one address whatever it is asked for, and remembers what that was.

    So production's default, the vsock proxy on the parent, is asked for on machines without
    vsock, and what it was asked for can be checked. `others` are exceptions to the one address.
    """

    def __init__(self, target: Address, others: Mapping[Address, Address] | None = None) -> None:
        self.target = target
        self.others = dict(others or {})
        self.dialed: list[Address] = []

    def dial(self, address: Address, timeout: float) -> socket.socket:
        self.dialed.append(address)
        return SocketDialer().dial(self.others.get(address, self.target), timeout)


@contextlib.contextmanager
def no_threads(*, after: int = 0) -> Iterator[None]:
    """Have the system give so many threads more, and then none, as CPython says it."""
    start, left = threading.Thread.start, [None] * after

    def limited(thread: threading.Thread) -> None:
        if not left:
            raise RuntimeError("can't start new thread")
        left.pop()
        start(thread)

    with mock.patch.object(threading.Thread, "start", limited):
        yield
