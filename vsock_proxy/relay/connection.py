"""A relayed connection: two sockets, two flows, and when it is over."""

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

_HANGUP = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_NOT_PLAIN = _HANGUP | select.EPOLLPRI
_READABLE = _NOT_PLAIN | select.EPOLLIN
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener allows. Times in seconds, kept to a tick of the loop (one second).

    Attributes:
        connections: relayed at the same time; those above it wait for one of these to end.
        waiting: how many may wait; those above it stay in the kernel's backlog.
        connect_timeout: from being accepted to being connected, waiting included.
        idle_timeout: without a byte delivered either way.
        linger_timeout: the same, once one side has ended its sending.
    """

    connections: int = 1024
    waiting: int = 256
    connect_timeout: float = 10.0
    idle_timeout: float = 3600.0
    linger_timeout: float = 120.0


def reset(end: Stream) -> None:
    """Close so that a TCP peer sees a reset: what it got is not all there was to get.

    UNIX sockets and vsock have no such thing; there it is a plain close.
    """
    # Python takes nothing but a number for an option of a vsock socket: a TypeError.
    if end.family in INTERNET:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    end.close()


class Owner(Protocol):
    """Who is told that a connection is over."""

    def closed(self, connection: Connection, failure: OSError | None) -> None:
        """`failure` is None after an orderly end."""
        ...


class Connection:
    """Two connected sockets, relayed into each other.

    Attributes:
        up: from the client, the side that was accepted, to the server.
        down: from the server to the client.
        peer: who the client is, for the log.
    """

    __slots__ = (
        "_active",
        "_client",
        "_client_fd",
        "_delivered",
        "_kept_alive",
        "_limits",
        "_loop",
        "_owner",
        "_server",
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
        limits: Limits,
        owner: Owner,
        peer: object = None,
    ) -> None:
        self._loop = loop
        self._client = client
        self._server = server
        self._client_fd = client.fileno()
        self._limits = limits
        self._owner = owner
        self._active = loop.now
        self._delivered = 0
        self._kept_alive = False
        self.peer = peer
        self.up = Flow(client, server)
        self.down = Flow(server, client)

    def begin(self, events: int) -> None:
        """Start, with what has happened to the server's socket so far."""
        # The client has most likely said something already; its events come all the same.
        self._pump(self.up)
        self.ready(self._server.fileno(), events)

    def ready(self, fd: int, events: int) -> None:
        """Handle the events of either socket."""
        if fd == self._client_fd:
            sent, received = self.up, self.down
        else:
            sent, received = self.down, self.up
        # What this side sent comes first: where it was reset, reading is what says so.
        if not sent.ended:
            if events & _READABLE:
                if events & _NOT_PLAIN:
                    sent.short_reads_lie = True
                self._pump(sent)
        elif events & _HANGUP:
            received.probe()
            self._settle()
        if received.tail:
            self._pump(received)

    def resume(self) -> None:
        """Go on where the budget of a turn ended."""
        self._pump(self.up)
        self._pump(self.down)

    def keep_alive(self) -> None:
        """Have the kernel notice a server that vanished. Only the first call does something."""
        if not self._kept_alive:
            self._kept_alive = True
            if self._server.family in INTERNET:
                set_keepalive(self._server)

    def expired(self) -> bool:
        """Tell whether nothing was delivered for longer than the limits allow.

        To be asked once a tick: what was delivered since the last time counts as of now.
        """
        delivered = self.up.delivered + self.down.delivered
        if delivered != self._delivered:
            self._delivered = delivered
            self._active = self._loop.now
            return False
        half_closed = self.up.done or self.down.done
        timeout = self._limits.linger_timeout if half_closed else self._limits.idle_timeout
        return self._loop.now - self._active > timeout

    def close(self, failure: OSError | None = None) -> None:
        """End it: orderly, or with a reset where there was a failure."""
        if self._client_fd < 0:
            return
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
        self._owner.closed(self, failure)

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
        if failure is not None:
            self.close(failure)
        elif more:
            self._loop.resume_soon(self)
        elif flow.done:
            if flow.ended:
                self._reverse(flow).probe()
            self._settle()

    def _reverse(self, flow: Flow) -> Flow:
        return self.down if flow is self.up else self.up

    def _settle(self) -> None:
        """Draw the conclusions once a flow is done."""
        up, down = self.up, self.down
        if up.done and down.done:
            self.close(up.failure or down.failure)
            return
        # A sink that was reset is the other flow's source. What it sent before is still to be
        # had, and then its end, which must not pass for an orderly one.
        down.reset = up.failure is not None
        up.reset = down.failure is not None
        down.last, up.last = up.done, down.done
