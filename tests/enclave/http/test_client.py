"""Requests over kept connections: what is used again, and that no response crosses over."""

from __future__ import annotations

import itertools
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclave.http.client import BegunRequest, HttpClient, open_plain, open_tls
from enclave.http.errors import (
    ConnectionLostError,
    HttpError,
    HttpProtocolError,
    HttpTimeoutError,
    PoolClosedError,
    ResponseTooLargeError,
)
from enclave.http.request import RequestWriter
from tests.enclave.http.servers import (
    ADDRESS,
    HOST,
    Server,
    read_request,
    response,
    until_the_client_leaves,
)
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from enclave_simulator.kms.tls import CertificateAuthority

MAX_BODY: Final = 1000
EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
STALE = response(b"stale")


def client_of(server: Server, size: int = 4) -> HttpClient:
    return HttpClient(
        lambda deadline: open_plain(server, ADDRESS, deadline), size=size, max_body=MAX_BODY
    )


WRITER = RequestWriter("POST", "localhost", "/")


def ask(
    client: HttpClient,
    body: bytes,
    *,
    connect_timeout: float = TEST_TIMEOUT,
    read_timeout: float = TEST_TIMEOUT,
    timeout: float = TEST_TIMEOUT,
) -> bytes:
    request = WRITER.write({}, body)
    if _Way.begins and (begun := client.begin(request)) is not None:
        return received(begun, min(read_timeout, timeout))
    return client.request(
        request,
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        timeout=timeout,
    ).body


class _Way:
    begins = False


@pytest.fixture(params=["waiting", "begun"], autouse=True, scope="module")
def way(request: pytest.FixtureRequest) -> None:
    """Have every test make its requests in both ways: a thread waits, or a loop would."""
    _Way.begins = request.param == "begun"


def received(begun: BegunRequest, seconds: float) -> bytes:
    """Receive as an event loop does: whenever the kernel says that there is something."""
    readable = select.poll()
    readable.register(begun.fileno(), select.POLLIN)
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        if readable.poll(1000 * left) and (found := begun.receive()) is not None:
            return found.body
    begun.close()
    raise HttpTimeoutError("response")


def answering(say: Callable[[bytes], bytes]) -> Callable[[socket.socket], None]:
    def handle(connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            connection.sendall(say(body))

    return handle


def test_one_connection_serves_many_requests() -> None:
    with Server(answering(response)) as server, closing(client_of(server)) as client:
        assert [ask(client, b"%d" % n) for n in range(5)] == [b"%d" % n for n in range(5)]
    assert server.connections == 1


def test_a_request_is_one_write() -> None:
    """Two would be two TLS records, and two packets."""
    pieces: list[bytes] = []

    def handle(connection: socket.socket) -> None:
        pieces.append(connection.recv(65_536))
        connection.sendall(response(b"ok"))

    with Server(handle) as server, closing(client_of(server)) as client:
        assert ask(client, b"x" * 5000) == b"ok"
    assert pieces[0].endswith(b"\r\n\r\n" + b"x" * 5000)


@pytest.mark.parametrize(
    "say",
    [
        pytest.param(lambda body: EARLY + response(body), id="one write"),
        pytest.param(lambda body: EARLY * 3 + response(body), id="three of them"),
    ],
)
def test_interim_responses_are_skipped(say: Callable[[bytes], bytes]) -> None:
    with Server(answering(say)) as server, closing(client_of(server)) as client:
        assert [ask(client, body) for body in (b"1", b"2", b"3")] == [b"1", b"2", b"3"]
    assert server.connections == 1


def test_an_interim_response_that_comes_alone_is_not_the_response() -> None:
    go_on = threading.Event()

    def handle(connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            connection.sendall(EARLY)
            assert go_on.wait(TEST_TIMEOUT)
            connection.sendall(response(body))

    with (
        Server(handle) as server,
        ThreadPoolExecutor(1) as thread,
        closing(client_of(server)) as client,
    ):
        asked = thread.submit(ask, client, b"1")
        eventually(lambda: server.connections)
        assert not asked.done()
        go_on.set()
        assert asked.result(TEST_TIMEOUT) == b"1"


@pytest.mark.parametrize(
    "excess", [STALE, b"\r\n", b"x", EARLY], ids=["a response", "a line end", "a byte", "interim"]
)
def test_a_connection_with_something_left_to_read_is_not_used_again(excess: bytes) -> None:
    with (
        Server(answering(lambda body: response(body) + excess)) as server,
        closing(client_of(server)) as client,
    ):
        assert [ask(client, body) for body in (b"1", b"2", b"3")] == [b"1", b"2", b"3"]
    assert server.connections == 3


def test_a_response_that_nobody_asked_for_and_comes_later_is_not_taken() -> None:
    sent = threading.Semaphore(0)

    def handle(connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            connection.sendall(response(body))
            connection.sendall(STALE)
            sent.release()

    with Server(handle) as server, closing(client_of(server)) as client:
        for body in (b"1", b"2", b"3"):
            assert ask(client, body) == body
            assert sent.acquire(timeout=TEST_TIMEOUT)
    assert server.connections == 3


def test_the_same_over_tls(authority: CertificateAuthority, trusting: ssl.SSLContext) -> None:
    sent = threading.Semaphore(0)

    def handle(connection: socket.socket) -> None:
        for number in itertools.count():
            body = read_request(connection)
            if body is None:
                return
            connection.sendall(EARLY)
            connection.sendall(response(body))
            if number == 2:
                connection.sendall(STALE)
            sent.release()

    with Server(handle, context=authority.server_context()) as server:
        client = HttpClient(
            lambda deadline: open_tls(server, ADDRESS, trusting, HOST, deadline),
            size=1,
            max_body=MAX_BODY,
        )
        with closing(client):
            for n in range(6):
                assert ask(client, b"%d" % n) == b"%d" % n
                assert sent.acquire(timeout=TEST_TIMEOUT)
    assert server.connections == 2


def test_a_connection_the_server_closed_is_replaced() -> None:
    closed = threading.Semaphore(0)

    def handle(connection: socket.socket) -> None:
        body = read_request(connection)
        if body is not None:
            connection.sendall(response(body))
        connection.shutdown(socket.SHUT_WR)
        closed.release()
        until_the_client_leaves(connection)

    with Server(handle) as server, closing(client_of(server)) as client:
        for body in (b"1", b"2"):
            assert ask(client, body) == body
            assert closed.acquire(timeout=TEST_TIMEOUT)
    assert server.connections == 2


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", HttpProtocolError),
        (b"SSH-2.0-OpenSSH_9.2\r\n", HttpProtocolError),
        (EARLY * 20, HttpProtocolError),
        (response(b"x" * (MAX_BODY + 1)), ResponseTooLargeError),
        (response(b"half", more=1), ConnectionLostError),
        (b"", ConnectionLostError),
    ],
)
def test_after_an_error_the_place_is_free_and_the_connection_gone(
    said: bytes, error: type[HttpError]
) -> None:
    faulty = iter([True, False])

    def handle(connection: socket.socket) -> None:
        body = read_request(connection)
        if next(faulty):
            connection.sendall(said)
            connection.shutdown(socket.SHUT_WR)
            until_the_client_leaves(connection)
        elif body is not None:
            connection.sendall(response(body))

    with Server(handle) as server, closing(client_of(server, size=1)) as client:
        with pytest.raises(HttpError) as caught:
            ask(client, b"1")
        assert type(caught.value) is error
        assert ask(client, b"2") == b"2"


def test_every_wait_ends_within_the_call() -> None:
    """The whole time is shorter than the time for a response."""
    with Server(until_the_client_leaves) as server, closing(client_of(server, size=1)) as client:
        with pytest.raises(HttpTimeoutError) as caught:
            ask(client, b"1", timeout=0.05)
        assert caught.value.stage == "response"
        with pytest.raises(HttpTimeoutError) as caught:
            ask(client, b"1", read_timeout=0.05)
        assert caught.value.stage == "response"


def test_a_server_that_does_not_read_is_waited_for_as_long_as_for_a_connection() -> None:
    done = threading.Event()
    with (
        Server(lambda _: assert_set(done)) as server,
        closing(client_of(server)) as client,
    ):
        with pytest.raises(HttpTimeoutError) as caught:
            ask(client, bytes(1 << 24), connect_timeout=0.2)
        assert caught.value.stage == "send"
        done.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(TEST_TIMEOUT)


def test_a_response_that_comes_too_late_is_for_nobody() -> None:
    given_up = threading.Event()

    def handle(connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            if body == b"slow":
                assert given_up.wait(TEST_TIMEOUT)
            connection.sendall(response(body))

    with Server(handle) as server, closing(client_of(server, size=1)) as client:
        with pytest.raises(HttpTimeoutError):
            ask(client, b"slow", read_timeout=0.05)
        given_up.set()
        assert ask(client, b"quick") == b"quick"


def test_a_wait_for_a_place_ends_within_the_call() -> None:
    with (
        Server(until_the_client_leaves) as server,
        ThreadPoolExecutor(1) as thread,
        closing(client_of(server, size=1)) as client,
    ):
        first = thread.submit(ask, client, b"1", timeout=0.5)
        eventually(lambda: server.connections)
        with pytest.raises(HttpTimeoutError) as caught:
            ask(client, b"2", timeout=0.05)
        assert caught.value.stage == "queue"
        assert isinstance(first.exception(TEST_TIMEOUT), HttpTimeoutError)


def test_a_closed_client_makes_no_more_requests() -> None:
    with Server(answering(response)) as server, closing(client_of(server)) as client:
        ask(client, b"1")
        client.close()
        with pytest.raises(PoolClosedError):
            ask(client, b"2")


# The model: a server that does one of these for each request, and callers that know what they
# asked. Whatever it does, a caller has the response to its own request, or an error.


def chunked(body: bytes) -> bytes:
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\nX: y\r\n\r\n"


Move = tuple[tuple[bytes, ...], bool]
"""What is sent, one write each, and whether the server then closes."""

HONEST: dict[str, Callable[[bytes], Move]] = {
    "plain": lambda body: ((response(body),), False),
    "chunks": lambda body: ((chunked(body),), False),
    "in pieces": lambda body: (tuple(bytes([byte]) for byte in response(body)), False),
    "interim": lambda body: ((EARLY + response(body),), False),
    "interim alone": lambda body: ((EARLY, response(body)), False),
    "until close": lambda body: ((b"HTTP/1.1 200 OK\r\n\r\n" + body,), True),
    "connection: close": lambda body: ((response(body, head=b"Connection: close\r\n"),), True),
    "HTTP/1.0": lambda body: ((b"HTTP/1.0" + response(body)[8:],), True),
}
HOSTILE: dict[str, Callable[[bytes], Move]] = {
    "a response too many": lambda body: ((response(body) + STALE,), False),
    "and closes": lambda body: ((response(body) + STALE,), True),
    "a line end too many": lambda body: ((response(body) + b"\r\n",), False),
    "half a response too many": lambda body: ((response(body) + STALE[:20],), False),
    "too many interim responses": lambda body: ((EARLY * 17 + response(body),), False),
    "interim with a body": lambda body: ((EARLY + STALE[20:] + response(body),), False),
    "no content with a body": lambda body: (
        (b"HTTP/1.1 204 X\r\nContent-Length: 5\r\n\r\n" + body,), False),
    "switches": lambda _: (
        (b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",), False),
    "cut": lambda body: ((response(body)[:-1],), True),
    "closes": lambda _: ((), True),
    "no HTTP": lambda _: ((b"\x16\x03\x03",), False),
    "longer than it says": lambda body: ((response(body, more=-1),), False),
    "two lengths": lambda body: ((response(body, head=b"Content-Length: 1\r\n"),), False),
    "chunks and a length": lambda body: (
        (response(body, head=b"Transfer-Encoding: chunked\r\n"),), False),
    "too long": lambda _: ((response(bytes(MAX_BODY + 1)),), False),
}  # fmt: skip


class Model:
    """The server, and what it did for which request."""

    def __init__(self, moves: list[str]) -> None:
        self.moves = moves
        self.made: dict[bytes, str] = {}
        self._numbers = itertools.count()

    def handle(self, connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            move = self.moves[next(self._numbers) % len(self.moves)]
            self.made[body] = move
            writes, closes = (HONEST | HOSTILE)[move](body)
            for data in writes:
                connection.sendall(data)
            if closes:
                connection.shutdown(socket.SHUT_WR)
                until_the_client_leaves(connection)
                return


@settings(max_examples=60, deadline=None)
@given(
    moves=st.lists(st.sampled_from([*HONEST, *HOSTILE]), min_size=1, max_size=12),
    threads=st.integers(1, 5),
    size=st.integers(1, 3),
)
def test_no_response_ever_crosses_to_another_call(
    moves: list[str], threads: int, size: int
) -> None:
    model = Model(moves)
    outcomes: dict[bytes, bytes | HttpError] = {}

    def call(number: int) -> None:
        body = b"call-%d" % number
        try:
            outcomes[body] = ask(client, body)
        except HttpError as e:
            outcomes[body] = e

    with (
        Server(model.handle) as server,
        ThreadPoolExecutor(threads) as pool,
        closing(client_of(server, size)) as client,
    ):
        list(pool.map(call, range(24)))
    assert len(outcomes) == 24
    for body, outcome in outcomes.items():
        move = model.made[body]
        if move in HONEST:
            assert outcome == body, move
        else:
            # What a move cuts short is the body's own beginning, or nothing.
            assert isinstance(outcome, HttpError) or body.startswith(outcome), move
