"""The thread that sends lines, and what it writes to: the parent's sink, or a file descriptor."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from enclave.errors import AgentError, DialError
from enclave.logs.link import Link
from enclave.logs.outbox import LIMIT, Outbox
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

DIAL_TIMEOUT: Final = 5.0
"""Seconds for one attempt to connect."""


class Outlet(Protocol):
    """Where lines go. Its methods may wait: only the sender's thread calls them."""

    def write(self, data: bytes) -> int:
        """Write some of the data; returns how much.

        Raises:
            OSError: it is of no use any more.
        """
        ...

    def finish(self, timeout: float) -> bool:
        """Say that no more comes; tell whether the other side has read all of it."""
        ...

    def close(self) -> None:
        """Let go of it. From any thread; ends a `write` that waits, where that can be done."""
        ...


class SinkConnection:
    """A connection to the parent's log sink."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(None)

    def write(self, data: bytes) -> int:
        """See `Outlet.write`."""
        with contextlib.suppress(BlockingIOError):
            # A sink never answers. So its end is seen before lines are lost to it.
            answered = self._socket.recv(1, socket.MSG_DONTWAIT)
            raise ConnectionAbortedError(
                None, "it answers, as no log sink does" if answered else "it hung up"
            )
        return self._socket.send(data, socket.MSG_NOSIGNAL)

    def finish(self, timeout: float) -> bool:
        """See `Outlet.finish`: a sink that has read everything closes its end as well."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.settimeout(max(timeout, 0.001))
            return self._socket.recv(1) == b""
        except OSError:
            return False

    def close(self) -> None:
        """See `Outlet.close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Descriptor:
    """A file descriptor of somebody else's, such as standard error."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        """See `Outlet.write`."""
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # Whoever shares it has made it so.
                select.select([], [self._fd], [])

    def finish(self, timeout: float) -> bool:  # noqa: ARG002
        """See `Outlet.finish`: what was written was taken."""
        return True

    def close(self) -> None:
        """See `Outlet.close`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a `Sender` ended.

    Attributes:
        unsent: lines that were not sent, the oldest first, each with its LF.
        left_out: lines that there was no room for.
        confirmed: whether all that was sent has been read, by all that can be known.
    """

    unsent: list[bytes]
    left_out: int
    confirmed: bool


class Sender:
    """Sends lines in the background; whoever gives it lines never waits.

    A daemon thread does it: one that hangs holds no exit up.
    """

    def __init__(
        self,
        name: str,
        open_outlet: Callable[[], Outlet],
        *,
        limit: int = LIMIT,
        complain: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start one.

        Args:
            name: what it sends to, for messages.
            open_outlet: connects; may wait for `DIAL_TIMEOUT` and raise AgentError.
            limit: bytes that wait, at most; see `Outbox`.
            complain: is told, once each time, when lines cannot be sent, and when they can again.
            monotonic: the clock.
        """
        self._name = name
        self._open_outlet = open_outlet
        self._complain = complain
        self._monotonic = monotonic
        self._outbox = Outbox(limit)
        self._link = Link()
        self._outlet: Outlet | None = None
        self._failing = self._closing = False
        self._confirmed = True  # of nothing at all
        self._deadline = 0.0
        # Guards the outbox, and tells of lines and of the end.
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="log-sender", daemon=True)
        self._thread.start()

    def put(self, lines: Iterable[bytes]) -> None:
        """Have lines sent; without their ends."""
        with self._changed:
            self._outbox.put(lines)
            self._changed.notify()

    def close(self, timeout: float) -> Outcome:
        """Send what waits, for at most `timeout` seconds, and stop."""
        with self._changed:
            self._deadline = self._monotonic() + timeout
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            if self._thread.is_alive():
                self._confirmed = False
            unsent = self._outbox.lines
            if outlet := self._outlet:
                outlet.close()
        return Outcome(unsent, self._outbox.left_out, self._confirmed)

    def _run(self) -> None:
        while batch := self._next():
            try:
                count = (self._outlet or self._connect()).write(batch)
            except (OSError, AgentError) as e:
                self._broke(e)
            else:
                with self._changed:
                    self._outbox.wrote(count)
        if self._outlet:
            # A closed one where `close` gave up meanwhile.
            self._confirmed = self._outlet.finish(self._deadline - self._monotonic())
            self._outlet.close()

    def _next(self) -> bytes:
        """Wait for something to send and for when it may be; b"" is the end."""
        with self._changed:
            while True:
                now = self._monotonic()
                if self._closing and (not self._outbox or now >= self._deadline):
                    return b""
                delay = self._link.delay(now)
                if self._outbox and not delay:
                    return self._outbox.batch()
                self._changed.wait(delay if self._outbox else None)

    def _connect(self) -> Outlet:
        outlet = self._open_outlet()
        with self._changed:
            self._outlet = outlet
            self._link.began(self._monotonic())
        if self._failing:
            self._failing = False
            self._complain(f"logs: {self._name}: connected again")
        return outlet

    def _broke(self, error: OSError | AgentError) -> None:
        if self._closing and self._monotonic() >= self._deadline:
            return  # `close` gave up, and said what was left.
        reason = str(error)
        if isinstance(error, DialError):
            reason = error.reason
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        if not self._failing:
            self._failing = True
            self._complain(f"logs: {self._name}: {reason}; trying again, lines wait meanwhile")
        with self._changed:
            if self._outlet:
                self._outlet.close()
            self._outlet = None
            self._link.ended(self._monotonic())
            self._outbox.broke()


def send_to_sink(
    address: Address,
    *,
    limit: int = LIMIT,
    complain: Callable[[str], None] = lambda _: None,
    dialer: Dialer | None = None,
) -> Sender:
    """Start sending to a log sink; see `Sender`."""
    used = dialer or SocketDialer()
    return Sender(
        str(address),
        lambda: SinkConnection(used.dial(address, DIAL_TIMEOUT)),
        limit=limit,
        complain=complain,
    )
