"""TLS over a stream: it ends as TLS ends, and waits until the deadline."""

from __future__ import annotations

import contextlib
import socket
import ssl
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from enclave.http.client import open_tls
from enclave.http.errors import ConnectionLostError, HttpTimeoutError, TlsError
from enclave.http.stream import PlainStream, TlsStream
from enclave_simulator.kms.tls import CertificateAuthority
from tests.enclave.http.servers import (
    ADDRESS,
    HOST,
    Reluctant,
    Server,
    late,
    soon,
    until_the_client_leaves,
)
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@pytest.fixture
def connected(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> Iterator[tuple[TlsStream, Reluctant]]:
    """A stream whose server echoes, and its socket."""
    sockets = []

    class Dialer(Server):
        def dial(self, address: Any, timeout: float) -> socket.socket:
            made = Reluctant(fileno=super().dial(address, timeout).detach())
            sockets.append(made)
            return made

    with Dialer(echo, context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        with contextlib.closing(stream):
            yield stream, sockets[0]


Connected = tuple[TlsStream, Reluctant]


def test_a_server_that_does_not_read_is_waited_for_until_the_deadline(
    connected: Connected,
) -> None:
    stream, ours = connected
    ours.full = True
    with pytest.raises(TimeoutError):
        stream.send(b"x", soon())


def test_a_message_of_tls_that_cannot_be_sent_is_waited_for_until_the_deadline(
    connected: Connected,
) -> None:
    stream, ours = connected
    ours.full = True
    stream._outgoing.write(b"a response to a key update")
    with pytest.raises(TimeoutError):
        stream.receive(soon())


def test_a_handshake_that_cannot_be_sent_is_waited_for_until_the_deadline(
    trusting: ssl.SSLContext,
) -> None:
    ours, theirs = Reluctant.pair(full=True)
    with ours, theirs, pytest.raises(TimeoutError):
        TlsStream(PlainStream(ours), trusting, HOST).handshake(soon())


@pytest.mark.parametrize("failure", [None, OSError("gone")])
def test_a_failed_handshake_is_told_though_its_alert_cannot_be_sent(
    failure: OSError | None, trusting: ssl.SSLContext
) -> None:
    ours, theirs = Reluctant.pair()
    with ours, theirs:
        stream = TlsStream(PlainStream(ours), trusting, HOST)
        with pytest.raises(ssl.SSLWantReadError):
            stream._tls.do_handshake()
        stream._outgoing.read()  # The hello is sent; what comes next is the alert.
        theirs.send(b"\x16\x03\x03\x00\x04" + b"\x02\x00\x00\x00")  # an empty ServerHello
        ours.full, ours.failure = failure is None, failure
        with pytest.raises(TlsError):
            stream.handshake(late())
        assert ours.calls == 1


def test_what_is_there_now(connected: Connected) -> None:
    stream, _ = connected
    assert stream.receive_now() is None
    stream.send(b"hello", late())
    received: list[bytes] = []

    def has_come() -> bool:
        while (data := stream.receive_now()) is not None:
            received.append(data)
        return b"".join(received) == b"hello"

    eventually(has_come)


def test_what_is_there_now_at_the_end(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    def handle(connection: socket.socket) -> None:
        assert isinstance(connection, ssl.SSLSocket)
        connection.unwrap()

    with Server(handle, context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        with contextlib.closing(stream):
            eventually(lambda: stream.receive_now() == b"")


def test_what_is_there_now_when_it_was_cut_off(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    with Server(lambda _: None, context=authority.server_context()) as server:
        stream = open_tls(server, ADDRESS, trusting, HOST, late())
        with contextlib.closing(stream), pytest.raises(ConnectionLostError):
            eventually(lambda: stream.receive_now() is not None)


def test_a_message_of_tls_that_cannot_be_sent_now_is_an_error(connected: Connected) -> None:
    stream, ours = connected
    stream._outgoing.write(b"a response to a key update")
    ours.full = True
    with pytest.raises(ConnectionLostError, match="does not read"):
        stream.receive_now()


def test_a_message_of_tls_is_sent_before_more_is_waited_for(
    trusting: ssl.SSLContext,
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = TlsStream(PlainStream(ours), trusting, HOST)
        stream._tls = Reads(ssl.SSLWantReadError(), b"data")  # type: ignore[assignment]
        stream._outgoing.write(b"a response to a key update")
        assert stream.receive_now() is None
        assert theirs.recv(100) == b"a response to a key update"
        stream._outgoing.write(b"another")
        assert stream.receive_now() == b"data"
        assert stream._outgoing.pending  # It goes with what is sent next.


class Reads:
    """In place of an `ssl.SSLObject`: what its reads give."""

    def __init__(self, *results: bytes | Exception) -> None:
        self._results = list(results)

    def read(self, _size: int) -> bytes:
        result = self._results.pop(0)
        if isinstance(result, Exception):
            raise result
        return result


def test_an_end_that_python_reports_as_tlss_own(trusting: ssl.SSLContext) -> None:
    """Python 3.11.2 reads b"" from a connection that was cut off, too."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = TlsStream(PlainStream(ours), trusting, HOST)
        stream._tls = Reads(b"data", b"")  # type: ignore[assignment]
        stream._incoming.write(b"a record")
        assert stream.receive(late()) == b"data"
        stream._incoming.read()
        stream._incoming.write_eof()
        with pytest.raises(ConnectionLostError):
            stream._read()
        # TLS's own end is read before that of the connection.
        stream = TlsStream(PlainStream(ours), trusting, HOST)
        stream._tls = Reads(b"", b"")  # type: ignore[assignment]
        assert stream._read() == b""
        stream._incoming.write_eof()
        assert stream._read() == b""


@pytest.mark.parametrize(
    ("host", "name"),
    [(HOST, HOST), ("b\u00fccher.example", "xn--bcher-kva.example")],
)
def test_the_name_that_the_server_is_asked_for(
    host: str, name: str, trusting: ssl.SSLContext
) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert TlsStream(PlainStream(ours), trusting, host)._tls.server_hostname == name


def test_the_root_that_proved_the_server(
    authority: CertificateAuthority, connected: Connected
) -> None:
    stream, _ = connected
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    assert stream.root() == root.public_bytes(Encoding.DER)


def test_the_root_by_other_versions_of_python(
    authority: CertificateAuthority, trusting: ssl.SSLContext
) -> None:
    pem = authority.certificate_pem.decode()
    der = ssl.PEM_cert_to_DER_cert(pem)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = TlsStream(PlainStream(ours), trusting, HOST)

        def root_of(**attributes: Any) -> bytes | None:
            stream._tls = SimpleNamespace(**attributes)  # type: ignore[assignment]
            return stream.root()

        def inner(*chain: str) -> Any:
            certificates = [SimpleNamespace(public_bytes=lambda each=c: each) for c in chain]
            return SimpleNamespace(get_verified_chain=lambda: certificates)

        # Python 3.13: bytes. Before: objects of an object of its own, or nothing.
        assert root_of(get_verified_chain=lambda: [b"leaf", b"between", b"root"]) == b"root"
        assert root_of(get_verified_chain=list) is None
        assert root_of(_sslobj=inner("leaf", "between", pem)) == der
        assert root_of(_sslobj=inner()) is None
        assert root_of(_sslobj=None) is None
        assert root_of() is None
