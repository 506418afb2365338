"""The service that gives a pod or a task its role's credentials, simulated.

EKS Pod Identity: ``http://169.254.170.23/v1/credentials``, with the service account's token in
Authorization. ECS: ``http://169.254.170.2`` and a path that only the task knows. See "Container
credential provider" in the AWS SDKs and Tools Reference Guide.
"""

from __future__ import annotations

import hmac
import json
from typing import TYPE_CHECKING, Any

from enclave_simulator.parent.credentials import simulated_document
from enclave_simulator.threaded_server import Handler, Server

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

POD_ADDRESS, TASK_ADDRESS = "169.254.170.23", "169.254.170.2"
POD_PATH = "/v1/credentials"
TASK_PATH = "/v2/credentials/4d1f7b3e-2c57-4c36-8f5f-0f1a2b3c4d5e"


class ContainerCredentials(Server):
    """Serves the container-credentials JSON.

    Args:
        listener: the listening socket, which it owns.
        path: where the credentials are.
        token: returns what Authorization must be; None: nothing is asked.
        document: returns the JSON's content.

    Attributes:
        requests: number of responses with credentials.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        path: str = POD_PATH,
        token: Callable[[], str] | None = None,
        document: Callable[[], dict[str, Any]] = simulated_document,
    ) -> None:
        super().__init__(listener, _Handler)
        self.path = path
        self.token = token
        self.document = document
        self.requests = 0


class _Handler(Handler):
    server: ContainerCredentials

    def do_GET(self) -> None:  # noqa: N802 (the base class calls it)
        given = self.headers.get("Authorization", "")
        if self.path != self.server.path:
            self._refuse(404, "no such path")
        elif self.server.token and not hmac.compare_digest(
            given.encode(), self.server.token().encode()
        ):
            self._refuse(401, "invalid token")
        else:
            self.server.requests += 1
            self.respond(200, json.dumps(self.server.document()).encode(), "application/json")

    def _refuse(self, status: int, message: str) -> None:
        body = json.dumps({"code": status, "message": message}).encode()
        self.respond(status, body, "application/json")
