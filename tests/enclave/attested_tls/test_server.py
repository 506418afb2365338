"""The enclave's end: TLS to the program's bytes and back, limits, and ends."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import select
import socket
import ssl
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from enclave import Nsm, parse
from enclave.attested_tls.binding import key_user_data
from enclave.attested_tls.connection import Connection, Limits
from enclave.attested_tls.exchange import public_key_of
from enclave.attested_tls.identity import (
    RENEW_AFTER,
    CurrentIdentity,
    make_identity,
    server_context,
)
from enclave.attested_tls.server_tls import ServerTls
from tests.doubles import ManualClock
from tests.enclave.attested_tls.serving import (
    NSM,
    RESPONSE,
    Program,
    end,
    expecting,
    get,
    program,
    served,
    trusting,
)
from tests.sockets import read_all, unused_port
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enclave.attested_tls.server import AttestedServer

PATH = "/.well-known/nitro-attestation"
BULK = bytes(range(256)) * 8192  # 2 MiB, more than any buffer on the way


@pytest.fixture
def behind() -> Iterator[Program]:
    with program(Program()) as made:
        yield made


def ended(made: Program) -> None:
    assert made.ended.acquire(timeout=TEST_TIMEOUT)


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


def test_clients_beyond_the_limit_are_closed(behind: Program) -> None:
    with served(behind.port, limits=Limits(clients=1)) as made:
        with made.connect(expecting()) as first:
            refused(made.port)
            assert made.server.rejected == 1
            first.sendall(b"\n")
            assert first.recv(100) == RESPONSE
        made.until(lambda: not made.server.connections)
        made.connect(expecting()).close()


def refused(port: int) -> None:
    """Check that a client gets no TLS connection."""
    with socket.socket() as plain:
        plain.settimeout(TEST_TIMEOUT)
        context = trusting()
        with pytest.raises(OSError, match=r"refused|reset|EOF|[Bb]roken|connected"):
            _handshake(plain, port, context)


def _handshake(plain: socket.socket, port: int, context: ssl.SSLContext) -> None:
    plain.connect(("127.0.0.1", port))
    context.wrap_socket(plain, server_hostname="localhost").close()


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01"])
def test_a_handshake_that_does_not_end_is_aborted(behind: Program, begin: bytes) -> None:
    with (
        served(behind.port, limits=Limits(handshake_timeout=0.01)) as made,
        socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT) as plain,
    ):
        plain.sendall(begin)
        assert _rest(plain) == b""


def _rest(plain: socket.socket) -> bytes:
    try:
        return read_all(plain)
    except ConnectionResetError:
        return b""


def test_what_is_not_tls_is_an_alert(behind: Program, caplog: pytest.LogCaptureFixture) -> None:
    with (
        served(behind.port) as made,
        socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT) as plain,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        _rest(plain)
        made.until(lambda: not made.server.connections)
    assert behind.seen == []
    assert "a client's TLS failed: TLS: " in caplog.text


def test_tls_1_2_is_refused(behind: Program) -> None:
    context = trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        served(behind.port) as made,
        socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT) as plain,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


class SlowTransport:
    """The transport of a client that has not read all yet."""

    def __init__(self) -> None:
        self.unread = 1000
        self.aborted = False

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unread

    def abort(self) -> None:
        self.aborted = True

    def write(self, _data: bytes) -> None: ...

    def write_eof(self) -> None: ...

    def resume_reading(self) -> None: ...


def test_the_last_bytes_have_as_long_as_the_client_reads(behind: Program) -> None:
    async def run(server: AttestedServer) -> None:
        connection = Connection(server, *server._identity.get())
        transport = SlowTransport()
        connection.transport = transport  # type: ignore[assignment] # all it needs of one
        connection.close()
        for unread in (1000, 900, 1):
            transport.unread = unread
            connection.expire()
            assert not transport.aborted
        connection.expire()
        assert transport.aborted, "nothing was read meanwhile"

    with served(behind.port) as made:
        made.run(run(made.server))


def test_no_session_tickets(behind: Program) -> None:
    with served(behind.port) as made, made.connect() as tls:
        tls.sendall(b"\n")
        tls.recv(100)
        assert tls.session is None or not tls.session.has_ticket


def test_a_client_that_waits_is_closed_in_an_orderly_way(behind: Program) -> None:
    with served(behind.port, limits=Limits(wait_timeout=0.01)) as made, made.connect() as tls:
        assert tls.recv(1) == b""


def test_an_idle_connection_is_aborted(behind: Program) -> None:
    with served(behind.port, limits=Limits(idle_timeout=0.01)) as made, made.connect() as tls:
        tls.sendall(b"\n")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            read_all(tls)
        ended(behind)
    assert behind.reset == 1


def test_new_connections_get_a_new_key_each_day_and_old_ones_keep_theirs(
    behind: Program,
) -> None:
    clock = ManualClock()
    with served(behind.port, monotonic=clock.monotonic) as made:
        first = made.connect()
        clock.elapsed = RENEW_AFTER + 1
        with made.connect(expecting()) as second:
            keys = [public_key_of(each.getpeercert(binary_form=True)) for each in (first, second)]
            assert keys[0] != keys[1]
        document = get(first, PATH).partition(b"\r\n\r\n")[2]
        assert parse(document).user_data == key_user_data(keys[0])
        first.close()


def test_a_key_that_cannot_be_renewed_serves_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock()
    current = CurrentIdentity("a", now=clock.now, monotonic=clock.monotonic)
    first = current.get()
    clock.elapsed = RENEW_AFTER

    def no_descriptors(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("os.memfd_create", no_descriptors)
        assert current.get() == first
        assert current.get() == first
    assert caplog.text.count("Too many open files") == 1
    clock.elapsed += 60.0
    assert current.get() != first


def test_bytes_after_tlss_own_end_are_not_kept(behind: Program) -> None:
    with served(behind.port) as made:
        tls = made.connect()
        tls.sendall(b"\n")
        assert tls.recv(100) == RESPONSE
        end(tls)
        with socket.socket(fileno=tls.detach()) as plain:
            plain.settimeout(TEST_TIMEOUT)
            try:
                for _ in range(64):
                    plain.sendall(bytes(65_536))
            except (BrokenPipeError, ConnectionResetError):
                pass  # it was closed meanwhile
        made.until(lambda: not made.server.connections)
        ended(behind)


def test_tls_keeps_nothing_after_its_end() -> None:
    identity = make_identity("a", datetime.now(UTC))
    server = ServerTls(server_context(identity))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting().wrap_bio(incoming, outgoing)
    for _ in range(3):
        with contextlib.suppress(ssl.SSLWantReadError):
            client.do_handshake()
        server.receive(outgoing.read())
        incoming.write(server.outgoing())
    assert server.established
    assert server.finished == client.get_channel_binding("tls-unique")
    client.write(b"last")
    with contextlib.suppress(ssl.SSLError):
        client.unwrap()
    assert server.receive(outgoing.read()) == b"last"
    assert server.ended
    for _ in range(10):
        assert server.receive(bytes(1000)) == b""
    assert server._incoming.pending == 0
    server.send(b"still")
    incoming.write(server.outgoing())
    assert client.read(10) == b"still"


def test_draining_ends_what_waits_and_waits_for_what_is_under_way(behind: Program) -> None:
    with served(behind.port) as made:
        waiting, busy = made.connect(expecting()), made.connect(expecting())
        busy.sendall(b"\n")
        assert busy.recv(100) == RESPONSE
        drained = threading.Event()

        def drain() -> None:
            made.run(made.server.drain(TEST_TIMEOUT))
            drained.set()

        draining = threading.Thread(target=drain, daemon=True)
        draining.start()
        assert waiting.recv(1) == b""
        waiting.close()
        refused(made.port)
        busy.sendall(b"\n")
        assert busy.recv(100) == RESPONSE
        assert not drained.is_set()
        busy.close()
        draining.join(TEST_TIMEOUT)
        assert drained.is_set()


def test_a_storm_leaves_nothing_behind(behind: Program) -> None:
    """Clients that vanish at every stage."""
    with served(behind.port) as made:
        for stage in range(40):
            connected = socket.create_connection(("127.0.0.1", made.port), TEST_TIMEOUT)
            if stage % 4 == 0:
                connected.close()
                continue
            tls = (expecting() if stage % 4 == 1 else trusting()).wrap_socket(
                connected, server_hostname="localhost"
            )
            if stage % 4 == 2:
                tls.sendall(f"GET {PATH}?nonce={stage:032x} HTTP/1.1\r\n\r\n".encode())
            elif stage % 4 == 3:
                tls.sendall(b"x\n")
            tls.close()
        made.until(lambda: not made.server.connections)
        made.connect(expecting()).close()
