"""What the client and its connections do with moments, places and streams, one at a time."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from enclave.http import client as module
from enclave.http.client import HttpClient, open_plain, open_tls
from enclave.http.connection import HttpConnection
from enclave.http.errors import ConnectionLostError, HttpTimeoutError
from enclave.http.request import RequestWriter
from tests.doubles import ManualClock
from tests.enclave.http.pools import FakeStream
from tests.enclave.http.servers import ADDRESS, HOST, response
from tests.waiting import TEST_TIMEOUT
from vsock_proxy.net.addresses import TcpAddress
from vsock_proxy.net.dialing import SocketDialer

if TYPE_CHECKING:
    import ssl

    from enclave.http.response import Response
    from vsock_proxy.net.addresses import Address

REQUEST = RequestWriter("POST", "localhost", "/").write({}, b"")
NOW = 100.0


class Scripted(FakeStream):
    """A stream that gives one response to each request, or fails as it is sent."""

    def __init__(self, failure: BaseException | None = None) -> None:
        super().__init__()
        self.failure = failure
        self.send_by: list[float] = []
        self._unread = 0

    def send(self, data: bytes, deadline: float) -> None:
        del data
        self.send_by.append(deadline)
        if self.failure is not None:
            raise self.failure
        self._unread += 1

    def receive(self, deadline: float) -> bytes:
        del deadline
        self._unread -= 1
        return response(b"body")

    def receive_now(self) -> bytes | None:
        return self.receive(NOW) if self._unread else None


class Opened:
    """Opens streams for a client, and keeps them."""

    def __init__(self) -> None:
        self.streams: list[Scripted] = []

    def __call__(self, deadline: float) -> Scripted:
        del deadline
        self.streams.append(Scripted())
        return self.streams[-1]


@pytest.fixture
def opened() -> Opened:
    return Opened()


def ask(client: HttpClient, *, connect_timeout: float = 2.0, timeout: float = 10.0) -> Response:
    return client.request(
        REQUEST, connect_timeout=connect_timeout, read_timeout=TEST_TIMEOUT, timeout=timeout
    )


class Dialer:
    """Keeps whom it was to dial, and for how long."""

    def __init__(self) -> None:
        self.dialled: list[tuple[Address, float]] = []

    def dial(self, address: Address, timeout: float) -> socket.socket:
        self.dialled.append((address, timeout))
        ours, theirs = socket.socketpair()
        theirs.close()
        return ours


@pytest.mark.parametrize(("deadline", "timeout"), [(NOW + 3.5, 3.5), (NOW - 1, 0.001)])
def test_a_connection_is_dialled_for_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch, deadline: float, timeout: float
) -> None:
    monkeypatch.setattr(module, "monotonic", lambda: NOW)
    dialer = Dialer()
    open_plain(dialer, ADDRESS, deadline).close()
    assert dialer.dialled == [(ADDRESS, timeout)]


def test_tls_is_with_the_address_that_was_named(trusting: ssl.SSLContext) -> None:
    dialer = Dialer()
    with pytest.raises(ConnectionLostError):
        open_tls(dialer, ADDRESS, trusting, HOST, NOW + 1e9)
    assert [address for address, _ in dialer.dialled] == [ADDRESS]


def test_tcp_connections_are_kept_alive() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = TcpAddress("127.0.0.1", server.getsockname()[1])
        stream = open_plain(SocketDialer(), address, NOW + 1e9)
        with closing(stream):
            assert stream._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


@pytest.mark.parametrize(("timeout", "send_by"), [(10.0, NOW + 2), (1.0, NOW + 1)])
def test_a_request_is_sent_within_the_time_for_a_connection(
    monkeypatch: pytest.MonkeyPatch, opened: Opened, timeout: float, send_by: float
) -> None:
    monkeypatch.setattr(module, "monotonic", lambda: NOW)
    with closing(HttpClient(opened, size=1, max_body=100)) as client:
        ask(client, timeout=timeout)
    assert opened.streams[0].send_by == [send_by]


def test_a_connection_is_kept_for_as_long_as_the_client_says(opened: Opened) -> None:
    clock = ManualClock()
    with closing(HttpClient(opened, size=1, max_body=100, clock=clock, max_idle=5.0)) as client:
        ask(client)
        clock.elapsed = 5.0
        ask(client)
        assert len(opened.streams) == 1
        clock.elapsed = 10.1
        ask(client)
        assert len(opened.streams) == 2


@pytest.mark.parametrize("begins", [False, True])
def test_the_service_above_decides_with_the_response_what_is_kept(
    opened: Opened, *, begins: bool
) -> None:
    shown: list[Response] = []
    keeps = True

    def may_keep(found: Response) -> bool:
        shown.append(found)
        return keeps

    client = HttpClient(opened, size=1, max_body=100, may_keep=may_keep)
    with closing(client):
        ask(client)
        found = None
        keeps = False
        if begins:
            begun = client.begin(REQUEST)
            assert begun is not None
            found = begun.receive()
        else:
            found = ask(client)
        assert len(opened.streams) == 1
        assert opened.streams[0].closed
        assert shown[1] is found
        assert client.begin(REQUEST) is None
        keeps = True
        ask(client)
        assert len(opened.streams) == 2
        assert client.begin(REQUEST) is not None


def test_a_begun_request_gives_its_place_back(opened: Opened) -> None:
    client = HttpClient(opened, size=1, max_body=100)
    with closing(client):
        ask(client)
        for _ in range(2):
            begun = client.begin(REQUEST)
            assert begun is not None
            assert begun.receive() is not None
        assert len(opened.streams) == 1
        begun = client.begin(REQUEST)
        assert begun is not None
        begun.close()
        assert opened.streams[0].closed
        ask(client)  # There is one place.
        assert len(opened.streams) == 2


@pytest.mark.parametrize("failure", [TimeoutError(), ConnectionLostError("gone")])
def test_what_a_kept_connection_does_not_take_at_once_is_not_begun(
    opened: Opened, failure: Exception
) -> None:
    client = HttpClient(opened, size=1, max_body=100)
    with closing(client):
        ask(client)
        opened.streams[0].failure = failure
        assert client.begin(REQUEST) is None
        assert opened.streams[0].closed
        ask(client)  # There is one place.


def test_an_interrupt_gives_the_place_back(opened: Opened) -> None:
    client = HttpClient(opened, size=1, max_body=100)
    with closing(client):
        ask(client)
        opened.streams[0].failure = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            client.begin(REQUEST)
        assert opened.streams[0].closed
        ask(client)


# One connection.


def test_when_a_connection_may_be_used_again() -> None:
    connection = HttpConnection(Scripted())
    seen = [connection.reusable]
    connection.begin(REQUEST, max_body=100)
    seen.append(connection.reusable)
    assert connection.receive_now() is not None
    seen.append(connection.reusable)
    connection.close()
    seen.append(connection.reusable)
    assert seen == [True, False, True, False]
    assert all(type(each) is bool for each in seen)


def test_a_connection_that_failed_is_not_used_again() -> None:
    stream = Scripted(TimeoutError())
    connection = HttpConnection(stream)
    with pytest.raises(HttpTimeoutError):
        connection.exchange(REQUEST, send_by=NOW, read_timeout=1.0, deadline=NOW, max_body=100)
    assert connection.reusable is False
    assert stream.closed


def test_a_begun_request_is_sent_now_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("enclave.http.connection.monotonic", lambda: NOW)
    stream = Scripted()
    HttpConnection(stream).begin(REQUEST, max_body=100)
    assert stream.send_by == [NOW]
