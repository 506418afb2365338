"""Serves HTTP clients in turns: one that sends much ahead does not keep the others waiting."""

from __future__ import annotations

import abc
import contextlib
import logging
import socket
import time
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any, Final

from enclave.serve.connection import RECEIVE, Connection, Limits
from enclave.serve.protocol import EndpointError, Request, Response, error_response, http_bytes
from vsock_proxy.service.async_server import SWEEP, SweepingServer
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger(__name__)

STEPS_PER_TURN: Final = 2
"""Steps of clients that have sent ahead, all of them together, in one turn of the loop."""

TURN_PAUSE: Final = 0.001
"""Seconds between two such turns. Without it they would take all of the loop's time, and the
threads that make calls would wait 5 ms for the interpreter lock each time they need it."""

REJECTED_HELD: Final = 8
"""Rejected clients whose connection stays open until they have read the response."""


class HttpServer(SweepingServer[Connection]):
    """Responds to requests on one listening socket, on the running loop.

    Args:
        request_id: makes the ids of responses.
        option: that sets the limit of clients.
        limits: the limits of clients.
        sweep: see `SweepingServer`.

    Attributes:
        limits: the limits of clients.
        receive_buffer: see `connection.Server`.
        request_id: makes the ids of responses.
    """

    def __init__(
        self,
        request_id: Callable[[], str],
        *,
        option: str,
        limits: Limits | None = None,
        sweep: float = SWEEP,
    ) -> None:
        self.limits = limits or Limits()
        super().__init__(log, clients=self.limits.clients, option=option, sweep=sweep)
        self.receive_buffer = bytearray(RECEIVE)
        self.request_id = request_id
        self._invalid = Throttle(log, time.monotonic)
        self._waiting: OrderedDict[Connection, None] = OrderedDict()  # for their turn
        self._turn_due = False
        self._rejected: deque[socket.socket] = deque()
        self._date = (0, "")

    def accept_from(self, listener: socket.socket) -> None:
        """See `AsyncServer.accept_from`."""
        listener.listen(1024)
        super().accept_from(listener)

    def close(self) -> None:
        """See `AsyncServer.close`."""
        self._release_rejected(0)
        if self.connections:
            log.warning("aborting %d clients that are still connected", len(self.connections))
        super().close()
        self._invalid.catch_up()

    def connection(self) -> Connection:
        """See `SweepingServer.connection`."""
        return Connection(self)

    def reject(self, client: socket.socket) -> None:
        """Respond to a client that is one too many, without a connection of its own."""
        self._release_rejected(REJECTED_HELD - 1)
        error = EndpointError("ServiceUnavailable", "too many clients are connected", status=503)
        response = self.error(error)
        with contextlib.suppress(OSError):
            client.setblocking(False)  # noqa: FBT003 (the standard library's signature)
            client.send(http_bytes(response, date=self.date(), close=True))
            client.shutdown(socket.SHUT_WR)
        self._rejected.append(client)

    def _release_rejected(self, keep: int) -> None:
        while len(self._rejected) > keep:
            self._rejected.popleft().close()

    def sweep(self) -> None:
        """See `SweepingServer.sweep`."""
        if not self.rejected_now:
            self._release_rejected(0)
        super().sweep()
        self._invalid.catch_up()

    # The methods of `connection.Server`.

    def release(self, connection: Connection) -> None:
        """See `AsyncServer.release`."""
        super().release(connection)
        # It may have come and gone faster than turns are taken.
        self._waiting.pop(connection, None)

    @abc.abstractmethod
    def respond(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """See `Server.respond`."""

    def error(self, error: EndpointError) -> Response:
        """Return the response to a request that is rejected, in the words of what is served."""
        return error_response(error, self.request_id())

    def schedule(self, connection: Connection) -> None:
        """See `Server.schedule`. Clients take turns, however much each has sent ahead."""
        connection.scheduled = True
        self._waiting[connection] = None
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_later(TURN_PAUSE, self._take_turns)

    def _take_turns(self) -> None:
        for _ in range(min(STEPS_PER_TURN, len(self._waiting))):
            connection, _ = self._waiting.popitem(last=False)
            connection.scheduled = False
            try:
                connection.advance()  # which may schedule it again, behind the others
            except Exception as e:  # noqa: BLE001 (a bug of ours must not stop the others' turns)
                self.failure(e)
                connection.abort()
        self._turn_due = bool(self._waiting)
        if self._turn_due:
            self._loop.call_later(TURN_PAUSE, self._take_turns)

    def rejection(self, error: EndpointError) -> Response:
        """See `Server.rejection`; also for a valid request that this server does not serve."""
        if log.isEnabledFor(logging.INFO):
            self._invalid.warning("rejected a request: %s", error)
        return self.error(error)

    def failure(self, error: BaseException) -> Response:
        """See `Server.failure`."""
        self._warnings.warning("internal error: %s", type(error).__name__)
        log.debug("internal error", exc_info=error)
        return self.error(EndpointError("InternalFailure", "a bug in enclave-agent", status=500))

    def date(self) -> str:
        """See `Server.date`; made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, http_date(now)
        return self._date[1]


def http_date(seconds: int) -> str:
    """Return a time since 1970 as a Date header has it (RFC 9110, section 5.6.7).

    `email.utils` would load 37 modules for it. The names are English: Python leaves LC_TIME alone.
    """
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))
