"""Connects accepted clients to their target without blocking: every address in turn.

Unlike happy eyeballs (RFC 8305), one address at a time, each with its share of the timeout.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net.addresses import (
    HybridAddress,
    TcpAddress,
    TunnelAddress,
    UnixAddress,
    VsockAddress,
)
from vsock_proxy.net.sockets import INTERNET, open_stream, set_tcp_options
from vsock_proxy.relay.handshaking import Handshake, handshake_for

if TYPE_CHECKING:
    from vsock_proxy.net.resolving import Candidate, InternetName, SocketName
    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.loop import Loop
    from vsock_proxy.relay.resolver import Resolved, Resolver

SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""Errors that say that the machine or this process lacks resources for one more socket."""


class ConnectEvents(Protocol):
    """How an opening ends: in exactly one of the first two."""

    def connected(self, opening: Opening, server: Stream, events: int) -> None:
        """Take both sockets: the target is connected. `server` is watched: the loop keeps sending
        its events to `opening` until `Loop.hand_over`; `events` are those so far.
        """
        ...

    def not_connected(self, opening: Opening, error: OSError) -> None:
        """Close the client's socket: no address could be connected to. `error` is that of the
        last one.
        """
        ...

    def starved(self, opening: Opening) -> None:
        """Out of file descriptors; call `start` again later."""
        ...


class Opening:
    """An accepted client whose target is not connected yet.

    The client's socket is not watched: what it sends waits in the kernel.

    Attributes:
        client: the accepted socket.
        peer: its address.
        since: when it was accepted, in the loop's time.
        deadline: when it times out, in the loop's time.
        early: what a client has sent before its server is connected, as far as it was read.
        early_response: the same of the server.
    """

    __slots__ = (
        "_attempt_deadline",
        "_error",
        "_events",
        "_handshake",
        "_left",
        "_loop",
        "_resolver",
        "_server",
        "client",
        "deadline",
        "early",
        "early_response",
        "peer",
        "since",
    )

    def __init__(
        self,
        loop: Loop,
        client: Stream,
        peer: object,
        *,
        resolver: Resolver,
        events: ConnectEvents,
        timeout: float,
    ) -> None:
        self._loop = loop
        self._resolver = resolver
        self._events = events
        self._server: Stream | None = None
        self._handshake: Handshake | None = None
        self._left: list[Candidate] = []
        self._error: OSError | None = None
        self.since = loop.now
        self._attempt_deadline = self.deadline = loop.now + timeout
        self.client = client
        self.peer = peer
        self.early = self.early_response = b""

    def start(self) -> None:
        """Resolve the target and try its addresses. Only where descriptors may be opened."""
        self._resolver.find(self._resolved)

    def ready(self, fd: int, events: int) -> None:
        """Handle the success or failure of the attempt."""
        server = self._server
        if server is None or server.fileno() != fd:
            return
        # A failed attempt is an error and a hangup: only then is the system call worth it.
        failed = events & (select.EPOLLERR | select.EPOLLHUP)
        code = server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if failed else 0
        if code:
            self._attempt_failed(OSError(code, os.strerror(code)))
            return
        if self._handshake is not None:
            try:
                self._handshake.advance(server)
            except BlockingIOError:
                return
            except OSError as e:
                self._attempt_failed(e)
                return
            self.early_response = self._handshake.rest
        self._server = None
        self._events.connected(self, server, events)

    def check_times(self) -> None:
        """End what timed out. Called once a tick."""
        if self._server is not None and self._loop.now >= self._attempt_deadline:
            self._attempt_failed(TimeoutError("no response"))
        elif self._loop.now >= self.deadline:
            self.cancel()
            timeout = TimeoutError("looking up its name takes too long")
            self._events.not_connected(self, self._error or timeout)
        else:
            self._try_next()

    def cancel(self) -> None:
        """Stop trying. The client's socket stays open."""
        self._resolver.forget(self._resolved)
        self._left = []
        if self._server is not None:
            self._loop.forget(self._server.fileno())
            self._server.close()
            self._server = None

    def _resolved(self, result: Resolved) -> None:
        if isinstance(result, OSError):
            self._events.not_connected(self, result)
            return
        self._left = result
        self._try_next()

    def _try_next(self) -> None:
        """Start connecting to the next address."""
        if not self._left or self._server is not None:
            return
        family, name = self._left[0]
        try:
            server = open_stream(family)
        except OSError as e:
            if e.errno in SCARCE:
                self.cancel()
                self._events.starved(self)
            else:
                self._attempt_failed(e)
            return
        try:
            self._start_attempt(server, family, name)
        except BlockingIOError:
            server.close()
            # A UNIX socket's; the next tick tries again.
            self._error = TimeoutError("its backlog is full")
        except OSError as e:
            server.close()
            self._attempt_failed(e)

    def _start_attempt(
        self, server: Stream, family: socket.AddressFamily, name: SocketName
    ) -> None:
        if family in INTERNET:
            set_tcp_options(server)
        self._handshake = handshake_for(name)
        code = server.connect_ex(_socket_name(name))
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        self._loop.add(server.fileno(), self)
        self._server = server
        # One dead address must not use up the time of the others.
        time_left = self.deadline - self._loop.now
        self._attempt_deadline = self._loop.now + time_left / len(self._left)

    def _attempt_failed(self, error: OSError) -> None:
        self._error = error
        self._resolver.failed(self._left.pop(0))
        left = self._left
        self.cancel()
        if left:
            self._left = left
            self._loop.later(self._try_next)
        else:
            self._events.not_connected(self, error)


def _socket_name(name: SocketName) -> InternetName | tuple[int, int] | str:
    if isinstance(name, HybridAddress):
        return name.path
    if not isinstance(name, TunnelAddress):
        return name
    match name.via:
        case UnixAddress(path):
            return path
        case VsockAddress(first, port) | TcpAddress(first, port):
            return (first, port)  # type: ignore[return-value] # of either kind
