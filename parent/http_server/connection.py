"""One client: its question, its answer, and the time it has for both."""

from __future__ import annotations

import asyncio
import email.utils
from typing import TYPE_CHECKING, Protocol

from parent.http_server.protocol import Exchange
from vsock_proxy.net.peers import peer_cid

if TYPE_CHECKING:
    from parent.http_server.protocol import Request, Response


class Owner(Protocol):
    """Who answers; `server.HttpServer`."""

    def admit(self, connection: Connection) -> bool:
        """Take a new client in, or tell that there is no place."""
        ...

    def release(self, connection: Connection) -> None:
        """A client has gone, taken in or not."""
        ...

    def respond(self, asked: Request | Response) -> Response:
        """Answer what was read: a question, or what is none and comes with its answer."""
        ...

    def expired(self) -> None:
        """A client asked nothing in its time."""
        ...


class Connection(asyncio.Protocol):
    """One client.

    Attributes:
        cid: see `protocol.Request.cid`.
    """

    def __init__(self, owner: Owner, timeout: float) -> None:
        """Make one that lasts `timeout` seconds at most."""
        self.cid: int | None = None
        self._owner = owner
        self._timeout = timeout
        self._timer: asyncio.TimerHandle | None = None
        self._answered = self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # it is one
        self.cid = peer_cid(
            transport.get_extra_info("socket"), transport.get_extra_info("peername")
        )
        self._exchange = Exchange(self.cid)
        if self._owner.admit(self):
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._timeout, self._expire)
        else:
            self.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if self._timer is not None:
            self._timer.cancel()
        self._owner.release(self)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        # What follows the question is read only so that the answer arrives.
        if not self._answered:
            self._feed(data)

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. Who has asked may end its sending, and still be answered."""
        self._half_closed = True
        if not self._answered:
            self._feed(b"")
        return False

    def abort(self) -> None:
        """End now."""
        self._transport.abort()

    def _feed(self, data: bytes) -> None:
        asked = self._exchange.feed(data)
        if asked is None:
            return
        self._answered = True
        response = self._owner.respond(asked)
        date = email.utils.formatdate(usegmt=True)
        self._transport.write(self._exchange.answer(response, date=date))
        if not self._half_closed:
            # Not closed: with unread bytes that would reset the connection, answer and all.
            self._transport.write_eof()

    def _expire(self) -> None:
        if not self._answered:
            self._owner.expired()
        self.abort()
