"""The HTTP server of the parent's services: its responses, and its limits on hostile clients."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import logging
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from parent.http_server import HttpServer, Limits, Request, Response
from parent.http_server import server as server_module
from parent.http_server.protocol import MAX_HEAD, Exchange
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.errors import ListenError
from vsock_proxy.net.addresses import TcpAddress, UnixAddress
from vsock_proxy.service import acceptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from parent.http_server.connection import Connection

DATE = "Fri, 02 Jan 2026 00:00:00 GMT"


def shown(request: Request) -> Response:
    if request.path == "/bug":
        raise ZeroDivisionError("s3cret")
    size = int(request.path[1:] or 0)
    return Response(200, b"x" * size, "text/plain")


@contextlib.contextmanager
def serving(
    limits: Limits | None = None, respond: Callable[[Request], Response] = shown
) -> Iterator[HttpServer]:
    server = HttpServer(TcpAddress("127.0.0.1", 0), respond, name="test", limits=limits)
    server.start()
    try:
        yield server
    finally:
        server.stop(0.0)


def connect(server: HttpServer) -> socket.socket:
    assert isinstance(server.address, TcpAddress)
    client = socket.create_connection((server.address.host, server.address.port), TEST_TIMEOUT)
    client.settimeout(TEST_TIMEOUT)
    return client


def ask(server: HttpServer, data: bytes, *, end: bool = False) -> bytes:
    """Return everything received until the server closes the connection."""
    with connect(server) as client:
        client.sendall(data)
        if end:
            client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))


# Bytes in, bytes out.


def status(data: bytes) -> int:
    asked = Exchange().feed(data)
    assert isinstance(asked, Response)
    assert "message" in json.loads(asked.body)
    return asked.status


def test_a_request_in_pieces() -> None:
    exchange = Exchange(cid=16)
    data = b"GET /metrics?x=1 HTTP/1.1\r\nHost: parent\r\nX: y\r\n\r\n"
    for i in range(len(data) - 1):
        assert exchange.feed(data[i : i + 1]) is None
    assert exchange.feed(data[-1:]) == Request("GET", "/metrics", "parent", 16)


def test_a_response_is_encoded() -> None:
    exchange = Exchange()
    exchange.feed(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert exchange.encode(Response(200, b"{}"), date=DATE) == (
        b"HTTP/1.1 200 OK\r\nDate: Fri, 02 Jan 2026 00:00:00 GMT\r\n"
        b"Content-Type: application/json\r\nContent-Length: 2\r\nCache-Control: no-store\r\n"
        b"Connection: close\r\n\r\n{}"
    )


def test_the_response_to_head_has_no_body() -> None:
    exchange = Exchange()
    assert exchange.feed(b"HEAD / HTTP/1.0\r\n\r\n") == Request("HEAD", "/")
    response = exchange.encode(Response(200, b"12345"), date=DATE)
    assert b"Content-Length: 5\r\n" in response
    assert response.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("target", "path", "host"),
    [
        (b"/a?b", "/a", "x"),
        (b"http://localhost:9/a?b", "/a", "localhost:9"),
        (b"HTTP://127.0.0.1", "/", "127.0.0.1"),
        (b"http://[::1]?b", "/", "[::1]"),
        (b"http://evil.example/a", "/a", "evil.example"),
        # Neither is one of these services, and none is without a host.
        (b"https://localhost/a", "https://localhost/a", "x"),
        (b"http:///a", "http:///a", "x"),
    ],
)
def test_targets(target: bytes, path: str, host: str) -> None:
    """RFC 9112, 3.2.2: a server accepts the absolute form, and its host counts."""
    asked = Exchange().feed(b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert asked == Request("GET", path, host)


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_an_empty_line_before_the_request(size: int) -> None:
    """RFC 9112, 2.2."""
    data, exchange = b"\r\nGET / HTTP/1.0\r\n\r\n", Exchange()
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    for part in parts[:-1]:
        assert exchange.feed(part) is None
    assert exchange.feed(parts[-1]) == Request("GET", "/")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", 413),
        (b"GET /" + b"x" * MAX_HEAD, 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * MAX_HEAD, 431),
        (b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\rGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"", 400),
    ],
)
def test_invalid_requests_are_rejected(data: bytes, expected: int) -> None:
    assert status(data) == expected


# Over sockets.


def test_it_responds_and_closes_the_connection() -> None:
    with serving() as server:
        response = ask(server, b"GET /3 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.startswith(b"HTTP/1.1 200 OK\r\n")
        assert response.endswith(b"\r\n\r\nxxx")
        assert server.counters.responses == {200: 1}


def test_a_client_may_half_close_after_its_request() -> None:
    with serving() as server:
        assert ask(server, b"GET /3 HTTP/1.0\r\n\r\n", end=True).endswith(b"xxx")
        assert b" 400 " in ask(server, b"GET /3 HT", end=True)
        eventually(lambda: server.connected == 0)


def test_the_response_is_whole_if_more_was_sent_than_read() -> None:
    with serving() as server:
        sent = b"GET /1000000 HTTP/1.1\r\nHost: x\r\n\r\n" + b"y" * 200_000
        assert len(ask(server, sent).partition(b"\r\n\r\n")[2]) == 1_000_000


def test_an_ordinary_client() -> None:
    with serving() as server:
        assert isinstance(server.address, TcpAddress)
        client = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=TEST_TIMEOUT)
        for _ in range(3):
            client.request("GET", "/7")
            assert client.getresponse().read() == b"x" * 7
        client.close()
        eventually(lambda: server.connected == 0)


def test_an_internal_error_is_a_500_without_details(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as server:
        response = ask(server, b"GET /bug HTTP/1.1\r\nHost: x\r\n\r\n")
        assert response.endswith(b'{"message": "internal error"}')
        assert b"500 Internal Server Error" in response
        assert ask(server, b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n").endswith(b"x")
    assert "ZeroDivisionError" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("sent", [b"", b"GET / HTT"])
def test_a_slow_client_is_closed(sent: bytes) -> None:
    with serving(Limits(timeout=0.2)) as server, connect(server) as client:
        client.sendall(sent)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
        eventually(lambda: server.connected == 0)
        assert server.counters.expired == 1


def test_a_client_that_drips_is_closed() -> None:
    with serving(Limits(timeout=0.3)) as server, connect(server) as client:
        over = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError):
                while not over.wait(0.02):
                    client.sendall(b"G")

        thread = threading.Thread(target=drip)
        thread.start()
        eventually(lambda: server.counters.expired == 1)
        over.set()
        thread.join(TEST_TIMEOUT)


def test_a_client_that_does_not_read_is_closed() -> None:
    with serving(Limits(timeout=0.3)) as server, connect(server) as client:
        client.sendall(b"GET /50000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.counters.responses == {200: 1})
        eventually(lambda: server.connected == 0)


def test_too_many_clients(caplog: pytest.LogCaptureFixture) -> None:
    limits = Limits(connections=2, timeout=TEST_TIMEOUT)
    with serving(limits) as server, connect(server), connect(server):
        eventually(lambda: server.connected == 2)
        with connect(server) as third, contextlib.suppress(ConnectionResetError):
            assert third.recv(10) == b""
        assert server.counters.rejected == 1
    assert "rejected a client: limit of 2 connections reached" in caplog.text


def test_a_flood_leaves_a_short_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(Limits(connections=1, timeout=TEST_TIMEOUT)) as server, connect(server):
        eventually(lambda: server.connected == 1)
        for _ in range(50):
            with connect(server) as client, contextlib.suppress(ConnectionResetError):
                client.recv(10)
        eventually(lambda: server.counters.rejected == 50)
    assert len([r for r in caplog.records if r.levelno >= logging.WARNING]) <= 11


def test_stop_drains_responses() -> None:
    with serving(Limits(timeout=TEST_TIMEOUT)) as server, connect(server) as client:
        client.sendall(b"GET /5000000 HTTP/1.1\r\nHost: x\r\n\r\n")
        eventually(lambda: server.counters.responses == {200: 1})
        stopping = threading.Thread(target=server.stop, args=(TEST_TIMEOUT,))
        stopping.start()
        response = b"".join(iter(lambda: client.recv(1 << 20), b""))
        client.close()
        stopping.join(TEST_TIMEOUT)
        assert not stopping.is_alive()
        assert response.endswith(b"x" * 5_000_000)
        assert not server.running


def test_stop_is_bounded_by_its_timeout() -> None:
    with serving(Limits(timeout=TEST_TIMEOUT)) as server, connect(server) as client:
        eventually(lambda: server.connected == 1)
        server.stop(0.05)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
        server.stop(0.05)


def test_an_address_in_use_and_one_given_up(tmp_path: Path) -> None:
    address = UnixAddress(str(tmp_path / "socket"))
    first, second = (HttpServer(address, shown, name="test") for _ in range(2))
    first.start()
    with pytest.raises(ListenError):
        second.start()
    second.stop(0.0)
    assert (tmp_path / "socket").exists()
    first.stop(0.0)
    assert not (tmp_path / "socket").exists()


def test_one_enclave_cannot_take_every_place() -> None:
    server = idle(Limits(connections=5, per_enclave=2))
    admitted = [admit(server, cid) is not None for cid in (16, 16, 16, 17, 17)]
    assert admitted == [True, True, False, True, True]
    first, *_ = server.connections
    server.release(first)
    assert admit(server, first.cid)


def test_one_enclave_cannot_take_the_servers_time(caplog: pytest.LogCaptureFixture) -> None:
    """New connections beyond its rate are closed; those of another enclave are not."""
    server = idle(Limits(per_enclave_per_second=2))
    admitted = 0
    for _ in range(100):
        if connection := admit(server, 16):
            server.release(connection)
            admitted += 1
    assert 10 <= admitted < 100  # Five seconds' worth at once, and what time passed meanwhile.
    assert admit(server, 17) is not None
    assert "of the enclave with CID 16: it opens more than 2 a second" in caplog.text


def test_a_flood_of_a_listener_waits_in_the_kernel() -> None:
    """Beyond the rate of all clients nothing is accepted for a while, rather than closed."""
    server = idle(Limits(per_second=2))
    assert server.may_accept() == 0
    for _ in range(10):
        assert admit(server, None)
    assert 0 < server.may_accept() <= 0.5
    assert server.counters.rejected == 0


def test_a_client_that_never_stops_sending_is_closed() -> None:
    with serving(Limits(timeout=TEST_TIMEOUT)) as server, connect(server) as client:
        client.sendall(b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while True:
                client.sendall(bytes(65536))
        eventually(lambda: server.connected == 0)


def test_without_descriptors_accepting_pauses_and_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As after EMFILE: one line, and a pause after each attempt; no client is lost."""
    monkeypatch.setattr(acceptor, "FAILURE_PAUSE", 0.05)
    attempts = 0

    class Listener(socket.socket):
        def accept(self) -> tuple[socket.socket, object]:
            nonlocal attempts
            attempts += 1
            if attempts <= 3:
                raise OSError(errno.EMFILE, "Too many open files")
            return super().accept()

    @contextlib.contextmanager
    def failing(address: TcpAddress) -> Iterator[socket.socket]:
        with Listener() as listener:
            listener.bind((address.host, address.port))
            listener.listen()
            yield listener

    monkeypatch.setattr(server_module, "listening", failing)
    with serving() as server:
        assert ask(server, b"GET /3 HTTP/1.0\r\n\r\n").endswith(b"xxx")
    assert len([r for r in caplog.records if "cannot accept clients" in r.message]) == 1


def idle(limits: Limits) -> HttpServer:
    """Return a server that was not started."""
    return HttpServer(TcpAddress("127.0.0.1", 0), shown, name="test", limits=limits)


def admit(server: HttpServer, cid: int | None) -> Connection | None:
    """Admit a client as if it had connected."""
    connection = server.place_for(cid)
    if connection is not None:
        server.connections.add(connection)
    return connection
