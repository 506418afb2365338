"""HTTPS to KMS: which connections are kept, and every error by its name, with a hint."""

from __future__ import annotations

import ssl
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from enclave.errors import (
    AgentError,
    ConfigurationError,
    KmsResponseError,
    KmsUnreachableError,
)
from enclave.kms.endpoint import Endpoint
from enclave.kms.transport import MAX_RESPONSE, Transport
from enclave_simulator.kms.tls import CertificateAuthority
from tests.doubles import RedirectingDialer
from tests.enclave.http.servers import (
    ADDRESS,
    HOST,
    Server,
    read_request,
    response,
    until_the_client_leaves,
)
from tests.waiting import TEST_TIMEOUT, eventually
from vsock_proxy.net.addresses import UnixAddress

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tests.enclave.conftest import Enclave
    from vsock_proxy.net.dialing import Dialer

AUTHORITY = CertificateAuthority()
ENDPOINT = Endpoint(HOST, 443, "/")
ID = b"x-amzn-RequestId: 1\r\n"


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.certificate_pem.decode())


def front(handle: Callable[[socket.socket], None]) -> Server:
    """A server that has KMS's name."""
    return Server(handle, context=AUTHORITY.server_context())


def transport(dialer: Dialer, **changes: Any) -> Transport:
    return Transport(
        **{"endpoint": ENDPOINT, "dialer": dialer, "proxy": ADDRESS, "tls": trusting(), **changes}
    )


def post(to: Transport, body: bytes = b"{}", **changes: float) -> bytes:
    seconds: dict[str, float] = dict.fromkeys(
        ("connect_timeout", "read_timeout", "timeout", "deadline"), TEST_TIMEOUT
    )
    return to.post({}, body, **{**seconds, **changes}).body


@pytest.mark.parametrize(("head", "connections"), [(ID, 1), (b"", 3)])
def test_only_what_kms_wrote_keeps_its_connection(head: bytes, connections: int) -> None:
    def handle(connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            connection.sendall(response(body, head=head))

    with front(handle) as server, closing(transport(server)) as to:
        assert [post(to, body) for body in (b"1", b"2", b"3")] == [b"1", b"2", b"3"]
    assert server.connections == connections


def test_connections_can_be_renewed_idle_ones_and_those_in_use() -> None:
    both = threading.Barrier(2, timeout=TEST_TIMEOUT)

    def handle(connection: socket.socket) -> None:
        while (body := read_request(connection)) is not None:
            if body == b"slow":
                both.wait()
                both.wait()
            connection.sendall(response(body, head=ID))

    with front(handle) as server, closing(transport(server)) as to:
        post(to)
        slow = threading.Thread(target=post, args=(to, b"slow"))
        slow.start()  # takes the connection that is kept
        both.wait()
        post(to)  # and this makes another one, which is idle now
        to.renew_connections()
        both.wait()
        slow.join(TEST_TIMEOUT)
        assert server.connections == 2
        post(to)
        post(to)
        assert server.connections == 3


def test_a_response_that_does_not_fit_its_request_ends_its_connection(enclave: Enclave) -> None:
    """It may have been another call's."""
    agent = enclave.agent()
    agent.generate_random(8)
    enclave.kms.faults.inject("wrong-length:1")
    with pytest.raises(KmsResponseError):
        agent.generate_random(8)
    assert len(enclave.dialer.dialed) == 1
    assert len(agent.generate_random(8)) == 8
    assert len(enclave.dialer.dialed) == 2


SAID: dict[str, tuple[bytes, type[AgentError], str]] = {
    "nothing": (b"", KmsUnreachableError, "broke: the server closed the connection without"),
    "half a response": (response(b"x", more=1), KmsUnreachableError, "broke: .* before the"),
    "no HTTP": (b"SSH-2.0\r\n", KmsResponseError, "is not HTTP/1.1: the response does not begin"),
    "a bad head": (b"HTTP/1.1 200 OK\r\nX y\r\n\r\n", KmsResponseError, "malformed"),
    "another protocol": (
        b"HTTP/1.1 101 X\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n", KmsResponseError,
        "switches protocols"),
    "interim responses without end": (
        b"HTTP/1.1 102 X\r\n\r\n" * 100, KmsResponseError, "interim"),
    "too much": (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_RESPONSE + 1), KmsResponseError,
        "longer than 1048576 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAID)
def test_a_server_that_says(name: str) -> None:
    said, error, text = SAID[name]

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(said)
        assert isinstance(connection, ssl.SSLSocket)
        connection.unwrap()

    with front(handle) as server, closing(transport(server)) as to:
        with pytest.raises(AgentError, match=text) as caught:
            post(to)
        assert type(caught.value) is error
        assert caught.value.hint


def test_a_limit_that_was_asked_for_is_named_not_what_was_left() -> None:
    with front(until_the_client_leaves) as server, closing(transport(server)) as to:
        with pytest.raises(KmsUnreachableError, match=r"no complete response .* within 0\.05 s\n"):
            post(to, read_timeout=0.05)
        with pytest.raises(KmsUnreachableError, match=r"within the call's deadline of 7 s\n"):
            post(to, timeout=0.5, deadline=7.0)


def test_no_free_connection_within_the_call() -> None:
    with (
        front(until_the_client_leaves) as server,
        closing(transport(server, max_connections=1)) as to,
    ):

        def wait() -> None:
            with pytest.raises(KmsUnreachableError, match="no complete response"):
                post(to, timeout=1.0)

        busy = threading.Thread(target=wait)
        busy.start()
        eventually(lambda: server.connections)
        with pytest.raises(KmsUnreachableError, match=r"no connection .* became free") as caught:
            post(to, timeout=0.05)
        assert "max_connections" in caught.value.hint
        busy.join(TEST_TIMEOUT)


def test_no_proxy(tmp_path: Path) -> None:
    dialer = RedirectingDialer(UnixAddress(str(tmp_path / "none")))
    with pytest.raises(KmsUnreachableError, match="KMS cannot be reached") as caught:
        post(transport(dialer))
    assert caught.value.transient
    assert caught.value.hint


def test_another_name_is_not_worth_retrying() -> None:
    endpoint = Endpoint("kms.example.org", 443, "/")
    with (
        front(until_the_client_leaves) as server,
        pytest.raises(KmsUnreachableError, match="does not prove to be KMS") as caught,
    ):
        post(transport(server, endpoint=endpoint))
    assert not caught.value.transient
    assert "another host" in caught.value.hint


def test_a_server_that_wants_a_client_certificate_is_told_as_such() -> None:
    authority = CertificateAuthority()
    context = authority.server_context()
    context.sni_callback = None
    context.verify_mode = ssl.CERT_REQUIRED
    tls = ssl.create_default_context(cadata=authority.certificate_pem.decode())
    with (
        Server(until_the_client_leaves, context=context) as server,
        pytest.raises(KmsUnreachableError) as caught,
    ):
        post(transport(server, tls=tls))
    # On a slow machine the server is gone before the request, and then nothing tells why.
    assert "client certificate" in caught.value.hint or "broke" in str(caught.value)


def test_a_closed_transport_makes_no_more_requests() -> None:
    with Server(until_the_client_leaves) as server:
        to = transport(server)
        to.close()
        with pytest.raises(ConfigurationError, match="closed") as caught:
            post(to)
    assert caught.value.hint
