"""Every attack of docs/ingress.md is refused, and gets no byte of the request."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from enclave import Nsm
from enclave.attested_tls.binding import key_user_data, session_user_data
from enclave.attested_tls.exchange import public_key_of
from enclave.attested_tls.identity import Identity, make_identity, server_context
from enclave.errors import (
    AgentError,
    AttestationError,
    AttestedTlsError,
    ConfigurationError,
    DecodingError,
)
from enclave_simulator.authority import Authority
from enclave_simulator.nsm import SimulatedNsm
from tests.enclave.attested_tls.serving import (
    AUTHORITY,
    IMAGE,
    NSM,
    RESPONSE,
    Program,
    Served,
    expecting,
    get,
    program,
    served,
)
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Respond = Callable[["Session"], bytes]

IDENTITY = make_identity("localhost", datetime.now(UTC))
"""A key that the enclave made, and that an attacker has stolen, in the tests that need one."""


class Session:
    """What an impostor knows of a client's connection."""

    def __init__(self, tls: ssl.SSLSocket, nonce: bytes) -> None:
        self.tls = tls
        self.nonce = nonce
        self.finished = tls.get_channel_binding("tls-unique") or b""

    def attested(self, nsm: SimulatedNsm = NSM, **changes: bytes | None) -> bytes:
        """A document with everything right that the changes do not spoil."""
        fields: dict[str, bytes | None] = {
            "user_data": session_user_data(IDENTITY.public_key, self.finished),
            "nonce": self.nonce,
        }
        return Nsm(nsm).attest(**{**fields, **changes})


def ok(body: bytes, *more: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
    return head + body + b"".join(more)


class Impostor:
    """A TLS server of the attacker's; `seen` is all that clients sent it."""

    def __init__(self, respond: Respond, context: ssl.SSLContext) -> None:
        self.seen = b""
        self.port = 0
        self._respond = respond
        self._context = context

    def serve(self, server: socket.socket) -> None:
        while True:
            try:
                connected, _ = server.accept()
            except OSError:
                return
            connected.settimeout(TEST_TIMEOUT)
            with connected, contextlib.suppress(OSError):
                self._serve(self._context.wrap_socket(connected, server_side=True))

    def _serve(self, tls: ssl.SSLSocket) -> None:
        with tls:
            received = b""
            while b"\r\n\r\n" not in received:
                if not (data := tls.recv(65_536)):
                    return
                received += data
                self.seen += data
            (nonce,) = re.findall(rb"\?nonce=([0-9a-f]{64}) ", received)
            tls.sendall(self._respond(Session(tls, bytes.fromhex(nonce.decode()))))
            while data := tls.recv(65_536):
                self.seen += data
                tls.sendall(RESPONSE)


@contextlib.contextmanager
def impostor(
    respond: Respond, identity: Identity = IDENTITY, context: ssl.SSLContext | None = None
) -> Iterator[Impostor]:
    made = Impostor(respond, context or server_context(identity))
    with socket.create_server(("127.0.0.1", 0)) as server:
        made.port = server.getsockname()[1]
        thread = threading.Thread(target=made.serve, args=(server,), daemon=True)
        thread.start()
        yield made
        server.shutdown(socket.SHUT_RDWR)
        thread.join(TEST_TIMEOUT)


def request_to(port: int, context: ssl.SSLContext | None = None) -> bytes:
    """What a client does: connect, and send its secret."""
    connected = socket.create_connection(("127.0.0.1", port), TEST_TIMEOUT)
    with (context or expecting()).wrap_socket(connected, server_hostname="localhost") as tls:
        tls.sendall(b"GET /?secret HTTP/1.1\r\n\r\n")
        return tls.recv(1000)


def refused(
    error: type[AgentError],
    match: str,
    respond: Respond,
    identity: Identity = IDENTITY,
    context: ssl.SSLContext | None = None,
) -> AgentError:
    with impostor(respond, identity) as made, pytest.raises(error, match=match) as caught:
        request_to(made.port, context)
    assert b"secret" not in made.seen
    assert made.seen.count(b"\r\n\r\n") == 1, "one request for a document, and nothing else"
    return caught.value


def test_the_impostor_would_pass_if_it_were_the_enclave() -> None:
    """Otherwise the tests below would show nothing."""
    with impostor(lambda s: ok(s.attested())) as made:
        assert request_to(made.port) == RESPONSE
        assert b"secret" in made.seen


@pytest.fixture
def real() -> Iterator[Served]:
    with program(Program()) as behind, served(behind.port) as made:
        yield made


def ask(real: Served, nonce: bytes) -> bytes:
    """What the enclave itself responds to a nonce that an attacker passes on."""
    with real.connect() as tls:
        return get(tls, f"/.well-known/nitro-attestation?nonce={nonce.hex()}")


def keep_alive(response: bytes) -> bytes:
    return response.replace(b"Connection: close", b"Connection: keep-alive")


def test_a_relay_with_a_key_and_certificate_of_its_own(real: Served) -> None:
    """It looks like the enclave: same subject, same issuer, and genuine, fresh documents."""
    error = refused(
        AttestationError, "user_data: expected", lambda s: keep_alive(ask(real, s.nonce))
    )
    assert isinstance(error, AttestationError)
    assert len(error.failures) == 1, "all else about the document is right"
    assert "something other than the enclave ends TLS" in error.hint


def test_a_relay_that_has_the_enclaves_own_key(real: Served) -> None:
    """The key has leaked: the session tells the two connections apart."""
    identity, _ = real.server._identity.get()
    respond: Respond = lambda s: keep_alive(ask(real, s.nonce))  # noqa: E731
    error = refused(AttestationError, "user_data: expected", respond, identity)
    with real.connect() as tls:
        assert public_key_of(tls.getpeercert(binary_form=True)) == identity.public_key
    assert isinstance(error, AttestationError)
    assert len(error.failures) == 1


def test_a_replayed_document() -> None:
    """For the right key, as one that binds a certificate alone would be."""
    old = Nsm(NSM).attest(user_data=key_user_data(IDENTITY.public_key), nonce=bytes(32))
    refused(AttestationError, "nonce: expected", lambda _: ok(old))


def test_a_document_that_is_cached_for_everybody() -> None:
    cached = Nsm(NSM).attest(user_data=key_user_data(IDENTITY.public_key))
    refused(AttestationError, "nonce: expected [0-9a-f]{64}, got none", lambda _: ok(cached))


def test_a_wrong_nonce() -> None:
    respond: Respond = lambda s: ok(s.attested(nonce=s.nonce[::-1]))  # noqa: E731
    refused(AttestationError, "nonce: expected", respond)


def test_another_image() -> None:
    other = SimulatedNsm(AUTHORITY, pcrs={0: bytes([7]) * 48})
    refused(AttestationError, "PCR0: expected", lambda s: ok(s.attested(other)))


def test_the_same_image_run_by_somebody_else() -> None:
    """PCR0 names the image; the role and the account are PCR3's."""
    other = SimulatedNsm(AUTHORITY, pcrs={0: IMAGE, 3: bytes([9]) * 48})
    expected = expecting(pcrs={0: IMAGE, 3: bytes([8]) * 48})
    refused(AttestationError, "PCR3: expected", lambda s: ok(s.attested(other)), context=expected)


def test_debug_mode() -> None:
    """Even for one who expects zeros: everybody's enclave in debug mode has them."""
    debug = SimulatedNsm(AUTHORITY, debug_mode=True)
    zeros = expecting(pcrs={0: bytes(48)})
    refused(AttestationError, "debug mode", lambda s: ok(s.attested(debug)), context=zeros)
    with impostor(lambda s: ok(s.attested(debug))) as made:
        request_to(made.port, expecting(pcrs={0: bytes(48)}, allow_debug=True))


def test_another_root() -> None:
    other = SimulatedNsm(Authority.generate(), pcrs={0: IMAGE})
    refused(AttestationError, "root: expected", lambda s: ok(s.attested(other)))


def test_an_instance_in_place_of_an_enclave() -> None:
    expected = expecting(platform="instance", pcrs={4: IMAGE})
    refused(AttestationError, "platform: expected", lambda s: ok(s.attested()), context=expected)


@pytest.mark.parametrize("user_data", [None, b"", b"nitro-attested-tls/1 session:", bytes(32)])
def test_a_document_made_for_something_else(user_data: bytes | None) -> None:
    """Such as KMS, or the program's own protocol."""
    respond: Respond = lambda s: ok(s.attested(user_data=user_data))  # noqa: E731
    refused(AttestationError, "user_data: expected", respond)


def test_a_document_with_one_bit_flipped() -> None:
    def respond(session: Session) -> bytes:
        document = bytearray(session.attested())
        document[document.index(session.nonce)] ^= 1
        return ok(bytes(document))

    refused(AttestationError, "signature: not made over this payload", respond)


@pytest.mark.parametrize(
    ("response", "error", "match"),
    [
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", AttestedTlsError, "status 404"),
        (b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n", AttestedTlsError, "302"),
        (b"HTTP/1.1 429 T\r\nContent-Length: 0\r\n\r\n", AttestedTlsError, "status 429"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 32769\r\n\r\n", AttestedTlsError, "longer than"),
        (ok(bytes(32_768)), DecodingError, "malformed attestation document"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(32_769), AttestedTlsError, "longer than"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, AttestedTlsError, "head of the response"),
        (b"SSH-2.0-x\r\n", AttestedTlsError, "does not begin as HTTP"),
        (ok(b""), DecodingError, "malformed attestation document"),
    ],
)
def test_no_document(response: bytes, error: type[AgentError], match: str) -> None:
    refused(error, match, lambda _: response)


@pytest.mark.parametrize("behind", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"])
def test_bytes_behind_the_document(behind: bytes) -> None:
    """They would be read as the response to a request that was not sent yet."""
    refused(AttestedTlsError, "more than", lambda s: ok(s.attested(), behind))


def test_a_server_that_closes_after_the_document() -> None:
    """The request would have to go over another connection than the proven one."""
    respond: Respond = lambda s: ok(s.attested()).replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")  # noqa: E731
    refused(AttestedTlsError, "closes the connection", respond)


def test_a_server_that_trickles() -> None:
    """Each byte comes in time, the document does not."""
    stop = threading.Event()

    def respond(session: Session) -> bytes:
        while not stop.wait(0.005):
            session.tls.sendall(b"x")
        return b""

    # An interim response without an end: whatever comes belongs to its head.
    def trickle(session: Session) -> bytes:
        session.tls.sendall(b"HTTP/1.1 103 ")
        return respond(session)

    with impostor(trickle) as made, contextlib.ExitStack() as stack:
        stack.callback(stop.set)
        with pytest.raises(AttestedTlsError, match="timeout"):
            request_to(made.port, expecting(timeout=0.2))
    assert b"secret" not in made.seen


def test_tls_1_2() -> None:
    context = server_context(IDENTITY)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with impostor(lambda s: ok(s.attested()), context=context) as made, pytest.raises(ssl.SSLError):
        request_to(made.port)
    assert made.seen == b""


def test_a_session_is_not_resumed() -> None:
    with impostor(lambda s: ok(s.attested())) as made:
        context = expecting()
        connected = socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT)
        with context.wrap_socket(connected, server_hostname="localhost") as tls:
            session = tls.session
        with socket.socket() as other, pytest.raises(ConfigurationError, match="proven anew"):
            context.wrap_socket(other, server_hostname="localhost", session=session)


def test_a_connection_that_was_not_proven_carries_nothing() -> None:
    """OpenSSL does a handshake by itself on the first use; that one proves nothing."""
    with impostor(lambda s: ok(s.attested())) as made:
        connected = socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT)
        tls = expecting().wrap_socket(
            connected, server_hostname="localhost", do_handshake_on_connect=False
        )
        with tls:
            uses: tuple[Callable[[], object], ...] = (
                lambda: tls.sendall(b"secret"),
                lambda: tls.write(b"secret"),
                lambda: tls.send(b"secret"),
                lambda: tls.recv(1),
                lambda: tls.recv_into(bytearray(1)),
                lambda: tls.read(1),
            )
            for use in uses:
                with pytest.raises(AttestedTlsError, match="not proven"):
                    use()
            tls.do_handshake()
            tls.sendall(b"open now")
        bio = expecting().wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
        with pytest.raises(AttestedTlsError, match="not proven"):
            bio.write(b"secret")
        with pytest.raises(AttestedTlsError, match="not proven"):
            bio.read(1)
    assert b"secret" not in made.seen


@pytest.mark.parametrize(
    "pcrs",
    [{3: IMAGE}, {4: IMAGE}, {1: IMAGE}, {2: IMAGE}, {16: IMAGE}, {8: bytes(48)},
     {8: [IMAGE, bytes(48)]}],
)  # fmt: skip
def test_pcrs_that_any_image_can_have(pcrs: dict[int, bytes]) -> None:
    """The role and the instance are the parent's, programs extend PCR16 and above, and PCR8 of an
    image without a signature is zero."""
    with pytest.raises(ConfigurationError, match="name no image"):
        expecting(pcrs=pcrs)
    expecting(pcrs={**pcrs, 0: IMAGE})
    expecting(pcrs={**pcrs, 8: IMAGE})
    expecting(pcrs={1: IMAGE, 2: IMAGE})


@pytest.mark.parametrize(
    "pcrs", [{8: "ab" * 48}, {0: "ab" * 48}, {0: b"short"}, {8: 5}, {0: []}, {0: IMAGE, 99: IMAGE}]
)
def test_pcrs_that_no_image_can_have(pcrs: dict[int, Any]) -> None:
    """Told when the context is made, not at the first connection; hex is the usual mistake."""
    with pytest.raises(ConfigurationError, match="PCR"):
        expecting(pcrs=pcrs)


def test_without_a_pcr_there_is_no_context() -> None:
    with pytest.raises(ConfigurationError, match="no PCR"):
        expecting(pcrs={})
