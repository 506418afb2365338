"""One client of the endpoint: its requests, its responses, and the time for each.

A turn of the event loop is short whatever a client sends: a connection takes one step at a time,
which parses what was read or responds to one request, and further steps wait for their turn among
those of all clients. Meanwhile nothing more is read from it.
"""

from __future__ import annotations

import asyncio
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from enclave.serve.http_reader import RequestReader
from enclave.serve.protocol import EndpointError, Request, Response, http_bytes
from vsock_proxy.service.async_server import NEVER, AsyncConnection

if TYPE_CHECKING:
    from collections.abc import Coroutine

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

RECEIVE: Final = 16_384
"""Bytes read from a client at once, and so the most that it can have sent ahead."""

_PIECE: Final = 1_024
"""Bytes parsed before looking whether there is a request: 25 of the shortest."""

_PIECES: Final = RECEIVE // _PIECE
"""Pieces parsed in one step: all that was read, unless there is a request in it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of clients. Times in seconds.

    Attributes:
        clients: connections at the same time.
        idle_timeout: between a response and the next request.
        request_timeout: for a whole request, from its first byte.
        write_timeout: for a client to read what is written.
        linger_timeout: for a client that was rejected to stop sending.
    """

    clients: int = 256
    idle_timeout: float = 120.0
    request_timeout: float = 10.0
    write_timeout: float = 10.0
    linger_timeout: float = 2.0


class Server(Protocol):
    """What a connection needs of its server; `server.EndpointServer`.

    Attributes:
        limits: the limits of clients.
        draining: whether each response is its connection's last.
        receive_buffer: of `RECEIVE` bytes, for whichever connection is being read.
    """

    limits: Limits
    draining: bool
    receive_buffer: bytearray

    def release(self, connection: Connection) -> None:
        """Note that a client has disconnected."""
        ...

    def schedule(self, connection: Connection) -> None:
        """Have `Connection.advance` called in a later turn of the loop."""
        ...

    def respond(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """Return the response to a request, or, if that takes a call, its coroutine."""
        ...

    def rejection(self, error: EndpointError) -> Response:
        """Return the response to an invalid request."""
        ...

    def failure(self, error: BaseException) -> Response:
        """Return the response after an internal error."""
        ...

    def date(self) -> str:
        """Return the Date header."""
        ...


State = Literal["idle", "reading", "calling", "writing", "closing"]


class Connection(AsyncConnection, asyncio.BufferedProtocol):
    """One client: it gets its responses one after the other, in the order of its requests.

    Args:
        server: responds.

    Attributes:
        scheduled: for the server: whether it waits for its turn.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.scheduled = False
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader()
        self._received = b""  # and not parsed yet, from `_at` on
        self._at = 0
        self._state: State | None = None
        self._task: asyncio.Task[Response] | None = None
        self._request: Request | None = None
        self._full = False  # the client does not read what is written
        self._ended = False  # the client sends no more, but may read (half-closed)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        super().connection_made(transport)
        self._settle()

    def connection_lost(self, _exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`. What the client has requested is dropped."""
        self.closing = True
        self._drop_requests()
        if self._task is not None:
            self._task.cancel()
        self._server.release(self)

    def get_buffer(self, _sizehint: int) -> bytearray:
        """See `asyncio.BufferedProtocol`."""
        return self._server.receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        if self.closing:
            return  # What follows a rejection is read only so that the response arrives.
        received = bytes(memoryview(self._server.receive_buffer)[:nbytes])
        self._received = self._received[self._at :] + received
        self._at = 0
        if not self.scheduled:
            self.advance()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. A client that sends no more still gets its responses."""
        if self.closing:
            return False
        self._ended = True
        if not self.scheduled:
            self.advance()
        return not self.closing

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._full = True
        self._settle()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._full = False
        self._settle()

    def finish(self) -> None:
        """See `AsyncConnection.finish`."""
        if self._task is None and not self.closing:
            self._close()

    def expire(self) -> None:
        """Close, or abort: its time is over."""
        if self._state == "reading":
            self._reject(
                EndpointError(
                    "RequestTimeoutException", "the request did not arrive in time", status=408
                )
            )
        elif self._state == "idle":
            self._close()
        else:
            self.abort()

    def look(self) -> None:
        """See `AsyncConnection.look`: that the client has gone, while nothing is read from it."""
        if self.transport is None or self._task is None:
            return
        if self.transport.is_reading() and not self._ended:
            return
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)
        if poll.poll(0):  # POLLERR or POLLHUP: reset, or, of a UNIX socket, closed
            self.abort()

    def advance(self) -> None:
        """Take one step, if there is one to take."""
        if self._may_step():
            self._step()
        self._settle()

    def _may_step(self) -> bool:
        """Return whether `_step` has something to do."""
        if self._task is not None or self._full or self.closing:
            return False
        return bool(self._reader.requests or self._received or self._reader.error or self._ended)

    def _step(self) -> None:
        """Parse until there is a request, and respond to it; or reject, or close."""
        reader = self._reader
        if not reader.requests:
            self._parse()
        if reader.requests:
            self._request = reader.requests.pop(0)
            response = self._server.respond(self._request)
            if isinstance(response, Response):
                self._send(response)
            else:
                self._task = self._loop.create_task(response)
                self._task.add_done_callback(self._called)
        elif reader.error is not None:
            self._reject(reader.error)
        elif self._ended and not self._received:
            if reader.reading:
                self._reject(
                    EndpointError(
                        "MalformedHttpRequestException", "the request ended in the middle"
                    )
                )
            else:
                self._close()

    def _parse(self) -> None:
        reader, received = self._reader, self._received
        for _ in range(_PIECES):
            if self._at >= len(received) or reader.requests or reader.error is not None:
                break
            reader.feed(received[self._at : self._at + _PIECE])
            self._at += _PIECE
        if self._at >= len(received) or reader.error is not None:
            self._received, self._at = b"", 0
        if reader.expects_continue and not self._received and self.transport is not None:
            reader.expects_continue = False
            self.transport.write(_CONTINUE)

    def _called(self, task: asyncio.Task[Response]) -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        response = task.result() if error is None else self._server.failure(error)
        if not self.closing:
            self._send(response)
            self._settle()

    def _send(self, response: Response) -> None:
        request, self._request = self._request, None
        close = request is None or not request.keep_alive or self._server.draining
        close = close or (self._ended and not self._received and not self._reader.requests)
        data = http_bytes(response, date=self._server.date(), close=close)
        if request is not None and request.method == "HEAD":
            # Its length is told all the same (RFC 9110, section 8.6).
            data = data[: len(data) - len(response.body)]
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data)
        self._state = None  # the next state gets its full time
        if close:
            self._close()

    def _reject(self, error: EndpointError) -> None:
        """Respond to what is not a valid request, and close."""
        self._request = None
        self._send(self._server.rejection(error))

    def _close(self) -> None:
        """Close once all is written, and such that the client can read it."""
        unread = self._reader.reading or self._reader.error is not None or bool(self._received)
        self.closing = True
        self._drop_requests()
        self.close_once_read(ended=self._ended or not unread)
        self._settle()

    def _drop_requests(self) -> None:
        self._reader.requests.clear()
        self._received, self._at = b"", 0

    def _settle(self) -> None:
        """Start the time for what it is doing now; read on or not; ask for the next turn."""
        limits = self._server.limits
        state: State
        if self.closing:
            state, seconds = "closing", limits.linger_timeout
        elif self._full:
            state, seconds = "writing", limits.write_timeout
        elif self._task is not None:
            state, seconds = "calling", NEVER  # ends by its own deadline
        elif self._reader.reading:
            state, seconds = "reading", limits.request_timeout
        else:
            state, seconds = "idle", limits.idle_timeout
        if state != self._state:
            self._state = state
            self.expires = self._loop.time() + seconds
        if self._may_step() and not self.scheduled:
            self._server.schedule(self)
        if self.transport is None or self.transport.is_closing() or self._ended:
            return
        # A client may send ahead, but not more than was read at once.
        if not self.closing and (self._full or self._received or self._reader.requests):
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
