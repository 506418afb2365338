"""A relayed connection: two sockets, two flows, and the rules for its end."""

from __future__ import annotations

import select
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net.sockets import INTERNET, set_keepalive
from vsock_proxy.relay.flow import Flow

if TYPE_CHECKING:
    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop

PLAIN_EVENTS = 4
"""Events after which a connection counts as a long one. See `RelayedConnection`."""

_HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
NOT_PLAIN = _HANGUP | select.EPOLLPRI
"""Events that announce an end, or urgent data."""

_READABLE = NOT_PLAIN | select.EPOLLIN
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Limits of one listener. Times in seconds, checked once a tick of the loop (a second).

    Attributes:
        connections: relayed and connecting at the same time; clients above it are queued.
        waiting: length of this queue; clients above it stay in the kernel's backlog.
        connect_timeout: from accepted to connected, time in the queue included.
        idle_timeout: without a byte delivered in either direction.
        linger_timeout: the same after one side has half-closed.
        per_cid: clients of every kind from one CID at the same time; further ones are rejected.
            0 for as many as there are.
        per_cid_per_second: new clients from one CID, on average over five seconds; further ones
            are closed.
    """

    connections: int = 1024
    waiting: int = 256
    connect_timeout: float = 10.0
    idle_timeout: float = 3600.0
    linger_timeout: float = 120.0
    per_cid: int = 0
    per_cid_per_second: int = 300


DEFAULT_LIMITS = RelayLimits()


def reset(end: Stream) -> None:
    """Close with a TCP reset: the peer sees that it did not get everything.

    UNIX sockets and vsock have no resets: there it is a plain close.
    """
    # On a vsock socket Python takes only a number for an option: a TypeError.
    if end.family in INTERNET:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()


class RelayEvents(Protocol):
    """How a connection ends."""

    def closed(self, connection: RelayedConnection, failure: OSError | None) -> None:
        """Note that the connection is closed; `failure` is None after an orderly end."""
        ...


class RelayedConnection:
    """Two connected sockets, relayed into each other.

    Attributes:
        up: from the client, the accepted side, to the server.
        down: from the server to the client.
        peer: the client's address, for the log.
    """

    __slots__ = (
        "_active",
        "_client",
        "_client_fd",
        "_delivered",
        "_events",
        "_joined",
        "_kept_alive",
        "_limits",
        "_loop",
        "_plain_events",
        "_server",
        "_server_fd",
        "down",
        "peer",
        "up",
    )

    def __init__(
        self,
        loop: Loop,
        client: Stream,
        server: Stream,
        *,
        limits: RelayLimits,
        events: RelayEvents,
        peer: object = None,
    ) -> None:
        self._loop = loop
        self._client = client
        self._server = server
        self._client_fd = client.fileno()
        self._server_fd = server.fileno()
        self._joined = False
        self._plain_events = 0 if loop.moves else -1
        self._limits = limits
        self._events = events
        self._active = loop.now
        self._delivered = 0
        self._kept_alive = False
        self.peer = peer
        self.up = Flow(client, server)
        self.down = Flow(server, client)

    def begin(self, events: int, *, sent: bytes = b"", received: bytes = b"") -> None:
        """Start.

        Args:
            events: those of the server's socket so far.
            sent: what was read from the client already.
            received: what was read from the server already.
        """
        if sent or received:
            self._loop.hold(len(sent) + len(received))
            self.up.tail, self.down.tail = memoryview(sent), memoryview(received)
        # Most clients have sent something by now. Their events come all the same.
        self._pump(self.up)
        self.ready(self._server_fd, events)

    def ready(self, fd: int, events: int) -> None:
        """Handle the events of either socket."""
        if fd == self._client_fd:
            sent, received = self.up, self.down
        else:
            sent, received = self.down, self.up
        if self._plain_events >= 0:
            self._count(events)
        # What this side sent comes first: if it was reset, only reading shows it.
        if not sent.ended:
            if events & _READABLE:
                if events & NOT_PLAIN:
                    sent.short_reads_lie = True
                self._pump(sent)
        elif events & _HANGUP:
            received.probe()
            self._settle()
        if received.tail:
            self._pump(received)

    def resume(self) -> None:
        """Continue after the budget of a turn was spent."""
        self._pump(self.up)
        self._pump(self.down)

    # For a loop that moves plain bytes itself. What it cannot move it leaves to these.

    def unsent(self, fd: int, data: bytes) -> None:
        """Keep bytes that were read from `fd` until the other side has room."""
        self._flow_from(fd).tail = memoryview(data)
        self._loop.hold(len(data))
        self._loop.block(self._client_fd, self._server_fd, blocked=True)

    def source_failed(self, error: OSError) -> None:
        """Close: reading failed."""
        self.close(error)

    def sink_failed(self, fd: int, error: OSError) -> None:
        """Note that the other side of `fd` takes no more."""
        self._part()
        self._flow_from(fd).lose(error)
        self._settle()

    def delivered(self) -> tuple[int, int]:
        """Return the bytes delivered so far: up, down."""
        if not self._joined:
            return self.up.delivered, self.down.delivered
        moved = self._loop.moved
        return (
            self.up.delivered + moved(self._client_fd),
            self.down.delivered + moved(self._server_fd),
        )

    def _count(self, events: int) -> None:
        """Let the loop move the bytes of a connection that shows itself to be a long one.

        A short one would pay more for that than it gains.
        """
        if events & NOT_PLAIN or self.up.done or self.down.done:
            self._part()
            self._plain_events = -1
        elif not self._joined:
            self._plain_events += 1
            if self._plain_events == PLAIN_EVENTS:
                self._joined = True
                self._loop.join(self._client_fd, self._server_fd)
                if self.up.tail or self.down.tail:
                    self._loop.block(self._client_fd, self._server_fd, blocked=True)

    def _part(self) -> None:
        if self._joined:
            self.up.delivered, self.down.delivered = self.delivered()
            self._joined = False
            self._loop.part(self._client_fd, self._server_fd)

    def _flow_from(self, fd: int) -> Flow:
        return self.up if fd == self._client_fd else self.down

    def keep_alive(self) -> None:
        """Have the kernel notice a server that vanished. Only the first call has an effect."""
        if not self._kept_alive:
            self._kept_alive = True
            if self._server.family in INTERNET:
                set_keepalive(self._server)

    def expired(self) -> bool:
        """Return whether nothing was delivered for longer than the limits allow.

        For one call a tick: bytes delivered since the last call count as delivered now.
        """
        delivered = sum(self.delivered())
        if delivered != self._delivered:
            self._delivered = delivered
            self._active = self._loop.now
            return False
        half_closed = self.up.done or self.down.done
        timeout = self._limits.linger_timeout if half_closed else self._limits.idle_timeout
        return self._loop.now - self._active > timeout

    def close(self, failure: OSError | None = None) -> None:
        """Close both sockets: orderly, or with a reset after a failure."""
        if self._client_fd < 0:
            return
        self._part()
        for flow in (self.up, self.down):
            if flow.tail:
                self._loop.hold(-len(flow.tail))
            flow.done = True
        for end in (self._client, self._server):
            self._loop.forget(end.fileno())
            if failure is None:
                end.close()
            else:
                reset(end)
        self._client_fd = -1
        self._events.closed(self, failure)

    def _pump(self, flow: Flow) -> None:
        held = flow.tail
        failure: OSError | None = None
        more = False
        try:
            more = flow.pump(self._loop.buffer)
        except OSError as e:
            failure = e
        if flow.tail is not held:
            self._loop.hold(len(flow.tail) - len(held))
            if self._joined:
                blocked = bool(self.up.tail or self.down.tail)
                self._loop.block(self._client_fd, self._server_fd, blocked=blocked)
        if failure is not None:
            self.close(failure)
        elif more:
            self._loop.resume_soon(self)
        elif flow.done:
            self._part()
            if flow.ended:
                self._reverse(flow).probe()
            self._settle()

    def _reverse(self, flow: Flow) -> Flow:
        return self.down if flow is self.up else self.up

    def _settle(self) -> None:
        """Close the connection, or tell the other flow, once a flow is done."""
        up, down = self.up, self.down
        if up.done and down.done:
            self.close(up.failure or down.failure)
            return
        # A sink that was reset is the source of the other flow. What it sent before can still be
        # read, and then its end, which must not be taken for an orderly one.
        down.reset = up.failure is not None
        up.reset = down.failure is not None
        down.last, up.last = up.done, down.done
