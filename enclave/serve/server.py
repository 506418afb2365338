"""Serves HTTP clients of the endpoint, with a limit on everything a client can take up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections import OrderedDict, deque
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from enclave.attested_tls.binding import PATH
from enclave.serve.connection import RECEIVE, Connection, Limits
from enclave.serve.metrics import Metrics
from enclave.serve.protocol import (
    EndpointError,
    Request,
    Response,
    check_host,
    error_response,
    http_bytes,
    read_call,
)
from vsock_proxy.service.acceptor import AsyncAcceptor, serve_accepted
from vsock_proxy.service.exposition import CONTENT_TYPE, Family, Sample, single
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable

    from enclave.serve.calls import Calls
    from enclave.serve.readiness import Readiness

log = logging.getLogger(__name__)

SWEEP: Final = 1.0
"""Seconds between two looks for clients whose time is over: by so much limits may be exceeded."""

STEPS_PER_TURN: Final = 2
"""Steps of clients that have sent ahead, all of them together, in one turn of the loop."""

TURN_PAUSE: Final = 0.001
"""Seconds between two such turns. Without it they would take all of the loop's time, and the
threads that make calls would wait 5 ms for the interpreter lock each time they need it."""

REJECTED_HELD: Final = 8
"""Rejected clients whose connection stays open until they have read the response."""

_REJECTIONS_PER_SWEEP: Final = 500
"""Clients rejected at 0.05 ms each; more wait in the kernel's backlog."""

_JSON: Final = "application/json"


class EndpointServer:
    """The endpoint on one listening socket, on the running loop.

    Args:
        calls: makes the calls to KMS.
        readiness: tells whether one would succeed.
        limits: the limits of clients.
        check_hosts: for TCP, see `protocol.check_host`.
        clock_drift: returns how far the system clock is ahead of the NSM's, in seconds.
        process: which of the processes on this socket it is, and of how many.
        document: returns status, media type and body for a query of `binding.PATH`, the attestation
            document of a program that ends TLS itself; None: there is no such path.
        metrics: what ``/metrics`` tells; default: nothing yet.

    Attributes:
        limits: the limits of clients.
        connections: those that are open.
        draining: whether each response is its connection's last.
        metrics: what ``/metrics`` tells; a part of `serve` adds its own source.
        receive_buffer: see `connection.Server`.
    """

    def __init__(
        self,
        calls: Calls,
        readiness: Readiness,
        *,
        limits: Limits | None = None,
        check_hosts: bool = True,
        clock_drift: Callable[[], float | None] = lambda: None,
        process: tuple[int, int] = (0, 1),
        document: Callable[[str], Awaitable[tuple[int, str, bytes]]] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._process, self._processes = process
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.draining = False
        self.receive_buffer = bytearray(RECEIVE)
        self._calls = calls
        self._readiness = readiness
        self._check_hosts = check_hosts
        self._clock_drift = clock_drift
        self._document = document
        self.metrics = metrics or Metrics()
        self._warnings = Throttle(log, time.monotonic)
        self._invalid = Throttle(log, time.monotonic)
        # All of these lines are the same.
        self._rejection_warnings = Throttle(log, time.monotonic, burst=1)
        self._waiting: OrderedDict[Connection, None] = OrderedDict()  # for their turn
        self._turn_due = False
        self._rejected: deque[socket.socket] = deque()
        self._rejections = self._rejections_now = 0
        self._cannot_accept = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._date = (0, "")

    async def start(self, listener: socket.socket) -> None:
        """Accept clients from now on."""
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        listener.listen(1024)
        self._listener = listener
        self._acceptor = AsyncAcceptor(listener, self)
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let calls under way end."""
        self.draining = True
        self._stop_accepting()
        for connection in tuple(self.connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._empty.clear()
                    await self._empty.wait()

    def close(self) -> None:
        """Abort what is left."""
        self._stop_accepting()
        self._sweeper.cancel()
        self._release_rejected(0)
        if self.connections:
            log.warning("aborting %d clients that are still connected", len(self.connections))
        for connection in tuple(self.connections):
            connection.abort()
        self._catch_up()

    def _stop_accepting(self) -> None:
        if self._listener.fileno() != -1:
            self._acceptor.close()
            self._listener.close()

    # The methods of `acceptor.AsyncAcceptEvents`.

    def may_accept(self) -> float:
        """See `AsyncAcceptEvents.may_accept`."""
        return 0 if self._rejections_now < _REJECTIONS_PER_SWEEP else SWEEP / 10

    def accepted(self, client: socket.socket, _peer: object) -> None:
        """See `AsyncAcceptEvents.accepted`."""
        self._cannot_accept = False
        if len(self.connections) >= self.limits.clients:
            self._reject(client)
            return
        connection = Connection(self)
        self.connections.add(connection)
        serve_accepted(client, lambda: connection, lambda: self.release(connection), self._tasks)

    def accept_failed(self, error: OSError) -> None:
        """See `AsyncAcceptEvents.accept_failed`. Logged once until accepting succeeds."""
        if not self._cannot_accept:
            self._cannot_accept = True
            self._warnings.warning(
                "cannot accept clients: %s; retrying every second", error.strerror
            )

    def _reject(self, client: socket.socket) -> None:
        """Respond to a client that is one too many, without a connection of its own."""
        self._rejections += 1
        self._rejections_now += 1
        self._release_rejected(REJECTED_HELD - 1)
        self._rejection_warnings.warning(
            "rejected a client: limit of %d connections reached (--max-clients)",
            self.limits.clients,
        )
        error = EndpointError("ServiceUnavailable", "too many clients are connected", status=503)
        response = error_response(error, self._calls.request_id())
        with contextlib.suppress(OSError):
            client.setblocking(False)  # noqa: FBT003 (the standard library's signature)
            client.send(http_bytes(response, date=self.date(), close=True))
            client.shutdown(socket.SHUT_WR)
        self._rejected.append(client)

    def _release_rejected(self, keep: int) -> None:
        while len(self._rejected) > keep:
            self._rejected.popleft().close()

    # The methods of `connection.Server`.

    def release(self, connection: Connection) -> None:
        """See `Server.release`."""
        self.connections.discard(connection)
        # It may have come and gone faster than turns are taken.
        self._waiting.pop(connection, None)
        if not self.connections:
            self._empty.set()

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

    def respond(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """See `Server.respond`."""
        try:
            if self._check_hosts:
                check_host(request.headers.get("host"))
            if request.method == "GET":
                if request.target == "/healthz":
                    return self._health()
                if request.target == "/readyz":
                    return self._ready()
                path, _, query = request.target.partition("?")
                if path == PATH and self._document is not None:
                    return self._attested(self._document(query))
                if request.target == "/metrics":
                    return self._numbers()
            call = read_call(request)
            self._calls.check_region(call)
        except EndpointError as e:
            return self.rejection(e)
        return self._calls.respond_now(call) or self._calls.respond(call)

    def rejection(self, error: EndpointError) -> Response:
        """See `Server.rejection`; also for a request that is valid, but not one for KMS."""
        if log.isEnabledFor(logging.INFO):
            self._invalid.warning("rejected a request: %s", error)
        return error_response(error, self._calls.request_id())

    def failure(self, error: BaseException) -> Response:
        """See `Server.failure`."""
        self._warnings.warning("internal error: %s", type(error).__name__)
        log.debug("internal error", exc_info=error)
        return error_response(
            EndpointError("InternalFailure", "a bug in enclave-agent", status=500),
            self._calls.request_id(),
        )

    def date(self) -> str:
        """See `Server.date`; made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, http_date(now)
        return self._date[1]

    def families(self) -> Iterable[Family]:
        """Return the numbers of clients and of calls under way; see `metrics.Source`."""
        for name, text, value in (
            ("clients", "Connected at this moment.", len(self.connections)),
            ("busy_calls", "Being made, or waiting for a thread.", self._calls.busy),
        ):
            yield single(f"enclave_agent_{name}", "gauge", text, value)
        text = "Clients and calls beyond a limit."
        counts = {"clients": self._rejections, "calls": self._calls.counts.throttled}
        samples = [Sample(number, (("limit", limit),)) for limit, number in counts.items()]
        yield Family("enclave_agent_rejected_total", "counter", text, samples)

    async def _numbers(self) -> Response:
        text = await self.metrics.text()
        return Response(200, text, self._calls.request_id(), CONTENT_TYPE)

    def _health(self) -> Response:
        facts: dict[str, Any] = {
            "status": "ok",
            "clients": len(self.connections),
            "clients_rejected": self._rejections,
            "busy": self._calls.busy,
            **asdict(self._calls.counts),
        }
        if self._processes > 1:  # all counts are this one's
            facts |= {"process": self._process, "processes": self._processes}
        return Response(200, json.dumps(facts).encode(), self._calls.request_id(), _JSON)

    async def _ready(self) -> Response:
        obstacle = await self._readiness.obstacle()
        facts: dict[str, Any] = {"status": "ready"}
        if obstacle is not None:
            facts = {"status": "not ready", "error": str(obstacle), "hint": obstacle.hint}
        if (drift := self._clock_drift()) is not None:
            facts["clock_drift_seconds"] = round(drift, 3)
        status = 200 if obstacle is None else 503
        return Response(status, json.dumps(facts).encode(), self._calls.request_id(), _JSON)

    async def _attested(self, document: Awaitable[tuple[int, str, bytes]]) -> Response:
        status, media_type, body = await document
        return Response(status, body, self._calls.request_id(), media_type)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in tuple(self.connections):
            if connection.expires < now:
                connection.expire()
            else:
                connection.look()
        if not self._rejections_now:
            self._release_rejected(0)
        self._rejections_now = 0
        self._catch_up()
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    def _catch_up(self) -> None:
        for throttle in (
            self._warnings, self._invalid, self._rejection_warnings, self._calls.warnings,
        ):  # fmt: skip
            throttle.catch_up()


def http_date(seconds: int) -> str:
    """Return a time since 1970 as a Date header has it (RFC 9110, section 5.6.7).

    `email.utils` would load 37 modules for it. The names are English: Python leaves LC_TIME alone.
    """
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))
