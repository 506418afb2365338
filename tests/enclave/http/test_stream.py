"""Bytes until a deadline, and TLS that ends as TLS ends."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest

from enclave.http.client import open_tls
from enclave.http.errors import ConnectionLostError, HttpTimeoutError, TlsError
from enclave.http.stream import PlainStream
from enclave_simulator.kms.tls import CertificateAuthority
from tests.enclave.http.servers import ADDRESS, HOST, Server, until_the_client_leaves
from tests.waiting import TEST_TIMEOUT, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


def soon() -> float:
    return time.monotonic() + 0.05


def late() -> float:
    return time.monotonic() + TEST_TIMEOUT


def read_until(stream: PlainStream, deadline: float) -> None:
    while stream.receive(deadline):
        pass


@pytest.fixture
def pair() -> Iterator[tuple[PlainStream, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield PlainStream(ours), theirs


Pair = tuple[PlainStream, socket.socket]


def test_a_silent_peer_is_waited_for_until_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair[0].receive(soon())


def test_a_peer_that_sends_bytes_one_by_one_does_not_move_the_deadline(pair: Pair) -> None:
    stream, theirs = pair
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.005):
            theirs.send(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    deadline = time.monotonic() + 0.1
    with pytest.raises(TimeoutError):
        read_until(stream, deadline)
    stop.set()
    dripping.join(TEST_TIMEOUT)


def test_a_peer_that_does_not_read_is_waited_for_until_the_deadline(pair: Pair) -> None:
    with pytest.raises(TimeoutError):
        pair[0].send(bytes(1 << 24), soon())


def test_everything_is_sent_to_a_slow_reader(pair: Pair) -> None:
    stream, theirs = pair
    received = bytearray()

    def read() -> None:
        while len(received) < 1 << 22:
            received.extend(theirs.recv(10_000))

    reading = threading.Thread(target=read)
    reading.start()
    data = bytes(range(256)) * (1 << 14)
    stream.send(data, late())
    reading.join(TEST_TIMEOUT)
    assert received == data


def test_the_end_of_the_stream_is_empty_bytes(pair: Pair) -> None:
    stream, theirs = pair
    theirs.send(b"last")
    theirs.close()
    assert stream.receive(late()) == b"last"
    assert stream.receive(late()) == b""
    with pytest.raises(ConnectionLostError):
        stream.send(b"x", late())


def test_quiet_is_open_with_nothing_to_read(pair: Pair) -> None:
    stream, theirs = pair
    assert stream.is_quiet()
    theirs.send(b"x")
    eventually(lambda: not stream.is_quiet())
    stream.receive(late())
    assert stream.is_quiet()
    theirs.close()
    eventually(lambda: not stream.is_quiet())


def test_a_closed_stream_is_not_quiet(pair: Pair) -> None:
    pair[0].close()
    assert not pair[0].is_quiet()
    with pytest.raises(ConnectionLostError):
        pair[0].send(b"x", late())


# TLS.


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65_536):
        connection.sendall(data)


def test_tls_carries_bytes_and_says_when_nothing_is_left(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(connection.recv(10) + b"-1")
        connection.sendall(b"2")
        connection.recv(10)
        connection.sendall(bytes(100_000))

    with Server(handle, context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        assert stream.version == "TLSv1.3"
        stream.send(b"hello", late())
        assert stream.receive(late()) == b"hello-1"
        eventually(lambda: not stream.is_quiet())  # the second record, decrypted by nobody yet
        assert stream.receive(late()) == b"2"
        assert stream.is_quiet()
        stream.send(b"more", late())
        received = 0
        while received < 100_000:
            received += len(stream.receive(late()))
        stream.close()


def test_tls_that_ends_as_it_should(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    def handle(connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        connection.sendall(b"all")
        connection.unwrap()

    with Server(handle, context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        assert stream.receive(late()) == b"all"
        assert stream.receive(late()) == b""
        stream.close()


def test_tls_cut_off_is_not_an_end(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    """Whoever carries the bytes could end a response early otherwise."""
    with Server(lambda c: c.sendall(b"half"), context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        assert stream.receive(late()) == b"half"
        with pytest.raises(ConnectionLostError):
            stream.receive(late())
        stream.close()


def test_a_changed_byte_breaks_tls(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    def handle(connection: socket.socket) -> None:
        raw = socket.socket(fileno=socket.dup(connection.fileno()))
        with raw:
            raw.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
            until_the_client_leaves(connection)

    with Server(handle, context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        with pytest.raises(TlsError):
            stream.receive(late())
        stream.close()


@pytest.mark.parametrize(
    ("greeting", "error"),
    [
        (b"", ConnectionLostError),
        (b"\x16\x03\x03", ConnectionLostError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", TlsError),
    ],
)
def test_a_server_without_tls(
    greeting: bytes, error: type[Exception], trusting: ssl.SSLContext
) -> None:
    with (
        Server(lambda c: c.sendall(c.recv(65_536)[:0] + greeting)) as server,
        pytest.raises((ConnectionLostError, TlsError)) as caught,
    ):
        open_tls(server, ADDRESS, trusting, HOST, late())
    assert type(caught.value) is error


def test_a_server_that_is_silent_in_the_handshake(trusting: ssl.SSLContext) -> None:
    with Server(until_the_client_leaves) as server, pytest.raises(HttpTimeoutError) as caught:
        open_tls(server, ADDRESS, trusting, HOST, soon())
    assert caught.value.stage == "connect"


def test_a_certificate_of_another_host(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    with (
        Server(echo, context=authority.server_context()) as server,
        pytest.raises(TlsError, match="ostname mismatch") as caught,
    ):
        open_tls(server, ADDRESS, trusting, "kms.example.org", late())
    assert caught.value.unverified


def test_a_server_that_wants_a_client_certificate() -> None:
    authority = CertificateAuthority()
    trusting = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    context = authority.server_context()
    context.sni_callback = None
    context.verify_mode = ssl.CERT_REQUIRED
    with Server(echo, context=context) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())  # TLS 1.3 tells it afterwards
        with pytest.raises(TlsError, match="certificate required") as caught:
            stream.receive(late())
        stream.close()
    assert not caught.value.unverified
