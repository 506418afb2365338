"""Serves attested TLS: listens, limits clients, and leads to the program."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Final

from enclave.attested_tls.connection import RECEIVE, Connection, Limits
from enclave.errors import AgentError, DialError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.net.dialing import reason_of
from vsock_proxy.service.acceptor import AsyncAcceptor, serve_accepted
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from enclave.attested_tls.documents import Documents
    from enclave.attested_tls.identity import CurrentIdentity

log = logging.getLogger(__name__)

SWEEP: Final = 1.0
"""Seconds between two looks for clients whose time is over."""

_RETRY: Final = 0.1
"""Seconds between two attempts to connect to a program that is starting."""

_REJECTIONS_PER_SWEEP: Final = 500
"""Clients rejected at once; more wait in the kernel's backlog."""


class AttestedServer:
    """Attested TLS on one listening socket, on the running loop.

    Args:
        target: where the program listens.
        identity: has the TLS key of new connections.
        documents: makes attestation documents; closed by the caller.
        limits: the limits of clients.
        sweep: seconds between two looks for clients whose time is over.

    Attributes:
        limits: the limits of clients.
        documents: makes attestation documents.
        connections: those that are open.
        draining: whether each document is its connection's last.
        rejected: clients beyond the limit.
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
        self.documents = documents
        self.connections: set[Connection] = set()
        self.draining = False
        self.rejected = 0
        self.receive_buffer = bytearray(RECEIVE)
        self._target = target
        self._identity = identity
        self._warnings = Throttle(log, time.monotonic)
        self._rejected_now = 0
        self._sweep_seconds = sweep
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, listener: socket.socket) -> None:
        """Accept clients from now on."""
        self._loop = asyncio.get_running_loop()
        self._empty = asyncio.Event()
        self._listener = listener
        self._acceptor = AsyncAcceptor(listener, self)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let what is under way end."""
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
        for connection in tuple(self.connections):
            connection.abort()
        self._warnings.catch_up()

    def _stop_accepting(self) -> None:
        if self._listener.fileno() != -1:
            self._acceptor.close()
            self._listener.close()

    # The methods of `acceptor.AsyncAcceptEvents`.

    def may_accept(self) -> float:
        """See `AsyncAcceptEvents.may_accept`."""
        return 0 if self._rejected_now < _REJECTIONS_PER_SWEEP else SWEEP / 10

    def accepted(self, client: socket.socket, _peer: object) -> None:
        """See `AsyncAcceptEvents.accepted`."""
        if len(self.connections) >= self.limits.clients:
            self.rejected += 1
            self._rejected_now += 1
            client.close()
            self._warnings.warning(
                "rejected a client: limit of %d TLS connections reached (--ingress-tls-clients)",
                self.limits.clients,
            )
            return
        connection = Connection(self, *self._identity.get())
        self.connections.add(connection)
        serve_accepted(client, lambda: connection, lambda: self.release(connection), self._tasks)

    def accept_failed(self, error: OSError) -> None:
        """See `AsyncAcceptEvents.accept_failed`."""
        self._warnings.warning("cannot accept clients: %s; retrying every second", error.strerror)

    # The methods of `connection.Server`.

    def release(self, connection: Connection) -> None:
        """See `Server.release`."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

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

    def _sweep(self) -> None:
        now = self._loop.time()
        for connection in tuple(self.connections):
            if connection.expires < now:
                connection.expire()
        self._rejected_now = 0
        self._warnings.catch_up()
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)


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
