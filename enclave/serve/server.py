"""The endpoint: calls of KMS, and the pages ``/healthz``, ``/readyz`` and ``/metrics``."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from enclave.attested_tls.binding import PATH
from enclave.serve.http_server import HttpServer
from enclave.serve.metrics import Metrics
from enclave.serve.protocol import EndpointError, Request, Response, check_host, read_call
from vsock_proxy.service.async_server import SWEEP
from vsock_proxy.service.exposition import CONTENT_TYPE, Family, Sample, single

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping

    from enclave.serve.calls import Calls
    from enclave.serve.connection import Limits
    from enclave.serve.readiness import Readiness

    Page = Callable[[], Response | Coroutine[Any, Any, Response]]

_JSON: Final = "application/json"


class EndpointServer(HttpServer):
    """The endpoint on one listening socket, on the running loop.

    Args:
        calls: makes the calls to KMS.
        readiness: whether one would succeed.
        limits: the limits of clients.
        check_hosts: for TCP, see `protocol.check_host`.
        clock_drift: returns how far the system clock is ahead of the NSM's, in seconds.
        process: which of the processes on this socket it is, and of how many.
        document: returns status, media type and body for a query of `binding.PATH`, the attestation
            document of a program that ends TLS itself; None: there is no such path.
        sweep: see `SweepingServer`.

    Attributes:
        pages: what GET and HEAD return, by path, whatever the query.
        metrics: what ``/metrics`` has; a part of `serve` adds its own source.
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
        sweep: float = SWEEP,
    ) -> None:
        super().__init__(calls.request_id, option="--max-clients", limits=limits, sweep=sweep)
        self._process, self._processes = process
        self._calls = calls
        self._readiness = readiness
        self._check_hosts = check_hosts
        self._clock_drift = clock_drift
        self._document = document
        self.metrics = Metrics()
        self.pages: Mapping[str, Page] = {
            "/healthz": self._health,
            "/readyz": self._ready,
            "/metrics": self._numbers,
        }

    def close(self) -> None:
        """See `AsyncServer.close`."""
        super().close()
        self._calls.warnings.catch_up()

    def sweep(self) -> None:
        """See `SweepingServer.sweep`."""
        super().sweep()
        self._calls.warnings.catch_up()

    def respond(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """See `connection.Server.respond`."""
        try:
            if self._check_hosts:
                check_host(request.headers.get("host"))
            if request.method in ("GET", "HEAD"):
                path, _, query = request.target.partition("?")
                if page := self.pages.get(path):
                    return page()
                if path == PATH and self._document is not None:
                    return self._attested(self._document(query))
            call = read_call(request)
            self._calls.check_region(call)
        except EndpointError as e:
            return self.rejection(e)
        return self._calls.respond_now(call) or self._calls.respond(call)

    def families(self) -> Iterable[Family]:
        """Return the numbers of clients and of calls under way; see `metrics.Source`."""
        for name, text, value in (
            ("clients", "Connected at this moment.", len(self.connections)),
            ("busy_calls", "Being made, or waiting for a thread.", self._calls.busy),
        ):
            yield single(f"enclave_agent_{name}", "gauge", text, value)
        text = "Clients and calls beyond a limit."
        counts = {"clients": self.rejected, "calls": self._calls.counts.throttled}
        samples = [Sample(number, (("limit", limit),)) for limit, number in counts.items()]
        yield Family("enclave_agent_rejected_total", "counter", text, samples)

    async def _numbers(self) -> Response:
        text = await self.metrics.text()
        return Response(200, text, self.request_id(), CONTENT_TYPE)

    def _health(self) -> Response:
        facts: dict[str, Any] = {
            "status": "ok",
            "clients": len(self.connections),
            "clients_rejected": self.rejected,
            "busy": self._calls.busy,
            **asdict(self._calls.counts),
        }
        if self._processes > 1:  # all counts are this one's
            facts |= {"process": self._process, "processes": self._processes}
        return Response(200, json.dumps(facts).encode(), self.request_id(), _JSON)

    async def _ready(self) -> Response:
        obstacle = await self._readiness.obstacle()
        facts: dict[str, Any] = {"status": "ready"}
        if obstacle is not None:
            facts = {"status": "not ready", "error": str(obstacle), "hint": obstacle.hint}
        if (drift := self._clock_drift()) is not None:
            facts["clock_drift_seconds"] = round(drift, 3)
        status = 200 if obstacle is None else 503
        return Response(status, json.dumps(facts).encode(), self.request_id(), _JSON)

    async def _attested(self, document: Awaitable[tuple[int, str, bytes]]) -> Response:
        status, media_type, body = await document
        return Response(status, body, self.request_id(), media_type)
