"""AWS credentials for the program, as a container has them: JSON over HTTP on loopback.

Every AWS SDK knows how to fetch and renew them ("Container credential provider", AWS SDKs and
Tools Reference Guide): a URL and a token, both in variables. The credentials are the agent's own,
with which it calls KMS.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import os
import secrets
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Self

from enclave.clock import Clock, SystemClock
from enclave.errors import AgentError, CredentialsError
from enclave.serve.background import Background
from enclave.serve.connection import Limits
from enclave.serve.http_server import HttpServer
from enclave.serve.program_environment import with_program_credentials
from enclave.serve.protocol import (
    EndpointError,
    Request,
    Response,
    check_host,
    request_ids,
)
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.listening import listen, local_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Mapping

    from enclave.credentials import Credentials, CredentialsProvider

HOST: Final = "127.0.0.1"
"""SDKs take plain HTTP from loopback addresses."""

PATH: Final = "/credentials"

LIMITS: Final = Limits(clients=64, idle_timeout=10.0, request_timeout=5.0, write_timeout=5.0)

log = logging.getLogger(__name__)

PATIENCE: Final = 0.8
"""Seconds until a response says that there are none yet. The SDK for JavaScript waits for 1 s,
botocore for 2 s; both retry then."""

RENEWAL: Final = 30.0
"""Seconds between two looks at the source, which renews what is due: so a program never gets
credentials that are about to expire while newer ones could be had."""

LIFETIME: Final = timedelta(hours=1)
"""That is told of keys that do not expire: SDKs want to know, and ask again after it."""

READY_TIMEOUT: Final = 60.0
"""Seconds until the first credentials are given up: a parent may start its service late."""

_READY_INTERVAL: Final = 0.2


class CredentialsServer(HttpServer):
    """Serves the credentials of a provider.

    Args:
        provider: of the agent; blocks, so that a thread asks it.
        token: what Authorization must be.
        clock: time; production code leaves it out.
    """

    def __init__(
        self, provider: CredentialsProvider, token: str, *, clock: Clock | None = None
    ) -> None:
        super().__init__(request_ids(os.urandom(10)), option="--program-credentials", limits=LIMITS)
        self._provider = provider
        self._token = token.encode("latin-1")
        self._clock = clock or SystemClock()
        self._found = Background(self._fetch, "program-credentials")
        self._renewal: asyncio.Task[None] | None = None

    def accept_from(self, listener: socket.socket) -> None:
        """See `HttpServer.accept_from`."""
        super().accept_from(listener)
        self._renewal = asyncio.ensure_future(self._renew())

    def close(self) -> None:
        """See `AsyncServer.close`."""
        if self._renewal is not None:
            self._renewal.cancel()
        super().close()

    async def ready(self) -> None:
        """Wait for the first credentials.

        Raises:
            CredentialsError: there are none, and a retry does not help, or time is over.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT
        told = False
        while isinstance(found := await self._look(READY_TIMEOUT), AgentError):
            transient = isinstance(found, CredentialsError) and found.transient
            if loop.time() > deadline or not transient:
                raise found
            if not told:
                log.warning("waiting for credentials, up to %g s: %s", READY_TIMEOUT, _text(found))
                told = True
            await asyncio.sleep(_READY_INTERVAL)

    def respond(self, request: Request) -> Response | Coroutine[Any, Any, Response]:
        """See `connection.Server.respond`."""
        try:
            self._check(request)
        except EndpointError as e:
            return self.rejection(e)
        return self._credentials()

    def _check(self, request: Request) -> None:
        check_host(request.headers.get("host"))
        # Before anything else is told to a program that was not given the token.
        if not hmac.compare_digest(request.authorization.encode("latin-1"), self._token):
            raise EndpointError(
                "Unauthorized",
                "Authorization is not that of this enclave",
                status=401,
                hint="it is AWS_CONTAINER_AUTHORIZATION_TOKEN, which COMMAND has",
            )
        if request.target != PATH:
            raise EndpointError("NotFound", f"there is {PATH}", status=404)
        if request.method not in ("GET", "HEAD"):
            raise EndpointError("MethodNotAllowed", f"GET {PATH}", status=405)

    def error(self, error: EndpointError) -> Response:
        """See `HttpServer.error`: SDKs show code and message, and retry a status of 5xx."""
        fields = {"code": error.type, "message": _text(error)}
        return self._response(error.status, fields)

    async def _credentials(self) -> Response:
        found = await self._look(PATIENCE)
        if isinstance(found, AgentError):
            self._warnings.warning("no credentials for the program: %s", found)
            transient = isinstance(found, CredentialsError) and found.transient
            kind, status = ("ServiceUnavailable", 503) if transient else ("InternalFailure", 500)
            return self.error(EndpointError(kind, _text(found), status=status))
        expiration = found.expiration or self._clock.now() + LIFETIME
        fields = {
            "AccessKeyId": found.access_key_id,
            "SecretAccessKey": found.secret_access_key,
            "Token": found.session_token or "",
            "Expiration": f"{expiration:%Y-%m-%dT%H:%M:%SZ}",
        }
        return self._response(200, fields)

    def _response(self, status: int, fields: Mapping[str, str]) -> Response:
        return Response(status, json.dumps(fields).encode(), self.request_id(), "application/json")

    async def _look(self, patience: float) -> Credentials | AgentError:
        try:
            return await self._found.result(patience)
        except TimeoutError:
            return CredentialsError("no credentials yet", hint="retry", transient=True)
        except AgentError as e:  # the system has no more threads
            return CredentialsError(str(e), hint=e.hint, transient=True)

    def _fetch(self) -> Credentials | AgentError:
        try:
            return self._provider.credentials()
        except AgentError as e:
            return e
        except Exception as e:  # noqa: BLE001 (a bug of ours; a thread must give a result)
            return AgentError(f"internal error: {type(e).__name__}", hint="a bug in enclave-agent")

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEWAL)
            await self._look(RENEWAL)


class ProgramCredentials:
    """The server with its listening socket and token. To be closed.

    Attributes:
        provider: of the agent.
        server: once it is started.

    Raises:
        ListenError: loopback cannot be listened on.
    """

    def __init__(self, provider: CredentialsProvider) -> None:
        self._token = secrets.token_urlsafe(32)
        self._listener = listen(TcpAddress(HOST, 0))
        address = local_address(self._listener)
        assert isinstance(address, TcpAddress)  # noqa: S101 (as above)
        self._url = f"http://{HOST}:{address.port}{PATH}"
        self.provider = provider
        self.server: CredentialsServer | None = None

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the program's variables: `environ`, and the way to its credentials alone."""
        return with_program_credentials(environ, HOST, self._url, self._token)

    def start(self) -> None:
        """Serve on the running loop, until `close`."""
        self.server = CredentialsServer(self.provider, self._token)
        self.server.accept_from(self._listener)

    async def ready(self) -> None:
        """See `CredentialsServer.ready`."""
        if self.server is not None:
            await self.server.ready()

    async def drain(self, seconds: float) -> None:
        """See `AsyncServer.drain`."""
        if self.server is not None:
            await self.server.drain(seconds)

    def close(self) -> None:
        """Serve no more. On the loop's thread, if it was started."""
        if self.server is not None:
            self.server.close()
        self._listener.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _text(error: AgentError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)
