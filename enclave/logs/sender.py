"""Sends lines in a thread, to the parent's sink or to a file descriptor."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from enclave import forking
from enclave.errors import AgentError, DialError
from enclave.logs.link import Link
from enclave.logs.outbox import LIMIT, Outbox
from vsock_proxy.net.dialing import SocketDialer
from vsock_proxy.net.sockets import wait_ready
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vsock_proxy.net.addresses import Address
    from vsock_proxy.net.dialing import Dialer

DIAL_TIMEOUT: Final = 5.0
"""Seconds for one attempt to connect."""


class Outlet(Protocol):
    """A destination of lines. Its methods may block: only the sender's thread calls them."""

    def write(self, data: bytes) -> int:
        """Write some of the data; return how much.

        Raises:
            OSError: the outlet is broken.
        """
        ...

    def finish(self, timeout: float) -> bool:
        """Send the end; return whether the other side has confirmed that it read everything."""
        ...

    def close(self) -> None:
        """Close it. From any thread; interrupts a `write` that blocks, if possible."""
        ...


class SinkConnection:
    """A connection to the parent's log sink."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._socket.settimeout(None)

    def write(self, data: bytes) -> int:
        """See `Outlet.write`."""
        with contextlib.suppress(BlockingIOError):
            # A sink never sends anything. This sees its end before lines are lost to it.
            received = self._socket.recv(1, socket.MSG_DONTWAIT)
            raise ConnectionAbortedError(
                None, "it sent data, which a log sink never does" if received else "it hung up"
            )
        return self._socket.send(data, socket.MSG_NOSIGNAL)

    def finish(self, timeout: float) -> bool:
        """See `Outlet.finish`: a sink that has read everything closes its end too."""
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
    """A shared file descriptor, such as standard error."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        """See `Outlet.write`."""
        while True:
            try:
                return os.write(self._fd, data)
            except BlockingIOError:
                # Another process that shares it has made it non-blocking.
                wait_ready(self._fd, select.POLLOUT)

    def finish(self, timeout: float) -> bool:  # noqa: ARG002
        """See `Outlet.finish`: what was written was received."""
        return True

    def close(self) -> None:
        """See `Outlet.close`."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a `Sender`.

    Attributes:
        unsent: lines that were not sent, the oldest first, each with its LF.
        dropped: lines that the queue had no room for.
        confirmed: whether the sink has confirmed that it read everything.
    """

    unsent: list[bytes]
    dropped: int
    confirmed: bool


class Sender:
    """Sends lines in the background; `put` never blocks.

    The thread is a daemon thread: if it hangs, it does not delay the exit.

    Args:
        name: the destination, for messages.
        open_outlet: connects; may block for `DIAL_TIMEOUT` and raise AgentError.
        limit: bytes queued; see `Outbox`.
        report: is called with a message when lines can no longer be sent, and when they can again.
        monotonic: the clock.

    Raises:
        AgentError: the system has no more threads.
    """

    def __init__(
        self,
        name: str,
        open_outlet: Callable[[], Outlet],
        *,
        limit: int = LIMIT,
        report: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._open_outlet = open_outlet
        self._report = report
        self._monotonic = monotonic
        self._outbox = Outbox(limit)
        self._link = Link()
        self._outlet: Outlet | None = None
        self._failing = self._closing = False
        self._confirmed = True  # Nothing was sent yet.
        self._deadline = 0.0
        # Guards the outbox; notified of new lines and of `close`.
        self._changed = threading.Condition()
        forking.register(self)
        self._thread = threading.Thread(target=self._run, name="log-sender", daemon=True)
        start_thread(self._thread)

    def _after_fork(self) -> None:
        """See `forking.ForkAware`: a child has no thread that sends; its lines wait, bounded."""
        self._changed = threading.Condition()

    def put(self, lines: Iterable[bytes]) -> None:
        """Queue lines, without line ends."""
        with self._changed:
            self._outbox.put(lines)
            self._changed.notify()

    def close(self, timeout: float) -> Outcome:
        """Send what is queued, for at most `timeout` seconds, and stop."""
        with self._changed:
            self._deadline = self._monotonic() + timeout
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        # Before the outlet is closed: that wakes `finish`, to which it looks like the sink's end.
        confirmed = not self._thread.is_alive() and self._confirmed
        with self._changed:
            unsent = self._outbox.lines
            if outlet := self._outlet:
                outlet.close()
        return Outcome(unsent, self._outbox.dropped, confirmed)

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
            # It is closed already if `close` gave up meanwhile.
            self._confirmed = self._outlet.finish(self._deadline - self._monotonic())
            self._outlet.close()

    def _next(self) -> bytes:
        """Wait for lines and for the time to send them; return b"" at the end."""
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
            self._report(f"logs: {self._name}: reconnected")
        return outlet

    def _broke(self, error: OSError | AgentError) -> None:
        if self._closing and self._monotonic() >= self._deadline:
            return  # `close` gave up, and has reported what was left.
        reason = str(error)
        if isinstance(error, DialError):
            reason = error.reason
        elif isinstance(error, OSError) and error.strerror:
            reason = error.strerror
        if not self._failing:
            self._failing = True
            self._report(f"logs: {self._name}: {reason}; retrying, lines are buffered")
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
    report: Callable[[str], None] = lambda _: None,
    dialer: Dialer | None = None,
) -> Sender:
    """Start sending to a log sink; see `Sender`."""
    used = dialer or SocketDialer()
    return Sender(
        str(address),
        lambda: SinkConnection(used.dial(address, DIAL_TIMEOUT)),
        limit=limit,
        report=report,
    )
