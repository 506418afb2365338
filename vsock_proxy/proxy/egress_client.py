"""A client of an egress listener, before it is relayed: its head is read, or it is rejected."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Protocol

from vsock_proxy.net.http_connect import HeadReader, RequestError, authority_of, parse_request
from vsock_proxy.relay.connecting import Opening
from vsock_proxy.relay.connection import NOT_PLAIN

if TYPE_CHECKING:
    from collections.abc import Callable

    from vsock_proxy.net.sockets import Stream
    from vsock_proxy.relay.connecting import ConnectEvents
    from vsock_proxy.relay.connection import RelayedConnection
    from vsock_proxy.relay.loop import Loop
    from vsock_proxy.relay.resolver import Resolved, Resolver

PARTING = 2.0
"""Seconds, from a response that rejects a client, until it is closed although it still sends."""

MAX_DROPPED = 256 * 1024
"""Bytes of such a client that are read and dropped."""


class Routes(Protocol):
    """Decides about the targets that clients name."""

    def resolver_of(self, opening: EgressOpening, host: str, port: int) -> Resolver:
        """Return the resolver of a target, and set `EgressOpening.entry`.

        Raises:
            RequestError: the target is not allowed.
        """
        ...

    def rejected(self, opening: EgressOpening, error: RequestError | None) -> None:
        """Close a client whose request is rejected; None if it has gone."""
        ...

    def start_soon(self, opening: EgressOpening) -> None:
        """Call `start` at the end of this turn, unless the opening has ended by then."""
        ...


class EgressOpening(Opening):
    """A client that names its target first.

    Its socket is watched until its head is complete. Bytes after the head are the first of the
    tunnel: `early`, those that came with the end of the head, and the others stay in the socket.

    Attributes:
        entry: of the allowlist that allows the target, ``HOST:PORT``; "" until there is one.
        host: of the target; "" until the head is parsed.
        port: of the target.
        watched: whether the loop watches the client.
    """

    __slots__ = ("_reader", "_routes", "_seen", "entry", "host", "port", "watched")

    _reader: HeadReader | None

    def __init__(
        self,
        loop: Loop,
        client: Stream,
        peer: object,
        *,
        routes: Routes,
        events: ConnectEvents,
        timeout: float,
    ) -> None:
        super().__init__(loop, client, peer, resolver=NO_RESOLVER, events=events, timeout=timeout)
        self._routes = routes
        self._reader = HeadReader()
        self._seen = 0
        self.entry = self.host = ""
        self.port = 0
        self.watched = False

    @property
    def authority(self) -> str:
        """The target as ``HOST:PORT``."""
        return authority_of(self.host, self.port)

    def start(self) -> None:
        """Wait for the head; once it is there, connect. See `Opening.start`."""
        if self.entry:
            super().start()
        elif not self.watched:
            # No read before this: a head that is there already raises an edge.
            try:
                self._loop.add(self.client.fileno(), self)
            except OSError as e:
                self._events.not_connected(self, e)
            else:
                self.watched = True

    def ready(self, fd: int, events: int) -> None:
        """Go on with the head, or see `Opening.ready`."""
        if fd != self.client.fileno():
            super().ready(fd, events)
            return
        self._seen |= events
        if self._read():
            # Connecting opens a descriptor, which must not be in the middle of a turn's events.
            self._routes.start_soon(self)

    def watch_for(self, connection: RelayedConnection) -> None:
        """Have the loop send the client's events to a connection from now on."""
        # What came meanwhile is read when it begins; an end, if an event has announced one, too.
        if self._seen & NOT_PLAIN:
            connection.up.short_reads_lie = True
        self._loop.hand_over(self.client.fileno(), connection)

    def _read(self) -> bool:
        """Read what there is of the head; return whether the target is known by that."""
        reader = self._reader
        if reader is None:
            return False
        try:
            head = reader.read(self.client)
            self._reader = None
            self.early = reader.rest
            self.host, self.port = parse_request(head)
            self._resolver = self._routes.resolver_of(self, self.host, self.port)
        except BlockingIOError:
            return False
        except RequestError as e:
            self._reader = None
            self._routes.rejected(self, e)
            return False
        except OSError:
            self._reader = None
            self._routes.rejected(self, None)
            return False
        return True


class _NoResolver:
    """Of a client whose target is not known yet."""

    def find(self, then: Callable[[Resolved], None]) -> None:
        then(OSError(errno.EDESTADDRREQ, "no target"))

    def forget(self, then: Callable[[Resolved], None]) -> None:
        pass

    def failed(self, candidate: object) -> None:
        pass


NO_RESOLVER = _NoResolver()


class RejectedClient:
    """A client that gets a response and is closed.

    What it still sends is read and dropped, for a while: to close a socket on unread bytes would
    reset the connection, and the client might never see why it was rejected.
    """

    __slots__ = ("_client", "_deadline", "_done", "_left", "_loop", "_response")

    def __init__(
        self,
        loop: Loop,
        client: Stream,
        response: bytes,
        done: Callable[[RejectedClient], object],
    ) -> None:
        """Make one; `done` is called when the client is closed."""
        self._loop = loop
        self._client = client
        self._response = response
        self._done = done
        self._left = MAX_DROPPED
        self._deadline = loop.now + PARTING

    def begin(self, *, watched: bool) -> None:
        """Respond, and wait for the client to close; `watched` if the loop watches it already."""
        if not self._respond():
            self.close()
            return
        try:
            if watched:
                self._loop.hand_over(self._client.fileno(), self)
            else:
                self._loop.add(self._client.fileno(), self)
        except OSError:
            self.close()
            return
        self.ready(self._client.fileno(), 0)

    def part(self) -> None:
        """Respond and close at once: for clients above a limit, for whom no place is held."""
        if self._respond():
            with contextlib.suppress(OSError):
                self._client.recv_into(self._loop.buffer)
        self.close()

    def ready(self, _fd: int, _events: int) -> None:
        """Drop what the client sends; close when it has closed."""
        try:
            while count := self._client.recv_into(self._loop.buffer):
                self._left -= count
                if self._left < 0:
                    break
        except BlockingIOError:
            return
        except OSError:
            pass
        self.close()

    def check_time(self) -> None:
        """Close it if it takes too long. Called once a tick."""
        if self._loop.now >= self._deadline:
            self.close()

    def close(self) -> None:
        """Close it. Only the first call has an effect."""
        if self._client.fileno() >= 0:
            self._loop.forget(self._client.fileno())
            self._client.close()
            self._done(self)

    def _respond(self) -> bool:
        """Send the response and its end; return whether that is worth waiting for."""
        try:
            # Nothing was sent before: there is room for so few bytes.
            self._client.send(self._response, socket.MSG_NOSIGNAL)
            self._client.shutdown(socket.SHUT_WR)
        except OSError:
            return False
        return bool(self._response)
