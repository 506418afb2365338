"""One client of the endpoint: what it sends, what it is sent, and how long that may take."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from enclave.serve.http_reader import RequestReader
from enclave.serve.protocol import Answer, EndpointError, Request, http_bytes

if TYPE_CHECKING:
    from collections.abc import Coroutine

_NEVER: Final = float("inf")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients are given. Times in seconds.

    Attributes:
        clients: connections at the same time.
        idle_timeout: between an answer and the next request.
        request_timeout: for a whole request, from its first byte.
        write_timeout: for a client to take what is written.
        linger_timeout: for a client that was refused to stop sending.
    """

    clients: int = 256
    idle_timeout: float = 120.0
    request_timeout: float = 10.0
    write_timeout: float = 10.0
    linger_timeout: float = 2.0


class Owner(Protocol):
    """Who answers what a connection reads; `server.Endpoint`.

    Attributes:
        limits: what clients are given.
        draining: whether each answer shall be its connection's last.
    """

    limits: Limits
    draining: bool

    def admit(self, connection: Connection) -> bool:
        """Take a new client in, or tell that there are too many."""
        ...

    def release(self, connection: Connection) -> None:
        """A client has gone."""
        ...

    def answer(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """The answer to a request, or, where it is not at hand, what will have it."""
        ...

    def refusal(self, error: EndpointError) -> Answer:
        """The answer to what is no request."""
        ...

    def failure(self, error: BaseException) -> Answer:
        """The answer where there is a bug of ours."""
        ...

    def date(self) -> str:
        """The Date header."""
        ...


State = Literal["idle", "reading", "calling", "writing", "closing"]


class Connection(asyncio.Protocol):
    """One client: its requests are answered one after the other.

    Attributes:
        expires: loop time at which what it is doing now has taken too long.
    """

    def __init__(self, owner: Owner) -> None:
        self.expires = _NEVER
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader()
        self._state: State | None = None
        self._task: asyncio.Task[Answer] | None = None
        self._request: Request | None = None
        self._full = False  # it does not take what is written
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport: asyncio.Transport = transport  # type: ignore[assignment] # it is one
        if not self._owner.admit(self):
            self._refuse(
                EndpointError("ServiceUnavailable", "too many clients are connected", status=503)
            )
        self._settle()

    def connection_lost(self, _exc: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        self._owner.release(self)
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        if self._closing:
            return  # What follows a refusal is read only so that the refusal arrives.
        self._reader.feed(data)
        if self._reader.expects_continue:
            self._reader.expects_continue = False
            self._transport.write(_CONTINUE)
        self._advance()

    def eof_received(self) -> bool:
        """See `asyncio.Protocol`. A client that stops sending has gone, whole requests or not."""
        if self._reader.reading and self._task is None and not self._closing:
            self._refuse(
                EndpointError("MalformedHttpRequestException", "the request ended in the middle")
            )
        return False

    def pause_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._full = True
        self._settle()

    def resume_writing(self) -> None:
        """See `asyncio.BaseProtocol`."""
        self._full = False
        self._advance()

    def finish(self) -> None:
        """Close as soon as no call is under way."""
        if self._task is None and not self._closing:
            self._close()

    def expire(self) -> None:
        """Its time is up."""
        if self._state == "reading":
            self._refuse(
                EndpointError(
                    "RequestTimeoutException", "the request did not arrive in time", status=408
                )
            )
        elif self._state == "idle":
            self._close()
        else:
            self._transport.abort()

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()

    def _advance(self) -> None:
        """Answer what has been read, as far as that goes now."""
        requests = self._reader.requests
        while self._task is None and not self._full and not self._closing:
            if requests:
                self._request = requests.popleft()
                answer = self._owner.answer(self._request)
                if isinstance(answer, Answer):
                    self._send(answer)
                else:
                    self._task = self._loop.create_task(answer)
                    self._task.add_done_callback(self._called)
            elif self._reader.error is not None:
                self._refuse(self._reader.error)
            else:
                break
        self._settle()

    def _called(self, task: asyncio.Task[Answer]) -> None:
        self._task = None
        if task.cancelled():
            return
        error = task.exception()
        answer = task.result() if error is None else self._owner.failure(error)
        if not self._transport.is_closing():
            self._send(answer)
            self._advance()

    def _send(self, answer: Answer) -> None:
        request, self._request = self._request, None
        close = request is None or not request.keep_alive or self._owner.draining
        if request is not None and request.method == "HEAD":
            answer = replace(answer, body=b"")
        self._transport.write(http_bytes(answer, date=self._owner.date(), close=close))
        self._state = None  # whatever comes next gets its full time
        if close:
            self._close()

    def _refuse(self, error: EndpointError) -> None:
        """Answer what is not a request, and close."""
        self._request = None
        self._send(self._owner.refusal(error))

    def _close(self) -> None:
        """Close once all is written, and in a way that lets the client read it: a connection with
        unread bytes is reset, which throws away what was written.
        """
        self._closing = True
        self._reader.requests.clear()
        if self._reader.reading or self._reader.error is not None:
            if not self._transport.is_closing():
                self._transport.write_eof()
        else:
            self._transport.close()
        self._settle()

    def _settle(self) -> None:
        """Start the time for what it is doing now, and read on or not."""
        limits = self._owner.limits
        state: State
        if self._closing:
            state, seconds = "closing", limits.linger_timeout
        elif self._full:
            state, seconds = "writing", limits.write_timeout
        elif self._task is not None:
            state, seconds = "calling", _NEVER  # ends by its own deadline
        elif self._reader.reading:
            state, seconds = "reading", limits.request_timeout
        else:
            state, seconds = "idle", limits.idle_timeout
        if state != self._state:
            self._state = state
            self.expires = self._loop.time() + seconds
        if self._transport.is_closing():
            return
        # A client may send ahead, but not more than was read at once.
        if self._full or (self._reader.requests and not self._closing):
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()
