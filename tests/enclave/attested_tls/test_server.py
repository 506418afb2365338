"""The enclave's end: TLS to the program's bytes and back, and documents on the way."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import select
import socket
import ssl
import threading

import pytest

from enclave import Nsm, parse
from enclave.attested_tls.binding import key_user_data
from enclave.attested_tls.connection import Limits
from enclave.attested_tls.exchange import public_key_of
from tests.enclave.attested_tls.serving import (
    NSM,
    PATH,
    RESPONSE,
    Program,
    end,
    ended,
    expecting,
    get,
    program,
    served,
    trusting,
)
from tests.sockets import read_all, unused_port
from tests.waiting import TEST_TIMEOUT

BULK = bytes(range(256)) * 8192  # 2 MiB, more than any buffer on the way


def test_requests_and_responses_pass(behind: Program) -> None:
    with served(behind.port) as made:
        with made.connect(expecting()) as tls:
            for _ in range(3):
                tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert tls.recv(1000) == RESPONSE
        ended(behind)
    assert behind.seen == [b"GET / HTTP/1.1\r\n\r\n" * 3]
    assert behind.reset == 0


def test_a_client_that_asks_for_no_document_is_served(behind: Program) -> None:
    """curl -k, for example; and whatever protocol the program speaks."""
    with served(behind.port) as made, made.connect() as tls:
        tls.sendall(b"\x00 anything\n")
        assert tls.recv(1000) == RESPONSE
    assert made.documents.made == 0


def test_a_document_and_then_the_program_on_one_connection(behind: Program) -> None:
    with served(behind.port) as made, made.connect() as tls:
        for nonce in (b"a" * 32, b"b" * 64, b"c" * 16):
            tls.sendall(f"GET {PATH}?nonce={nonce.hex()} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            response = http.client.HTTPResponse(tls)
            response.begin()
            assert response.status == 200
            assert response.getheader("Cache-Control") == "no-store"
            assert parse(response.read()).nonce == nonce
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert tls.recv(1000) == RESPONSE
        tls.sendall(f"GET {PATH} HTTP/1.1\r\n\r\n".encode())
        assert tls.recv(1000) == RESPONSE, "from here on all is the program's"


def test_requests_sent_ahead_keep_their_order(behind: Program) -> None:
    """Nothing is smuggled behind a document: what follows it is looked at in turn."""
    ask = f"GET {PATH}?nonce={'ab' * 16} HTTP/1.1\r\n\r\n".encode()
    with served(behind.port) as made, made.connect() as tls:
        tls.sendall(ask + ask + b"POST / HTTP/1.1\r\n\r\n" + ask)
        received = b""
        while not received.endswith(RESPONSE):
            received += tls.recv(65_536)
        assert received.count(b"HTTP/1.1 200 OK") == 3
        assert made.documents.made == 2
        end(tls)
    ended(behind)
    assert behind.seen == [b"POST / HTTP/1.1\r\n\r\n" + ask]


def test_the_document_without_a_nonce_names_the_key(behind: Program) -> None:
    with served(behind.port) as made:
        documents = set()
        for _ in range(3):
            with made.connect() as tls:
                public_key = public_key_of(tls.getpeercert(binary_form=True))
                head, _, body = get(tls, PATH).partition(b"\r\n\r\n")
            assert b"Cache-Control: max-age=60" in head
            assert parse(body).user_data == key_user_data(public_key)
            documents.add(body)
        assert len(documents) == made.documents.made == 1


@pytest.mark.parametrize("query", ["?nonce=ab", "?nonce=" + "ab" * 65, "?x", "?nonce=zz"])
def test_invalid_requests_are_rejected_and_reach_no_program(behind: Program, query: str) -> None:
    with served(behind.port) as made, made.connect() as tls:
        assert get(tls, PATH + query).startswith(b"HTTP/1.1 400 ")
    assert behind.seen == []


def test_too_many_documents_are_429(behind: Program) -> None:
    with served(behind.port, rate=1) as made:
        statuses = []
        for each in range(3):
            with made.connect() as tls:
                statuses.append(get(tls, f"{PATH}?nonce={each:032x}")[:40].split()[1])
        assert statuses[0] == b"200"
        assert b"429" in statuses


def test_an_nsm_that_fails_is_503_and_no_reason(
    behind: Program, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Nsm):
        def attest(self, *_: object, **__: object) -> bytes:
            return Nsm(NSM).attest(nonce=bytes(1025))

    with served(behind.port, Broken(NSM)) as made, made.connect() as tls:
        response = get(tls, f"{PATH}?nonce={'ab' * 16}")
    assert response.startswith(b"HTTP/1.1 503 ")
    assert b"1024" not in response
    assert "no attestation document" in caplog.text


def test_bulk_in_both_directions() -> None:
    """More than all buffers hold, while the other side is not reading yet."""
    may_read = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.sendall(BULK)
        assert may_read.wait(TEST_TIMEOUT)
        received = read_all(connection)
        connection.sendall(hashlib.sha256(received).digest())

    with (
        program(Program(handle)) as behind,
        served(behind.port) as made,
        made.connect(expecting()) as tls,
    ):
        assert exchanged(tls, BULK, may_read) == BULK
        end(tls)
        assert tls.recv(100) == hashlib.sha256(BULK).digest(), "after a half-close"


def exchanged(tls: ssl.SSLSocket, data: bytes, may_read: threading.Event) -> bytes:
    """Send `data` and receive as much, by turns: before Python 3.13 no two threads may share TLS.

    The other side reads from when it has been read from.
    """
    tls.setblocking(False)
    sent, received = 0, bytearray()
    while sent < len(data) or len(received) < len(data):
        select.select([tls], [tls] if sent < len(data) else [], [], TEST_TIMEOUT)
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            if sent < len(data):
                sent += tls.send(data[sent : sent + 16_384])
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while len(received) < len(data):
                received += tls.recv(65_536)
        if len(received) == len(data):
            may_read.set()
    tls.settimeout(TEST_TIMEOUT)
    return bytes(received)


def test_neither_side_is_read_while_the_other_takes_nothing() -> None:
    stuck = threading.Event()

    def handle(connection: socket.socket) -> None:
        connection.recv(1)
        stuck.wait(TEST_TIMEOUT)

    with program(Program(handle)) as behind, served(behind.port) as made:
        tls = made.connect(expecting())
        tls.settimeout(1.0)
        with pytest.raises(TimeoutError):
            tls.sendall(bytes(64 * 1024 * 1024))
        (connection,) = made.server.connections
        held = connection._program.transport.get_write_buffer_size()  # type: ignore[union-attr]
        assert held < 1024 * 1024, "what the agent itself holds"
        stuck.set()
        tls.close()


def test_a_program_that_closes_ends_tls() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"all of it")

    with program(Program(handle)) as behind, served(behind.port) as made:
        tls = made.connect()
        tls.sendall(b"x")
        assert read_all(tls) == b"all of it"  # a missing end would raise SSLEOFError
        tls.close()
        made.until(lambda: not made.server.connections)


def test_a_program_that_resets_is_not_a_clean_end() -> None:
    def handle(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"a part")
        connection.recv(1000)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with program(Program(handle)) as behind, served(behind.port) as made:
        tls = made.connect()
        tls.sendall(b"x")
        assert tls.recv(100) == b"a part"
        tls.sendall(b"y")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            tls.recv(100)
        tls.close()


def test_a_connection_that_is_cut_off_is_a_reset_for_the_program() -> None:
    """The parent can end any connection; a request must not look complete for it."""
    with program(Program()) as behind, served(behind.port) as made:
        connected = socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT)
        tls = trusting().wrap_socket(connected, server_hostname="localhost")
        tls.sendall(b"half of a")
        made.until(lambda: any(each._state == "relaying" for each in made.server.connections))
        tls.shutdown(socket.SHUT_WR)  # without TLS's own end
        ended(behind)
        tls.close()
    assert (behind.reset, behind.seen) == (1, [])


def test_a_program_that_is_not_there_yet_is_waited_for() -> None:
    port = unused_port()
    with served(port) as made, made.connect() as tls:
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        made.until(lambda: any(each._state == "connecting" for each in made.server.connections))
        with socket.create_server(("127.0.0.1", port)) as server:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(100) == b"GET / HTTP/1.1\r\n\r\n"
                connection.sendall(RESPONSE)
                assert tls.recv(100) == RESPONSE


def test_a_program_that_never_comes(caplog: pytest.LogCaptureFixture) -> None:
    with (
        served(unused_port(), limits=Limits(connect_timeout=0.05)) as made,
        made.connect() as tls,
    ):
        tls.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            tls.recv(100)
    assert "the program does not accept a connection" in caplog.text
