"""One client: its request, its response, and the time it has for both."""

from __future__ import annotations

import asyncio
import email.utils
from typing import TYPE_CHECKING, Final, Protocol

from parent.http_server.protocol import Exchange
from vsock_proxy.service.async_server import AsyncConnection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from parent.http_server.protocol import Request, Response


MAX_EXCESS: Final = 1 << 20
"""Bytes that a client may send after its request."""


class Server(Protocol):
    """What a connection needs of its server; `server.HttpServer`."""

    def release(self, connection: Connection) -> None:
        """Note that a client has disconnected."""
        ...

    def respond(self, asked: Request | Response) -> Response:
        """Return the response to a request; an invalid one comes with its response."""
        ...

    @property
    def methods(self) -> Sequence[str]:
        """Methods of requests that are allowed."""
        ...

    def expired(self) -> None:
        """Note that a client sent no request in its time."""
        ...


class Connection(AsyncConnection, asyncio.Protocol):
    """One client.

    Args:
        server: responds.
        cid: see `protocol.Request.cid`.
        timeout: seconds that the client has for everything.

    Attributes:
        cid: see `protocol.Request.cid`.
    """

    def __init__(self, server: Server, cid: int | None, timeout: float) -> None:
        super().__init__()
        self.cid = cid
        self._server = server
        self._timeout = timeout
        self._exchange = Exchange(cid, server.methods)
        self._timer: asyncio.TimerHandle | None = None
        self._responded = self._half_closed = False
        self._excess = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        self._timer = asyncio.get_running_loop().call_later(self._timeout, self._expire)

    def connection_lost(self, _error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._timer is not None:
            self._timer.cancel()
        self._server.release(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if not self._responded:
            self._feed(data)
            return
        # What follows the request is read only so that the response arrives.
        self._excess += len(data)
        if self._excess > MAX_EXCESS:
            self.abort()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. A client may half-close after its request."""
        self._half_closed = True
        if not self._responded:
            self._feed(b"")
        return False

    def _feed(self, data: bytes) -> None:
        asked = self._exchange.feed(data)
        if asked is None or self.transport is None:
            return
        self._responded = True
        response = self._server.respond(asked)
        date = email.utils.formatdate(usegmt=True)
        self.transport.write(self._exchange.encode(response, date=date))
        if not self._half_closed:
            # Not closed: with unread bytes that would reset the connection, response and all.
            self.transport.write_eof()

    def _expire(self) -> None:
        if not self._responded:
            self._server.expired()
        self.abort()
