"""The page at ``/``, ``/metrics``, ``/healthz``, ``/livez`` and ``/status``."""

from __future__ import annotations

import json
import logging
import re
import socket
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from parent.component import ComponentStatus
from parent.http_server import HttpServer, Limits, Request, Response, message
from parent.http_server.hosts import may_be_named
from parent.operations import page
from parent.operations.control import control_server
from parent.operations.enclave_metrics import EnclaveMetrics
from parent.operations.history import INTERVAL, History
from parent.operations.metrics import CONTENT_TYPE, Metrics
from parent.operations.state import health, state
from vsock_proxy.net.addresses import TcpAddress, without_brackets
from vsock_proxy.service.threads import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from parent.component import Component
    from parent.operations.settings import OperationsSettings

log = logging.getLogger(__name__)

_LIMITS = Limits(connections=32, timeout=15.0, per_second=20)
"""Scrapers wait for 10 s by default; there are few of them, and metrics take milliseconds."""

_PAGE_KEPT: Final = 1.0
"""Seconds for which a page is sent again, at least."""

_PAGE_SHARE: Final = 0.05
"""Of the time, at most, that pages are made in: with 256 forwards one takes 0.4 s, and whoever may
connect may request 20 a second. The relay is in the same process."""

_ENCLAVE_METRICS: Final = re.compile(r"/enclaves/([A-Za-z0-9._-]{1,63})/metrics")

_HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class OperationsService:
    """See `parent.component.Component`.

    ``/``: the page for people, of the same state as ``/status``.
    ``/healthz``: 200 if every component is healthy, otherwise 503; with the status of each.
    ``/livez``: 200 if this process responds, whatever its components do.
    ``/metrics``: docs/parent.md lists them.
    ``/enclaves/NAME/metrics``: those of the agent in an enclave.
    ``/status``: 200, with all of the state, for `enclave-parent status`.

    All of them reject other names in the Host header than those in `hosts.may_be_named`, with 421.

    Attributes:
        settings: where it listens.
        server: for its address.
    """

    name = "operations"

    def __init__(
        self,
        settings: OperationsSettings,
        components: Callable[[], Sequence[Component]],
        *,
        monotonic: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make one; `components` is called for each request."""
        self.settings = settings
        self._components = components
        self._monotonic = monotonic
        self._now = now
        self._metrics = Metrics(self._components, now=now)
        self._history = History()
        self._page = b""
        self._page_kept = (0.0, 0.0)
        self._host = socket.gethostname()
        self._hosts = frozenset(_names(settings, self._host))
        self._stopping = threading.Event()
        self._sampler = threading.Thread(
            target=self._take_samples, name="operations-history", daemon=True
        )
        self._enclaves = EnclaveMetrics(self._components)
        self.server = HttpServer(settings.listen, self._respond, name=self.name, limits=_LIMITS)
        self._control = None
        if settings.control is not None:
            self._control = control_server(
                settings.control, self._components, lambda: Response(200, _json(self._state()))
            )

    def start(self) -> None:
        """See `Component.start`."""
        self.server.start()
        if self._control is not None:
            self._control.start()
        start_thread(self._sampler)
        self._enclaves.start()

    def stop(self, timeout: float) -> None:
        """See `Component.stop`."""
        self._stopping.set()
        if self._control is not None:
            self._control.stop(timeout)
        self.server.stop(timeout)
        self._enclaves.stop(timeout)
        if self._sampler.ident:
            self._sampler.join(timeout)

    def status(self) -> ComponentStatus:
        """See `Component.status`."""
        running = self.server.running
        return ComponentStatus(running, str(self.server.address) if running else "not running")

    def _respond(self, request: Request) -> Response:
        response = self._response(request)
        return replace(response, headers=(*response.headers, *_HEADERS))

    def _response(self, request: Request) -> Response:
        if not may_be_named(request.host, self._hosts):
            text = "the Host header names another host; names of this one: operations.hosts"
            return message(421, text)
        match request.path:
            case "/":
                return Response(200, self._drawn(), page.CONTENT_TYPE, page.HEADERS)
            case "/metrics":
                return Response(200, self._metrics.text(), CONTENT_TYPE)
            case "/healthz":
                content = health(self._components())
                return Response(200 if content["status"] == "ok" else 503, _json(content))
            case "/status":
                return Response(200, _json(self._state()))
            case "/livez":
                return Response(200, b'{"status": "alive"}')
            case _:
                return self._of_enclave(request.path)

    def _of_enclave(self, path: str) -> Response:
        named = _ENCLAVE_METRICS.fullmatch(path)
        if named is None:
            return message(
                404,
                "there are /, /metrics, /enclaves/NAME/metrics, /healthz, /livez and /status",
            )
        text = self._enclaves.text(named[1])
        if text is None:
            return message(503, "no numbers of this enclave: does it run, and is `agent` set?")
        return Response(200, text, CONTENT_TYPE)

    def _state(self) -> dict[str, Any]:
        return state(self._components(), log_lines=self.settings.log_lines)

    def _drawn(self) -> bytes:
        now = self._monotonic()
        made, until = self._page_kept
        if not made <= now < until:
            shown = self._state()
            view = page.View(shown, self._history.until(now, shown), self._now(), self._host)
            self._page = page.page(view)
            took = self._monotonic() - now
            self._page_kept = now, now + max(_PAGE_KEPT, took / _PAGE_SHARE)
        return self._page

    def _take_samples(self) -> None:
        while True:
            try:
                self._history.add(self._monotonic(), state(self._components()))
            except Exception as e:
                # A bug of ours: a gap in a curve is no reason to end the daemon.
                log.error("operations: no sample: internal error: %s", type(e).__name__)  # noqa: TRY400
                log.debug("internal error", exc_info=e)
            if self._stopping.wait(INTERVAL):
                return


def _names(settings: OperationsSettings, host: str) -> Iterator[str]:
    """Yield the names that nobody else can have in the browser of an operator."""
    named = [host, *settings.hosts]
    if isinstance(settings.listen, TcpAddress):
        named.append(settings.listen.host)
    for name in named:
        yield without_brackets(name).lower().removesuffix(".")


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
