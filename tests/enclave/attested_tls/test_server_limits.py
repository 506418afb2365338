"""Clients that are slow, idle or too many, new keys, and the end of the server."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from enclave import parse
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
    PATH,
    RESPONSE,
    Program,
    end,
    ended,
    expecting,
    get,
    served,
    trusting,
)
from tests.sockets import read_all
from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from enclave.attested_tls.server import AttestedServer


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
