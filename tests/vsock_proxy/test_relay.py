"""The relay's contract, over every pair of transports that a machine without vsock has."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vsock_proxy.rig import (
    PATIENCE,
    TURNS_PER_MESSAGE,
    Place,
    Rig,
    Server,
    in_thread,
    read_all,
    read_exactly,
    reset,
)
from vsock_proxy.loop import BUFFER_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from vsock_proxy.relay import Connection

PAIRS = [("unix", "tcp"), ("tcp", "tcp"), ("unix", "unix"), ("tcp", "unix")]
PIECES = [1_000, 4_096, BUFFER_SIZE, 300_000]
LARGE = 6_000_000
"""Bytes; more than all the socket buffers on the way hold."""


class Ends:
    """A running rig between two places."""

    def __init__(self, pair: tuple[str, str], rig: Rig, server: Server) -> None:
        self.client_kind, self.server_kind = pair
        self.rig = rig
        self.server = server

    @contextlib.contextmanager
    def pair(self) -> Iterator[tuple[socket.socket, socket.socket]]:
        with self.rig.connect() as client, self.server.accept() as server:
            yield client, server

    def connection(self) -> Connection:
        """The only one there is."""
        relayed = self.rig.forwarder._relayed
        self.rig.wait_until(lambda: bool(relayed))
        (connection,) = relayed
        return connection

    def wait_until_empty(self) -> None:
        self.rig.wait_until(lambda: self.rig.forwarder.in_use == 0)


@pytest.fixture(params=PAIRS, ids="->".join)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    client_kind, server_kind = request.param
    with (
        Place(server_kind, tmp_path).server() as server,
        Rig(Place(client_kind, tmp_path).address("proxy"), server.address) as rig,
    ):
        yield Ends(request.param, rig, server)


def test_bytes_go_both_ways(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.sendall(b"question")
        assert read_exactly(server, 8) == b"question"
        server.sendall(b"answer")
        assert read_exactly(client, 6) == b"answer"


def test_the_reply_after_the_clients_half_close_arrives(ends: Ends) -> None:
    # AWS's proxy closes both ways at the first end it sees.
    with ends.pair() as (client, server):
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b"question"
        with in_thread(lambda: say(server, b"d" * LARGE)):
            assert read_all(client) == b"d" * LARGE
    ends.wait_until_empty()


def test_the_upload_after_the_servers_half_close_arrives(ends: Ends) -> None:
    with ends.pair() as (client, server):
        server.sendall(b"banner")
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b"banner"
        with in_thread(lambda: say(client, b"u" * LARGE)):
            assert len(read_all(server)) == LARGE
    ends.wait_until_empty()


def test_a_server_that_speaks_first_and_leaves_is_heard(ends: Ends) -> None:
    # Its bytes and its end are there before the relay has looked: no edge tells of them apart.
    with ends.rig.connect() as client:
        with ends.server.accept() as server:
            server.sendall(b"banner")
        assert read_all(client) == b"banner"


def test_an_end_without_a_byte_is_passed_on(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b""
        server.shutdown(socket.SHUT_WR)
        assert read_all(client) == b""
        ends.wait_until_empty()


def test_the_upload_goes_on_while_the_client_reads_nothing(ends: Ends) -> None:
    # AWS's proxy stalls here: one thread, blocked in its write to the client.
    uploaded = threading.Event()

    def read_upload() -> None:
        read_exactly(server, LARGE)
        uploaded.set()

    with (
        ends.pair() as (client, server),
        in_thread(lambda: server.sendall(b"d" * LARGE)),
        in_thread(read_upload),
    ):
        client.sendall(b"u" * LARGE)
        assert uploaded.wait(PATIENCE)
        assert read_exactly(client, LARGE) == b"d" * LARGE


def test_what_waits_for_a_peer_that_never_reads_is_bounded(ends: Ends) -> None:
    def flood() -> None:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"x" * 100_000_000)

    with ends.pair() as (client, server), in_thread(flood):
        connection = ends.connection()
        ends.rig.wait_until(lambda: bool(connection.up.tail))
        assert len(connection.up.tail) <= BUFFER_SIZE
        with ends.pair() as (other_client, other_server):
            other_client.sendall(b"hello")
            assert read_exactly(other_server, 5) == b"hello"
        # It goes on where it stopped.
        assert read_exactly(server, LARGE) == b"x" * LARGE
        server.close()


def test_a_client_that_closed_altogether_frees_the_server(ends: Ends) -> None:
    if ends.client_kind == "tcp":
        pytest.skip("TCP does not tell a close from a half-close before something is sent")
    with ends.pair() as (client, server):
        client.sendall(b"bye")
        client.close()
        assert read_exactly(server, 3) == b"bye"
        ends.wait_until_empty()


def test_a_client_that_closes_after_its_half_close_frees_the_server(ends: Ends) -> None:
    if ends.client_kind == "tcp":
        pytest.skip("TCP does not tell a close from a half-close before something is sent")
    with ends.pair() as (client, server):
        client.shutdown(socket.SHUT_WR)
        assert read_all(server) == b""
        assert ends.rig.forwarder.in_use == 1
        client.close()
        ends.wait_until_empty()


def test_a_closed_clients_last_bytes_arrive_though_the_server_is_slow(ends: Ends) -> None:
    with ends.pair() as (client, server), in_thread(lambda: say(client, b"u" * LARGE)):
        assert read_exactly(server, 1) == b"u"
        assert len(read_all(server)) == LARGE - 1


def test_a_client_reset_reaches_the_server(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.sendall(b"half a ")
        assert read_exactly(server, 7) == b"half a "
        reset(client)
        if (ends.client_kind, ends.server_kind) == ("tcp", "tcp"):
            with pytest.raises(ConnectionResetError):
                server.recv(1)
        else:
            assert server.recv(1) == b""  # UNIX sockets have no reset to send.
    ends.wait_until_empty()


def test_a_server_reset_reaches_the_client_after_what_was_sent(ends: Ends) -> None:
    with ends.pair() as (client, server):
        server.sendall(b"half an ")
        assert read_exactly(client, 8) == b"half an "
        reset(server)
        if (ends.client_kind, ends.server_kind) == ("tcp", "tcp"):
            with pytest.raises(ConnectionResetError):
                client.recv(1)
        else:
            assert client.recv(1) == b""
    ends.wait_until_empty()


def test_a_reset_is_not_mistaken_for_an_end_by_one_who_is_sending(ends: Ends) -> None:
    if (ends.client_kind, ends.server_kind) != ("tcp", "tcp"):
        pytest.skip("only TCP has a reset to pass on")
    with ends.pair() as (client, server):

        def send_too_much() -> None:
            with pytest.raises(ConnectionError):
                client.sendall(b"u" * 100_000_000)

        with in_thread(send_too_much):
            read_exactly(server, 1_000_000)
            reset(server)
        ends.wait_until_empty()


def test_a_reply_given_before_the_whole_question_was_read_arrives(ends: Ends) -> None:
    with ends.pair() as (client, server):
        client.sendall(b"q" * 1000)
        assert read_exactly(server, 1) == b"q"
        server.sendall(b"too much")
        server.close()  # With bytes unread: a reset, on TCP and on UNIX sockets alike.
        assert read_exactly(client, 8) == b"too much"
    ends.wait_until_empty()


def test_urgent_bytes_keep_their_place(ends: Ends) -> None:
    if ends.client_kind != "tcp":
        pytest.skip("only TCP has urgent bytes that stay in line")
    with ends.pair() as (client, server):
        client.sendall(b"one")
        client.send(b"!", socket.MSG_OOB)
        client.sendall(b"two")
        assert read_exactly(server, 7) == b"one!two"


def test_small_writes_are_not_delayed(ends: Ends) -> None:
    # AWS's proxy leaves Nagle's algorithm on: 43 ms for every write-write-read.
    with ends.pair() as (client, server):
        client.sendall(b"x")
        read_exactly(server, 1)
        connection = ends.connection()
        for end, kind in (
            (connection._client, ends.client_kind),
            (connection._server, ends.server_kind),
        ):
            if kind == "tcp":
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60


def test_a_fast_connection_does_not_starve_a_slow_one(ends: Ends) -> None:
    stop = threading.Event()
    with ends.pair() as (fast_client, fast_server), ends.pair() as (client, server):

        def flood() -> None:
            while not stop.is_set():
                fast_client.sendall(b"x" * 1_000_000)
            fast_client.shutdown(socket.SHUT_WR)

        with in_thread(flood), in_thread(lambda: read_all(fast_server)):
            for _ in range(50):
                client.sendall(b"ping")
                assert read_exactly(server, 4) == b"ping"
                server.sendall(b"pong")
                assert read_exactly(client, 4) == b"pong"
            stop.set()


def test_nothing_spins_while_peers_idle_half_close_and_leave(ends: Ends) -> None:
    with contextlib.ExitStack() as open_now:
        pairs = [open_now.enter_context(ends.pair()) for _ in range(16)]
        for client, _ in pairs[:4]:
            client.shutdown(socket.SHUT_WR)
        for _, server in pairs[4:8]:
            server.shutdown(socket.SHUT_WR)
        for client, _ in pairs[8:10]:
            client.close()
        for client, _ in pairs[10:12]:
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    client.send(b"x" * 100_000)
        quiet_client, quiet_server = pairs[15]
        quiet_client.sendall(b"x")
        read_exactly(quiet_server, 1)
        before = ends.rig.loop.turns
        for _ in range(100):
            quiet_client.sendall(b"x")
            read_exactly(quiet_server, 1)
        assert ends.rig.loop.turns - before < TURNS_PER_MESSAGE * 100


@settings(
    max_examples=30,
    deadline=None,
    # The rig is the same for all examples on purpose: each is one more connection.
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    up=st.integers(0, 400_000),
    down=st.integers(0, 400_000),
    pieces=st.tuples(st.sampled_from(PIECES), st.sampled_from(PIECES)),
)
def test_no_byte_is_lost_or_added(ends: Ends, up: int, down: int, pieces: tuple[int, int]) -> None:
    with (
        ends.pair() as (client, server),
        in_thread(lambda: say(client, text(up), pieces[0])),
        in_thread(lambda: say(server, text(down), pieces[1])),
        in_thread(lambda: expect(server, text(up))),
    ):
        expect(client, text(down))
    ends.wait_until_empty()


def text(length: int) -> bytes:
    """Bytes in which no stretch repeats soon: what is lost, doubled or swapped shows."""
    return b"".join(i.to_bytes(4) for i in range(length // 4 + 1))[:length]


def say(end: socket.socket, words: bytes, piece: int = LARGE) -> None:
    for start in range(0, len(words), piece):
        end.sendall(words[start : start + piece])
    end.shutdown(socket.SHUT_WR)


def expect(end: socket.socket, words: bytes) -> None:
    assert read_all(end) == words
