"""Serves attested TLS: its clients, their way to the program, and what has failed."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from enclave.attested_tls.connection import RECEIVE, Connection, Limits
from enclave.errors import AgentError, DialError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.service.async_server import SWEEP, SweepingServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from enclave.attested_tls.documents import Documents
    from enclave.attested_tls.identity import CurrentIdentity

log = logging.getLogger(__name__)

_RETRY: Final = 0.1
"""Seconds between two attempts to connect to a program that is starting."""


class AttestedServer(SweepingServer[Connection]):
    """Attested TLS on one listening socket, on the running loop.

    Args:
        target: where the program listens.
        identity: has the TLS key of new connections.
        documents: makes attestation documents; closed by the caller.
        limits: the limits of clients.
        sweep: see `SweepingServer`.

    Attributes:
        limits: the limits of clients.
        documents: makes attestation documents.
        receive_buffer: see `connection.Server`.
    """

    def __init__(
        self,
        target: TcpAddress | UnixAddress,
        identity: CurrentIdentity,
        documents: Documents,
        *,
        limits: Limits | None = None,
        sweep: float = SWEEP,
    ) -> None:
        self.limits = limits or Limits()
        super().__init__(
            log, clients=self.limits.clients, option="--ingress-tls-clients", sweep=sweep
        )
        self.documents = documents
        self.receive_buffer = bytearray(RECEIVE)
        self._target = target
        self._identity = identity

    def connection(self) -> Connection:
        """See `SweepingServer.connection`."""
        return Connection(self, *self._identity.get())

    # The methods of `connection.Server`.

    async def dial(self, program: asyncio.BaseProtocol) -> None:
        """See `Server.dial`."""
        deadline = self._loop.time() + self.limits.connect_timeout
        while True:
            try:
                async with asyncio.timeout_at(deadline):
                    await _connect(self._loop, self._target, lambda: program)
            except TimeoutError:
                reason = f"no response within {self.limits.connect_timeout:g} s"
                raise DialError(str(self._target), reason, hint=_HINT) from None
            except OSError as e:
                if self._loop.time() + _RETRY >= deadline:
                    raise DialError(str(self._target), reason_of(e), hint=_HINT) from e
                await asyncio.sleep(_RETRY)
            else:
                return

    def failed(self, message: str, error: BaseException) -> None:
        """See `Server.failed`."""
        # Not its text: what an unknown error says may hold anything.
        text = str(error) if isinstance(error, AgentError) else type(error).__name__
        self._warnings.warning("attested TLS: %s: %s", message, text)
        log.debug("attested TLS: %s", message, exc_info=error)


_HINT: Final = "does the program listen there?"


async def _connect(
    loop: asyncio.AbstractEventLoop,
    target: TcpAddress | UnixAddress,
    make: Callable[[], asyncio.BaseProtocol],
) -> None:
    if isinstance(target, UnixAddress):
        await loop.create_unix_connection(make, target.path)
    else:
        await loop.create_connection(make, target.host, target.port)
