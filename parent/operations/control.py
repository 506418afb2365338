"""What commands on this machine may have done: a UNIX socket, whose permissions say by whom."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from parent.enclaves.component import EnclaveComponent
from parent.http_server import HttpServer, Limits, Request, Response, message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from parent.component import Component
    from vsock_proxy.net.addresses import UnixAddress

_LIMITS: Final = Limits(connections=8, timeout=15.0, per_second=20)
_RESTART: Final = re.compile(r"/enclaves/([A-Za-z0-9._-]{1,63})/restart")


def control_server(
    address: UnixAddress,
    components: Callable[[], Sequence[Component]],
    status: Callable[[], Response],
) -> HttpServer:
    """Return a server for ``POST /enclaves/NAME/restart`` and ``GET /status``, not started yet."""

    def respond(request: Request) -> Response:
        if request.method == "GET" and request.path == "/status":
            return status()
        named = _RESTART.fullmatch(request.path)
        if named is None or request.method != "POST":
            return message(404, "there are /status and POST /enclaves/NAME/restart")
        return _restart(named[1], components())

    return HttpServer(
        address, respond, name="control", limits=_LIMITS, methods=("GET", "HEAD", "POST")
    )


def _restart(name: str, components: Sequence[Component]) -> Response:
    enclaves = {
        each.settings.name: each for each in components if isinstance(each, EnclaveComponent)
    }
    enclave = enclaves.get(name)
    if enclave is None:
        return message(404, f"there is no enclave {name}; there are: {', '.join(enclaves) or '-'}")
    starts = enclave.status().values["starts"]
    enclave.restart()
    return Response(202, json.dumps({"status": "restarting", "starts": starts}).encode())
