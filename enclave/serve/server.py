"""Carries HTTP between clients and `Calls`, with a limit to everything a client can take up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from enclave.serve.connection import Connection, Limits
from enclave.serve.protocol import Answer, EndpointError, Request, called, check_host, error_answer

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from enclave.serve.calls import Calls
    from enclave.serve.readiness import Readiness

log = logging.getLogger(__name__)

SWEEP: Final = 1.0
"""Seconds between two looks for clients whose time is up: by so much limits may be exceeded."""

_JSON: Final = "application/json"


class Endpoint:
    """The endpoint, on one listening socket, on the running loop.

    Attributes:
        limits: what clients are given.
        connections: those that are open.
        draining: whether it is about to end.
    """

    def __init__(
        self,
        calls: Calls,
        readiness: Readiness,
        *,
        limits: Limits | None = None,
        check_hosts: bool = True,
        clock_drift: Callable[[], float | None] = lambda: None,
    ) -> None:
        """Make one.

        Args:
            calls: makes the calls to KMS.
            readiness: tells whether one would succeed.
            limits: what clients are given.
            check_hosts: for TCP, see `protocol.check_host`.
            clock_drift: tells how far the system clock is ahead of the NSM's, in seconds.
        """
        self.limits = limits or Limits()
        self.connections: set[Connection] = set()
        self.draining = False
        self.complaints = calls.complaints
        self._calls = calls
        self._readiness = readiness
        self._check_hosts = check_hosts
        self._clock_drift = clock_drift
        self._clients_refused = 0
        self._date = (0, "")

    async def start(self, listener: socket.socket) -> None:
        """Accept clients from now on."""
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._server = await self._loop.create_server(
            lambda: Connection(self), sock=listener, backlog=1024
        )
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let calls under way end."""
        self.draining = True
        self._server.close()
        for connection in tuple(self.connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._empty.clear()
                    await self._empty.wait()

    def close(self) -> None:
        """Cut what is left."""
        self._server.close()
        self._sweeper.cancel()
        if self.connections:
            log.warning("cutting %d clients that are still connected", len(self.connections))
        for connection in tuple(self.connections):
            connection.abort()
        self.complaints.catch_up()

    # What `connection.Owner` has

    def admit(self, connection: Connection) -> bool:
        """See `Owner.admit`."""
        admitted = len(self.connections) < self.limits.clients
        if not admitted:
            self._clients_refused += 1
            self.complaints.warning("refused a client: there are %d", len(self.connections))
        self.connections.add(connection)
        return admitted

    def release(self, connection: Connection) -> None:
        """See `Owner.release`."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    def answer(self, request: Request) -> Answer | Coroutine[Any, Any, Answer]:
        """See `Owner.answer`."""
        try:
            if self._check_hosts:
                check_host(request.headers.get("host"))
            if request.method == "GET":
                if request.target == "/healthz":
                    return self._health()
                if request.target == "/readyz":
                    return self._ready()
            call = called(request)
        except EndpointError as e:
            return self.refusal(e)
        return self._calls.answer_now(call) or self._calls.answer(call)

    def refusal(self, error: EndpointError) -> Answer:
        """See `Owner.refusal`; also for what is a request, but not for KMS."""
        log.info("refused a request: %s", error)
        return error_answer(error, self._calls.request_id())

    def failure(self, error: BaseException) -> Answer:
        """See `Owner.failure`."""
        log.error("internal error: %s", type(error).__name__)
        log.debug("internal error", exc_info=error)
        return error_answer(
            EndpointError("InternalFailure", "a bug in enclave-agent", status=500),
            self._calls.request_id(),
        )

    def date(self) -> str:
        """See `Owner.date`; made once a second."""
        now = int(time.time())
        if now != self._date[0]:
            self._date = now, http_date(now)
        return self._date[1]

    def _health(self) -> Answer:
        facts = {
            "status": "ok",
            "clients": len(self.connections),
            "clients_refused": self._clients_refused,
            "busy": self._calls.busy,
            **asdict(self._calls.counts),
        }
        return Answer(200, json.dumps(facts).encode(), self._calls.request_id(), _JSON)

    async def _ready(self) -> Answer:
        obstacle = await self._readiness.obstacle()
        facts: dict[str, Any] = {"status": "ready"}
        if obstacle is not None:
            facts = {"status": "not ready", "error": str(obstacle), "hint": obstacle.hint}
        if (drift := self._clock_drift()) is not None:
            facts["clock_drift_seconds"] = round(drift, 3)
        status = 200 if obstacle is None else 503
        return Answer(status, json.dumps(facts).encode(), self._calls.request_id(), _JSON)

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in tuple(self.connections):
            if connection.expires < now:
                connection.expire()
        self.complaints.catch_up()
        self._sweeper = self._loop.call_later(SWEEP, self._sweep)


def http_date(seconds: int) -> str:
    """Return a time since 1970 as a Date header has it (RFC 9110, section 5.6.7).

    `email.utils` would load 37 modules for it. The names are English: Python leaves LC_TIME alone.
    """
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(seconds))
