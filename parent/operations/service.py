"""``/metrics``, ``/healthz``, ``/livez`` and ``/status``."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from parent.component import ComponentStatus
from parent.http_server import HttpServer, Limits, Request, Response, message
from parent.operations.metrics import CONTENT_TYPE, Metrics
from parent.operations.state import health, state

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parent.component import Component
    from parent.operations.settings import OperationsSettings

log = logging.getLogger(__name__)

_LIMITS = Limits(connections=32, timeout=15.0, per_second=20)
"""Scrapers wait for 10 s by default; there are few of them, and metrics take milliseconds."""


class OperationsService:
    """See `parent.component.Component`.

    ``/healthz``: 200 if every component is healthy, otherwise 503; with the status of each.
    ``/livez``: 200 if this process responds, whatever its components do.
    ``/metrics``: docs/parent.md lists them.
    ``/status``: 200, with all of the state, for `enclave-parent status`.

    Attributes:
        settings: where it listens.
        server: for its address.
    """

    name = "operations"

    def __init__(
        self, settings: OperationsSettings, components: Callable[[], Sequence[Component]]
    ) -> None:
        """Make one; `components` is called for each request."""
        self.settings = settings
        self._components = components
        self._metrics = Metrics(self._components)
        self.server = HttpServer(settings.listen, self._respond, name=self.name, limits=_LIMITS)

    def start(self) -> None:
        """See `Component.start`."""
        self.server.start()

    def stop(self, timeout: float) -> None:
        """See `Component.stop`."""
        self.server.stop(timeout)

    def status(self) -> ComponentStatus:
        """See `Component.status`."""
        running = self.server.running
        return ComponentStatus(running, str(self.server.address) if running else "not running")

    def _respond(self, request: Request) -> Response:
        match request.path:
            case "/metrics":
                return Response(200, self._metrics.text(), CONTENT_TYPE)
            case "/healthz":
                content = health(self._components())
                return Response(200 if content["status"] == "ok" else 503, _json(content))
            case "/status":
                return Response(200, _json(state(self._components())))
            case "/livez":
                return Response(200, b'{"status": "alive"}')
            case _:
                return message(404, "there are /metrics, /healthz, /livez and /status")


def _json(content: object) -> bytes:
    return json.dumps(content).encode()
