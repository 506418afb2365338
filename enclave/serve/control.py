"""What the parent may ask of `serve`: its numbers, and to end the program. For CID 3 alone.

The parent can end the enclave at any time, as a power cut does; asking first is kinder and gives it
nothing new. It gets numbers and an exit code, no secret.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any, Final

from enclave.serve.connection import Limits
from enclave.serve.http_server import HttpServer
from enclave.serve.protocol import EndpointError, Request, Response
from vsock_proxy.net.addresses import VMADDR_CID_PARENT
from vsock_proxy.net.peers import peer_cid
from vsock_proxy.service.json_text import parse_json

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Coroutine

    from enclave.serve.connection import Connection
    from enclave.serve.server import EndpointServer

log = logging.getLogger(__name__)

LIMITS: Final = Limits(clients=4, idle_timeout=10.0, request_timeout=5.0, write_timeout=5.0)

MOST_SECONDS: Final = 600.0
"""That a program is waited for."""


class ControlServer(HttpServer):
    """The endpoint's numbers, and the end of the program.

    Args:
        endpoint: has the numbers.
        stop: ends the program, within so many seconds; returns its exit code, or None if there is
            none to wait for.
    """

    def __init__(
        self,
        endpoint: EndpointServer,
        *,
        stop: Callable[[float], Coroutine[Any, Any, int | None]],
    ) -> None:
        super().__init__(endpoint.request_id, option="--control", limits=LIMITS)
        self._pages = {path: endpoint.pages[path] for path in ("/metrics", "/healthz")}
        self._stop = stop

    def admit(self, client: socket.socket, peer: object) -> Connection | None:
        """See `AsyncServer.admit`. An enclave has no other peers; its own kernel is one."""
        cid = peer_cid(client, peer)
        if cid not in (None, VMADDR_CID_PARENT):
            client.close()
            log.warning("control: rejected a client with CID %s", cid)
            return None
        return super().admit(client, peer)

    def respond(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """See `connection.Server.respond`."""
        if request.method == "POST" and request.target == "/stop":
            try:
                return self._stopped(_seconds(request.body))
            except EndpointError as e:
                return self.rejection(e)
        if request.method in ("GET", "HEAD") and (page := self._pages.get(request.target)):
            return page()
        return self.rejection(
            EndpointError("NotFound", "there are /metrics, /healthz and POST /stop", status=404)
        )

    async def _stopped(self, seconds: float) -> Response:
        log.warning("the parent asks to end: the program has %g s", seconds)
        code = await self._stop(seconds)
        content = json.dumps({"status": "ended" if code is not None else "ending", "code": code})
        return Response(200, content.encode(), "", "application/json")


def _seconds(body: bytes) -> float:
    try:
        seconds = parse_json(body)["seconds"]
    except (ValueError, TypeError, KeyError):
        seconds = None
    if not isinstance(seconds, int | float) or not 0 <= seconds <= MOST_SECONDS:
        raise EndpointError("ValidationException", f"not a number of seconds up to {MOST_SECONDS}")
    return float(seconds)
