"""Servers on an asyncio loop that a client cannot exhaust: limits, deadlines, draining."""

from __future__ import annotations

import abc
import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from vsock_proxy.service.acceptor import AsyncAcceptor, serve_accepted
from vsock_proxy.service.throttle import Throttle

if TYPE_CHECKING:
    import logging
    import ssl

NEVER: Final = float("inf")

SWEEP: Final = 1.0
"""Seconds between two looks for clients whose time is over: by so much limits may be exceeded."""

REJECTIONS_PER_SWEEP: Final = 500
"""Clients rejected at 0.05 ms each; more wait in the kernel's backlog."""


class AsyncConnection(asyncio.BaseProtocol):
    """A connection that closes when it is told to, be it before it was made.

    Attributes:
        expires: loop time at which what it is doing now has taken too long.
        transport: None until the connection is made.
        closing: whether it is closed, or about to be.
    """

    def __init__(self) -> None:
        self.expires = NEVER
        self.transport: asyncio.Transport | None = None
        self.closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self.transport = transport  # type: ignore[assignment] # it is one
        if self.closing:
            transport.abort()  # type: ignore[attr-defined] # as above

    def finish(self) -> None:
        """Close as soon as nothing is under way; called when the server drains."""

    def expire(self) -> None:
        """Close, or abort: its time is over."""
        self.abort()

    def look(self) -> None:
        """Look for what the loop does not notice; called in every sweep."""

    def abort(self) -> None:
        """Close now; what was not sent is lost."""
        self.closing = True
        if self.transport is not None:
            self.transport.abort()

    def close_once_read(self, *, ended: bool) -> None:
        """Close once the client has closed too, so that it can read what was written.

        What it still sends has to be read and dropped: closing a connection with unread bytes
        resets it, which throws away what was written.

        Args:
            ended: whether the client has closed its direction already.
        """
        self.closing = True
        if self.transport is None or self.transport.is_closing():
            return
        if ended:
            self.transport.close()
        else:
            self.transport.write_eof()
            self.transport.resume_reading()


Connection = TypeVar("Connection", bound=AsyncConnection)


class AsyncServer(abc.ABC, Generic[Connection]):
    """Serves the clients of one listening socket, on the running loop.

    Args:
        log: of the server's module.
        name: of the server, for the log; "" if its lines need none.

    Attributes:
        connections: those that are open, or being made.
        draining: whether no more clients are accepted.
        tls: a connection is made after its handshake; None: no TLS, or the connection's own.
    """

    def __init__(self, log: logging.Logger, name: str = "") -> None:
        self.connections: set[Connection] = set()
        self.draining = False
        self._warnings = Throttle(log, time.monotonic)
        self._prefix = f"{name}: " if name else ""
        self._cannot_accept = False
        self.tls: ssl.SSLContext | None = None
        self._making: dict[asyncio.Task[None], socket.socket] = {}
        self._empty = asyncio.Event()

    def accept_from(self, listener: socket.socket) -> None:
        """Accept clients from now on, on the running loop.

        Args:
            listener: the listening socket; closed by `drain` and `close`.
        """
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._acceptor = AsyncAcceptor(listener, self)

    async def drain(self, seconds: float) -> None:
        """Accept no more, and let what is under way end."""
        self.draining = True
        self.stop_accepting()
        for connection in tuple(self.connections):
            connection.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.connections:
                    self._empty.clear()
                    await self._empty.wait()

    def close(self) -> None:
        """Abort what is left."""
        self.stop_accepting()
        for connection in tuple(self.connections):
            connection.abort()
        for client in self._making.values():
            # Its protocol cannot abort it yet, and a TLS handshake waits for the client.
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        self._warnings.catch_up()

    async def closed(self) -> None:
        """Wait, after `close`, until the sockets of all clients are closed.

        A loop that ends before would leave them to the garbage collector.
        """
        await self._made()
        while self.connections:
            self._empty.clear()
            await self._empty.wait()

    async def _made(self) -> None:
        """Wait until no connection is being made any more."""
        while self._making:
            await asyncio.wait(self._making)

    def stop_accepting(self) -> None:
        """Close the listening socket. May be repeated."""
        if self._listener.fileno() != -1:
            self._acceptor.close()
            self._listener.close()

    @abc.abstractmethod
    def admit(self, client: socket.socket, peer: object) -> Connection | None:
        """Return the connection for a client; None, with the client closed, if it is rejected."""

    def release(self, connection: Connection) -> None:
        """Note that a client has disconnected."""
        self.connections.discard(connection)
        if not self.connections:
            self._empty.set()

    # The methods of `acceptor.AsyncAcceptEvents`.

    @abc.abstractmethod
    def may_accept(self) -> float:
        """See `AsyncAcceptEvents.may_accept`."""

    def accepted(self, client: socket.socket, peer: object) -> None:
        """See `AsyncAcceptEvents.accepted`."""
        self._cannot_accept = False
        connection = self.admit(client, peer)
        if connection is not None:
            self.connections.add(connection)
            serve_accepted(
                client,
                lambda: connection,
                lambda: self.release(connection),
                self._making,
                self.tls,
            )

    def accept_failed(self, error: OSError) -> None:
        """See `AsyncAcceptEvents.accept_failed`. Logged once until accepting succeeds."""
        if not self._cannot_accept:
            self._cannot_accept = True
            self._warnings.warning(
                "%scannot accept clients: %s; retrying every second", self._prefix, error.strerror
            )


class SweepingServer(AsyncServer[Connection]):
    """Ends the clients whose time is over, and rejects those beyond a limit.

    Args:
        log: of the server's module.
        clients: connections at the same time.
        option: that sets this limit.
        sweep: seconds between two looks for clients whose time is over.

    Attributes:
        rejected: clients beyond the limit.
        rejected_now: of those, since the last sweep.
    """

    def __init__(
        self, log: logging.Logger, *, clients: int, option: str, sweep: float = SWEEP
    ) -> None:
        super().__init__(log)
        self.rejected = 0
        self._clients = clients
        self._option = option
        self._sweep_seconds = sweep
        self.rejected_now = 0
        # All of these lines are the same.
        self._rejections = Throttle(log, time.monotonic, burst=1)

    @abc.abstractmethod
    def connection(self) -> Connection:
        """Return the connection for a client that has been accepted."""

    def accept_from(self, listener: socket.socket) -> None:
        """See `AsyncServer.accept_from`."""
        super().accept_from(listener)
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)

    def close(self) -> None:
        """See `AsyncServer.close`."""
        self._sweeper.cancel()
        super().close()
        self._rejections.catch_up()

    def may_accept(self) -> float:
        """See `AsyncAcceptEvents.may_accept`."""
        return 0 if self.rejected_now < REJECTIONS_PER_SWEEP else self._sweep_seconds / 10

    def admit(self, client: socket.socket, peer: object) -> Connection | None:
        """See `AsyncServer.admit`."""
        del peer
        if len(self.connections) < self._clients:
            return self.connection()
        self.rejected += 1
        self.rejected_now += 1
        self._rejections.warning(
            "rejected a client: limit of %d connections reached (%s)", self._clients, self._option
        )
        self.reject(client)
        return None

    def reject(self, client: socket.socket) -> None:
        """Close a client that is one too many."""
        client.close()

    def sweep(self) -> None:
        """Do what is due every `SWEEP` seconds."""
        now = self._loop.time()
        for connection in tuple(self.connections):
            if connection.expires < now:
                connection.expire()
            else:
                connection.look()
        self.rejected_now = 0
        self._warnings.catch_up()
        self._rejections.catch_up()

    def _sweep(self) -> None:
        self.sweep()
        self._sweeper = self._loop.call_later(self._sweep_seconds, self._sweep)
