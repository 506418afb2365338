"""What every server on an asyncio loop has: a limit, deadlines, draining, an end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from typing import TYPE_CHECKING, Any

import pytest

from tests.waiting import TEST_TIMEOUT
from vsock_proxy.service.async_server import (
    REJECTIONS_PER_SWEEP,
    AsyncConnection,
    SweepingServer,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


class Connection(AsyncConnection, asyncio.Protocol):
    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.finished = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.server.made.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        self.server.release(self)

    def data_received(self, _data: bytes) -> None:
        self.close_once_read(ended=False)

    def finish(self) -> None:
        self.finished = True


class Server(SweepingServer[Connection]):
    def __init__(self, clients: int = 2, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(log, clients=clients, option="--clients", sweep=0.01)
        self.tls = tls
        self.made = asyncio.Event()

    def connection(self) -> Connection:
        return Connection(self)


def serving(test: Callable[[Server, Any], Awaitable[None]], **options: Any) -> None:
    """Run a test against a server, with a function that connects to it."""

    async def main() -> None:
        server = Server(**options)
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        server.accept_from(listener)

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            server.made.clear()
            streams = await asyncio.open_connection("127.0.0.1", port)
            opened.append(streams[1])
            return streams

        opened: list[asyncio.StreamWriter] = []
        try:
            async with asyncio.timeout(TEST_TIMEOUT):
                await test(server, connect)
        finally:
            server.close()
            for writer in opened:
                writer.close()
            await asyncio.sleep(0)

    asyncio.run(main())


def test_a_client_beyond_the_limit_is_closed_counted_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(server: Server, connect: Any) -> None:
        await connect()
        await server.made.wait()
        reader, _ = await connect()
        assert await reader.read() == b""
        assert (server.rejected, len(server.connections)) == (1, 1)

    serving(test, clients=1)
    assert caplog.messages == ["rejected a client: limit of 1 connections reached (--clients)"]


def test_accepting_pauses_after_many_rejections() -> None:
    async def test(server: Server, _connect: Any) -> None:
        assert server.may_accept() == 0
        server.rejected_now = REJECTIONS_PER_SWEEP
        assert 0 < server.may_accept() < 0.01
        server.sweep()
        assert server.may_accept() == 0

    serving(test)


def test_a_client_whose_time_is_over_is_closed() -> None:
    async def test(server: Server, connect: Any) -> None:
        reader, _ = await connect()
        await server.made.wait()
        (connection,) = server.connections
        connection.expires = 0.0
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""

    serving(test)


def test_draining_accepts_no_more_and_waits_for_those_that_are_there() -> None:
    async def test(server: Server, connect: Any) -> None:
        reader, writer = await connect()
        await server.made.wait()
        (connection,) = server.connections
        drained = asyncio.ensure_future(server.drain(TEST_TIMEOUT))
        await asyncio.sleep(0)
        assert connection.finished
        with pytest.raises(ConnectionRefusedError):
            await connect()
        assert not drained.done()
        writer.write(b"x")
        assert await reader.read() == b""
        writer.close()
        await drained

    serving(test)


def test_draining_has_an_end() -> None:
    async def test(server: Server, connect: Any) -> None:
        await connect()
        await server.made.wait()
        await server.drain(0.01)
        assert len(server.connections) == 1

    serving(test)


def test_a_connection_aborted_before_it_is_made_is_closed_when_it_is() -> None:
    async def test(server: Server, _connect: Any) -> None:
        client, other = socket.socketpair()
        server.accepted(other, None)
        (connection,) = server.connections
        connection.abort()
        await server.made.wait()
        reader, writer = await asyncio.open_connection(sock=client)
        assert await reader.read() == b""
        writer.close()
        assert not server.connections

    serving(test)


@pytest.mark.parametrize("tls", [None, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)])
@pytest.mark.parametrize("turns", range(5))
def test_close_ends_clients_that_are_being_connected(
    tls: ssl.SSLContext | None, turns: int
) -> None:
    """Also those whose TLS handshake waits for them; at any turn of the loop."""

    async def test(server: Server, _connect: Any) -> None:
        client, other = socket.socketpair()
        with client:
            server.accepted(other, None)
            for _ in range(turns):
                await asyncio.sleep(0)
            server.close()
            await server.closed()
            assert not server.connections
            assert other.fileno() == -1
            client.setblocking(False)
            assert client.recv(1) == b""

    serving(test, tls=tls)


def test_failures_to_accept_are_one_line_until_it_succeeds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(server: Server, connect: Any) -> None:
        for _ in range(3):
            server.accept_failed(OSError(errno.EMFILE, "Too many open files"))
        await connect()
        await server.made.wait()
        server.accept_failed(OSError(errno.EMFILE, "Too many open files"))

    serving(test)
    line = "cannot accept clients: Too many open files; retrying every second"
    assert caplog.messages == [line, line]
